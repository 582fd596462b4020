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

from common.apps.run.bundle import UsageError, missing, open_bundle

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


def run(
    bundle: str,
    scale: str = "paper",
    stages: str | None = None,
    dataset_dir: str | None = None,
    output_dir: str | None = None,
    ckpt_dir: str | None = None,
    seed: int = 0,
    tracking: str | None = None,
    **overrides: str,
) -> Result:
    """Train a bundle: the stages of its configs/recipe.json, one after the other, through MONAI.

    Each stage is printed as the `python -m monai.bundle run` command that does the same. Stages that finished with the
    same configuration and data are skipped; one that changed runs again, with those after it. Interrupt it at any
    moment; the same command goes on from the last checkpoint and ends with the same weights.

    Folders may be URLs of object storage, such as gs://bucket/run (pip install 'thorax-bundles[remote]'): data are
    copied here, and the run folder is uploaded with every checkpoint, so that another machine can go on.

    Args:
        bundle: folder of a bundle, such as bundles/ct_slice_interpolation
        scale: NAME adds configs/NAME.json, such as demo; paper adds nothing
        stages: A,B only these stages (default: those of the scale)
        dataset_dir: DIR folder of CTs or X-rays as prepare reads it, or one that prepare wrote; the demo makes virtual
            patients without it
        output_dir: DIR the run folder, created (default: runs/BUNDLE_SCALE)
        ckpt_dir: DIR folder of the weights (default: models in the run folder)
        seed: N of every stage
        tracking: NAME mlflow or wandb, which must be installed, beside TensorBoard; nothing leaves the machine
        overrides: changes a value of the configuration, by its MONAI id, in every stage that has it

    Examples:
        python -m common run bundles/ct_slice_interpolation --scale demo
        python -m common run bundles/ct_slice_interpolation --dataset_dir data/ct --train#trainer#max_epochs 3
        python -m common run bundles/ct_slice_interpolation --scale real_cpu --dataset_dir data/ct --stages refiner
        python -m common run bundles/mdfnet_cxr --dataset_dir data/mimic --stages features,stage1,stage2
    """
    from common.apps.run.recipe import run_recipe

    result = run_recipe(bundle, scale, stages, dataset_dir, output_dir, ckpt_dir, seed, overrides, tracking)
    print(f"{len(result['ran'])} stages run, {len(result['skipped'])} skipped, see {result['page']}")
    return result


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
        input: PATH of CTs, a NIfTI file, a DICOM folder or zip, or a folder of these; of a classifier, an X-ray (jpg,
            png, dcm), a folder of them or one that prepare wrote, a note (txt) or values (csv)
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
    ratio: int = 5,
    modes: str | None = None,
    **overrides: str,
) -> Result:
    """Measure a bundle on cases whose truth is known, beside simple methods.

    Writes metrics.csv (a row per case, mode and window), metrics_mean.csv, summary.json and index.html with pictures.
    Input, weights and output may be URLs of object storage, such as s3://bucket/thin.

    Args:
        bundle: folder of a bundle, such as bundles/ct_slice_interpolation
        input: PATH thin CT: a file, a folder, or one that prepare wrote, of which the test split is taken; for a
            classifier, a folder that prepare wrote
        output_dir: DIR created
        ckpt_dir: DIR folder with model.pt (default: models of the bundle)
        ratio: N thin slices averaged into each thick one
        modes: A,B only these methods (default: all that have weights)
        overrides: changes a value of the bundle's configs/inference.json, by its id

    Examples:
        python -m common evaluate bundles/ct_slice_interpolation --input data/thin --output_dir runs/eval --ratio 5
    """
    from common.visualize.tables import format_table

    _must_exist("input", input, "data whose truth is known")
    if open_bundle(bundle).predicts == "labels":
        return _evaluate_labels(bundle, input, output_dir, ckpt_dir, modes, overrides)
    from common.evaluation.slice_interpolation import evaluate as measure

    chosen = None if modes is None else [name.strip() for name in modes.split(",")]
    result = measure(bundle, input, output_dir, ckpt_dir, ratio=ratio, modes=chosen, overrides=overrides)
    print(format_table(result["metrics"], list(result["metrics"][0])))
    for name, reason in result["not_run"].items():
        print(f"{name} was not run: {reason}")
    return result


def _evaluate_labels(
    bundle: str, input: str, output_dir: str, ckpt_dir: str | None, modes: str | None, overrides: Result
) -> Result:
    from common.evaluation.classification import evaluate_labels
    from common.visualize.tables import format_table

    if modes is not None:
        raise UsageError("--modes is for bundles that make volumes, expected none for one that gives labels")
    result = evaluate_labels(open_bundle(bundle), input, output_dir, ckpt_dir, overrides)
    shown = ("model", "mean_auroc", "pooled_auroc", "min_auroc", "mean_auprc", "macro_f1", "ece", "n")
    print(format_table([{name: row.get(name) for name in shown} for row in result["metrics"]], list(shown)))
    print(result["page"])
    return result


def pack(bundle: str, out: str, ckpt_dir: str | None = None) -> Result:
    """Write a self-contained copy of a bundle, and its zip, for programs that know MONAI but not this library.

    The part of the library that the bundle uses is put into the copy as scripts/common, the configurations name it so,
    and versions and checksums are in the metadata. Packed twice, the zip has the same bytes.

    Args:
        bundle: folder of a bundle, such as bundles/ct_slice_interpolation
        out: DIR created; gets BUNDLE/ and BUNDLE_v<version>.zip
        ckpt_dir: DIR folder with model.pt (default: models of the bundle)

    Examples:
        python -m common pack bundles/ct_slice_interpolation --out packed --ckpt_dir runs/demo/models
    """
    from common.apps.packaging.pack import pack_bundle

    result = pack_bundle(bundle, out, ckpt_dir)
    print(f"{result['folder']} ({result['files']} files)\n{result['zip']} (sha256 {result['sha256']})")
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


def report(*runs: str, output_dir: str = "runs/report") -> Result:
    """Compare runs: a page with their metrics and curves side by side, and a table for other programs.

    Args:
        runs: DIR folders of run, demo or evaluate
        output_dir: DIR created; gets index.html and results_summary.csv

    Examples:
        python -m common report runs/a runs/b
        python -m common report runs/* --output_dir comparison
    """
    from common.apps.report import compare_runs

    result = compare_runs(runs, output_dir)
    print(f"{result['page']}\n{result['table']}")
    return result


def plan(
    bundle: str,
    scale: str = "paper",
    stages: str | None = None,
    gpus: int = 1,
    gpu_memory: float | None = None,
    **overrides: str,
) -> Result:
    """Forecast what each stage of a bundle needs in memory and on disk, in seconds and without allocating it.

    Two training steps of the stage's own configuration are walked through with tensors that hold no data. The batch is
    what the configuration says; --plan#volume Z,Y,X is the CT that is assumed where a stage trains on whole volumes.

    Args:
        bundle: folder of a bundle, such as bundles/ct_slice_interpolation
        scale: NAME adds configs/NAME.json; paper adds nothing
        stages: A,B only these (default: those of the scale)
        gpus: N processes, each of which holds all of it and a copy of the gradients
        gpu_memory: GB to compare with; says what to change where it does not fit
        overrides: changes a value of the configuration, by its MONAI id, in every stage that has it

    Examples:
        python -m common plan bundles/ct_slice_interpolation
        python -m common plan ct_slice_interpolation --stages diffusion --gpu_memory 12 --plan#volume 200,512,512
    """
    from common.apps.run.plan import as_table, plan_bundle

    result = plan_bundle(bundle, scale, stages, gpus, gpu_memory, overrides)
    print(as_table(result["stages"]))
    for name in result["not_planned"]:
        print(f"{name}: trains nothing, so it was not planned")
    for note in result["notes"]:
        print(note)
    return result


def job(
    kind: str,
    bundle: str,
    stage: str,
    dataset_dir: str,
    output_dir: str,
    scale: str = "paper",
    nodes: int = 1,
    gpus: int = 8,
    cpus: int = 16,
    memory_gb: int = 128,
    hours: int = 24,
    image: str = "thorax-bundles:0.1.0",
    claim: str = "ct-storage",
    storage_dir: str = "/storage",
    project_dir: str = ".",
    out: str | None = None,
    **overrides: str,
) -> Result:
    """Write a Slurm or Kubernetes job that trains one stage with torchrun on one machine or several.

    Nothing is submitted. The paths are those that the machines of the cluster see.

    Args:
        kind: slurm or kubernetes
        bundle: folder of a bundle
        stage: NAME of its recipe
        dataset_dir: DIR prepared data
        output_dir: DIR of the run
        scale: NAME adds configs/NAME.json; paper adds nothing
        nodes: N machines
        gpus: N per machine
        cpus: N per machine
        memory_gb: N per machine
        hours: N limit of a Slurm job
        image: NAME Docker image, for Kubernetes
        claim: NAME persistent volume claim, for Kubernetes
        storage_dir: DIR where the claim is mounted
        project_dir: DIR with .venv and bundles, for Slurm
        out: FILE to write (default: stdout)
        overrides: changes a value of the configuration, by its MONAI id

    Examples:
        python -m common job slurm ct_slice_interpolation --stage refiner --dataset_dir /ct --output_dir /run --nodes 2
    """
    from common.apps.run.cluster_jobs import render_job

    numbers = {"nodes": nodes, "gpus": gpus, "cpus": cpus, "memory_gb": memory_gb, "hours": hours}
    names = {"image": image, "claim": claim, "storage_dir": storage_dir, "project_dir": project_dir}
    text = render_job(kind, bundle, stage, dataset_dir, output_dir, scale, **numbers, **names, overrides=overrides)
    if out is None:
        print(text, end="")
    else:
        Path(out).write_text(text, encoding="utf-8")
        print(out)
    return {"kind": kind, "stage": stage, "job": text, "file": out}


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
    from common.apps.run.recipe import read_recipe, scale_names

    if not words or words[0].startswith("-"):
        return ""
    bundle = open_bundle(words[0])
    recipe = read_recipe(bundle)
    stages = ", ".join(stage.name + (" (optional)" if stage.optional else "") for stage in recipe)
    return f"Scales of {bundle.name}: {', '.join(scale_names(bundle, recipe))}\nStages of {bundle.name}: {stages}"


def inference_keys(words: Sequence[str]) -> str:
    """What `predict BUNDLE --help` adds: the values of inference.json that are there to be changed."""
    if not words or words[0].startswith("-"):
        return ""
    bundle = open_bundle(words[0])
    config = json.loads(bundle.config_file("inference.json").read_text(encoding="utf-8"))
    simple = {key: value for key, value in config.items() if not isinstance(value, (dict, list))}
    shown = {key: value for key, value in simple.items() if not str(value).startswith(("$", "@", "."))}
    rows = [f"  --{key:<16} {'(none)' if value is None else json.dumps(value)}" for key, value in shown.items()]
    return "\n".join([f"Keys of {bundle.name} and their values:", *rows])
