"""What `tune` does before the first trial: check ids, find the data, and write down what each trial is given."""

from __future__ import annotations

import copy
import importlib.util
import json
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from common.apps.run.bundle import Bundle, CommandLineText, UsageError, has_id, hint, read_overrides
from common.apps.run.stage_runner import shell_line
from common.apps.search.space import SEARCH_FILE, SearchPlan
from common.io.bad_input import BadInput
from common.io.output_folder import locked


def need_optuna() -> None:
    """Refuse to go on without Optuna, which is an extra of the package; and let it report only what is wrong."""
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("tune needs optuna, expected it to be installed: pip install 'thorax-bundles[tune]'")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def checked_overrides(
    bundle: Bundle,
    plan: SearchPlan,
    stages: Sequence[str],
    configs: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """The user's overrides with ids in MONAI's spelling, after all ids and stages have been found to exist."""
    path = bundle.configs / SEARCH_FILE
    for name in plan.space:
        if not any(has_id(config, name) for config in configs):
            raise BadInput(path, f"names the id {name!r}, expected one of stage {', '.join(stages)}")
    named = [o.stage for o in plan.objectives] + ([plan.report.stage] if plan.report else [])
    for name in named:
        if name is not None and name not in stages:
            raise BadInput(
                path, f"names the stage {name!r}, expected one that is run: {', '.join(stages)}{hint(name, stages)}"
            )
    read_overrides(overrides, [*before, *configs], "the stages of this search")
    result = {key.replace("::", "#"): value for key, value in overrides.items()}
    for key in result:
        if key in plan.space:
            raise UsageError(f"--{key} is searched, expected ids that {path} does not vary")
    return result


def shared_stages(plan: SearchPlan, of_scale: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The stages of the scale that are run once, before the trials, which run those that are `wanted`."""
    return [name for name in of_scale if name in plan.shared and name not in wanted]


def meant_for(configs: Sequence[Mapping[str, Any]], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides whose id one of the configurations has."""
    return {key: value for key, value in overrides.items() if any(has_id(config, key) for config in configs)}


def virtual_patients(config: Mapping[str, Any], overrides: dict[str, Any]) -> dict[str, Any] | None:
    """The scale's virtual patients; overrides of them are taken out of `overrides`."""
    from monai.bundle import ConfigParser

    scale = ConfigParser({"virtual": copy.deepcopy(config.get("virtual"))})
    mine = {key: overrides.pop(key) for key in list(overrides) if key.split("#")[0] == "virtual"}
    for key, value in read_overrides(mine, [config], "the scale").items():
        scale[key] = value
    return scale.get("virtual")


def split_overrides(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values, and text as it was typed, which a trial reads as `run` does."""
    typed = {key: str(value) for key, value in overrides.items() if isinstance(value, CommandLineText)}
    return {key: value for key, value in overrides.items() if key not in typed}, typed


def run_command(
    bundle: Bundle,
    scale: str,
    stages: Sequence[str],
    seed: int,
    overrides: Mapping[str, Any],
    dataset_dir: Any,
) -> str:
    """The line for the shell that trains some stages with these overrides, as a trial does but for its folder."""
    words = ["python", "-m", "common", "run", str(bundle.root), "--scale", scale]
    words += ["--stages", ",".join(stages), "--seed", str(seed)]
    words += [] if dataset_dir is None else ["--dataset_dir", str(dataset_dir)]
    for key, value in overrides.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return shell_line(words)


def waiting_lock(out: Path) -> AbstractContextManager[None]:
    """Hold a search's folder while data or shared stages are made; another worker waits and then finds them done."""
    return locked(out, f"waiting for another worker to prepare {out}")


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, with which clusters take machines away, end the worker as Ctrl-C does: in good order."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
