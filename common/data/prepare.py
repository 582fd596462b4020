"""Prepare a data set of any layout: list it, check every input, leave out what is bad, split by patient, write.

What is written under the output folder (never under the input):
    manifest.csv    one row per usable input           prepare.json    counts, versions, data hash
    excluded.csv    path and reason of everything else images/         CTs that had to be converted, as NIfTI in HU
    notes.csv, clinical.csv                            of the studies of X-rays
    .prepare/       what each check told, so that a run that was interrupted or repeated checks nothing twice
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.data.folder_files import check_regular
from common.data.layouts import find_layout
from common.data.listing import Input, Listing
from common.data.manifest import record_place
from common.data.splits import SPLITS, split_by_patient
from common.io.bad_input import BadInput, read_text
from common.io.inputs import reading, refuse_output_folder
from common.io.output_folder import csv_text, locked, remove_unfinished, write_text
from common.io.parallel import Failure, map_cases

__all__ = ["PrepareResult", "prepare_data"]

_CHECKS = 3  # raised whenever the checks change, so that results of older ones are not used again


@dataclass(frozen=True)
class PrepareResult:
    """Paths of manifest.csv, excluded.csv and prepare.json, and the content of the last."""

    manifest: Path
    excluded: Path
    summary_file: Path
    summary: dict[str, Any]


def prepare_data(
    input: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    layout: str,
    seed: int = 0,
    strict: bool = False,
    workers: int = 1,
    exclusion_list: str | os.PathLike[str] | None = None,
    engine: str = "local",
    address: str | None = None,
    validate: bool = True,
    **options: Any,
) -> PrepareResult:
    """Check, convert where needed, and split a data set; running it again resumes and gives the same bytes.

    Args:
        input: a folder, or a single input; of some layouts also the table.
        output_dir: created; not inside the input.
        layout: a name in `common.data.layouts.LAYOUTS`.
        seed: of the split by patient, where the data set has none of its own.
        strict: raise, after listing all of them, if any input is bad.
        workers: processes that check.
        exclusion_list: text file of what to leave out, an entry per line, `#` starts a comment.
        engine: where the processes run, "local" or "ray", see `common.io.parallel`.
        address: of a Ray cluster.
        validate: decode X-rays, small; False looks at their header and end only. CTs are always decoded.
        options: of the layout, as its entry in the registry lists them.

    Returns:
        Where the files are, and the counts.

    Raises:
        BadInput: if nothing is usable, an input is bad and `strict` is set, the exclusion list names what is not
            there, or another process writes the same folder.
        ValueError: for an unknown layout or value of an option.
    """
    # Not resolved, since the target of a link (a download cache, say) may carry another name than the case.
    source, out = Path(os.path.abspath(input)), Path(os.path.abspath(output_dir))
    found = find_layout(layout)
    if not source.exists():
        raise BadInput(source, f"does not exist, expected {found.expects}")
    with reading(source):
        refuse_output_folder(out)
    (out / ".prepare").mkdir(parents=True, exist_ok=True)
    with locked(out):
        _remove_unfinished(out)
        listing = found.list(source, **options)
        if exclusion_list is not None:
            _leave_out_listed(listing, source, Path(exclusion_list))
        _leave_out_repeats(listing)
        kept = _usable(listing, out, validate, workers, engine, address)
        _remove_unfinished(out)
        return _write(kept, listing, source, out, layout, seed, strict)


def _remove_unfinished(out: Path) -> None:
    """Remove what a run or a worker that was killed had only half written."""
    for name in (".prepare", "images"):
        remove_unfinished(out / name)


def _leave_out_listed(listing: Listing, source: Path, exclusion_list: Path) -> None:
    """Drop what the file lists by a name of the input, or by a path, which may be relative to the source."""
    root = source if source.is_dir() else source.parent
    by_name: dict[str | Path, list[int]] = defaultdict(list)
    for index, row in enumerate(listing.rows):
        for name in row.names:
            by_name[name].append(index)
    listed: set[int] = set()
    lines = read_text(exclusion_list, "an exclusion list").splitlines()
    for entry in filter(None, (line.split("#")[0].strip() for line in lines)):
        meant = {entry, Path(os.path.abspath(root / entry)), listing.short(entry) if listing.short else entry}
        matches = {index for name in meant for index in by_name.get(name, ())}
        if not matches:
            raise BadInput(exclusion_list, f"lists {entry!r}, which matches no {listing.listable} of the input")
        listed |= matches
    listing.left_out += [(listing.rows[i].path, f"on the exclusion list {exclusion_list}") for i in sorted(listed)]
    listing.rows = [row for i, row in enumerate(listing.rows) if i not in listed]


def _leave_out_repeats(listing: Listing) -> None:
    """Drop an input whose case name is taken by one of another group."""
    first: dict[str, Input] = {}
    unique = []
    for row in listing.rows:
        earlier = first.setdefault(row.case, row)
        if earlier.group != row.group:
            reason = f"duplicate case name {row.case!r}, already used by {earlier.path}"
            listing.problems.append(BadInput(row.path, reason))
        else:
            unique.append(row)
    listing.rows = unique


def _usable(
    listing: Listing, out: Path, validate: bool, workers: int, engine: str, address: str | None
) -> list[tuple[Input, dict[str, Any]]]:
    """The first usable input of every group, each with what its `check` returned, in the order of the listing."""
    known = _read_records(out / ".prepare")
    settings = [_CHECKS, _versions(listing.libraries), validate]
    groups: dict[str, list[Input]] = {}
    for row in listing.rows:
        groups.setdefault(row.group, []).append(row)
    kept: dict[str, tuple[Input, dict[str, Any]]] = {}
    waiting = list(groups.items())
    while waiting:
        # A second reconstruction is looked at only when the first one of its scan is bad.
        firsts = [(group[0], _key(group[0], settings)) for _, group in waiting]
        todo = [(row, key) for row, key in firsts if not _is_known(known.get(key), out)]
        chunks = [todo[i : i + listing.chunk] for i in range(0, len(todo), listing.chunk)]
        check = partial(_check_chunk, out=out, validate=validate)
        with tqdm(total=len(todo), unit=listing.one, desc="prepare", dynamic_ncols=True) as bar:
            step = partial(bar.update, min(listing.chunk, len(todo)))
            results = map_cases(check, chunks, workers, engine, address, step)
        for chunk, result in zip(chunks, results, strict=True):
            told = [{"reason": result.reason}] * len(chunk) if isinstance(result, Failure) else result
            known |= {key: facts for (_, key), facts in zip(chunk, told, strict=True)}
        retry = []
        for (name, group), (row, key) in zip(waiting, firsts, strict=True):
            reason = known[key].get("reason")
            if reason is None:
                kept[name] = row, known[key]
                spare = f"scan {name} is represented by {row.path}"
                listing.left_out += [(other.path, spare) for other in group[1:]]
                continue
            listing.problems.append(BadInput(row.path, reason))
            if group[1:]:
                retry.append((name, group[1:]))
        waiting = retry
    return [kept[name] for name in groups if name in kept]


def _key(row: Input, settings: list[Any]) -> str:
    """The key of an input's check in `.prepare`: another one if the input or what is known of it has changed."""
    try:
        state = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in row.files]
    except OSError:
        state = None  # the check says why
    identity = [settings, str(row.path), row.case, row.patient, row.identity, state]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _is_known(facts: Mapping[str, Any] | None, out: Path) -> bool:
    """Whether a check need not be done again: its result is there, and so is the file that it wrote."""
    if facts is None or facts.get("again"):
        return False
    if "image" not in facts:
        return True
    image = out / facts["image"]
    return image.is_file() and image.stat().st_size == facts["bytes"]


def _check_chunk(chunk: Sequence[tuple[Input, str]], out: Path, validate: bool) -> list[dict[str, Any]]:
    """Check some inputs, and keep what they told in a file, which is there whole or not at all."""
    told = []
    for row, _ in chunk:
        try:
            check_regular(row.path)
            told.append(row.check(out, validate))
        except BadInput as error:
            # What the system refused (a disk error, a share that was away, a lock) may be there the next time.
            told.append({"reason": error.reason} | ({"again": True} if _by_the_system(error) else {}))
    kept = [(key, facts) for (_, key), facts in zip(chunk, told, strict=True) if "again" not in facts]
    name = hashlib.sha256("".join(key for _, key in chunk).encode()).hexdigest()[:32]
    write_text(out / ".prepare" / f"{name}.jsonl", "".join(json.dumps(item) + "\n" for item in kept))
    return told


def _by_the_system(error: BaseException | None) -> bool:
    """Whether an error of the operating system is behind another; libraries raise OSErrors without a number, too."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            return True
        error = error.__cause__ or error.__context__
    return False


def _read_records(folder: Path) -> dict[str, dict[str, Any]]:
    known = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with suppress(ValueError, TypeError, KeyError):  # a damaged line is a check to be done again
                key, facts = json.loads(line)
                if isinstance(facts["row"] if "reason" not in facts else facts, dict):
                    known[key] = facts
    return known


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in libraries:
        with suppress(PackageNotFoundError):  # decoders are optional
            found[name] = version(name)
    return found


def _write(
    kept: list[tuple[Input, dict[str, Any]]],
    listing: Listing,
    source: Path,
    out: Path,
    layout: str,
    seed: int,
    strict: bool,
) -> PrepareResult:
    rows = [
        {"case": row.case, "patient": row.patient, "split": row.split, "image": str(row.path), **row.columns}
        | facts["row"]
        | ({"image": str(out / facts["image"])} if "image" in facts else {})
        for row, facts in kept
    ]
    _split(rows, listing.fractions, seed)
    excluded = [(str(problem.path), problem.reason) for problem in listing.problems]
    excluded += [(str(path), reason) for path, reason in listing.left_out]
    listed = [{"path": path, "reason": reason} for path, reason in sorted(excluded)]
    manifest, summary_file = out / "manifest.csv", out / "prepare.json"
    write_text(out / "excluded.csv", csv_text(["path", "reason"], listed))
    bad = len(listing.problems)
    if not rows or (strict and bad):
        # No manifest is left behind that a later stage could take for the result of this run.
        for name in (manifest.name, *listing.tables, summary_file.name):
            (out / name).unlink(missing_ok=True)
        if rows:
            raise BadInput(source, f"has {bad} bad inputs and strict was asked for, see {out / 'excluded.csv'}")
        what = f"has no usable {listing.one} for layout {layout!r}"
        raise BadInput(source, f"{what}, see {out / 'excluded.csv'}")
    more, data_hash = listing.conclude(out, rows)
    counts = {"kept": len(rows), "excluded": len(excluded), "bad": bad, "patients": len({r["patient"] for r in rows})}
    counts |= {split: sum(row["split"] == split for row in rows) for split in SPLITS}
    summary = {"layout": layout, "input": str(source), "seed": seed, **listing.facts, "counts": counts | more}
    other = {kind: n for kind, n in sorted(listing.other.items()) if n}
    summary |= {"other_files": other, "versions": _versions(listing.libraries), "data_hash": data_hash}
    record_place(out)
    write_text(manifest, csv_text(listing.columns, rows))
    write_text(summary_file, json.dumps(summary, indent=1) + "\n")
    return PrepareResult(manifest, out / "excluded.csv", summary_file, summary)


def _split(rows: Sequence[dict[str, Any]], fractions: Sequence[float] | None, seed: int) -> None:
    """Split the patients whom the data set leaves open; none of them go to test where it names test patients."""
    free = {row["case"]: row["patient"] for row in rows if not row["split"]}
    if fractions is not None and len(free) < len(rows):
        fractions = (*fractions[:2], 0)
    split_of = split_by_patient(free, fractions, seed) if free else {}
    for row in rows:
        row["split"] = row["split"] or split_of[row["case"]]
