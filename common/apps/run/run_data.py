"""The data of a run: what the user gave, virtual patients, or both under one manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.apps.run.bundle import UsageError, cpu_count, missing
from common.apps.run.prepare import prepare, prepare_virtual
from common.data.manifest import PATHS, read_manifest
from common.io.bad_input import BadInput
from common.io.inputs import refuse_input
from common.io.output_folder import content_hash, csv_text, write_text
from common.io.remote_folder import is_url, remote_facts, to_url

TABLES = ("notes.csv", "clinical.csv")  # what of X-rays lies beside the manifest
_LOOKED_AT = ("image", "report")  # files whose content counts
SEEN = "images_seen.json"
VIRTUAL_KEYS = ("n", "shape", "spacing", "seed")
CT = "ct"


@dataclass(frozen=True)
class RunData:
    """Data that is ready to be used.

    Attributes:
        folder: has the manifest.csv.
        data_hash: of cases and voxels, the one in prepare.json where prepare wrote it for CTs; else the fingerprint.
        fingerprint: hash of everything in the manifest, splits too, but where the files lie; and of the reports that it
            names, and the notes and values beside it.
    """

    folder: Path
    data_hash: str
    fingerprint: str


def provide_data(
    data_dir: Path, dataset_dir: str | os.PathLike[str] | None, virtual: Mapping[str, Any] | None, layout: str = CT
) -> RunData:
    """Give the folder with the manifest of a run, preparing or making what is not there yet.

    A prepared `dataset_dir` (with manifest.csv) is used where it lies, another one is prepared into `data_dir`
    (as `layout`). Virtual patients go to `data_dir/virtual`. With both, which only CTs can be, `data_dir/manifest.csv`
    lists all of them, and the virtual ones are training cases; if the user's cases leave validation empty, a fifth of
    the virtual ones validates.

    Args:
        data_dir: `data` of the run folder.
        dataset_dir: the user's data.
        virtual: n, shape and spacing (z, y, x), seed, as `prepare virtual` takes them; and `layout` if it is not nifti.
        layout: of the user's data, as `prepare` names it.

    Returns:
        The folder and its hashes.

    Raises:
        BadInput: if `dataset_dir` does not exist or holds nothing usable, or a case name is there twice.
        UsageError: if neither is given, or `virtual` has an unknown or missing key.
    """
    check_data(dataset_dir, virtual)
    if layout != CT and dataset_dir is not None:
        virtual = None  # a scale's virtual patients stand in for data; only CTs of both kinds go together
    given = None if dataset_dir is None else Path(dataset_dir)
    if virtual is None:
        if not (given / "manifest.csv").is_file():
            _prepare(given, data_dir, layout)
            given = data_dir
        return _described(given, data_dir)

    rows = []
    if given is not None:
        if not (given / "manifest.csv").is_file():
            _prepare(given, data_dir / "prepared", layout)
            given = data_dir / "prepared"
        rows = read_manifest(given / "manifest.csv")
    made = make_virtual(data_dir / "virtual", virtual)
    if layout != CT:
        return _described(data_dir / "virtual", data_dir)
    if rows:
        needs_val = not any(row["split"] == "val" for row in rows)
        n_val = max(1, len(made) // 5) if needs_val and len(made) > 1 else 0
        for i, row in enumerate(made):
            row["split"] = "val" if i >= len(made) - n_val else "train"
        clash = {row["case"] for row in rows} & {row["case"] for row in made}
        if clash:
            raise BadInput(given, f"has the case {min(clash)!r} that a virtual patient has too, expected other names")
    columns = list(dict.fromkeys(name for row in (*rows, *made) for name in row))
    write_text(data_dir / "manifest.csv", csv_text(columns, [*rows, *made]))
    return _described(data_dir, data_dir)


def check_data(dataset_dir: str | os.PathLike[str] | None, virtual: Mapping[str, Any] | None) -> None:
    """Refuse, before anything is written, what `provide_data` could not work with.

    Raises:
        BadInput: if `dataset_dir` does not exist.
        UsageError: if neither is given.
    """
    if dataset_dir is None and virtual is None:
        raise UsageError("this scale has no virtual patients, expected --dataset_dir with a folder of data")
    if dataset_dir is not None and not Path(dataset_dir).exists():
        raise missing(dataset_dir, "a folder of data, or one that prepare wrote")


def _described(folder: Path, data_dir: Path) -> RunData:
    """Hash a manifest, the reports that it names and the tables beside it.

    The hash of an image that the manifest has is believed, unless the image is not older than the manifest: then it is
    read. So is one that is not as it was when this run first saw it, whatever its modification time says, which a copy
    in its place may keep. Without a hash, size and modification time of the image stand for its content. Reports are
    read.
    """
    manifest = folder / "manifest.csv"
    lines, told, voxels = [], [], []
    rows = read_manifest(manifest)
    written = manifest.stat().st_mtime_ns
    remote = remote_facts(row[name] for row in rows for name in _LOOKED_AT if _is_remote(row, name))
    hashes: dict[str, str] = {}
    seen = _read_seen(data_dir / SEEN)
    now: dict[str, list[str]] = {}
    for row in rows:
        facts = {name: value for name, value in row.items() if name not in PATHS}
        if row.get("sha256"):
            voxels.append(f"{row['case']} {row['sha256']}\n")
        elif row["image"] in remote:
            facts |= {"bytes": remote[row["image"]].size, "modified": remote[row["image"]].modified}
        else:
            facts |= {"bytes": _status(manifest, row["image"]).st_size, "modified": _modified(manifest, row["image"])}
        # As it was before reports counted, so that summary.json goes on saying the same of the same data.
        told.append(to_url(json.dumps(facts | ({"report": row["report"]} if "report" in row else {}), sort_keys=True)))
        if row.get("sha256") and os.path.exists(row["image"]):
            state, (then, known) = _state(row["image"]), seen.get(row["image"], (None, row["sha256"]))
            is_newer = then is None and _modified(manifest, row["image"]) >= written
            is_another = then is not None and then != state
            facts["sha256"] = content_hash(row["image"]) if is_newer or is_another else known
            now[row["image"]] = [state, facts["sha256"]]
        if (report := row.get("report")) and report not in hashes:
            if report in remote:
                hashes[report] = f"{remote[report].size} {remote[report].modified}"
            else:
                _status(manifest, report)
                hashes[report] = content_hash(report)
        lines.append(to_url(json.dumps(facts | ({"report": hashes[report]} if report else {}), sort_keys=True)))
    if now != seen:
        write_text(data_dir / SEEN, json.dumps(now, indent=1) + "\n")
    tables = [f"{name} {content_hash(folder / name)}" for name in TABLES if (folder / name).is_file()]
    # The formula of prepare.json, so that a run can be matched with the preparation it used.
    same_as_prepare = hashlib.sha256("".join(sorted(voxels)).encode()).hexdigest()
    complete = len(voxels) == len(lines) and not tables
    data_hash = same_as_prepare if complete else _joined(told, tables)
    return RunData(folder, data_hash, _joined(lines, tables))


def _joined(lines: list[str], tables: list[str]) -> str:
    return hashlib.sha256("\n".join([*sorted(lines), *tables]).encode()).hexdigest()


def _read_seen(path: Path) -> dict[str, list[str]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the first time, or it is damaged: the modification times decide
        return {}


def _state(path: str) -> str:
    """A hash of sizes, times and numbers of a file, or of those in a folder; no change leaves all of them alike."""
    stats = [
        (file.name, file.stat()) for file in (sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)])
    ]
    facts = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _is_remote(row: Mapping[str, str], name: str) -> bool:
    """Whether a file must be asked for in its store; of an image with a hash nothing is asked."""
    return is_url(row.get(name)) and not (name == "image" and row.get("sha256"))


def _status(manifest: Path, path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise BadInput(manifest, f"lists {path}, which {why}") from error


def _modified(manifest: Path, path: str) -> int:
    """When a file, or the last one of a folder, was changed."""
    times = [_status(manifest, path).st_mtime_ns]
    if os.path.isdir(path):
        times += [file.stat().st_mtime_ns for file in Path(path).iterdir()]
    return max(times)


def _prepare(source: Path, folder: Path, layout: str) -> None:
    print(f"preparing {source} into {folder}", flush=True)
    prepare(layout, source, folder)


def make_virtual(folder: Path, virtual: Mapping[str, Any]) -> list[dict[str, str]]:
    """Make virtual patients of a run, or find them; ones that were made with other settings are replaced.

    Args:
        folder: of the run, for nothing else.
        virtual: n, shape and spacing (z, y, x), seed; layout, by default nifti.

    Returns:
        The rows of their manifest.

    Raises:
        UsageError: if a key is unknown or missing.
    """
    virtual = dict(virtual)
    layout = virtual.pop("layout", "nifti")
    for name in {*virtual} ^ {*VIRTUAL_KEYS}:
        problem = "has the unknown key" if name in virtual else "lacks"
        raise UsageError(f"virtual {problem} {name!r}, expected {', '.join(VIRTUAL_KEYS)}")
    print(f"making {virtual['n']} virtual patients in {folder}", flush=True)
    try:
        prepare_virtual(folder, layout, **virtual, workers=cpu_count())
    except FileExistsError:
        if not (folder / "virtual.json").is_file():
            raise
        refuse_input(folder, whole=True)
        shutil.rmtree(folder)
        prepare_virtual(folder, layout, **virtual, workers=cpu_count())
    return read_manifest(folder / "manifest.csv")
