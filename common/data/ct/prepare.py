"""Prepare a folder of CTs: validate every input, convert what needs it, then split by patient.

What is written under the output folder (never under the input):
    manifest.csv    one row per usable case            prepare.json    counts, versions, data hash
    excluded.csv    path and reason of everything else images/         what is not NIfTI in HU, as NIfTI in HU
    .prepare/       one result per input, so that a run that was interrupted or repeated validates nothing twice
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

from common.data.ct.ct_rate import CT_RATE_LABELS, CT_RATE_REPORT, CTRateImage, list_ct_rate, read_ct_rate
from common.data.ct.reader import input_files, read_ct
from common.data.ct.volume import case_name, case_names, find_ct, is_image, is_nifti, write_nifti
from common.data.splits import SPLITS, split_by_patient
from common.io.bad_input import BadInput
from common.io.exclusion_list import listed_items
from common.io.output_folder import csv_text, locked, write_text
from common.io.parallel import Failure, map_cases
from common.io.table import read_rows

LAYOUTS = {"nifti": ("nifti",), "dicom": ("dicom",), "ct": ("nifti", "itk", "dicom"), "ct_rate": ()}
"""Layout -> the kinds of input it takes from a folder; "ct" takes all, "ct_rate" has its own tree."""

MANIFEST_COLUMNS = (
    "case", "patient", "split", "image",
    "spacing_x", "spacing_y", "spacing_z", "shape_x", "shape_y", "shape_z", "sha256",
)  # fmt: skip
_CHECKS = 2  # raised whenever the checks change, so that results of older checks are not reused
_LIBRARIES = ("numpy", "nibabel", "pydicom", "SimpleITK")
_DECODERS = ("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "python-gdcm", "pyjpegls")


@dataclass(frozen=True)
class PrepareResult:
    """What a preparation came to: paths of the three files, and the content of prepare.json."""

    manifest: Path
    excluded: Path
    summary_file: Path
    summary: dict


@dataclass(frozen=True)
class _Item:
    """One input; items of one group stand for the same scan, of which the first usable one is kept."""

    path: Path
    case: str
    group: str
    rate: CTRateImage | None = None
    patient: str | None = None

    @property
    def converted(self) -> bool:
        return not is_nifti(self.path) or (self.rate is not None and not self.rate.fixed)


@dataclass
class _Excluded:
    """Rows of excluded.csv; `bad` counts those that are faults, which a deliberate exclusion is not."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    bad: int = 0

    def add(self, path: Path, reason: str, bad: bool = True) -> None:
        self.rows.append((str(path), reason))
        self.bad += bad


def prepare_ct(
    input: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    layout: str = "nifti",
    seed: int = 0,
    strict: bool = False,
    workers: int = 1,
    exclusion_list: str | os.PathLike[str] | None = None,
    engine: str = "local",
    address: str | None = None,
) -> PrepareResult:
    """Validate, convert and split the CTs of a folder; running it again resumes and gives the same bytes.

    NIfTI images are referenced where they lie, and may hold padding below -1024 that `read_ct` clips. NRRD, MetaImage,
    DICOM series and images of plain CT-RATE folders are converted once. Patients come from `patients.csv`
    (case,patient) beside the inputs or the case name for image files, from PatientID for DICOM, from the name for
    CT-RATE.

    Args:
        input: a folder, or a single input.
        output_dir: created; not inside the input.
        layout: "nifti", "dicom", "ct" (both, and NRRD and MetaImage) or "ct_rate". For the last, the folders train and
            valid give the splits train and val, and one reconstruction per scan is kept.
        seed: of the split.
        strict: raise, after listing all of them, if any input is bad.
        workers: processes that validate.
        exclusion_list: text file of case names or paths to leave out, one per line, `#` starts a comment.
        engine: where the processes run, "local" or "ray", see `common.io.parallel`.
        address: of a Ray cluster.

    Returns:
        Where the files are, and the counts.

    Raises:
        BadInput: if nothing is usable, an input is bad and `strict` is set, the exclusion list names an unknown case,
            or another process writes the same folder.
        ValueError: for an unknown layout.
    """
    # Not resolved, since the target of a link (a download cache, say) may carry another name than the case.
    source, out = Path(os.path.abspath(input)), Path(os.path.abspath(output_dir))
    if layout not in LAYOUTS:
        raise ValueError(f"Layout is {layout!r}, expected one of {', '.join(LAYOUTS)}.")
    if not source.exists():
        raise BadInput(source, "does not exist, expected a folder of CTs")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise BadInput(out, f"lies inside the input {source}, expected an output folder outside it")
    (out / ".prepare").mkdir(parents=True, exist_ok=True)
    with locked(out):
        for leftover in (*out.glob(".prepare/.*.tmp"), *out.glob("images/.*.tmp")):
            leftover.unlink()  # of a run that was killed while writing
        excluded = _Excluded()
        items = _list_items(source, layout, excluded)
        items = _without_listed(items, source, exclusion_list, excluded)
        items = _without_repeats(items, excluded)
        kept = _validate(items, out, workers, engine, address, excluded)
        return _write(kept, excluded, source, out, layout, seed, strict)


def _list_items(source: Path, layout: str, excluded: _Excluded) -> list[_Item]:
    if layout == "ct_rate":
        images, problems = list_ct_rate(source)
        for problem in problems:
            # Being on the no_chest list of the data set is a choice of its makers, not a fault of the file.
            excluded.add(problem.path, problem.reason, bad="shows no chest" not in problem.reason)
        return [_Item(image.path, image.case, image.scan, image, image.patient) for image in images]
    paths = find_ct(source, LAYOUTS[layout])
    patients_csv = (source if source.is_dir() else source.parent) / "patients.csv"
    patients = _read_patients(patients_csv) if patients_csv.is_file() else None
    items = []
    for path, unique in zip(paths, case_names(paths, source), strict=True):
        # Two files of one name are a mistake that the user should see; series folders are often named alike.
        case, patient = case_name(path) if is_image(path) else unique, None
        if patients is not None and is_image(path):
            patient = patients.get(case)
            if patient is None:
                excluded.add(path, f"has no row for case {case!r} in {patients_csv.name}")
                continue
        items.append(_Item(path, case, str(path), patient=patient))
    for case in sorted(set(patients or {}) - {case_name(path) for path in paths}):
        excluded.add(patients_csv, f"row {case!r} has no image in the input")
    return items


def _read_patients(path: Path) -> dict[str, str]:
    patients: dict[str, str] = {}
    for line, row in read_rows(path, ("case", "patient")):
        case, patient = case_name(row["case"].strip()), row["patient"].strip()
        if not case or not patient:
            raise BadInput(path, f"line {line} lacks a case or a patient")
        if patients.setdefault(case, patient) != patient:
            raise BadInput(path, f"line {line} gives case {case!r} a second patient")
    return patients


def _without_listed(
    items: list[_Item], source: Path, exclusion_list: str | os.PathLike[str] | None, excluded: _Excluded
) -> list[_Item]:
    listed = listed_items(exclusion_list, source, [(item.case, item.path) for item in items], "case", case_name)
    for i in sorted(listed):
        excluded.add(items[i].path, f"on the exclusion list {Path(exclusion_list)}", bad=False)
    return [item for i, item in enumerate(items) if i not in listed]


def _without_repeats(items: list[_Item], excluded: _Excluded) -> list[_Item]:
    """Drop an input whose case name is taken, except the plain copy of a `_fixed` CT-RATE image (same group)."""
    first: dict[str, _Item] = {}
    unique = []
    for item in items:
        earlier = first.setdefault(item.case, item)
        if earlier is not item and earlier.group != item.group:
            excluded.add(item.path, f"duplicate case name {item.case!r}, already used by {earlier.path}")
        else:
            unique.append(item)
    return unique


def _validate(
    items: list[_Item], out: Path, workers: int, engine: str, address: str | None, excluded: _Excluded
) -> list[tuple[_Item, dict]]:
    """Give the first usable item of every group with its facts, in the order of `items`."""
    groups: dict[str, list[_Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    kept: dict[str, tuple[_Item, dict]] = {}
    prepare_one = partial(_prepare_one, out=out, settings=_versions())
    with tqdm(total=len(groups), unit="case", desc="prepare", dynamic_ncols=True) as bar:
        waiting = list(groups.items())
        while waiting:
            # A second reconstruction is looked at only when the first one of its scan is bad.
            firsts = [group[0] for _, group in waiting]
            results = map_cases(prepare_one, firsts, workers, engine, address, bar.update)
            retry = []
            for (name, group), result in zip(waiting, results, strict=True):
                reason = result.reason if isinstance(result, Failure) else result.get("reason")
                if reason is None:
                    kept[name] = (group[0], result)
                    for spare in group[1:]:
                        excluded.add(spare.path, f"scan {name} is represented by {group[0].path}", bad=False)
                    continue
                excluded.add(group[0].path, reason)
                if group[1:]:
                    retry.append((name, group[1:]))
            bar.total += len(retry)
            waiting = retry
    return [kept[name] for name in groups if name in kept]


def _prepare_one(item: _Item, out: Path, settings: dict) -> dict:
    """Facts of one input, or its `reason`; from the earlier result if neither input nor checks have changed."""
    target = out / "images" / f"{item.case}.nii.gz" if item.converted else item.path
    try:
        identity = [_CHECKS, settings, str(item.path), item.case, item.patient, _fingerprint(item.path)]
    except OSError as error:
        return {"reason": f"cannot be read ({error.strerror})"}
    if item.rate is not None:
        identity.append([item.rate.fixed, item.rate.metadata])
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    record = out / ".prepare" / f"{key[:32]}.json"
    if record.is_file():
        result = json.loads(record.read_text(encoding="utf-8"))
        if "reason" in result or not item.converted or _is_file_of(target, result["bytes"]):
            return result
    try:
        volume = read_ct(item.path) if item.rate is None else read_ct_rate(item.rate)
        if not (item.patient or volume.patient):
            raise BadInput(item.path, "has no PatientID in any slice, expected one because the split is by patient")
    except BadInput as error:
        result = {"reason": error.reason}
    else:
        if item.converted:
            target.parent.mkdir(exist_ok=True)
            write_nifti(target, volume.hu, volume.affine)
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        result = {
            "patient": item.patient or volume.patient,
            "image": str(target),
            "bytes": target.stat().st_size,
            "spacing": [round(size, 6) for size in volume.spacing],
            "shape": list(volume.hu.shape),
            "sha256": digest,
        }
    write_text(record, json.dumps(result, indent=1) + "\n")
    return result


def _fingerprint(path: Path) -> list[list]:
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in input_files(path)]


def _is_file_of(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _versions() -> dict[str, str]:
    found = {}
    for name in (*_LIBRARIES, *_DECODERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # decoders are optional
    return found


def _write(
    kept: list[tuple[_Item, dict]], excluded: _Excluded, source: Path, out: Path, layout: str, seed: int, strict: bool
) -> PrepareResult:
    if layout == "ct_rate":
        split_of = {item.case: item.rate.split for item, _ in kept}
    else:
        split_of = split_by_patient({item.case: facts["patient"] for item, facts in kept}, seed=seed)
    columns = list(MANIFEST_COLUMNS)
    columns += ["scan", *CT_RATE_LABELS, *CT_RATE_REPORT] if layout == "ct_rate" else []
    rows = []
    for item, facts in kept:
        row = dict(zip(MANIFEST_COLUMNS[4:10], [*facts["spacing"], *facts["shape"]], strict=True))
        row |= {"case": item.case, "patient": facts["patient"], "split": split_of[item.case]}
        row |= {"image": facts["image"], "sha256": facts["sha256"]}
        if item.rate is not None:
            row |= {"scan": item.rate.scan, **item.rate.labels, **item.rate.report}
        rows.append(row)
    hashes = "".join(f"{case} {digest}\n" for case, digest in sorted((row["case"], row["sha256"]) for row in rows))
    counts = {"kept": len(rows), "excluded": len(excluded.rows), "bad": excluded.bad}
    counts["patients"] = len({row["patient"] for row in rows})
    counts |= {split: sum(row["split"] == split for row in rows) for split in SPLITS}
    if layout == "ct_rate":
        counts["without_report"] = sum(not any(row[name] for name in CT_RATE_REPORT) for row in rows)
    summary = {
        "layout": layout,
        "input": str(source),
        "seed": seed,
        "counts": counts,
        "versions": _versions(),
        "data_hash": hashlib.sha256(hashes.encode()).hexdigest(),
    }
    result = PrepareResult(out / "manifest.csv", out / "excluded.csv", out / "prepare.json", summary)
    listing = [{"path": path, "reason": reason} for path, reason in sorted(excluded.rows)]
    write_text(result.excluded, csv_text(["path", "reason"], listing))
    if not rows or (strict and excluded.bad):
        # No manifest is left behind that a later stage could take for the result of this run.
        result.manifest.unlink(missing_ok=True)
        result.summary_file.unlink(missing_ok=True)
        if rows:
            raise BadInput(source, f"has {excluded.bad} bad inputs and strict was asked for, see {result.excluded}")
        raise BadInput(source, f"has no usable case for layout {layout!r}, see {result.excluded}")
    write_text(result.manifest, csv_text(columns, rows))
    write_text(result.summary_file, json.dumps(summary, indent=1) + "\n")
    return result
