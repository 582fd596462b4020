"""`evaluate`: a bundle measured on cases whose truth is known.

A bundle's evaluate.json is an overlay on train.json for MONAI's own programs. Two of its ids are read here:

    "evaluation"   a `common.evaluation.evaluation.Evaluation`, made of what inference.json has (@network, @inferer ...)
    "inference"    optional, ids of inference.json that have other values in an evaluation
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.apps.run.bundle import open_bundle, resolve
from common.apps.run.remote_paths import takes_urls
from common.evaluation.evaluation import write_measured
from common.io.bad_input import BadInput
from common.io.inputs import reading
from common.io.output_folder import locks
from common.visualize.run_summary import build_summary
from common.visualize.tables import json_text

SECTION = "evaluation"


@takes_urls(reads=["input", "ckpt_dir"], writes=["output_dir"])
@locks("output_dir")
def evaluate(
    bundle: str | Path,
    input: str | Path,
    output_dir: str | Path,
    ckpt_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a bundle, and write metrics.csv, metrics_mean.csv, summary.json and index.html with pictures.

    Args:
        bundle: bundle folder.
        input: what the bundle's evaluation takes.
        output_dir: created if missing.
        ckpt_dir: folder with model.pt; default the bundle's models folder.
        overrides: arguments of the evaluation, or ids of inference.json, and their values.

    Returns:
        ``metrics`` (rows of metrics_mean.csv), ``result`` (rows for people), ``cases``, ``excluded`` ({"path",
        "reason"} each), ``not_run`` ({method: reason}), ``baselines``, ``page``, and what else the evaluation has for
        programs.

    Raises:
        BadInput: if the bundle has no evaluation, or nothing can be measured.
        MissingWeights: without weights.
        UsageError: for an override that the bundle does not have.
    """
    found, out = open_bundle(bundle), Path(output_dir)
    found.stay_out(out)
    overlay = json.loads(found.config_file("evaluate").read_text(encoding="utf-8"))
    if SECTION not in overlay:
        raise BadInput(found.config_file("evaluate"), f"has no id {SECTION!r}, expected what `evaluate` measures")
    changes = {SECTION: overlay[SECTION], **overlay.get("inference", {})}
    given = (overrides or {}).items()
    asked = {f"{SECTION}#{key}" if key in overlay[SECTION] else key: value for key, value in given}
    places = {"input": str(input), "output_dir": str(out)}
    config = found.config("inference", ckpt_dir=ckpt_dir, overrides=asked, changes=changes, places=places)
    *_, evaluation = resolve(config, *(name for name in ("network", SECTION) if name in config))
    cases = config.ref_resolver.resolved_content.get("cases", ())
    with reading(*(case.get("image") for case in cases)):
        measured = evaluation.run(out)
    summary = build_summary(
        found.name, "evaluate", config.get("seed", 0), measured.data, [], measured.baselines, measured.parameters
    )
    page = write_measured(out, measured, summary)
    result = {
        "metrics": list(measured.tables["metrics_mean"]),
        "result": list(measured.result),
        "cases": measured.cases,
        "excluded": list(measured.excluded),
        "not_run": measured.not_run,
        "baselines": measured.baselines,
        "page": str(page),
    }
    return result | json.loads(json_text(measured.details))
