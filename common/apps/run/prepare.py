"""`prepare`: turn a data set of any layout, or virtual patients in the layout of a real one, into a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from common.apps.run.bundle import UsageError, hint, missing
from common.apps.run.remote_paths import takes_urls
from common.data.ct.listing import MANIFEST_COLUMNS
from common.data.cxr.listing import CXRListing, write_study_tables
from common.data.cxr.mimic_study import list_mimic
from common.data.layouts import LAYOUTS, VIRTUAL_LAYOUTS
from common.data.manifest import record_place
from common.data.prepare import prepare_data
from common.data.splits import SPLITS, split_by_patient
from common.data.virtual.cache import write_virtual
from common.data.virtual.cxr_layouts import ROW_COLUMNS
from common.data.virtual.files import VERSION, Cohort
from common.io.output_folder import content_hash, csv_text, locked, write_text
from common.io.parallel import ENGINES

SHAPE, SPACING = (96, 192, 192), (1.5, 1.0, 1.0)
_EVERYWHERE = ("seed", "exclusion_list", "address")
_FOLDER_OPTIONS = {option.name for layout in LAYOUTS.values() for option in layout.options if option.folders}


@takes_urls(reads=["input", "exclusion_list", *_FOLDER_OPTIONS], goes_on=["output_dir"])
def prepare(
    layout: str,
    input: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    strict: bool = False,
    workers: int = 1,
    engine: str = "local",
    **options: Any,
) -> dict[str, Any]:
    """Check a data set, convert what needs it, and split it by patient.

    Args:
        layout: a name in `common.data.layouts.LAYOUTS`.
        input: as all that follows, see `common.data.prepare.prepare_data`.
        output_dir: created; not inside the input.
        strict: refuse if any input is bad, instead of listing it in excluded.csv.
        workers: processes that check.
        engine: where they run, "local" or "ray".
        options: seed, exclusion_list, address; and those of the layout, as the registry lists them.

    Returns:
        The content of prepare.json, and the paths of `manifest` and `excluded`; with the option `step` instead `steps`,
        the name of each that was run -> what it came to.

    Raises:
        BadInput: if the input does not exist, nothing in it is usable, or it is bad and `strict` is set.
        UsageError: for an unknown layout, engine, option or value of one, or a number of workers below 1.
    """
    _check_layout(layout, LAYOUTS)
    found = LAYOUTS[layout]
    in_steps = found.step_options if options.get("step") else found.step_options[:1]
    known = {option.name: option.choices for option in (*found.options, *in_steps)} | dict.fromkeys(_EVERYWHERE, ())
    for name, value in options.items():
        if name not in known and name in {option.name for option in found.step_options}:
            raise UsageError(f"--{name} is for a step, expected --step with the name of one")
        if name not in known:
            raise UsageError(f"prepare {layout} has no option --{name}{hint(name, known, '--')}")
        if known[name] and value not in known[name]:
            raise UsageError(f"--{name} is {value!r}, expected {' or '.join(known[name])}{hint(value, known[name])}")
    check_engine(engine, workers)
    if not Path(input).exists() and not options.get("download"):
        raise missing(input, f"{found.expects} (--input)")
    if options.get("step"):
        if strict or workers != 1 or engine != "local":
            raise UsageError("--strict, --workers and --engine are not for a step, expected --step without them")
        return {"steps": resolve_name(found.steps)(input, output_dir, **options)}
    result = prepare_data(input, output_dir, layout, strict=strict, workers=workers, engine=engine, **options)
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

    They are made once per machine, see `common.data.virtual.cache`, and copied into the folder, which may be edited.
    The split is that of `prepare`, by patient; ct_rate has the split of its own tree. The manifest of an X-ray layout
    has a row per image, with its study, view, report (the file that holds it) and 14 labels; mimic_cxr also has the
    notes.csv and clinical.csv that `prepare mimic_cxr` writes, by the same code.

    Args:
        output_dir: new, or written by the same call before.
        layout: "nifti", "dicom", "ct_rate", "mimic_cxr", "open_i", "r2gen", or "texts", reports without images.
        n: number of patients (ct_rate: scans).
        seed: of the first patient; patient i has the seed `seed + i`.
        shape: voxels along (z, y, x); of an X-ray, those of the CT that it is made of. Images have 512 pixels along
            each side, or 128 if the CT has less than 128 voxels along x.
        spacing: millimetres along (z, y, x).
        workers: processes that make them.

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
        rows = write_virtual(out, layout, Cohort(n, seed, tuple(shape), tuple(spacing)), workers)
        facts = {"layout": layout, "seed": seed, "shape": list(shape), "spacing": list(spacing)}
        if "study" in rows[0]:
            for row in rows:
                row |= {"sha256": content_hash(out / row["image"])} if row["image"] else {}
                row |= {name: str(out / row[name]) for name in ("image", "report") if row[name]}
            if rows[0]["image"]:
                ehr = [str(out / name) for name in ("mimic-iv", "mimic-iv-ed")]
                listing = list_mimic(out, ehr=ehr) if layout == "mimic_cxr" else CXRListing()
                write_study_tables(out, listing, (row["study"] for row in rows))
            return _write(out, rows, facts, [name for name in ROW_COLUMNS if name in rows[0]])
        if layout == "ct_rate":
            split_of = {row["case"]: "val" if row["split"] == "valid" else row["split"] for row in rows}
        else:
            split_of = split_by_patient({row["case"]: row["patient"] for row in rows}, seed=seed)
        geometry = {f"spacing_{axis}": size for axis, size in zip("zyx", spacing, strict=True)}
        geometry |= {f"shape_{axis}": size for axis, size in zip("zyx", shape, strict=True)}
        for row in rows:
            row |= geometry | {"split": split_of[row["case"]], "sha256": content_hash(out / row["image"])}
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
    record_place(out)
    write_text(out / "manifest.csv", csv_text(columns, rows))
    write_text(out / "prepare.json", json.dumps(summary, indent=1) + "\n")
    return summary | {"manifest": str(out / "manifest.csv"), "excluded": str(out / "excluded.csv")}
