"""A trainer and an evaluator of MONAI that are as small as they can be: one linear layer, eight samples."""

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanSquaredError, from_engine


def make_data(n: int = 8, bad_at: int | None = None) -> list[dict[str, torch.Tensor]]:
    """Samples of y = 2 x0 - x1; the one at `bad_at` has a NaN as its label."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[2.0], [-1.0]])
    if bad_at is not None:
        y[bad_at] = float("nan")
    return [{"image": a, "label": b} for a, b in zip(x, y, strict=True)]


def make_network() -> torch.nn.Linear:
    network = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.1)
    return network


def make_trainer(handlers=(), network=None, epochs=2, lr=0.1, data=None, batch_size=2, optimizer=None, **kwargs):
    network = network or make_network()
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(make_data() if data is None else data), batch_size=batch_size),
        network=network,
        optimizer=optimizer or torch.optim.SGD(network.parameters(), lr=lr),
        loss_function=torch.nn.MSELoss(),
        train_handlers=list(handlers),
        **kwargs,
    )


def make_evaluator(network, handlers=()):
    """Key metric "mse", of which less is better, over two batches."""
    return SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(make_data()), batch_size=4),
        network=network,
        key_val_metric={"mse": MeanSquaredError(output_transform=from_engine(["pred", "label"]))},
        metric_cmp_fn=lambda current, best: current < best,
        val_handlers=list(handlers),
    )


class Clock:
    """Stands in for the module `time` where a handler measures: the time passes in `sleep` alone."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Fail:
    """A handler that raises at an iteration."""

    def __init__(self, error: BaseException, iteration: int = 3) -> None:
        self.error = error
        self.iteration = iteration

    def attach(self, engine) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        if engine.state.iteration == self.iteration:
            raise self.error
