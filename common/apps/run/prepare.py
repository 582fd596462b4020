"""`prepare`: turn CTs, labelled X-rays, or virtual patients in the layout of a real data set, into a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.apps.run.bundle import UsageError, hint, missing
from common.apps.run.remote_paths import takes_urls
from common.data.ct.prepare import LAYOUTS, MANIFEST_COLUMNS, prepare_ct
from common.data.cxr.mimic_cxr import LABELLERS
from common.data.cxr.mimic_study import list_mimic
from common.data.cxr.prepare import CXR_LAYOUTS, prepare_cxr, write_study_tables
from common.data.splits import SPLITS, split_by_patient
from common.data.virtual.cxr_layouts import ROW_COLUMNS, write_mimic_cxr, write_open_i, write_r2gen
from common.data.virtual.layouts import VERSION, write_ct_rate, write_dicom, write_nifti
from common.io.output_folder import csv_text, locked, write_text
from common.io.parallel import ENGINES

XRAY_LAYOUTS = {"mimic_cxr": write_mimic_cxr, "open_i": write_open_i, "r2gen": write_r2gen}
VIRTUAL_LAYOUTS = {"nifti": write_nifti, "dicom": write_dicom, "ct_rate": write_ct_rate} | XRAY_LAYOUTS
SHAPE, SPACING = (96, 192, 192), (1.5, 1.0, 1.0)


@takes_urls(reads=["input", "exclusion_list"], goes_on=["output_dir"])
def prepare(
    layout: str,
    input: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    strict: bool = False,
    workers: int = 1,
    engine: str = "local",
    seed: int = 0,
    exclusion_list: str | os.PathLike[str] | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Validate, convert and split a folder of CTs (see `common.data.ct.prepare.prepare_ct`), or labelled X-rays.

    Args:
        layout: "nifti", "dicom", "ct" (all) or "ct_rate"; "mimic_cxr", "covid" or "nih" as `prepare_xrays` by default.
        input: a folder, or a single input; never written to.
        output_dir: created; not inside the input.
        strict: refuse if any input is bad, instead of listing it in excluded.csv.
        workers: processes that validate.
        engine: where they run, "local" or "ray".
        seed: of the split by patient.
        exclusion_list: text file of cases or paths to leave out.
        address: of a Ray cluster; None starts one on this machine.

    Returns:
        The content of prepare.json, and the paths of `manifest` and `excluded`.

    Raises:
        BadInput: if the input does not exist, nothing in it is usable, or it is bad and `strict` is set.
        NotImplementedError: for a layout that is only written, of virtual patients, and not read yet.
        UsageError: for an unknown layout or engine, or a number of workers below 1.
    """
    if layout in CXR_LAYOUTS:
        return prepare_xrays(layout, input, output_dir, strict, workers, engine, seed, exclusion_list, address)
    if layout in XRAY_LAYOUTS:
        known = ", ".join((*LAYOUTS, *CXR_LAYOUTS))
        raise NotImplementedError(f"Layout {layout} cannot be read yet, expected one of {known}.")
    _check_layout(layout, (*LAYOUTS, *CXR_LAYOUTS))
    check_engine(engine, workers)
    if not Path(input).exists():
        raise missing(input, "a folder of CTs")
    result = prepare_ct(input, output_dir, layout, seed, strict, workers, exclusion_list, engine, address)
    return result.summary | {"manifest": str(result.manifest), "excluded": str(result.excluded)}


@takes_urls(reads=["input", "ehr", "exclusion_list"], goes_on=["output_dir"])
def prepare_xrays(
    layout: str,
    input: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    strict: bool = False,
    workers: int = 1,
    engine: str = "local",
    seed: int = 0,
    exclusion_list: str | os.PathLike[str] | None = None,
    address: str | None = None,
    validate: bool = False,
    labeller: str = "chexpert",
    ehr: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Check X-rays and write manifest, notes and clinical values (see `common.data.cxr.prepare.prepare_cxr`).

    Args:
        layout: "mimic_cxr", "covid" or "nih".
        input: the folder of the data set, or for the last two its table; never written to.
        output_dir: created; not inside the input.
        strict: refuse if any input is bad, instead of listing it in excluded.csv.
        workers: processes that check images.
        engine: where they run, "local" or "ray".
        seed: of the split by patient, where there is no official one.
        exclusion_list: text file of cases, studies or paths to leave out.
        address: of a Ray cluster; None starts one on this machine.
        validate: decode every image, not its header only.
        labeller: "chexpert" or "negbio", of mimic_cxr.
        ehr: folders of MIMIC-IV and MIMIC-IV-ED, of mimic_cxr; None looks for them in and beside the input.

    Returns:
        The content of prepare.json, and the paths of `manifest` and `excluded`.

    Raises:
        BadInput: if the input does not exist, nothing in it is usable, or it is bad and `strict` is set.
        UsageError: for an unknown layout, labeller or engine, or a number of workers below 1.
    """
    _check_layout(layout, CXR_LAYOUTS)
    check_engine(engine, workers)
    if labeller not in LABELLERS:
        raise UsageError(f"--labeller is {labeller!r}, expected {' or '.join(LABELLERS)}{hint(labeller, LABELLERS)}")
    if not Path(input).exists():
        raise missing(input, f"a data set of layout {layout}")
    result = prepare_cxr(
        input, output_dir, layout, seed, strict, workers, exclusion_list, engine, address, labeller, ehr, validate
    )
    return result.summary | {"manifest": str(result.manifest), "excluded": str(result.excluded)}


@takes_urls(goes_on=["output_dir"])
def prepare_virtual(
    output_dir: str | os.PathLike[str],
    layout: str = "nifti",
    n: int = 20,
    seed: int = 0,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    workers: int = 1,
) -> dict[str, Any]:
    """Write virtual patients in the layout of a real data set, with the three files that `prepare` writes.

    The split is that of `prepare`, by patient; ct_rate has the split of its own tree. The manifest of an X-ray layout
    has a row per image, with its study, view, report (the file that holds it) and 14 labels; mimic_cxr also has the
    notes.csv and clinical.csv that `prepare mimic_cxr` writes, by the same code.

    Args:
        output_dir: new, or written by the same call before.
        layout: "nifti", "dicom", "ct_rate", "mimic_cxr", "open_i" or "r2gen".
        n: number of patients (ct_rate: scans).
        seed: of the first patient; patient i has the seed `seed + i`.
        shape: voxels along (z, y, x); of an X-ray, those of the CT that it is made of. Images have 512 pixels along
            each side, or 128 if the CT has less than 128 voxels along x.
        spacing: millimetres along (z, y, x).
        workers: processes that make them, of mimic_cxr.

    Returns:
        The content of prepare.json, and the paths of `manifest` and `excluded`.

    Raises:
        FileExistsError: if the folder holds something else.
        UsageError: for an unknown layout.
        ValueError: for an impossible number, shape or spacing.
    """
    _check_layout(layout, VIRTUAL_LAYOUTS)
    out = Path(output_dir).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        several = {"workers": workers} if layout == "mimic_cxr" else {}
        rows = VIRTUAL_LAYOUTS[layout](out, n, seed, tuple(shape), tuple(spacing), **several)
        facts = {"layout": layout, "seed": seed, "shape": list(shape), "spacing": list(spacing)}
        if layout in XRAY_LAYOUTS:
            for row in rows:
                row |= {"sha256": _sha256(out / row["image"])}
                row |= {name: str(out / row[name]) for name in ("image", "report")}
            if layout == "mimic_cxr":
                ehr = [str(out / name) for name in ("mimic-iv", "mimic-iv-ed")]
                write_study_tables(out, list_mimic(out, ehr=ehr), (row["study"] for row in rows))
            return _write(out, rows, facts, ROW_COLUMNS)
        if layout == "ct_rate":
            split_of = {row["case"]: "val" if row["split"] == "valid" else row["split"] for row in rows}
        else:
            split_of = split_by_patient({row["case"]: row["patient"] for row in rows}, seed=seed)
        geometry = {f"spacing_{axis}": size for axis, size in zip("zyx", spacing, strict=True)}
        geometry |= {f"shape_{axis}": size for axis, size in zip("zyx", shape, strict=True)}
        for row in rows:
            row |= geometry | {"split": split_of[row["case"]], "sha256": _sha256(out / row["image"])}
            row |= {name: str(out / row[name]) for name in ("image", "regions", "lesions") if name in row}
        return _write(out, rows, facts, MANIFEST_COLUMNS)


def check_engine(engine: str, workers: int) -> None:
    """Refuse what `common.io.parallel` does not know.

    Raises:
        UsageError: for an unknown engine or a number of workers below 1.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine is {engine!r}, expected {' or '.join(ENGINES)}{hint(engine, ENGINES)}")
    if workers < 1:
        raise UsageError(f"--workers is {workers}, expected at least 1")


def _check_layout(layout: str, built: Collection[str]) -> None:
    if layout not in built:
        raise UsageError(f"layout is {layout!r}, expected one of {', '.join(built)}{hint(layout, built)}")


def _sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and bytes of a folder's files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _write(out: Path, rows: list[dict[str, Any]], facts: dict[str, Any], first: Sequence[str]) -> dict[str, Any]:
    """Write the three files; the columns ``first`` lead the manifest."""
    columns = list(first) + [name for name in rows[0] if name not in first]
    counts = {"kept": len(rows), "excluded": 0, "bad": 0, "patients": len({row["patient"] for row in rows})}
    counts |= {split: sum(row["split"] == split for row in rows) for split in SPLITS}
    hashes = "".join(f"{case} {digest}\n" for case, digest in sorted((row["case"], row["sha256"]) for row in rows))
    versions = {name: version(name) for name in ("numpy", "nibabel", "pydicom")} | {"virtual_patient": VERSION}
    summary = {"layout": facts["layout"], "input": "virtual"} | facts
    summary |= {"counts": counts, "versions": versions, "data_hash": hashlib.sha256(hashes.encode()).hexdigest()}
    write_text(out / "excluded.csv", csv_text(["path", "reason"], []))
    write_text(out / "manifest.csv", csv_text(columns, rows))
    write_text(out / "prepare.json", json.dumps(summary, indent=1) + "\n")
    return summary | {"manifest": str(out / "manifest.csv"), "excluded": str(out / "excluded.csv")}
