"""Early stopping that a resumed training takes up where it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.handlers import EarlyStopHandler

__all__ = ["EarlyStop"]


class EarlyStop(EarlyStopHandler):
    """MONAI's `EarlyStopHandler` with a state for `common.engines.resume.ResumeHandler`.

    MONAI keeps ignite's handler, which has the counter and the best score, to itself.
    """

    def state_dict(self) -> dict[str, Any]:
        """Validations without improvement so far, and the best score; empty before a trainer is set."""
        return {} if self._handler is None else dict(self._handler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; a trainer must be set."""
        if state:
            self._handler.load_state_dict(state)
