"""What is being read, so that nothing is written over it: the one guard of output paths.

A verb tells its inputs once (`reading`); whoever writes (`common.io.output_folder.atomic_path`) or deletes asks here. A
file is known by its place on the disk, so that links and other spellings of its name are the same file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path

from common.io.bad_input import BadInput

__all__ = ["is_same", "reading", "refuse_input", "refuse_output_folder"]

_Place = tuple[int, int]


class _Inputs:
    """Files and folders that are read, by their places; those of files are looked up when they are first needed."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.folders = {place: path for path in paths if path.is_dir() and (place := _place(path))}

    @cached_property
    def files(self) -> dict[_Place, Path]:
        return {place: path for path in self.paths if not path.is_dir() and (place := _place(path))}


_READ: ContextVar[_Inputs | None] = ContextVar("read", default=None)


@contextmanager
def reading(*paths: str | os.PathLike[str] | None) -> Iterator[None]:
    """While the block runs nothing is written over these files, or into these folders; None is no path."""
    before = _READ.get()
    known = [] if before is None else before.paths
    token = _READ.set(_Inputs([*known, *(Path(path) for path in paths if path is not None)]))
    try:
        yield
    finally:
        _READ.reset(token)


def refuse_input(path: str | os.PathLike[str], whole: bool = False) -> None:
    """Refuse to write a file or folder that is an input or lies in one.

    Args:
        path: to be written, or deleted.
        whole: it is a folder that is deleted with all in it, so no input may lie there either.

    Raises:
        BadInput: naming the path and the input.
    """
    inputs = _READ.get()
    if inputs is None:
        return
    for place in _above(path):
        if place in inputs.folders:
            raise BadInput(path, f"lies inside the input {inputs.folders[place]}, expected an output folder outside it")
    here = _place(path)
    if here is not None and here in inputs.files:
        raise BadInput(path, f"is the input {inputs.files[here]} itself, expected another output folder")
    if whole:
        lost = next((found for found in inputs.paths if here in _above(found)), None)
        if lost is not None:
            raise BadInput(path, f"would be made anew and holds the input {lost}, expected another output folder")


def refuse_output_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse an output folder that is an input, lies in one, or is where an input file lies.

    Raises:
        BadInput: naming the folder and the input.
    """
    refuse_input(folder)
    inputs, here = _READ.get(), _place(folder)
    for file in inputs.files.values() if inputs and here else ():
        if here == _place(Path(os.path.abspath(file)).parent):
            raise BadInput(folder, f"holds the input itself, {file}, expected an output folder of its own")


def is_same(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths are one file, by whatever names; one that is not there is known by its name."""
    places = _place(one), _place(other)
    return places[0] == places[1] if all(places) else os.path.realpath(one) == os.path.realpath(other)


def _above(path: str | os.PathLike[str]) -> list[_Place]:
    """The places of a path and the folders it lies in, as far as they are there; links are followed."""
    found = Path(os.path.realpath(path))
    return [place for name in (found, *found.parents) if (place := _place(name))]


def _place(path: str | os.PathLike[str]) -> _Place | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # not there, or no name that a file can have
        return None
    return status.st_dev, status.st_ino
