"""What a training run is about to do: parameters, optimizer, data, chunks."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.handlers.engine_state import warn
from common.io.output_folder import write_text
from common.io.table import read_rows

STARTUP = "startup.json"

logger = logging.getLogger("train")


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
        parts: this and the next two see `startup_report`.
        splits: see there.
        chunks: see there.
        output_dir: folder of the run.
        stage: folder in it.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        splits: Mapping[str, int] | str | os.PathLike[str] | None,
        chunks: Sequence[Mapping[str, Any]],
        output_dir: str | os.PathLike[str],
        stage: str,
    ) -> None:
        self.parts, self.splits, self.chunks = parts, splits, chunks
        self.folder = Path(output_dir) / stage

    def attach(self, engine: Engine) -> None:
        """Register the event; rank 0 only reports."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self._started)

    def _started(self, engine: Engine) -> None:
        report = startup_report(self.parts, getattr(engine, "optimizer", None), self.splits, self.chunks)
        for line in report_lines(report):
            logger.info(line)
        for sentence in report["warnings"]:
            warn(engine, sentence)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / STARTUP, json.dumps(report, indent=1) + "\n")


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
