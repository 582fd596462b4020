"""Prepare X-rays with labels, notes and clinical values: check every image, split by patient, write tables.

What is written under the output folder (never under the input); images stay where they are:
    manifest.csv    one row per image: case, patient, split, image, study, view, a column per label
    notes.csv       study, note                  clinical.csv    study and the columns of `CLINICAL_COLUMNS`
    excluded.csv    path and reason of everything else              prepare.json    counts, versions, data hash
    .prepare/       what was found in each image, so that a run that was interrupted or repeated checks nothing twice
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.data.ct.prepare import PrepareResult
from common.data.cxr.covid import find_covid
from common.data.cxr.listing import CXRListing, XrayRow
from common.data.cxr.mimic_study import list_mimic
from common.data.cxr.nih import find_nih
from common.data.cxr.reader import check_xray
from common.data.ehr.clinical_vector import CLINICAL_COLUMNS
from common.data.splits import SPLITS, split_by_patient
from common.io.bad_input import BadInput
from common.io.exclusion_list import listed_items
from common.io.output_folder import csv_text, locked, write_text
from common.io.parallel import Failure, map_cases

__all__ = ["CXR_FRACTIONS", "CXR_LAYOUTS", "list_cxr", "prepare_cxr", "write_study_tables"]

CXR_LAYOUTS = ("mimic_cxr", "covid", "nih")
CXR_FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of patients in train, val and test where the data set has no split of its own."""
_CHUNK = 256  # images that a process checks at a time
_BATCH = 16  # chunks per process between two writings of the results
_CHECKS = 1  # raised whenever the checks change


def list_cxr(
    layout: str, source: str | os.PathLike[str], labeller: str = "chexpert", ehr: Sequence[str] | None = None
) -> CXRListing:
    """Read the tables of a layout, without opening an image.

    Args:
        layout: one of `CXR_LAYOUTS`.
        source: folder of the data set (covid, nih: or its table).
        labeller: of mimic_cxr.
        ehr: folders of MIMIC-IV and MIMIC-IV-ED, of mimic_cxr; None looks for them.

    Raises:
        BadInput: if a table is missing or cannot be read.
        ValueError: for an unknown layout or labeller.
    """
    if layout == "mimic_cxr":
        return list_mimic(source, labeller, ehr)
    if layout not in CXR_LAYOUTS:
        raise ValueError(f"Layout is {layout!r}, expected one of {', '.join(CXR_LAYOUTS)}.")
    return find_covid(source) if layout == "covid" else find_nih(source)


def prepare_cxr(
    input: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    layout: str,
    seed: int = 0,
    strict: bool = False,
    workers: int = 1,
    exclusion_list: str | os.PathLike[str] | None = None,
    engine: str = "local",
    address: str | None = None,
    labeller: str = "chexpert",
    ehr: Sequence[str] | None = None,
    validate: bool = False,
) -> PrepareResult:
    """Check the images, split by patient and write the tables; running it again resumes and gives the same bytes.

    Args:
        input: as of `list_cxr`.
        output_dir: created; not inside the input.
        layout: one of `CXR_LAYOUTS`.
        seed: of the split by patient; MIMIC-CXR keeps its official one.
        strict: raise, after listing all of them, if anything is bad.
        workers: processes that check images.
        exclusion_list: text file of cases, studies or paths to leave out, one per line, `#` starts a comment.
        engine: where the processes run, "local" or "ray".
        address: of a Ray cluster.
        labeller: "chexpert" or "negbio", of mimic_cxr.
        ehr: folders of MIMIC-IV and MIMIC-IV-ED, of mimic_cxr; None looks for them.
        validate: decode every image instead of looking at its header and end only.

    Returns:
        Where the files are, and the counts.

    Raises:
        BadInput: if nothing is usable, something is bad and `strict` is set, the exclusion list names what is not
            there, or another process writes the same folder.
        ValueError: for an unknown layout or labeller.
    """
    source, out = Path(os.path.abspath(input)), Path(os.path.abspath(output_dir))
    if not source.exists():
        raise BadInput(source, f"does not exist, expected a data set of layout {layout}")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise BadInput(out, f"lies inside the input {source}, expected an output folder outside it")
    (out / ".prepare").mkdir(parents=True, exist_ok=True)
    with locked(out):
        listing = list_cxr(layout, source, labeller, ehr)
        rows = _without_listed(listing, source, exclusion_list)
        rows = _without_repeats(rows, listing)
        rows = _usable(rows, listing, out, workers, engine, address, validate)
        return _write(rows, listing, source, out, layout, seed, strict)


def write_study_tables(out: Path, listing: CXRListing, studies: Iterable[str]) -> tuple[str, str]:
    """Write notes.csv and clinical.csv of some studies and return their text.

    Every layout has all columns; a study of which nothing is known has a row of blanks.
    """
    studies = list(dict.fromkeys(studies))
    notes = csv_text(["study", "note"], [{"study": s, "note": listing.notes.get(s, "")} for s in studies])
    values = [{"study": s} | _numbers(listing.clinical.get(s, {})) for s in studies]
    clinical = csv_text(["study", *CLINICAL_COLUMNS], values)
    write_text(out / "notes.csv", notes)
    write_text(out / "clinical.csv", clinical)
    return notes, clinical


def _numbers(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in values.items()}


def _without_listed(listing: CXRListing, source: Path, exclusion_list: str | os.PathLike[str] | None) -> list[XrayRow]:
    names = [(row.case, row.study, row.image) for row in listing.rows]
    listed = listed_items(exclusion_list, source, names, "case, study or image")
    for i in sorted(listed):
        listing.left_out.append((listing.rows[i].image, f"on the exclusion list {Path(exclusion_list)}"))
    return [row for i, row in enumerate(listing.rows) if i not in listed]


def _without_repeats(rows: Sequence[XrayRow], listing: CXRListing) -> list[XrayRow]:
    first: dict[str, XrayRow] = {}
    for row in rows:
        if first.setdefault(row.case, row) is not row:
            reason = f"duplicate case name {row.case!r}, already used by {first[row.case].image}"
            listing.problems.append(BadInput(row.image, reason))
    return list(first.values())


def _usable(
    rows: Sequence[XrayRow], listing: CXRListing, out: Path, workers: int, engine: str, address: str | None, deep: bool
) -> list[XrayRow]:
    """The rows whose image can be read, with results of an earlier run used again."""
    record = out / ".prepare" / f"images_{'deep' if deep else 'header'}_{_CHECKS}.jsonl"
    known = _read_record(record)
    facts = {row.image: _fingerprint(row.image) for row in rows}
    todo = [path for path, found in facts.items() if known.get(str(path), (None,))[0] != found]
    check = partial(_check_chunk, deep=deep)
    with tqdm(total=len(todo), unit="image", desc="prepare", dynamic_ncols=True) as bar:
        step = _CHUNK * _BATCH * workers
        for begin in range(0, len(todo), step):
            batch = todo[begin : begin + step]
            chunks = [batch[i : i + _CHUNK] for i in range(0, len(batch), _CHUNK)]
            results = map_cases(check, chunks, workers, engine, address, lambda: bar.update(min(_CHUNK, bar.total)))
            found = {}
            for chunk, result in zip(chunks, results, strict=True):
                reasons = [result.reason] * len(chunk) if isinstance(result, Failure) else result
                found |= {str(path): (facts[path], why) for path, why in zip(chunk, reasons, strict=True)}
            with record.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps([path, *result]) + "\n" for path, result in found.items())
            known |= found
    kept = []
    for row in rows:
        reason = known[str(row.image)][1]
        if reason:
            listing.problems.append(BadInput(row.image, reason))
        else:
            kept.append(row)
    return kept


def _read_record(path: Path) -> dict[str, tuple[list[int], str]]:
    """Path -> fingerprint and reason ("" for a sound image); one that a killed run left unfinished is dropped."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text(path, whole)
    return {name: (found, reason) for name, found, reason in map(json.loads, whole.splitlines())}


def _fingerprint(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:
        return [-1, -1]  # the check says why
    return [stat.st_size, stat.st_mtime_ns]


def _check_chunk(paths: Sequence[Path], deep: bool) -> list[str]:
    """Why each image cannot be used, "" if it can."""
    reasons = []
    for path in paths:
        try:
            check_xray(path, deep)
        except BadInput as problem:
            reasons.append(problem.reason)
        else:
            reasons.append("")
    return reasons


def _write(
    rows: list[XrayRow], listing: CXRListing, source: Path, out: Path, layout: str, seed: int, strict: bool
) -> PrepareResult:
    split_of = _splits(rows, seed)
    columns = ["case", "patient", "split", "image", "study", "view", *(rows[0].more if rows else ()), *listing.labels]
    table = [
        {"case": row.case, "patient": row.patient, "split": split_of[row.case], "image": str(row.image)}
        | {"study": row.study, "view": row.view}
        | dict(row.more)
        | dict(row.labels)
        for row in rows
    ]
    excluded = [(str(problem.path), problem.reason) for problem in listing.problems]
    excluded += [(str(path), reason) for path, reason in listing.left_out]
    result = PrepareResult(out / "manifest.csv", out / "excluded.csv", out / "prepare.json", {})
    listed = [{"path": path, "reason": reason} for path, reason in sorted(excluded)]
    write_text(result.excluded, csv_text(["path", "reason"], listed))
    bad = len(listing.problems)
    if not rows or (strict and bad):
        # No manifest is left behind that a later stage could take for the result of this run.
        for name in ("manifest.csv", "notes.csv", "clinical.csv", "prepare.json"):
            (out / name).unlink(missing_ok=True)
        if rows:
            raise BadInput(source, f"has {bad} bad inputs and strict was asked for, see {result.excluded}")
        raise BadInput(source, f"has no usable image for layout {layout!r}, see {result.excluded}")
    texts = write_study_tables(out, listing, (row.study for row in rows))
    # Where the folder lies does not change the data.
    places = {"image", "report"} & set(columns)
    plain = csv_text(columns, [row | {name: Path(row[name]).name for name in places} for row in table])
    sizes = "".join(f"{row.case} {row.image.stat().st_size}\n" for row in rows)
    counts = {"kept": len(rows), "excluded": len(excluded), "bad": bad, "patients": len({r.patient for r in rows})}
    counts |= {split: sum(row["split"] == split for row in table) for split in SPLITS}
    counts |= {"studies": len({row.study for row in rows}), "notes": sum(bool(n) for n in listing.notes.values())}
    counts["views"] = _tally(row.view or "not stated" for row in rows)
    summary = {"layout": layout, "input": str(source), "seed": seed, **listing.facts, "counts": counts}
    summary["versions"] = {name: version(name) for name in ("numpy", "pillow", "pydicom", "PyYAML")}
    summary["data_hash"] = hashlib.sha256("\0".join((plain, sizes, *texts)).encode()).hexdigest()
    write_text(result.manifest, csv_text(columns, table))
    write_text(result.summary_file, json.dumps(summary, indent=1) + "\n")
    return PrepareResult(result.manifest, result.excluded, result.summary_file, summary)


def _splits(rows: Sequence[XrayRow], seed: int) -> dict[str, str]:
    """Case -> split: the official one, or by patient; where only the test patients are given, the others are split."""
    split_of = {row.case: row.split for row in rows if row.split}
    free = {row.case: row.patient for row in rows if not row.split}
    train, val, test = CXR_FRACTIONS
    fractions = (train, val, 0) if split_of else (train, val, test)
    return split_of | (split_by_patient(free, fractions, seed) if free else {})


def _tally(words: Iterable[str]) -> dict[str, int]:
    counts: dict[str, Any] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return dict(sorted(counts.items()))
