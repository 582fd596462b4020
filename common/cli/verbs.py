"""What the verbs of `python -m common` do: each a thin call into `common.apps`; its docstring is its help.

Nothing heavy is imported before a verb runs, so help and mistakes are answered at once.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.apps.run.bundle import missing, open_bundle

Result = dict[str, Any]


def demo(bundle: str = "ct_slice_interpolation", output_dir: str = "runs/demo") -> Result:
    """Train a tiny version of a bundle on virtual patients and measure it on others, on two CPU cores.

    Every stage of the bundle runs, so the figures show that the parts work together, not what the method can do. It
    says what it is doing, and ends with a table and the path of one page with pictures. A second call skips what is
    finished.

    Args:
        bundle: BUNDLE folder of a bundle, or its name
        output_dir: DIR created; everything goes there

    Examples:
        python -m common demo
        python -m common demo --bundle ct_slice_interpolation --output_dir runs/demo
    """
    from common.apps.run.demo import run_demo

    return run_demo(bundle, output_dir)


def predict(
    bundle: str,
    input: str,
    output_dir: str,
    ckpt_dir: str | None = None,
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
    **overrides: str,
) -> Result:
    """Apply a bundle to a file, a folder of them, or a DICOM series; a classifier also to a note or a table of values.

    What is written per case is the bundle's matter, see its docs/README.md. Without weights nothing is written. Input,
    weights and output may be URLs of object storage, such as s3://bucket/ct.

    Args:
        bundle: folder of a bundle, such as bundles/ct_slice_interpolation
        input: PATH of CTs, a NIfTI, NRRD or MetaImage file, a DICOM folder or zip, or a folder of these; of a
            classifier, an X-ray (jpg, png, dcm), a folder of them or one that prepare wrote, a note (txt) or values
            (csv)
        output_dir: DIR created
        ckpt_dir: DIR folder with model.pt (default: models of the bundle)
        workers: N processes that share the cases
        engine: NAME where they run: local, or ray (pip install 'thorax-bundles[cluster]')
        address: HOST of a Ray cluster, whose machines see the same files (default: one on this machine)
        overrides: changes a value of the bundle's configs/inference.json, by its id

    Examples:
        python -m common predict bundles/ct_slice_interpolation --input ct.nii.gz --output_dir out --target_spacing 1
        python -m common predict bundles/ct_slice_interpolation --input dicom --output_dir out --mode linear
        python -m common predict bundles/mdfnet_cxr --input xray.png --note note.txt --output_dir out
        python -m common predict bundles/xr2text --input a.png --indication Cough --prior_report b.txt --output_dir out
    """
    from common.apps.predict import predict as apply

    _must_exist("input", input, "a CT, an X-ray, or a folder of them")
    result = apply(bundle, input, output_dir, ckpt_dir, overrides, workers, engine, address)
    for path in result["outputs"]:
        print(path)
    return result


def evaluate(
    bundle: str,
    input: str,
    output_dir: str,
    ckpt_dir: str | None = None,
    **overrides: str,
) -> Result:
    """Measure a bundle on cases whose truth is known, beside simple methods.

    Writes metrics.csv, metrics_mean.csv, summary.json and index.html with pictures. Input, weights and output may be
    URLs of object storage, such as s3://bucket/thin.

    Args:
        bundle: folder of a bundle, such as bundles/ct_slice_interpolation
        input: PATH what the bundle is measured on, such as thin CT (a file or a folder), or a folder that prepare
            wrote, of which the test split is taken
        output_dir: DIR created
        ckpt_dir: DIR folder with model.pt (default: models of the bundle)
        overrides: changes a setting of the evaluation, such as --ratio, or a value of configs/inference.json, by its id

    Examples:
        python -m common evaluate bundles/ct_slice_interpolation --input data/thin --output_dir runs/eval --ratio 5
    """
    from common.apps.run.evaluate import evaluate as measure
    from common.visualize.tables import format_table

    _must_exist("input", input, "data whose truth is known")
    result = measure(bundle, input, output_dir, ckpt_dir, overrides)
    print(format_table(result["result"]))
    for name, reason in result["not_run"].items():
        print(f"{name} was not run: {reason}")
    print(result["page"])
    return result


def check(bundle: str, allow: str = "") -> Result:
    """Find what is wrong or dangerous in a bundle, a packed one or its zip, before anything in it is executed.

    Every target and import must be in a module of the list below, expressions may use only what the configuration
    imports, weights must load without code, no path may leave the bundle, and the code in scripts/common must be what
    this version would pack. A line `file: rule: what` per finding, and exit code 1 if there is one.

    Args:
        bundle: folder of a bundle, or a zip
        allow: MODULE,... that targets and imports may name besides; scripts accepts Python of the bundle's own

    Examples:
        python -m common check bundles/ct_slice_interpolation
        python -m common check packed/ct_slice_interpolation_v0.1.0.zip
        python -m common check somebody_elses_bundle --allow scripts,monai.apps.nuclick
    """
    from common.apps.packaging.check import check_bundle

    _must_exist("bundle", bundle, "a bundle folder or its zip")
    findings = check_bundle(bundle, [word.strip() for word in allow.split(",") if word.strip()])
    for finding in findings:
        print(finding)
    if not findings:
        print(f"{bundle}: nothing found")
    return {"bundle": bundle, "findings": [dataclasses.asdict(finding) for finding in findings]}


def check_failed(result: Result) -> str | None:
    """The sentence on stderr where `check` has found something."""
    count = len(result["findings"])
    return f"{result['bundle']}: has {count} finding{'s' * (count > 1)}, expected none." if count else None


def show_plan(result: Result) -> None:
    """Print a row per stage, and what was not planned or would help."""
    from common.apps.run.plan import as_table

    print(as_table(result["stages"]))
    for name in result["not_planned"]:
        print(f"{name}: trains nothing, so it was not planned")
    for note in result["notes"]:
        print(note)


def show_sections(result: Result) -> None:
    """Print how many reports there were, and what else."""
    from common.data.folder_files import others_text

    print(f"{result['reports']} reports, {result['excluded']} left out: {result['out']}")
    if result["other_files"]:
        print(others_text(result["other_files"]))


def show_labels(result: Result) -> None:
    """Print how often each label has each value."""
    from common.visualize.tables import format_table

    values = sorted({value for counts in result["counts"].values() for value in counts})
    rows = [
        {"label": name} | {value or "blank": counts.get(value, 0) for value in values}
        for name, counts in result["counts"].items()
    ]
    print(format_table(rows, ["label", *(value or "blank" for value in values)]))
    print(f"{result['rows']} reports: {', '.join(p for p in (result['out'], result['spans']) if p)}")
    for name, why in (("without_text", "say nothing"), ("not_english", "are not in English")):
        if result[name]:
            print(f"{result[name]} reports {why}: all their labels are blank")
    if result["excluded"]:
        print(f"{result['excluded']} rows left out, with reasons: {result['excluded_file']}")


def show_json(result: Result) -> None:
    """Print a result that is read by programs and people alike."""
    from common.visualize.tables import json_text

    print(json_text(result, indent=1), end="")


def allowed_modules(words: Sequence[str]) -> str:
    """What `check --help` adds."""
    from common.apps.packaging.check_code import ALLOWED_MODULES

    return textwrap.fill("Modules that may be named: " + ", ".join(ALLOWED_MODULES), 110, subsequent_indent="  ")


def _must_exist(name: str, path: str, expected: str) -> None:
    from common.io.remote_folder import is_url

    if not is_url(path) and not Path(path).exists():
        raise missing(path, f"{expected} (--{name})")


def scales_and_stages(words: Sequence[str]) -> str:
    """What `run BUNDLE --help` adds: the scales and stages of that bundle."""
    if not words or words[0].startswith("-"):
        return ""
    from common.apps.run.recipe import read_recipe, scale_names

    bundle = open_bundle(words[0])
    recipe = read_recipe(bundle)
    stages = ", ".join(stage.name + (" (optional)" if stage.optional else "") for stage in recipe)
    return f"Scales of {bundle.name}: {', '.join(scale_names(bundle, recipe))}\nStages of {bundle.name}: {stages}"


def inference_keys(words: Sequence[str]) -> str:
    """What `predict BUNDLE --help` adds: the values of inference.json that are there to be changed."""
    if not words or words[0].startswith("-"):
        return ""
    bundle = open_bundle(words[0])
    return _keys(f"Keys of {bundle.name} and their values:", _content(bundle.config_file("inference.json")))


def evaluation_keys(words: Sequence[str]) -> str:
    """What `evaluate BUNDLE --help` adds: the settings of the evaluation beside those of inference.json."""
    if not words or words[0].startswith("-"):
        return ""
    bundle = open_bundle(words[0])
    settings = _content(bundle.config_file("evaluate.json")).get("evaluation", {})
    settings = {key: value for key, value in settings.items() if key != "_target_"}
    return "\n".join([_keys(f"Settings of the evaluation of {bundle.name}:", settings), inference_keys(words)])


def _content(path: Path) -> Result:
    return json.loads(path.read_text(encoding="utf-8"))


def _keys(title: str, config: Result) -> str:
    simple = {key: value for key, value in config.items() if not isinstance(value, (dict, list))}
    shown = {key: value for key, value in simple.items() if not str(value).startswith(("$", "@", "."))}
    rows = [f"  --{key:<16} {'(none)' if value is None else json.dumps(value)}" for key, value in shown.items()]
    return "\n".join([title, *rows])
