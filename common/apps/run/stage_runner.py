"""Runs single stages through MONAI, and remembers which of them finished with which configuration and data."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.apps.run.bundle import Bundle, cpu_count, quoted
from common.apps.run.run_data import RunData
from common.io.bad_input import BadInput
from common.io.checksum import find_damage
from common.io.inputs import refuse_input
from common.io.output_folder import named_if_disk_fails, remove_unfinished, write_text
from common.io.remote_folder import publish, to_url
from common.visualize.tables import json_text

# Where things lie changes nothing in the result, and what a scale asks for shows in the stages, overrides and data.
_NOT_COMPARED = (
    "_meta_", "bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "seed",
    "stages", "stage_overrides", "virtual", "held_out", "resume", "profile", "plan", "text_ids",
)  # fmt: skip


def _mlflow() -> dict[str, Any]:
    """MONAI's own settings, into OUTPUT_DIR/mlruns.db, for trainers that do not take batches apart."""
    from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

    settings = copy.deepcopy(DEFAULT_MLFLOW_SETTINGS)
    settings["configs"]["trainer"]["output_transform"] = "$lambda output: output['loss']"
    return settings


def _wandb() -> dict[str, Any]:
    handler = {"_target_": "common.handlers.wandb.WandbHandler", "output_dir": "@output_dir", "stage": "@stage"}
    return {
        "handlers_id": {"trainer": {"id": "train#trainer", "handlers": "train#handlers"}},
        "configs": {"save_execute_config": False, "trainer": handler},
    }


TRACKERS: dict[str, Callable[[], dict[str, Any]]] = {"mlflow": _mlflow, "wandb": _wandb}
"""What `--tracking` adds to a training, as MONAI's `tracking` takes it; nothing leaves the machine."""


_NAMED = 5  # differences to the configuration of before that are named


@dataclass(frozen=True)
class Job:
    """One stage as it is run.

    Attributes:
        name: of the stage.
        files: its configuration files, in the order in which they are merged.
        overrides: what comes over them.
        config: the configuration that results, macros resolved.
    """

    name: str
    files: list[str]
    overrides: dict[str, Any]
    config: dict[str, Any]


class StageRunner:
    """Runs the stages of one run folder.

    Args:
        bundle: the bundle.
        scale: name of the scale, for the summary.
        seed: set before every stage, so that a stage gives the same whether or not those before it were skipped.
        out: the run folder.
        models: folder of the checkpoints that stages hand on.
        data: of the run.
        order: names of all stages of the recipe.
        tracking: "mlflow" or "wandb", beside TensorBoard; None for neither.
    """

    def __init__(
        self,
        bundle: Bundle,
        scale: str,
        seed: int,
        out: Path,
        models: Path,
        data: RunData,
        order: Sequence[str],
        tracking: str | None = None,
    ) -> None:
        self.bundle, self.scale, self.seed, self.data = bundle, scale, seed, data
        self.out, self.models, self.order = out, models, list(order)
        self.tracking = tracking
        self.ran: list[str] = []
        self.skipped: list[str] = []
        self._open_again()

    def run(self, job: Job, place: str) -> None:
        """Run a stage, unless it finished before with the same configuration, data and stages before it."""
        depends_on = self._depends_on(job)
        fingerprint = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        folder = self.out / job.name
        finished = _read_json(folder / "finished.json")
        if finished is not None and finished["fingerprint"] == fingerprint and self._has_files(finished):
            self._say(f"stage {job.name} ({place}): nothing changed since {finished['finished_at'][:19]}, skipped")
            self.skipped.append(job.name)
            return
        # What an interrupted run with the same configuration left is kept, its checkpoints are taken up again.
        started = _read_json(folder / "started.json")
        changed = started is not None and started["fingerprint"] != fingerprint
        if changed and "depends_on" in started and job.config.get("resume", True):
            _refuse_other(folder, started["depends_on"], depends_on)
        if finished is not None or changed:
            refuse_input(folder, whole=True)
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        self.models.mkdir(parents=True, exist_ok=True)
        for place_of_files in (folder, self.models):
            remove_unfinished(place_of_files)
        begun = {"fingerprint": fingerprint, "depends_on": depends_on}
        if started is not None and not changed and "finished_at" in started:  # the same once more, see _open_again
            begun["finished_at"] = started["finished_at"]
        write_text(folder / "started.json", json_text(begun, indent=1))
        write_text(folder / "config.json", json.dumps(job.config, indent=1, default=str) + "\n")
        logging_file = self.bundle.configs / "logging.conf"
        command = monai_command(job.files, logging_file if logging_file.is_file() else None, job.overrides)
        self._say(f"stage {job.name} ({place}): {command}")
        self._publish()
        before = _states(self.models)
        start = time.monotonic()
        self._execute(job, logging_file if logging_file.is_file() else None)
        seconds = time.monotonic() - start
        after = _states(self.models)
        facts = {"stage": job.name, "scale": self.scale, "fingerprint": fingerprint}
        finished_at = begun.get("finished_at", datetime.now(UTC).isoformat())
        facts |= {"finished_at": finished_at, "seconds": round(seconds, 3), "command": command}
        facts |= {"after": self.order[: self.order.index(job.name)]}
        facts |= {"files": sorted(name for name, state in after.items() if before.get(name) != state)}
        write_text(folder / "finished.json", json.dumps(facts, indent=1) + "\n")
        (folder / "started.json").unlink()
        self._say(f"stage {job.name} ({place}): finished in {seconds:.1f} s")
        self.ran.append(job.name)
        self.summarize()
        self._publish()

    def summarize(self) -> dict[str, Any]:
        """Bring summary.json and index.html up to date with every stage that has finished.

        Returns:
            The content of summary.json, where things lie, and which stages ran and which were skipped.
        """
        from common.visualize.run_page import write_run_page
        from common.visualize.run_summary import build_summary, run_parameters, write_summary

        stages = []
        for name in self.order:
            finished = _read_json(self.out / name / "finished.json")
            if finished is not None:
                history = _read_json(self.out / name / "history.json") or finished | {"metrics": {}}
                stages.append({"name": name, "seconds": history["seconds"], "metrics": history["metrics"]})
        earlier = _read_json(self.out / "summary.json")
        # Baselines come from an evaluation; after a stage has run it belongs to other weights.
        baselines = earlier["baselines"] if earlier and not self.ran else {}
        parameters = run_parameters(self.out, [stage["name"] for stage in stages])
        data_hash, code = self.data.data_hash, [self.bundle.root]
        summary = build_summary(self.bundle.name, self.scale, self.seed, data_hash, stages, baselines, parameters, code)
        write_summary(self.out, summary)
        places = {"output_dir": str(self.out), "ckpt_dir": str(self.models), "page": str(write_run_page(self.out))}
        return summary | places | {"ran": self.ran, "skipped": self.skipped}

    def _depends_on(self, job: Job) -> dict[str, Any]:
        """All that a stage's result depends on, among it when the stages before it were last run; as JSON has it."""
        before = {}
        for name in self.order[: self.order.index(job.name)]:
            finished = _read_json(self.out / name / "finished.json") or _read_json(self.out / name / "started.json")
            if finished is not None and "finished_at" in finished:
                before[name] = [finished["fingerprint"], finished["finished_at"]]
        config = {key: value for key, value in job.config.items() if key not in _NOT_COMPARED}
        inside = self.models.resolve().is_relative_to(self.out.resolve())
        models = self.models.resolve().relative_to(self.out.resolve()) if inside else self.models.resolve()
        parts = {"data": self.data.fingerprint, "seed": self.seed, "ckpt_dir": str(models), "stages before": before}
        if inputs := {path: _states(Path(path), deep=False) for path in _paths_in(config) if not self._is_ours(path)}:
            parts["inputs"] = inputs
        return json.loads(to_url(json.dumps(config | parts, default=str)))

    def _publish(self) -> None:
        """Bring folders that stand for URLs up to date; the weights first, as the other one says they are there."""
        publish(self.models)
        publish(self.out)

    def _has_files(self, finished: Mapping[str, Any]) -> bool:
        return all((self.models / name).is_file() for name in finished["files"])

    def _is_ours(self, path: str) -> bool:
        """Whether a file is of this run, whose stages are compared, or of the bundle, whose configuration is."""
        folders = (self.out, self.models, self.bundle.root)
        return any(Path(path).resolve().is_relative_to(folder.resolve()) for folder in folders)

    def _open_again(self) -> None:
        """Let stages whose weights or features are damaged go on from what they have, which gives the same ones.

        What comes after them stays finished. A damaged file of weights is kept under another name.
        """
        from common.data.datasets.features import find_damaged_features

        ended = {name: _read_json(self.out / name / "finished.json") for name in self.order}
        files = {name: finished["files"] for name, finished in ended.items() if finished is not None}
        for name in sorted(set().union(*files.values())):
            path = self.models / name
            damage = find_damage(path) if path.is_file() else None
            if damage is None:
                continue
            stages = [stage for stage, names in files.items() if name in names]
            self._say(f"{path} is damaged ({damage}): made again from the last checkpoint of {', '.join(stages)}")
            for stage in stages:
                self._open(stage, ended[stage])
            path.replace(path.with_name(f"{path.name}.damaged"))
        for stage in files:
            if problem := find_damaged_features(self.out / stage):
                self._say(f"{problem} Stage {stage} makes again what is lost.")
                self._open(stage, ended[stage])

    def _open(self, stage: str, finished: Mapping[str, Any]) -> None:
        kept = {key: finished[key] for key in ("fingerprint", "finished_at")}
        write_text(self.out / stage / "started.json", json.dumps(kept, indent=1) + "\n")
        (self.out / stage / "finished.json").unlink(missing_ok=True)

    def _execute(self, job: Job, logging_file: Path | None) -> None:
        import torch
        from monai.bundle import ConfigWorkflow
        from monai.utils import set_determinism

        set_determinism(self.seed)
        self.bundle.find_scripts()
        options = dict(job.overrides)
        if self.tracking is not None:
            # MONAI adds to the text of output_dir, which must be an expression for that.
            options |= {"tracking": TRACKERS[self.tracking](), "output_dir": quoted(str(self.out.resolve()))}
        with _log_to(self.out / "logs" / "train.log") as attach:
            workflow = ConfigWorkflow(
                job.files, logging_file=False if logging_file is None else str(logging_file), **options
            )
            attach()  # the logging file has replaced all handlers
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        # Engines and their handlers refer to each other; the next stage needs their memory.
        del workflow
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _say(self, text: str) -> None:
        print(text, flush=True)
        log = self.out / "logs" / "train.log"
        with named_if_disk_fails(log), log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(' ', 'seconds')} {text}\n")


def monai_command(files: Sequence[str], logging_file: Path | None, overrides: Mapping[str, Any]) -> str:
    """The shell command that runs the same with nothing but MONAI and this library."""
    words = ["python", "-m", "monai.bundle", "run", "--config_file", str(list(files))]
    if logging_file is not None:
        words += ["--logging_file", str(logging_file)]
    for key, value in overrides.items():
        words += [f"--{key}", _as_argument(value)]
    return shell_line(words)


def shell_line(words: Sequence[str]) -> str:
    """A command for the shell, quoted where it must be: a list of files and ids such as a#b stay readable."""

    def in_shell(word: str) -> str:
        if re.fullmatch(r"[\w@%+=:,./#-]+", word) and not word.startswith("#"):
            return word
        return shlex.quote(word) if set(word) & set('"$`\\!') else f'"{word}"'

    return " ".join(map(in_shell, words))


def _as_argument(value: Any) -> str:
    """Text that the command line of monai.bundle (fire) reads back as this value."""
    from fire.parser import DefaultParseValue

    if value is None:
        return "$None"  # MONAI leaves out an override that is None, but evaluates an expression
    if isinstance(value, str) and (value.startswith("-") or "\n" in value) and not value.startswith(("$", "@", "%")):
        return quoted(value)  # fire would take it for an option, and a command is one line
    if isinstance(value, str) and DefaultParseValue(value) == value:
        return value
    return repr(value)


@contextmanager
def settings_of_torch() -> Iterator[None]:
    """Give PyTorch the CPUs there are (or OMP_NUM_THREADS), and leave it as it was before."""
    import torch
    from monai.utils import set_determinism

    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cpu_count())
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        set_determinism(None)


@contextmanager
def _log_to(path: Path) -> Iterator[Any]:
    """Yield a function that makes every logger write to a file as well, until the block ends."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.handleError = lambda record: sys.stderr.write(f"{path}: cannot be written ({sys.exc_info()[1]})\n")
    loggers = [logging.getLogger()]

    def attach() -> None:
        known = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
        loggers.extend(logger for logger in known if not logger.propagate)  # MONAI's own loggers
        for logger in loggers:
            logger.addHandler(handler)

    try:
        yield attach
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _refuse_other(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Keep the checkpoints of an interrupted training from being lost to a changed configuration.

    Raises:
        BadInput: if there are any, naming the ids that differ.
    """
    from common.engines.resume import differences

    checkpoint = next(folder.glob("*/*.pt"), None)
    if checkpoint is not None:
        found = [f"{key} {a!r} (now {b!r})" for key, (a, b) in differences(then, now).items()]
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        listed = ", ".join(found[:_NAMED]) + more
        raise BadInput(
            checkpoint.parent,
            f"holds an interrupted training with {listed}; expected the same configuration to go on with it, another "
            "--output_dir, or --resume false to begin anew",
        )


def _states(path: Path, deep: bool = True) -> dict[str, tuple[int, int]]:
    """Size and modification time of a file, or of those in a folder, or below it, by their names."""
    files = (path.rglob("*") if deep else path.iterdir()) if path.is_dir() else [path]
    stats = {file.relative_to(path).as_posix(): file.stat() for file in files if file.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _paths_in(value: Any) -> set[str]:
    """The texts of a configuration that name a file or folder, such as weights that were trained elsewhere."""
    if isinstance(value, Mapping):
        return set().union(*map(_paths_in, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_paths_in, value))
    is_path = isinstance(value, str) and os.sep in value and value[0] not in "$@%" and Path(value).name
    return {value} if is_path and os.path.exists(value) else set()


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
