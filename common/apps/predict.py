"""`predict`: one bundle applied to a file, a folder or a DICOM series.

A bundle's inference.json says what there is to do, by these ids beside MONAI's own:

    "cases"      a list of cases, {"case": name, "image": path, ...}, which reaches the other ids as an object, so that
                 names in it are only data; its attributes `excluded` and `other`, if it has them, list what was left
                 out, and count the files that were not looked at
    "outputs"    after `run`, the files that were written for the cases
    "excluded"   after `run`, the cases that could not be used, and why
    "finalize"   files for all cases together, from "outputs"; optional, a list
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.apps.run.bundle import Bundle, cpu_count, open_bundle, resolve
from common.apps.run.prepare import check_engine
from common.apps.run.remote_paths import takes_urls
from common.data.datasets.case_loader import excluded_path, no_usable_case, write_excluded
from common.data.folder_files import others_text
from common.io.bad_input import BadInput
from common.io.inputs import reading
from common.io.output_folder import locks
from common.io.parallel import Failure, map_cases

logger = logging.getLogger("predict")

_IDS = ("input", "output_dir", "cases", "outputs", "excluded", "run")
_ROUNDS = 4  # groups of cases per worker, so that none waits long for the last

Excluded = list[dict[str, str]]


@takes_urls(reads=["input", "ckpt_dir"], writes=["output_dir"])
@locks("output_dir")
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
        input: what the bundle takes: a file, a folder of them or of DICOM, or one that `prepare` wrote.
        output_dir: created if missing.
        ckpt_dir: folder with model.pt; default the bundle's models folder.
        overrides: configuration ids and values, such as ``mode`` or ``target_spacing``.
        workers: processes that share the cases, and the processors of this machine.
        engine: where they run, "local" or "ray", see `common.io.parallel`.
        address: of a Ray cluster.

    Returns:
        ``{"outputs": [paths], "cases": n, "excluded": [{"path", "reason"}], "other_files": {kind: n}}``, n of those
        that were used; what was left out is also in ``excluded.csv``.

    Raises:
        BadInput: if an input is missing, or none of the cases can be used.
        MissingWeights: if the checkpoint lacks what is asked for.
        UsageError: for an unknown engine, a number of workers below 1, or an id that the bundle does not have.
    """
    check_engine(engine, workers)
    found = open_bundle(bundle)
    found.stay_out(output_dir)
    settings = {"ckpt_dir": ckpt_dir, "overrides": overrides}
    settings["places"] = {"input": str(input), "output_dir": str(output_dir)}
    config = found.config("inference", **settings)
    for name in _IDS:
        if name not in config:
            raise BadInput(found.config_file("inference"), f"has no id {name!r}, expected it for predict")
    (cases,) = resolve(config, "cases")
    excluded: Excluded = list(getattr(cases, "excluded", ()))
    other: dict[str, int] = getattr(cases, "other", {})
    here = engine == "local" and workers == 1
    batch = config.get("batch_size") or 1  # batches stay whole, so that the work of one process is that of several
    size = len(cases) if here else -(-len(cases) // (workers * _ROUNDS * batch)) * batch
    images = [case["image"] for case in cases if case.get("image")]
    groups = [cases[first : first + size] for first in range(0, len(cases), max(size, 1))]
    threads = None if here else cpu_count() // workers
    run = partial(_predict_cases, bundle=found, settings=settings, threads=threads, read=(input, ckpt_dir, *images))
    results = map_cases(run, groups, workers, engine, address, start_method="spawn")
    outputs: list[str] = []
    unusable: Excluded = []
    for group, result in zip(groups, results, strict=True):
        if isinstance(result, Failure):
            unusable += [{"path": excluded_path(case), "reason": result.reason} for case in group]
        else:
            outputs += result[0]
            unusable += result[1]
    if len(unusable) == len(cases):
        raise no_usable_case(input, Path(output_dir), excluded + unusable)
    if excluded + unusable:
        logger.warning("%d inputs are left out, with reasons in excluded.csv", len(excluded + unusable))
    if others_text(other):
        logger.warning("%s, which were not looked at", others_text(other))
    write_excluded(Path(output_dir), excluded + unusable)
    if "finalize" in config:
        config.provide(outputs=outputs)
        with reading(*images):
            last = resolve(config, "finalize")[0]
        outputs = [*(str(path) for path in last if path is not None), *outputs]
    counts = {"cases": len(cases) - len(unusable), "excluded": excluded + unusable, "other_files": other}
    return {"outputs": outputs, **counts}


def _predict_cases(
    cases: Sequence[dict[str, Any]],
    bundle: Bundle,
    settings: dict[str, Any],
    threads: int | None,
    read: Sequence[str | Path | None],
) -> tuple[list[str], Excluded]:
    """Predict some cases in this process; gives the files that were written, and the cases that were left out."""
    if threads is not None:
        import torch

        torch.set_num_threads(max(1, threads))
    config = bundle.config("inference", **settings)
    config.provide(cases=cases)
    resolve(config, *(name for name in ("network", "initialize") if name in config))  # weights are missed first
    with reading(*read):
        _, outputs, excluded = resolve(config, "run", "outputs", "excluded")
    return [str(path) for path in outputs], list(excluded)
