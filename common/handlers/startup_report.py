"""What a training run is about to do: parameters, optimizer, data, chunks; and what to do when memory runs out."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.handlers.engine_state import add_note, on_exception
from common.io.output_folder import write_text
from common.io.table import read_rows

STARTUP = "startup.json"
_MEMORY_ERROR = re.compile(r"not enough memory|out of memory|can't allocate memory|MemoryError", re.IGNORECASE)


def startup_report(
    parts: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer | None = None,
    splits: Mapping[str, int] | str | os.PathLike[str] | None = None,
    chunks: Sequence[Mapping[str, Any]] = (),
) -> dict:
    """Facts of a run, as numbers.

    Args:
        parts: networks by the name that is shown, for instance {"VAE": vae, "U-Net": unet}. A parameter that two parts
            share counts in both, and once in the totals.
        optimizer: optimizer, whose groups may have a "name"; otherwise a group is named after the part it belongs to.
        splits: patients per split, or the manifest.csv to count them in.
        chunks: plans of chunked passes, each {"what": "encoding", "slices": 50, "size": 32} in slices of that pass.

    Returns:
        {"parameters": {"total", "trainable", "parts": {name: {"total", "trainable"}}}, "optimizer": [{"name",
        "parameters", "lr"}], "splits": {name: patients}, "chunks": [{"what", "slices", "size", "chunks",
        "memory_saved"}], "warnings": [sentences]}; `memory_saved` is the part 1 - size / slices of the peak memory that
        grows with depth, 0 if everything fits one chunk.
    """
    every = {id(p): p for module in parts.values() for p in module.parameters()}
    total, trainable = _count(every.values())
    counts = {name: _count(module.parameters()) for name, module in parts.items()}
    groups = [] if optimizer is None else optimizer.param_groups
    return {
        "parameters": {
            "total": total,
            "trainable": trainable,
            "parts": {name: {"total": pair[0], "trainable": pair[1]} for name, pair in counts.items()},
        },
        "optimizer": [
            {"name": _group_name(group, i, parts), "parameters": _count(group["params"])[0], "lr": float(group["lr"])}
            for i, group in enumerate(groups)
        ],
        "splits": dict(splits) if isinstance(splits, Mapping) else {} if splits is None else _count_patients(splits),
        "chunks": [_chunk_plan(plan) for plan in chunks],
        "warnings": _warnings(every, groups) if optimizer is not None else [],
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in words, a sentence or a number per line."""
    parameters = report["parameters"]
    lines = [f"Total parameters: {parameters['total']:,}", f"  Trainable: {parameters['trainable']:,}"]
    for name, part in parameters["parts"].items():
        frozen = "" if part["trainable"] == part["total"] else f" ({part['trainable']:,} trainable)"
        lines.append(f"  {name}: {part['total']:,}{frozen}")
    if report["optimizer"]:
        lines.append(f"Optimizer param groups: {len(report['optimizer'])}")
    for i, group in enumerate(report["optimizer"]):
        lines.append(f"  Group {i} ({group['name']}): {group['parameters']:,} params, LR: {group['lr']:.2e}")
    if report["splits"]:
        lines.append("Train-Test Split: " + ", ".join(f"{n} {split}" for split, n in report["splits"].items()))
    for plan in report["chunks"]:
        if plan["chunks"] == 1:
            lines.append(f"Chunked {plan['what']}: {plan['slices']} slices fit 1 chunk of max {plan['size']} slices")
            continue
        lines.append(
            f"Using chunked {plan['what']}: {plan['slices']} slices -> {plan['chunks']} chunks of max {plan['size']} "
            f"slices; memory savings ~{100 * plan['memory_saved']:.0f} % peak"
        )
    return lines


class StartupReportHandler:
    """Log the start-up report when training starts, and keep it as `OUTPUT_DIR/STAGE/startup.json`.

    Args:
        parts: see `startup_report`.
        optimizer: see `startup_report`; by default the optimizer of the trainer.
        splits: see `startup_report`.
        chunks: see `startup_report`.
        output_dir: folder of the run; None writes no file.
        stage: folder in it; required with `output_dir`.
        logger_name: logger of the lines.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer | None = None,
        splits: Mapping[str, int] | str | os.PathLike[str] | None = None,
        chunks: Sequence[Mapping[str, Any]] = (),
        output_dir: str | os.PathLike[str] | None = None,
        stage: str | None = None,
        logger_name: str = "train",
    ) -> None:
        if (output_dir is None) != (stage is None):
            raise ValueError(f"output_dir is {output_dir} and stage is {stage}, expected both or neither.")
        self.parts = parts
        self.optimizer = optimizer
        self.splits = splits
        self.chunks = chunks
        self.folder = None if output_dir is None else Path(output_dir) / str(stage)
        self.logger = logging.getLogger(logger_name)
        self.report: dict = {}

    def attach(self, engine: Engine) -> None:
        """Register the event; rank 0 only reports."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self._started)

    def _started(self, engine: Engine) -> None:
        optimizer = self.optimizer or getattr(engine, "optimizer", None)
        self.report = startup_report(self.parts, optimizer, self.splits, self.chunks)
        for line in report_lines(self.report):
            self.logger.info(line)
        for sentence in self.report["warnings"]:
            self.logger.warning(sentence)
            add_note(engine, sentence)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / STARTUP, json.dumps(self.report, indent=1) + "\n")


class OOMAdviceHandler:
    """When a run ends for lack of memory, on the GPU or the host, log one sentence with the overrides that help.

    The exception goes on as it was.

    Args:
        advice: overrides as the user types them, the mildest first, for instance ["--encode_chunk 16 --decode_chunk 4",
            "--resolution 384", "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True in the environment"].
        name: of the stage, in the sentence.
        logger_name: logger of the sentence.

    Raises:
        ValueError: if there is no advice.
    """

    def __init__(self, advice: Sequence[str], name: str = "training", logger_name: str = "train") -> None:
        if isinstance(advice, str) or not advice:
            raise ValueError(f"advice is {advice!r}, expected a list with at least one override.")
        self.advice = list(advice)
        self.name = name
        self.logger = logging.getLogger(logger_name)

    def attach(self, engine: Engine) -> None:
        """Register on the exceptions of an engine; before handlers that raise them, such as MONAI's own."""
        on_exception(engine, self._exception)

    def _exception(self, engine: Engine, error: BaseException) -> None:
        if not is_out_of_memory(error):
            return
        where = f"at iteration {engine.state.iteration}"
        sentence = out_of_memory_sentence(self.name, where, error, self.advice)
        add_note(engine, sentence)
        self.logger.error(sentence)


def out_of_memory_sentence(name: str, where: str, error: BaseException, advice: Sequence[str]) -> str:
    """What to do where memory ran out.

    Args:
        name: of the stage.
        where: in it.
        error: of which the first line is quoted.
        advice: overrides, the mildest first.
    """
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return f"{name}: memory ran out {where} ({first_line}); what helps, the mildest first: {'; '.join(advice)}."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or the one it was raised from, means that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.cuda.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError) and _MEMORY_ERROR.search(str(seen)):
            return True
        seen = seen.__cause__
    return False


def _count(parameters: Any) -> tuple[int, int]:
    """Numbers of all and of trainable parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in parameters]
    return sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)


def _group_name(group: Mapping[str, Any], index: int, parts: Mapping[str, nn.Module]) -> str:
    if "name" in group:
        return str(group["name"])
    members = {id(p) for p in group["params"]}
    owners = [name for name, module in parts.items() if members & {id(p) for p in module.parameters()}]
    return " + ".join(owners) or str(index)


def _warnings(every: Mapping[int, nn.Parameter], groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where optimizer and networks do not fit: both have cost people a training run."""
    moved = {id(p): p for group in groups for p in group["params"]}
    frozen = sum(not p.requires_grad for p in moved.values())
    missing = sum(p.requires_grad and key not in moved for key, p in every.items())
    found = []
    if frozen:
        found.append(f"The optimizer holds {frozen} frozen tensors; give it only those with requires_grad.")
    if missing:
        found.append(f"{missing} trainable tensors are not in the optimizer and stay as they are; freeze or add them.")
    return found


def _count_patients(manifest: str | os.PathLike[str]) -> dict[str, int]:
    pairs = {(row["split"], row["patient"]) for _, row in read_rows(manifest, ("patient", "split"))}
    order = ["train", "val", "test"]
    names = sorted({split for split, _ in pairs}, key=lambda name: (order + [name]).index(name))
    return {name: sum(split == name for split, _ in pairs) for name in names}


def _chunk_plan(plan: Mapping[str, Any]) -> dict:
    if set(plan) != {"what", "slices", "size"}:
        raise ValueError(f"A chunk plan has the keys {sorted(plan)}, expected what, slices and size.")
    slices, size = int(plan["slices"]), int(plan["size"])
    if slices < 1 or size < 1:
        raise ValueError(f"A chunk plan has {slices} slices in chunks of {size}, expected at least 1 of both.")
    chunks = math.ceil(slices / size)
    saved = max(0.0, 1 - size / slices)
    return {"what": plan["what"], "slices": slices, "size": size, "chunks": chunks, "memory_saved": saved}
