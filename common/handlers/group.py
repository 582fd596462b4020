"""Several handlers as one entry of a trainer's list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ignite.engine import Engine


class HandlerGroup:
    """Attaches handlers that the configuration makes elsewhere and uses for other things as well.

    MONAI's property check takes every entry of `train#handlers` for a section with a `_target_`, so references to them
    cannot stand there themselves.

    Args:
        handlers: anything with `attach(engine)`, in the order in which they are attached; None, which a reference to a
            disabled section gives, is left out.
    """

    def __init__(self, handlers: Iterable[Any]) -> None:
        self.handlers = [handler for handler in handlers if handler is not None]

    def attach(self, engine: Engine) -> None:
        """Attach all of them."""
        for handler in self.handlers:
            handler.attach(engine)
