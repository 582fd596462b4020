"""manifest.csv of a prepared folder: one row per case."""

from collections.abc import Sequence
from pathlib import Path

from common.io.bad_input import BadInput
from common.io.output_folder import write_text
from common.io.remote_folder import fetch_files, is_url
from common.io.table import read_rows

REQUIRED = ("case", "split", "image")
VOLUMES = ("image", "regions", "lesions")
PATHS = (*VOLUMES, "report")
"""Columns that name files; `report` the one that holds the text, such as a table."""
_PLACE = ".place"


def read_manifest(manifest: str | Path) -> list[dict[str, str]]:
    """Rows of a manifest; relative paths are made absolute, as seen from its folder. URLs stay, see `with_files`.

    Files that were written into a prepared folder are those of the folder where it is now: it may have been moved.

    Args:
        manifest: the file, or the prepared folder that holds it.

    Raises:
        BadInput: if it is missing, damaged, has no rows or lacks the columns case, split or image.
    """
    manifest = Path(manifest)
    if manifest.is_dir():
        manifest = manifest / "manifest.csv"
    if not manifest.is_file():
        raise BadInput(manifest, "does not exist, expected the manifest.csv of a folder that prepare wrote")
    rows = [row for _, row in read_rows(manifest, REQUIRED)]
    if not rows:
        raise BadInput(manifest, "lists no case")
    folder, written = manifest.parent.resolve(), _written_in(manifest.parent)
    for row in rows:
        for name in PATHS:
            if row.get(name) and not is_url(row[name]):
                path = folder / row[name]
                moved = written is not None and path.is_relative_to(written)
                row[name] = str(folder / path.relative_to(written) if moved else path)
    return rows


def record_place(folder: Path) -> None:
    """Write down where a prepared folder is, which its manifest was made for."""
    write_text(folder / _PLACE, f"{folder}\n")


def _written_in(folder: Path) -> Path | None:
    """Where a prepared folder was when its manifest was written, None if it is there still or does not say."""
    try:
        place = Path((folder / _PLACE).read_text(encoding="utf-8").removesuffix("\n"))
    except (OSError, ValueError):
        return None
    return place if place.is_absolute() and place.resolve() != folder.resolve() else None


def read_split(manifest: str | Path, split: str, limit: int | None = None) -> list[dict[str, str]]:
    """Rows of one split, the first ``limit`` of them; files that the manifest names by URLs are fetched.

    Raises:
        BadInput: if the split has no row, or a URL cannot be read.
    """
    rows = [row for row in read_manifest(manifest) if row["split"] == split]
    if not rows:
        raise BadInput(manifest, f"has no row with split {split}, expected at least one")
    return with_files(rows[:limit])


def read_splits(manifest: str | Path, splits: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Split -> its rows, as `read_split` gives them.

    Raises:
        BadInput: as `read_split`.
    """
    return {split: read_split(manifest, split) for split in splits}


def scored_splits(manifest: str | Path) -> list[str]:
    """The splits that an evaluation needs: val and test, as far as there are any, else the first there is.

    Raises:
        BadInput: as `read_manifest`.
    """
    found = {row["split"] for row in read_manifest(manifest)}
    return [split for split in ("val", "test") if split in found] or sorted(found)[:1]


def with_files(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same rows, in which each URL of an image or mask (`s3://bucket/image.jpg`) is replaced by its local copy.

    Raises:
        BadInput: naming a URL that cannot be read.
    """
    urls = {row[name] for row in rows for name in VOLUMES if is_url(row.get(name))}
    copies = fetch_files(urls) if urls else {}
    return [row | {name: str(copies[row[name]]) for name in VOLUMES if row.get(name) in copies} for row in rows]


def source_weights(rows: list[dict[str, str]], virtual_share: float) -> list[float]:
    """How often to draw each row so that virtual patients together make up ``virtual_share`` of the draws.

    A virtual patient is a row with a ``seed``. With only one kind of rows, all are drawn alike.

    Raises:
        ValueError: unless the share is between 0 and 1.
    """
    if not 0 <= virtual_share <= 1:
        raise ValueError(f"virtual_share is {virtual_share}, expected a number from 0 to 1")
    virtual = [bool(row.get("seed")) for row in rows]
    if all(virtual) or not any(virtual):
        return [1.0] * len(rows)
    n_virtual = sum(virtual)
    return [virtual_share / n_virtual if v else (1 - virtual_share) / (len(rows) - n_virtual) for v in virtual]
