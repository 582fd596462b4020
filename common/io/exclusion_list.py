"""Lists of what a preparation is to leave out: a text file with an entry per line, `#` starts a comment."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from common.io.bad_input import BadInput, read_text

__all__ = ["listed_items"]


def listed_items(
    exclusion_list: str | os.PathLike[str] | None,
    source: Path,
    items: Sequence[Collection[str | Path]],
    kinds: str,
    short: Callable[[str], str] | None = None,
) -> set[int]:
    """Find the items of an input that an exclusion list names.

    Args:
        exclusion_list: the file; None lists nothing.
        source: the input, a folder or a file; paths of the list may be relative to the folder.
        items: of each item the names (str) and absolute files (Path) by which it may be listed.
        kinds: what an entry may be, in the sentence of an error: "case, study or image".
        short: an entry counts as this name too, such as a file's without its ending.

    Returns:
        Indices of the items that are listed.

    Raises:
        BadInput: if the list cannot be read, or has an entry that matches nothing.
    """
    if exclusion_list is None:
        return set()
    path, root = Path(exclusion_list), source if source.is_dir() else source.parent
    lines = read_text(path, "an exclusion list").splitlines()
    by_name: dict[str | Path, list[int]] = defaultdict(list)
    for index, names in enumerate(items):
        for name in names:
            by_name[name].append(index)
    found: set[int] = set()
    for entry in filter(None, (line.split("#")[0].strip() for line in lines)):
        meant = {entry, Path(os.path.abspath(root / entry))} | ({short(entry)} if short else set())
        matches = {index for name in meant for index in by_name.get(name, ())}
        if not matches:
            raise BadInput(path, f"lists {entry!r}, which matches no {kinds} of the input")
        found |= matches
    return found
