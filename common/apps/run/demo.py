"""`demo`: a bundle from raw data to pictures, on virtual patients and tiny networks, on two CPU cores."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from common.apps.run.bundle import Bundle, merged_config, open_bundle
from common.apps.run.evaluate import evaluate
from common.apps.run.recipe import files_of_scale, run_recipe
from common.apps.run.remote_paths import takes_urls
from common.apps.run.run_data import make_virtual
from common.io.bad_input import BadInput
from common.io.output_folder import write_text
from common.visualize.run_page import write_run_page
from common.visualize.run_summary import SUMMARY_KEYS, read_json, write_summary
from common.visualize.tables import format_table, json_text

SCALE = "demo"
_UNSEEN = 1_000  # seeds of the held-out patients start this far above those of the training


@takes_urls(goes_on=["output_dir"])
def run_demo(
    bundle: str | os.PathLike[str] = "ct_slice_interpolation",
    output_dir: str | os.PathLike[str] = "runs/demo",
    scale: str = SCALE,
) -> dict[str, Any]:
    """Run a bundle's recipe at the scale demo, then evaluate it on virtual patients it has not seen.

    `configs/demo.json` must have the id "virtual" (see `common.apps.run.recipe`), and may have "held_out": {"n": number
    of patients of an evaluation of their own, "input": folder below theirs, further arguments of the evaluation}.
    Without it the evaluation takes the test patients of the run's own data.

    Args:
        bundle: bundle folder or name.
        output_dir: the run folder.
        scale: as of `run_recipe`, one with virtual patients.

    Returns:
        The content of summary.json, with `evaluation` (the rows that are shown), `page` and `seconds`.

    Raises:
        BadInput: if the bundle has no demo.
    """
    bundle, out = open_bundle(bundle), Path(output_dir)
    start = time.monotonic()
    settings = merged_config(files_of_scale(bundle, scale)).config
    if settings.get("virtual") is None:
        raise BadInput(bundle.config_file(SCALE), "has no id 'virtual', expected the patients of the demo")
    print(
        f"demo of {bundle.name} in {out}: tiny networks are trained on virtual patients, stage after stage, and "
        "measured on patients that they were not trained on; everything runs on this machine.",
        flush=True,
    )
    run = run_recipe(bundle, scale, output_dir=out)
    virtual, held_out = settings["virtual"], dict(settings.get("held_out") or {})
    data = Path(run["data"])
    if held_out:
        unseen = virtual | {"n": held_out.pop("n"), "seed": virtual["seed"] + _UNSEEN}
        make_virtual(out / "held_out", unseen)
        data = out / "held_out" / held_out.pop("input", ".")
    measured = _measured(bundle, out, run, data, held_out)
    summary = {key: value for key, value in read_json(out / "summary.json").items() if key in SUMMARY_KEYS}
    summary["baselines"] = measured["baselines"]
    write_summary(out, summary)
    page = write_run_page(out)
    seconds = time.monotonic() - start
    print(f"\n{measured['cases']} cases of patients that were not trained on:\n")
    print(format_table(measured["result"]))
    print(f"\n{seconds / 60:.1f} minutes; the page with pictures: {page}")
    return summary | {"evaluation": measured["result"], "page": str(page), "seconds": round(seconds, 1)}


def _measured(bundle: Bundle, out: Path, run: dict[str, Any], data: Path, held_out: dict[str, Any]) -> dict[str, Any]:
    """The rows, cases and baselines of the evaluation: of an earlier call if nothing has changed since."""
    path = out / "evaluation" / "finished.json"
    stages = {p.parent.name: read_json(p)["finished_at"] for p in sorted(out.glob("*/finished.json")) if p != path}
    made_of = {"git_commit": run["git_commit"], "stages": stages, "data": str(data), "held_out": held_out}
    known = read_json(path) if path.is_file() else {}
    committed = len(run["git_commit"] or "") in (0, 40)  # code with changes may have others now
    page = (out / "evaluation" / "index.html").is_file()
    if not run["ran"] and known.get("made_of") == made_of and committed and page:
        print(f"nothing changed since the evaluation on patients that were not trained on ({data})", flush=True)
        return known["measured"]
    print(f"evaluating on patients that were not trained on ({data})", flush=True)
    found = evaluate(bundle, data, out / "evaluation", run["ckpt_dir"], dict(held_out))
    measured = {name: found[name] for name in ("cases", "result", "baselines")}
    write_text(path, json_text({"made_of": made_of, "measured": measured}))
    return measured
