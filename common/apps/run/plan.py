"""`plan`: what a bundle's stages need in memory and on disk, before anything is allocated.

Each stage's own configuration is built under PyTorch's `FakeTensorMode` and two training steps are walked through, so
what is counted is what the training does. The bundle's `configs/plan.json` says what a plan needs besides: `plan#batch`
describes a batch, `plan#frozen` lists further networks that lie in memory, `plan#overrides` replaces what a plan cannot
have yet, such as a scale that comes from the data, and `plan#stages#NAME` holds the ids that differ for one stage.
`plan#samples`, which a bundle may have, is how many samples a stage sees, for its time.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from common.apps.run.bundle import (
    Bundle,
    CommandLineText,
    UsageError,
    first_error,
    has_id,
    merged_config,
    open_bundle,
    read_overrides,
)
from common.apps.run.recipe import merged_stage, read_recipe, stages_of_scale
from common.apps.run.stage_runner import Job
from common.visualize.tables import format_table

__all__ = ["PLAN_FILE", "RUNTIME_BYTES", "LiveBytes", "as_table", "plan_bundle", "plan_stage", "planned_stage"]

PLAN_FILE = "plan.json"

RUNTIME_BYTES = 16 * 2**20
"""What PyTorch's CPU kernels keep besides tensors; measured by `benchmarks/plan_peak.py`."""

_KEPT = 5  # checkpoints on disk: the newest three, the best, and the one that is being written


def plan_bundle(
    bundle: str | os.PathLike[str] | Bundle,
    scale: str = "paper",
    stages: str | Sequence[str] | None = None,
    gpus: int = 1,
    gpu_memory: float | None = None,
    gpu_tflops: float | None = None,
    price: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Forecast what each stage of a bundle needs in memory and on disk, in seconds and without allocating it.

    Two training steps of the stage's own configuration are walked through with tensors that hold no data. The batch is
    what the configuration says; --plan#volume Z,Y,X is the CT that is assumed where a stage trains on whole volumes.

    Args:
        bundle: folder of a bundle, such as bundles/ct_slice_interpolation
        scale: NAME adds configs/NAME.json; paper adds nothing
        stages: A,B only these (default: those of the scale)
        gpus: N processes, each of which holds all of it and a copy of the gradients
        gpu_memory: GB of one GPU, or of this machine's memory, to compare with; says what to change where it does not
            fit
        gpu_tflops: N that one GPU sustains (a third to a half of what its data sheet says), for the hours of stages
            whose samples are known
        price: N of an hour of one GPU, for the cost
        overrides: changes a value of the configuration, by its MONAI id, in every stage that has it

    Returns:
        `stages` (see `plan_stage`; with `gpu_tflops` also `hours`, with `price` `cost`), `notes` (what helps where it
        does not fit, of `train#oom_advice`) and `not_planned` (stages without a training step).

    Raises:
        UsageError: for an unknown stage, scale or id, or a number that is not positive.

    Examples:
        python -m common plan bundles/ct_slice_interpolation
        python -m common plan ct_slice_interpolation --stages diffusion --gpu_memory 12 --plan#volume 200,512,512
    """
    bundle = open_bundle(bundle)
    given = {"gpus": gpus, "gpu_memory": gpu_memory, "gpu_tflops": gpu_tflops, "price": price}
    for name, value in given.items():
        if value is not None and not value > 0:
            raise UsageError(f"--{name} is {value}, expected a positive number")
    if price is not None and gpu_tflops is None:
        raise UsageError("--price needs --gpu_tflops, which gives the hours that are paid")
    plain = {name: planned_stage(bundle, name, scale) for name in stages_of_scale(bundle, scale, stages)}
    user = read_overrides(overrides or {}, [job.config for job in plain.values()], "the stages of this plan")
    rows, not_planned, notes = [], [], []
    for name, found in plain.items():
        mine = {key: value for key, value in user.items() if has_id(found.config, key)}
        job = planned_stage(bundle, name, scale, mine)
        if not str(job.config["run"][-1]).endswith("trainer.run()"):
            not_planned.append(name)
            continue
        try:
            row = plan_stage(job.files, job.overrides, gpus)
        except (RuntimeError, ValueError) as error:
            reason = str(first_error(error)).splitlines()[0]
            raise ValueError(
                f"stage {name} cannot take a step on its plan#batch ({reason}), expected sizes that fit"
            ) from error
        samples = job.config["plan"].get("samples")
        if gpu_tflops is not None and samples is not None:
            row["hours"] = row["flops"] * samples / (gpu_tflops * 1e12 * gpus * 3600)
            row |= {} if price is None else {"cost": row["hours"] * price * gpus}
        rows.append({"stage": name, **row})
        if gpu_memory is not None and row["peak"] > gpu_memory * 1e9:
            helps = _what_helps(job, row["peak"], gpus)
            needs = f"{name} needs {_size(row['peak'])} and there are {gpu_memory:g} GB"
            notes.append(
                f"{needs}; " + (f"with {'; with '.join(helps)}" if helps else "no override of its advice helps")
            )
    return {"stages": rows, "notes": notes, "not_planned": not_planned}


def planned_stage(bundle: Bundle, name: str, scale: str, overrides: Mapping[str, Any] | None = None) -> Job:
    """One stage with what `configs/plan.json` adds; that file comes first, so that a scale may change its ids.

    Args:
        bundle: the bundle.
        name: of the stage.
        scale: "paper" or an overlay.
        overrides: checked ids and values of the user.

    Raises:
        BadInput: if the bundle has no plan.json.
        UsageError: for an unknown stage, scale or id.
    """
    places = {"bundle_root": str(bundle.root), "dataset_dir": "", "output_dir": "", "ckpt_dir": ""}
    of_plan = {key: value for key, value in (overrides or {}).items() if key.split("#")[0] == "plan"}
    others = {key: value for key, value in (overrides or {}).items() if key not in of_plan}
    job = merged_stage(bundle, name, scale, places, others)
    files = [str(bundle.config_file(PLAN_FILE)), *job.files]
    parser = merged_config(files)
    # What the user says of the plan comes over what the file says of the stage.
    (stage,) = [stage for stage in read_recipe(bundle) if stage.name == name]
    of_stage = stage.of_name(parser["plan"].get("stages", {}))
    changes = job.overrides | parser["plan"].get("overrides", {}) | of_stage | of_plan
    parser.update(changes)
    return Job(name, files, changes, parser.config)


def plan_stage(files: Sequence[str], overrides: Mapping[str, Any], gpus: int = 1) -> dict[str, int]:
    """Forecast one stage.

    Args:
        files: configuration files of a `planned_stage`, merged in order.
        overrides: id -> value.
        gpus: processes.

    Returns:
        Numbers: `parameters`, `trainable`; bytes: `weights`, `gradients`, `optimizer`, `average` (EMA), `frozen`
        (other networks), `activations` (what the step holds beyond these at its peak), `peak` (all together),
        `checkpoint` (one file) and `checkpoints` (all that are kept); `flops`, of a training step for each sample of
        its batch (a multiplication and an addition are two).
    """
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # what fails is said in our sentence
    parser = merged_config(files)
    if "precision" in parser:  # of a GPU, for which one plans
        parser.update({**overrides, "device": "cuda"})
        overrides = {**overrides, "precision": parser.get_parsed_content("precision")}
    # A network of fake tensors cannot be moved, and there are no data yet that a scale could come from.
    parser.update({**overrides, "device": "$torch.device('cpu')", "network": "@network_def"})
    if "scale_factor" in parser:
        parser["scale_factor"] = 1.0
    get = parser.get_parsed_content
    prepare, inferer, loss = (get(key) for key in ("train#prepare_batch", "train#inferer", "loss"))
    # Initial values are of no use, and some ways of drawing them look at numbers, which fake tensors do not have.
    with FakeTensorMode(allow_non_fake_inputs=True), no_init_weights(), LiveBytes() as live:
        network: nn.Module = get("network_def")
        weights, saved = _bytes_of(network), _bytes_of(network, saved=True)
        optimizer, batch = get("optimizer"), get("plan#batch")
        network.train()
        for _ in range(2):  # the optimizer's states come with the first step
            inputs, target, args, kwargs = _four(prepare(batch, torch.device("cpu")))
            loss(inferer(inputs, network, *args, **kwargs), target).backward()
            gradients = sum(p.grad.untyped_storage().nbytes() for p in network.parameters() if p.grad is not None)
            optimizer.step()
            optimizer.zero_grad()
        states = [leaf for state in optimizer.state.values() for leaf in state.values()]
        optimizer_bytes = sum(leaf.untyped_storage().nbytes() for leaf in states if isinstance(leaf, torch.Tensor))
        peak = live.peak
        with FlopCounterMode(display=False) as counter:  # which keeps tensors longer than a step does
            loss(inferer(inputs, network, *args, **kwargs), target).backward()
    with torch.device("meta"):
        frozen = sum(_bytes_of(part) for part in parser.get_parsed_content("plan#frozen"))
    average = saved if "ema" in parser and parser["ema"] is not None else 0
    copies = gradients if gpus > 1 else 0  # the buckets of DistributedDataParallel
    checkpoint = saved + average + optimizer_bytes
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "trainable": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "weights": weights,
        "gradients": gradients + copies,
        "optimizer": optimizer_bytes,
        "average": average,
        "frozen": frozen,
        "activations": max(0, peak - weights - gradients - optimizer_bytes),
        "peak": peak + average + frozen + copies + RUNTIME_BYTES,
        "checkpoint": checkpoint,
        "checkpoints": _KEPT * checkpoint,
        "flops": counter.get_total_flops() // _samples_in(batch),
    }


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that a computation makes and that something still refers to.

    Inside PyTorch's `FakeTensorMode` nothing is allocated or computed, but tensors live as long as they would, so the
    peak is that of the real computation (autograd's saved tensors and optimizer states included).

    Attributes:
        now: bytes that live now.
        peak: most bytes that lived at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def _what_helps(job: Job, peak: int, gpus: int) -> list[str]:
    """Which of the overrides that the stage advises lower the peak, and to what."""
    found = []
    for advice in job.config["train"]["oom_advice"]:
        advice = advice.replace("::", "#")
        words = advice.split()
        asked = {
            key.removeprefix("--"): CommandLineText(value) for key, value in zip(words[::2], words[1::2], strict=True)
        }
        overrides = read_overrides(asked, [job.config], f"stage {job.name}")
        lower = plan_stage(job.files, job.overrides | overrides, gpus)["peak"]
        if lower < 0.99 * peak:
            found.append(f"{advice} {_size(lower)}")
    return found


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The forecast as text: a line per quantity, a column per stage; bytes as MB or GB, FLOPs of a sample."""
    lines = []
    for key in [key for key in dict.fromkeys(key for row in rows for key in row) if key != "stage"]:
        line = {"": key.replace("average", "average (EMA)")}
        for row in rows:
            line[row["stage"]] = _text(key, row[key]) if key in row else "-"
        lines.append(line)
    return format_table(lines)


def _text(key: str, value: float) -> str:
    if key in ("parameters", "trainable"):
        return f"{value:,}"
    if key == "flops":
        return f"{value / 1e9:.3g} GFLOP"
    return f"{value:.2f}" if key in ("hours", "cost") else _size(value)


def _samples_in(batch: Any) -> int:
    return next(len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.ndim)


def _size(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def _four(prepared: Sequence[Any]) -> tuple[Any, Any, Sequence[Any], Mapping[str, Any]]:
    return tuple(prepared) if len(prepared) == 4 else (*prepared, (), {})


def _bytes_of(network: nn.Module, saved: bool = False) -> int:
    """Of all weights, or of those that a checkpoint has, which of an adapter are few."""
    tensors = network.state_dict().values() if saved else [*network.state_dict().values(), *network.parameters()]
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())  # tied weights have several names
