"""Names of cases, which name their files and rows: different for different inputs, and such as a file can have."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["LONGEST", "file_name", "unique_names", "unique_texts"]

LONGEST = 230
"""Bytes of a name, so that with `_uncertainty.nii.gz` it is one that file systems take."""


def file_name(text: str) -> str:
    """The text as the name of a case's files; unchanged if it can be one.

    A slash or zero byte becomes `_`, one that is empty or that a shell hides begins with `_`, bytes that are no UTF-8
    are read as Latin-1, and the end of one that is too long becomes a checksum.
    """
    name = "".join(chr(ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else "_" if c in "/\0" else c for c in text)
    name = name.encode("utf-8", "replace").decode()
    if not name or name.startswith("."):
        name = f"_{name}"
    data = name.encode()
    if len(data) > LONGEST:
        mark = f"_{hashlib.sha256(data).hexdigest()[:12]}"
        name = data[: LONGEST - len(mark)].decode(errors="ignore") + mark
    return name


def unique_names(paths: Sequence[Path], root: Path, name_of: Callable[[Path], str]) -> list[str]:
    """A name for each input below a folder, none twice even where a disk does not tell upper case from lower.

    A name that only one has stays. What shares one gets the folders above it (`P1/CT` and `P2/CT` become `P1_CT` and
    `P2_CT`), then its ending (`a.nii` and `a.nii.gz` become `a_nii` and `a_nii_gz`), at last a number.

    Args:
        paths: each once; the same paths in the same order get the same names.
        root: the folder, or one of the paths.
        name_of: the name without what is above it and its ending.
    """
    stems = [name_of(path) for path in paths]
    above = [path.relative_to(root).parts[:-1] for path in paths]
    below = ["_".join([*folders, stem]) for folders, stem in zip(above, stems, strict=True)]
    endings = [path.name[len(stem) :].replace(".", " ").split() for path, stem in zip(paths, stems, strict=True)]
    full = ["_".join([name, *ending]) for name, ending in zip(below, endings, strict=True)]
    return _different(stems, below, full)


def unique_texts(texts: Sequence[str]) -> list[str]:
    """A name for each text, see `unique_names`: itself if it can be one and no other has it, else with a number."""
    return _different(texts)


def _different(*levels: Sequence[str]) -> list[str]:
    """For each place the name of the first level that no other place has or got, of the last one with a number."""
    found: dict[int, str] = {}
    taken: set[str] = set()
    for level in levels:
        names = {i: file_name(name) for i, name in enumerate(level) if i not in found}
        count = Counter(map(_spelt, names.values()))
        new = {i: name for i, name in names.items() if count[_spelt(name)] == 1 and _spelt(name) not in taken}
        found |= new
        taken |= set(map(_spelt, new.values()))
    exact = Counter(levels[0])
    for i in range(len(levels[0])):
        if i not in found:
            # What only case or the form of an accent tells apart keeps its short name.
            text = levels[0][i] if exact[levels[0][i]] == 1 else levels[-1][i]
            numbered = (file_name(text if n == 1 else _numbered(text, n)) for n in itertools.count(1))
            found[i] = next(name for name in numbered if _spelt(name) not in taken)
            taken.add(_spelt(found[i]))
    return [found[i] for i in range(len(found))]


def _numbered(text: str, number: int) -> str:
    """The number stands where a long name is not cut off."""
    return f"{text}_{number}" if file_name(f"{text}_{number}").endswith(f"_{number}") else f"{number}_{text}"


def _spelt(name: str) -> str:
    """What is the same for names that some disks take for one: by case, and by the form of their accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
