"""The note that a person types into the form of MONAI Label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

__all__ = ["TypedNoted"]


class TypedNoted(Transform):
    """Hand the note of a request to the inferer, as it is.

    MONAI Label calls an inferer with image and network alone. It also writes what is typed into `displayable_configs`,
    where MONAI would run a note that begins with `$`; so nothing refers to it there. Data without an entry `note` leave
    the inferer as it is.

    Args:
        inferer: gets it as `note` (`common.inferers.note_inferer.NoteInferer`).
    """

    def __init__(self, inferer: Any) -> None:
        self.inferer = inferer

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same data."""
        if "note" in data:
            self.inferer.note = None if data["note"] is None else str(data["note"])
        return dict(data)
