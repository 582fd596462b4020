"""`predict`: one bundle applied to a file, a folder or a DICOM series."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.apps.run.bundle import cpu_count, open_bundle, resolve
from common.apps.run.prepare import check_engine
from common.apps.run.remote_paths import takes_urls
from common.data.ct.reader import read_ct
from common.data.ct.volume import case_names, find_ct
from common.io.bad_input import BadInput
from common.io.output_folder import csv_text, write_text
from common.io.parallel import Failure, map_cases

logger = logging.getLogger("predict")
_ROUNDS = 4  # groups of cases per worker, so that none waits long for the last


@takes_urls(reads=["input", "ckpt_dir"], writes=["output_dir"])
def predict(
    bundle: str | Path,
    input: str | Path,
    output_dir: str | Path,
    ckpt_dir: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
) -> dict[str, Any]:
    """Run a bundle's inference.json; the same as `python -m monai.bundle run` with these keys.

    Args:
        bundle: bundle folder.
        input: NIfTI, NRRD or MetaImage file, DICOM folder or zip, or a folder of them; of a classifier, X-rays.
        output_dir: created if missing.
        ckpt_dir: folder with model.pt; default the bundle's models folder.
        overrides: configuration ids and values, such as ``mode`` or ``target_spacing``.
        workers: processes that share the cases, and the processors of this machine.
        engine: where they run, "local" or "ray", see `common.io.parallel`.
        address: of a Ray cluster.

    Returns:
        ``{"outputs": [paths], "cases": n, "excluded": [{"path", "reason"}]}``; of a folder, inputs that cannot be
        used are left out and listed in ``excluded.csv``.

    Raises:
        BadInput: if an input is missing or not a CT.
        MissingWeights: if the checkpoint lacks what the mode needs.
        UsageError: for an unknown engine or a number of workers below 1.
    """
    check_engine(engine, workers)
    if open_bundle(bundle).predicts == "labels":
        from common.evaluation.classification import predict_labels

        return predict_labels(open_bundle(bundle), input, output_dir, ckpt_dir, overrides or {})
    found, excluded = _readable(Path(input))
    cases = [(str(path), name) for path, name in zip(found, case_names(found, Path(input)), strict=True)]
    values = {"input": str(input), "output_dir": str(output_dir)} | (overrides or {})
    here = engine == "local" and workers == 1
    size = len(cases) if here else -(-len(cases) // (workers * _ROUNDS))
    groups = [cases[first : first + size] for first in range(0, len(cases), size)]
    run = partial(
        _predict_cases,
        bundle=bundle,
        ckpt_dir=ckpt_dir,
        values=values,
        threads=None if here else cpu_count() // workers,
    )
    results = map_cases(run, groups, workers, engine, address, start_method="spawn")
    outputs: list[str] = []
    for group, result in zip(groups, results, strict=True):
        if isinstance(result, Failure):
            excluded += [{"path": path, "reason": result.reason} for path, _ in group]
        else:
            outputs += result
    if excluded:
        write_text(Path(output_dir) / "excluded.csv", csv_text(("path", "reason"), excluded))
    return {"outputs": outputs, "cases": len(cases), "excluded": excluded}


def _predict_cases(
    cases: Sequence[tuple[str, str]],
    bundle: str | Path,
    ckpt_dir: str | Path | None,
    values: dict[str, Any],
    threads: int | None,
) -> list[str]:
    """Predict some cases (path, name) in this process; gives the files that were written."""
    if threads is not None:
        import torch

        torch.set_num_threads(max(1, threads))
    config = open_bundle(bundle).config("inference", ckpt_dir=ckpt_dir, overrides=values)
    config["dataset#data"] = [{"image": path, "case": name} for path, name in cases]
    *_, postprocessing = resolve(config, "initialize", "run", "postprocessing")
    return [path for transform in postprocessing.transforms for path in getattr(transform, "written", [])]


def _readable(source: Path) -> tuple[list[Path], list[dict[str, str]]]:
    """The inputs below a path, and those of a folder that cannot be used, with the reason."""
    found, excluded = find_ct(source), []
    if not found:
        raise BadInput(source, "holds no CT, expected NIfTI, NRRD or MetaImage files or DICOM series")
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
