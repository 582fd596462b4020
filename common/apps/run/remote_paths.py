"""What a function reads and writes: it may be URLs of object storage, and what it reads stays as it is."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from common.io.inputs import reading
from common.io.remote_folder import fetch, is_url, to_url, working_copy

__all__ = ["takes_urls"]

F = TypeVar("F", bound=Callable[..., Any])
_NOT_FILES = ("http", "https")  # among overrides these are services, such as one that tracks experiments


def takes_urls(reads: Sequence[str] = (), writes: Sequence[str] = (), goes_on: Sequence[str] = ()) -> Callable[[F], F]:
    """Give a function local copies where it is called with URLs (gs://bucket/folder), and URLs in what it returns.

    Overrides of a configuration (the argument `overrides`) that are URLs are read. While the function runs nothing is
    written over what it reads, see `common.io.inputs`.

    Args:
        reads: arguments, also among `**options`, that name a file or folder to read; a list of them too.
        writes: arguments that name an output folder, uploaded at the end.
        goes_on: arguments that name an output folder whose content is fetched first, so that work goes on that was
            interrupted. It is uploaded at the end, and by `common.io.remote_folder.publish`.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        options = [name for name, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD]

        @functools.wraps(function)
        def with_local_paths(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = bound.arguments
            places = (values, *(values[name] for name in options))
            with_url = any(_holds_url(value) for value in values.values())
            with ExitStack() as stack:
                if with_url:
                    for given in places:
                        given |= {name: _read(value) for name, value in given.items() if name in reads}
                    if values.get("overrides"):
                        values["overrides"] = {key: _read_override(item) for key, item in values["overrides"].items()}
                    for name in (*goes_on, *writes):
                        if is_url(values.get(name)):
                            values[name] = str(stack.enter_context(working_copy(values[name], name in goes_on)))
                read = [path for given in places for name in reads for path in _paths(given.get(name))]
                read += [path for item in (values.get("overrides") or {}).values() for path in _paths(item)]
                stack.enter_context(reading(*read))
                result = function(*bound.args, **bound.kwargs)
            return to_url(result) if with_url else result

        return with_local_paths

    return decorate


def _holds_url(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return any(map(_holds_url, value)) if isinstance(value, list | tuple) else is_url(value)


def _paths(value: Any) -> list[Any]:
    """The paths in an argument: itself, or the items of a list; of an override, texts that name something."""
    if isinstance(value, list | tuple):
        return [path for item in value for path in _paths(item)]
    return [value] if isinstance(value, str | os.PathLike) and os.path.lexists(value) else []


def _read(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_read(item) for item in value]
    return str(fetch(value)) if is_url(value) else value


def _read_override(value: Any) -> Any:
    """The type stays: text that was typed is read once the value that it replaces is known."""
    return type(value)(_read(value)) if is_url(value) and not value.startswith(_NOT_FILES) else value
