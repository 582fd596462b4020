"""Virtual MIMIC-CXR with its MIMIC-IV, and the means to spoil a copy of it."""

import csv
import gzip
import io
import json
from pathlib import Path

from common.data.virtual.cxr_layouts import write_mimic_cxr
from common.data.virtual.files import Cohort

TRAIN, VAL, TEST = (f"curriculum_{split}.jsonl" for split in ("train", "val", "test"))


def make_tree(folder: Path) -> int:
    """Write it, for reading alone; the number of its studies."""
    rows = write_mimic_cxr(folder / "mimic", Cohort(24, 0, (16, 32, 32), (9.0, 10.0, 11.0)))
    return len({row["study"] for row in rows})


def read_table(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def edit_table(path: Path, change) -> None:
    """Change the rows of a packed table: ``change`` gets a list of dicts and returns one."""
    write_table(path, change(read_table(path)))


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
