"""Call a network on images together with a note that is still text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from common.inferers.autocast import AutocastInferer

__all__ = ["NoteInferer"]


class NoteInferer(AutocastInferer):
    """Tokenize the note that a client gives, or the one typed into its form, and call the network with both.

    MONAI Label calls an inferer with image and network alone: there `common.transforms.typed_note.TypedNoted` sets the
    note. MONAI Deploy hands further inputs as keywords, a note as text. Tokens of a batch are passed on as they are.

    Args:
        tokenizer: of the text encoder (`common.data.note_tokenizer.NoteTokenizer`); None for a network without one.
        note: for calls without the keyword `note`; blank is no note.
        dtype: as of `AutocastInferer`.
    """

    def __init__(
        self, tokenizer: Callable[[Sequence[str]], Mapping[str, torch.Tensor]] | None, note: str | None = None,
        dtype: str = "float32",
    ) -> None:  # fmt: skip
        super().__init__(dtype)
        self.tokenizer, self.note = tokenizer, note

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Call `network(inputs, ...)`.

        Args:
            inputs: (B, 3, H, W), or None where no case has an image.
            network: `MDFNet`.
            args: further arguments.
            kwargs: `note` may be tokens, one text for all B images, or None; the others go on unchanged.

        Returns:
            (B, labels) float32.

        Raises:
            ValueError: if a text is given and there is no tokenizer.
        """
        note = kwargs.get("note", self.note)
        if isinstance(note, str):
            note = self._tokens(note, inputs) if note.strip() else None
        if note is not None or "note" in kwargs:
            kwargs["note"] = note
        return super().__call__(inputs, network, *args, **kwargs)

    def _tokens(self, note: str, image: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.tokenizer is None:
            raise ValueError("a note is given but the network reads none, expected weights that were trained with text")
        tokens = self.tokenizer([note])
        return {name: x.expand(image.shape[0], -1).to(image.device) for name, x in tokens.items()}
