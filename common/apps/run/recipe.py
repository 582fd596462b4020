"""`run`: the stages of a bundle's recipe, one after the other, each as `python -m monai.bundle run` would run it.

`configs/recipe.json` lists them in order:

    {"stages": [{"name": "vae", "config": ["train.json", "vae.json"], "optional": true},
                {"name": "latents", "config": ["train.json", "latents.json"]},
                {"name": "refiner", "config": ["train.json", "refiner.json"], "overrides": {"id": value}}]}

`config` is merged in order, `overrides` comes over it. An optional stage runs only where `--stages` or the scale names
it; `"scales": [...]` limits a stage to some scales; `"like": "refiner"` gives it what scale and plan say of that one;
`"always": true` runs it after any others, such as a comparison of what they made.
A scale is an overlay `configs/SCALE.json` over every stage; "paper" is none, and `demo+nih` lays nih.json over
demo.json: a size, then data sets and methods. In overlays three more ids are read here:

    "stages": ["refiner"]                                             which stages run at this scale
    "stage_overrides": {"vae": {"train#trainer#max_epochs": 2}}       ids that change for one stage only
    "virtual": {"n": 12, "shape": [48, 96, 96], "spacing": [3, 2, 2], "seed": 0}     see `common.apps.run.run_data`

`"renamed": {"old": "demo+nih"}` beside the stages lets an old name of a scale go on working, with a sentence.
The id "layout" of train.json names the layout of data that is not prepared yet; without it they are CTs.

Under the output folder: `data/`, `models/`, `STAGE/` with finished.json, `logs/train.log`, summary.json, index.html.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.apps.run.bundle import (
    JOINED,
    Bundle,
    UsageError,
    has_id,
    hint,
    literal,
    merged_config,
    open_bundle,
    read_overrides,
)
from common.apps.run.remote_paths import takes_urls
from common.apps.run.run_data import CT, check_data, provide_data
from common.apps.run.stage_runner import TRACKERS, Job, StageRunner, settings_of_torch
from common.io.bad_input import BadInput
from common.io.output_folder import locked

logger = logging.getLogger("train")

NO_OVERLAY = "paper"
RESERVED = ("data", "cache", "models", "logs", "predictions")  # folders of a run that are no stage
_NOT_A_SCALE = ("metadata", "recipe", "search", "plan", "train", "multi_gpu_train", "inference", "evaluate")
_SCALE_IDS = ("stages", "stage_overrides", "virtual")


@dataclass(frozen=True)
class Stage:
    """One stage as recipe.json has it."""

    name: str
    config: tuple[str, ...]
    optional: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    scales: tuple[str, ...] | None = None
    like: str | None = None
    always: bool = False

    def of_name(self, settings: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """What is said of this stage by its name, or of the one that it is like."""
        return settings.get(self.name, settings.get(self.like, {}))


@takes_urls(reads=["dataset_dir"], goes_on=["output_dir", "ckpt_dir"])
def run_recipe(
    bundle: str | os.PathLike[str] | Bundle,
    scale: str = "paper",
    stages: str | Sequence[str] | None = None,
    dataset_dir: str | os.PathLike[str] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    ckpt_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    tracking: str | None = None,
) -> dict[str, Any]:
    """Train a bundle: the stages of its configs/recipe.json, one after the other, through MONAI.

    Each stage is printed as the `python -m monai.bundle run` command that does the same. Stages that finished with the
    same configuration and data are skipped; one that changed runs again, with those after it. Interrupt it at any
    moment; the same command goes on from the last checkpoint and ends with the same weights.

    Folders may be URLs of object storage, such as gs://bucket/run (pip install 'thorax-bundles[remote]'): data are
    copied here, and the run folder is uploaded when a stage begins and ends and with every checkpoint, so that another
    machine can go on.

    Args:
        bundle: folder of a bundle, such as bundles/ct_slice_interpolation
        scale: NAME adds configs/NAME.json, such as demo; paper adds nothing, demo+nih adds two: a size, then data sets
            and methods
        stages: A,B only these stages (default: those of the scale)
        dataset_dir: DIR folder of CTs or X-rays as prepare reads it, or one that prepare wrote; the demo makes virtual
            patients without it
        output_dir: DIR the run folder, created (default: runs/BUNDLE_SCALE)
        ckpt_dir: DIR folder of the weights (default: models in the run folder)
        seed: N of every stage
        overrides: changes a value of the configuration, by its MONAI id, in every stage that has it
        tracking: NAME mlflow or wandb, which must be installed, beside TensorBoard; nothing leaves the machine

    Returns:
        The content of summary.json, and `output_dir`, `ckpt_dir`, `data` (folder of the manifest), `page`, `ran` and
        `skipped` (names of stages).

    Raises:
        BadInput: for a bundle, recipe or data that cannot be used, or a run folder that another run is writing.
        UsageError: for an unknown scale, stage or configuration id, or data that is not named.

    Examples:
        python -m common run bundles/ct_slice_interpolation --scale demo
        python -m common run bundles/ct_slice_interpolation --dataset_dir data/ct --train#trainer#max_epochs 3
        python -m common run bundles/ct_slice_interpolation --scale real_cpu --dataset_dir data/ct --stages refiner
        python -m common run bundles/mdfnet_cxr --dataset_dir data/mimic --stages features,stage1,stage2
    """
    bundle = open_bundle(bundle)
    if tracking is not None and tracking not in TRACKERS:
        raise UsageError(f"--tracking is {tracking!r}, expected one of {', '.join(TRACKERS)}{hint(tracking, TRACKERS)}")
    recipe = read_recipe(bundle)
    overlay = _overlay(bundle, recipe, scale)
    out = Path("runs") / f"{bundle.name}_{scale}" if output_dir is None else Path(output_dir)
    models = out / "models" if ckpt_dir is None else Path(ckpt_dir)
    bundle.stay_out(out)
    plain = [_merge(bundle, stage, overlay, {}, {}) for stage in recipe]  # to see what the scale says of the stages
    settings, user = _scale_settings(plain[0].config, overrides or {})
    wanted = _choose(recipe, scale, stages, settings.get("stages"))
    here = [job.config for stage, job in zip(recipe, plain, strict=True) if stage.name in wanted]
    user = read_overrides(user, here, "the stages of this run")
    check_data(dataset_dir, settings.get("virtual"))

    (out / "logs").mkdir(parents=True, exist_ok=True)
    with locked(out), settings_of_torch():
        layout = plain[0].config.get("layout", CT)
        data = provide_data(out / "data", dataset_dir, settings.get("virtual"), layout)
        places = {"bundle_root": str(bundle.root), "dataset_dir": str(data.folder), "output_dir": str(out)}
        places |= {"ckpt_dir": str(models), "seed": seed}
        runner = StageRunner(bundle, scale, seed, out, models, data, [stage.name for stage in recipe], tracking)
        of_scale = settings.get("stage_overrides", {})
        jobs = [_merge(bundle, stage, overlay, of_scale, user, places) for stage in recipe if stage.name in wanted]
        for number, job in enumerate(jobs, 1):
            runner.run(job, f"{number} of {len(jobs)}")
        return runner.summarize() | {"data": str(data.folder)}


# ---- what is to run ----------------------------------------------------------------------------------------------


def read_recipe(bundle: Bundle) -> list[Stage]:
    """The stages of a bundle in order.

    Raises:
        BadInput: if recipe.json is missing or not as this module describes it.
    """
    path = bundle.config_file("recipe.json")
    try:
        found = [Stage(**stage) for stage in _read_recipe(bundle)["stages"]]
    except (KeyError, TypeError) as error:
        raise BadInput(path, f"is not a recipe ({error}), expected stages with name, config, ...") from error
    names = [stage.name for stage in found]
    for stage in found:
        if not (isinstance(stage.config, list) and stage.config):
            raise BadInput(path, f"has no list of configuration files for stage {stage.name!r}")
        if stage.like is not None and stage.like not in names:
            raise BadInput(path, f"has stage {stage.name!r} like {stage.like!r}, expected one of {', '.join(names)}")
    for name in names:
        if not re.fullmatch(r"\w+", name) or name in RESERVED:
            raise BadInput(path, f"names a stage {name!r}, expected a word other than {', '.join(RESERVED)}")
    if not names or len(set(names)) < len(names):
        raise BadInput(path, f"lists the stages {names}, expected at least one and no name twice")
    return found


def _read_recipe(bundle: Bundle) -> dict[str, Any]:
    path = bundle.config_file("recipe.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadInput(path, f"is not JSON ({error})") from error


def scale_names(bundle: Bundle, recipe: Sequence[Stage]) -> list[str]:
    """What a scale is made of: "paper", and the overlays that are neither a stage nor a workflow of their own."""
    used = {Path(name).stem for stage in recipe for name in stage.config} | set(_NOT_A_SCALE)
    return [NO_OVERLAY, *sorted(file.stem for file in bundle.configs.glob("*.json") if file.stem not in used)]


def merged_stage(
    bundle: Bundle, name: str, scale: str, places: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> Job:
    """One stage as a run would execute it.

    Args:
        bundle: the bundle.
        name: of the stage.
        scale: "paper" or an overlay.
        places: configuration id -> value (dataset_dir, output_dir, ...).
        overrides: of the user.

    Raises:
        UsageError: for an unknown stage, scale or id.
    """
    recipe = read_recipe(bundle)
    stages = {stage.name: stage for stage in recipe}
    if name not in stages:
        raise UsageError(f"--stage is {name!r}, expected one of {', '.join(stages)}{hint(name, stages)}")
    overlay = _overlay(bundle, recipe, scale)
    plain = _merge(bundle, stages[name], overlay, {}, {})
    settings, _ = _scale_settings(plain.config, {})
    user = read_overrides(overrides or {}, [plain.config], f"stage {name}")
    return _merge(bundle, stages[name], overlay, settings.get("stage_overrides", {}), user, places)


def stages_of_scale(bundle: Bundle, scale: str, asked: str | Sequence[str] | None = None) -> list[str]:
    """Names of the stages that a run at this scale has, in order.

    Args:
        bundle: the bundle.
        scale: "paper" or an overlay.
        asked: only these, a list or "a,b".

    Raises:
        UsageError: for an unknown scale or stage.
    """
    recipe = read_recipe(bundle)
    plain = _merge(bundle, recipe[0], _overlay(bundle, recipe, scale), {}, {})
    settings, _ = _scale_settings(plain.config, {})
    return _choose(recipe, scale, asked, settings.get("stages"))


def files_of_scale(bundle: Bundle, scale: str) -> list[Path]:
    """The configuration files of the first stage at a scale, in the order in which they are merged.

    Raises:
        UsageError: for an unknown scale.
    """
    recipe = read_recipe(bundle)
    return [bundle.config_file(name) for name in (*recipe[0].config, *_overlay(bundle, recipe, scale))]


def _overlay(bundle: Bundle, recipe: Sequence[Stage], scale: str) -> list[str]:
    """Files of a scale in the order in which they are merged."""
    known = scale_names(bundle, recipe)
    renamed = _read_recipe(bundle).get("renamed", {})
    if scale in renamed:
        logger.warning("--scale %s is now called %s", scale, renamed[scale])
        scale = renamed[scale]
    names = scale.split(JOINED)
    for name in names:
        if name not in known:
            raise UsageError(
                f"--scale is {scale!r}, expected one of {', '.join(known)}, or several joined by {JOINED}"
                f"{hint(name, known)}"
            )
    return [f"{name}.json" for name in names if name != NO_OVERLAY]


def _scale_settings(config: Mapping[str, Any], user: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ids of a scale that this module reads, as the user overrides them; and the user's other overrides."""
    settings = {name: config[name] for name in _SCALE_IDS if config.get(name) is not None}
    mine = {key: value for key, value in user.items() if key.replace("::", "#").split("#")[0] in settings}
    for key, value in read_overrides(mine, [settings], "the scale").items():
        node, (*parents, last) = settings, key.split("#")
        for name in parents:
            node = node[int(name) if isinstance(node, list) else name]
        node[int(last) if isinstance(node, list) else last] = value
    return settings, {key: value for key, value in user.items() if key not in mine}


def _choose(recipe: Sequence[Stage], scale: str, asked: str | Sequence[str] | None, of_scale: Any) -> list[str]:
    names = [stage.name for stage in recipe]
    if asked is not None:
        chosen = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
    elif of_scale is not None:
        chosen = of_scale
    else:
        chosen = [s.name for s in recipe if not s.optional and (s.scales is None or scale in s.scales)]
    for name in chosen:
        if name not in names:
            source = "--stages" if asked is not None else f"stages of scale {scale}"
            raise UsageError(f"{source} has {name!r}, expected some of {', '.join(names)}{hint(name, names)}")
    return [stage.name for stage in recipe if stage.name in chosen or stage.always]


def _merge(
    bundle: Bundle,
    stage: Stage,
    overlay: list[str],
    of_scale: Mapping[str, Mapping[str, Any]],
    user: Mapping[str, Any],
    places: Mapping[str, Any] | None = None,
) -> Job:
    """Merge a stage's files; over them its overrides in the recipe, those of the scale for it, those of the user."""
    files = [str(bundle.config_file(name)) for name in (*stage.config, *overlay)]
    parser = merged_config(files)
    overrides: dict[str, Any] = literal(dict(places or {}))
    for source, where in (
        (stage.overrides, f"stage {stage.name} (recipe.json)"),
        (stage.of_name(of_scale), f"stage {stage.name} (stage_overrides)"),
    ):
        overrides |= read_overrides(source, [parser.config], where, of_bundle=True)
    overrides |= {key: value for key, value in user.items() if has_id(parser.config, key)}
    parser.update(overrides)
    parser.resolve_macro_and_relative_ids()
    return Job(stage.name, files, overrides, parser.config)
