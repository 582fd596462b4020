"""Virtual patients are made once per machine: whoever asks for the same ones gets copies of the first.

Entries lie in `virtual` of `common.io.output_folder.cache_folder()`, which may be deleted at any time. They are copied,
not linked: what is edited in an output folder reaches neither the cache nor another run.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from filelock import FileLock

from common.data.layouts import VIRTUAL_LAYOUTS
from common.data.virtual.files import STAMP, Cohort, claim
from common.io.output_folder import atomic_path, cache_folder

_MANIFEST = "manifest.csv"  # written last, so that where it is nothing has to be made
_COMMON = Path(__file__).parents[2]


def write_virtual(
    output_dir: str | os.PathLike[str], layout: str, cohort: Cohort, workers: int = 1
) -> list[dict[str, Any]]:
    """Write virtual patients in a layout, from the cache as far as they are there.

    Args:
        output_dir: a folder that is new, or was written by the same call before; what is there is kept.
        layout: one of `VIRTUAL_LAYOUTS`.
        cohort: which patients.
        workers: processes that make them.

    Returns:
        The rows of the writer of the layout: case, patient, split, image (relative to the folder) and more.

    Raises:
        FileExistsError: if the folder holds something else.
    """
    write, out = resolve_name(VIRTUAL_LAYOUTS[layout]), claim(output_dir, layout, cohort)
    if not (out / _MANIFEST).is_file():
        try:
            entry = _entry(cohort.stamp(layout))
            lock = FileLock(entry.with_name(f".{entry.name}.lock")).acquire()
        except (OSError, RuntimeError) as error:  # of a user without a home, or who may not write there
            print(f"the cache of virtual patients cannot be used ({error}); THORAX_CACHE names another folder for it")
        else:
            with lock:
                if not entry.is_dir():
                    part = entry.with_name(f".part_{entry.name}")  # a call that was interrupted left some of it there
                    write(part, cohort, workers)
                    os.replace(part, entry)
            _copy(entry, out)
    return write(out, cohort, workers)


def _entry(stamp: dict[str, Any]) -> Path:
    """Where the patients of a stamp lie or will lie; another place if the code that makes them has changed."""
    shelf = cache_folder() / "virtual"
    shelf.mkdir(parents=True, exist_ok=True)
    key = sha256(json.dumps([stamp, _generator()]).encode()).hexdigest()[:16]
    return shelf / f"{stamp['layout']}_{stamp['n']}_{stamp['seed']}_{key}"


@cache
def _generator() -> str:
    """Hash of the code and the templates that make virtual patients."""
    files = [*(_COMMON / "data" / "virtual").glob("*.py"), *(_COMMON / "text").iterdir()]
    digest = sha256()
    for file in sorted(file for file in files if file.is_file()):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _copy(entry: Path, out: Path) -> None:
    for file in sorted(entry.rglob("*")):
        name = file.relative_to(entry)
        hidden = any(part.startswith(".") for part in name.parts)  # of a process that was killed while writing
        if file.is_file() and not hidden and name.name != STAMP and not (out / name).exists():
            # Who deletes the cache meanwhile costs time only: what is missing is made in the folder itself.
            with suppress(FileNotFoundError), atomic_path(out / name) as part:
                shutil.copy2(file, part)
