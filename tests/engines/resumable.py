"""A small training with everything a resume must bring back.

Dropout and NumPy noise draw from the global generators, gradients are accumulated over two iterations, the best
metric and early stopping look at a validation every third iteration.
"""

import contextlib
import random
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Events
from ignite.metrics import MeanSquaredError
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler, from_engine
from monai.utils import set_determinism

from common.data.datasets.epoch_sampler import EpochSampler
from common.engines.early_stop import StopWithoutGain
from common.engines.resume import ResumeHandler
from common.handlers.ema import EMAHandler
from common.handlers.training_clock import TrainingClock
from common.optimizers.lr_schedule import warmup_cosine

EPOCHS, LENGTH = 4, 5


class Noisy(Dataset):
    """Samples with noise from NumPy and Python, in the main process."""

    def __init__(self, seed: int = 0) -> None:
        x = torch.randn(10, 4, generator=torch.Generator().manual_seed(seed))
        super().__init__([{"image": a, "label": a.sum()[None]} for a in x])

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return item | {"image": item["image"] + 0.1 * float(np.random.rand()) + 0.1 * random.random()}


def make(
    folder, handlers=(), seed=0, lr=0.01, pause=0.0, workers=0, epochs=EPOCHS, sampler=None, accumulation_steps=2,
    **settings,
):  # fmt: skip
    """The trainer; `trainer.network` is what a test compares."""
    set_determinism(seed)
    random.seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Dropout(0.3), torch.nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr)
    data = Dataset(make_items()) if workers else Noisy()
    own = EpochSampler(data, 2, seed=seed)
    sampler, generator = sampler or own, settings.pop("generator", own.generator)
    loader = DataLoader(data, batch_size=2, sampler=sampler, generator=generator, num_workers=workers)
    validator = SupervisedEvaluator(
        "cpu",
        torch.utils.data.DataLoader(make_items(1), 5),
        network,
        key_val_metric={"mse": MeanSquaredError(output_transform=from_engine(["pred", "label"]))},
        metric_cmp_fn=lambda current, best: current < best,
    )
    clock = TrainingClock()
    schedule = warmup_cosine(optimizer, epochs, 1, LENGTH, clock=clock)
    stop = StopWithoutGain(validator, "mse", 50)
    ema = EMAHandler(network, 0.9, evaluator=validator)
    objects = {"network": network, "optimizer": optimizer, "lr_scheduler": schedule, "ema": ema, "clock": clock}
    resume = ResumeHandler(
        folder,
        objects | {"early_stop": stop, "nothing": None},
        {"lr": lr, "seed": seed},
        validator,
        interval=1,
        n_saved=2,
        name="small",
        **settings,
    )
    before = [sampler, clock, LrScheduleHandler(schedule, epoch_level=False, print_lr=False), ema]
    before.append(ValidationHandler(3, validator, epoch_level=False))
    trainer = SupervisedTrainer(
        "cpu",
        epochs,
        loader,
        network,
        optimizer,
        torch.nn.MSELoss(),
        accumulation_steps=accumulation_steps,
        train_handlers=[*before, *handlers, resume],
    )
    stop.attach(trainer)
    trainer.resume, trainer.validator, trainer.ema = resume, validator, ema
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: time.sleep(pause))
    return trainer


def make_items(seed: int = 0) -> list[dict[str, torch.Tensor]]:
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(seed))
    return [{"image": a, "label": a.sum()[None]} for a in x]


def result(trainer) -> dict[str, torch.Tensor]:
    """All that must be equal at the end."""
    state = {**trainer.network.state_dict(), **{f"ema.{k}": v for k, v in trainer.ema.average.items()}}
    state |= {"random": torch.rand(3), "numpy": torch.from_numpy(np.random.rand(3))}
    state["best"] = torch.tensor([float(trainer.validator.state.best_metric)])
    return {name: tensor.clone() for name, tensor in state.items()}


def run(folder: Path, pause: float, log: Path, ready: Event) -> None:
    """What a process of its own does: train with pauses, and write `result.pt`."""
    with log.open("w", buffering=1) as file, contextlib.redirect_stderr(file):
        trainer = make(folder, pause=pause)
        ready.set()
        trainer.run()
        torch.save(result(trainer), folder / "result.pt")
