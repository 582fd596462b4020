"""A last validation over all cases, where those during training saw only a few."""

from __future__ import annotations

from collections.abc import Iterable

from ignite.engine import Engine, Events
from monai.engines import Evaluator


class FinalValidationHandler:
    """When training completes, run the validator once more on another data loader.

    Attach it before handlers that write what the validator found.

    Args:
        validator: evaluator of the validations during training.
        data_loader: all validation cases.
    """

    def __init__(self, validator: Evaluator, data_loader: Iterable) -> None:
        self.validator, self.data_loader = validator, data_loader

    def attach(self, engine: Engine) -> None:
        """Validate when the engine completes."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Validate on all cases."""
        few, length = self.validator.data_loader, self.validator.state.epoch_length
        self.validator.data_loader = self.data_loader
        self.validator.state.epoch_length = len(self.data_loader)
        try:
            self.validator.run(engine.state.epoch)
        finally:
            self.validator.data_loader, self.validator.state.epoch_length = few, length
