"""The cases of an inference, and what of the input is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["CaseList"]


class CaseList(list):
    """Cases (`{"case": name, "image": path, ...}`), and what was left out when they were listed.

    Attributes:
        excluded: `{"path", "reason"}` of each input that is no case.
        other: kind -> files that were not looked at, see `common.data.folder_files`.
    """

    def __init__(
        self,
        cases: Iterable[Mapping[str, Any]] = (),
        excluded: Iterable[Mapping[str, str]] = (),
        other: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(cases)
        self.excluded = [dict(row) for row in excluded]
        self.other = {kind: n for kind, n in sorted((other or {}).items()) if n}
