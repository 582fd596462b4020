"""`predict`: one bundle applied to a file, a folder or a DICOM series."""

import logging
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.apps.bundle import open_bundle, resolve
from common.data.bad_input import BadInput
from common.data.ct_reader import read_ct
from common.data.ct_volume import case_names, find_ct
from common.data.output_folder import csv_text, write_text

logger = logging.getLogger("predict")


def predict(
    bundle: str | Path,
    input: str | Path,
    output_dir: str | Path,
    ckpt_dir: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a bundle's inference.json; the same as `python -m monai.bundle run` with these keys.

    Args:
        bundle: bundle folder.
        input: NIfTI file, DICOM folder or zip, or a folder of them.
        output_dir: created if missing.
        ckpt_dir: folder with model.pt; default the bundle's models folder.
        overrides: configuration ids and values, such as ``mode`` or ``target_spacing``.

    Returns:
        ``{"outputs": [paths], "cases": n, "excluded": [{"path", "reason"}]}``; of a folder, inputs that cannot be
        used are left out and listed in ``excluded.csv``.

    Raises:
        BadInput: if an input is missing or not a CT.
        MissingWeights: if the checkpoint lacks what the mode needs.
    """
    cases, excluded = _readable(Path(input))
    values = {"input": str(input), "output_dir": str(output_dir)} | (overrides or {})
    config = open_bundle(bundle).config("inference", ckpt_dir=ckpt_dir, overrides=values)
    names = case_names(cases, Path(input))
    config["dataset#data"] = [{"image": str(path), "case": name} for path, name in zip(cases, names, strict=True)]
    *_, postprocessing = resolve(config, "initialize", "run", "postprocessing")
    if excluded:
        write_text(Path(output_dir) / "excluded.csv", csv_text(("path", "reason"), excluded))
    outputs = [path for transform in postprocessing.transforms for path in getattr(transform, "written", [])]
    return {"outputs": outputs, "cases": len(cases), "excluded": excluded}


def _readable(source: Path) -> tuple[list[Path], list[dict[str, str]]]:
    """The inputs below a path, and those of a folder that cannot be used, with the reason."""
    found, excluded = find_ct(source), []
    if not found:
        raise BadInput(source, "holds no CT, expected NIfTI files or DICOM series")
    if len(found) == 1:
        return found, []
    usable = []
    for path in tqdm(found, desc="check", unit="case"):
        try:
            read_ct(path)
            usable.append(path)
        except BadInput as error:
            excluded.append({"path": str(path), "reason": error.reason})
            logger.warning("excluded: %s", error)
    if not usable:
        raise BadInput(source, f"holds no usable CT, the first of {len(found)}: {excluded[0]['reason']}")
    return usable, excluded
