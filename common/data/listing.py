"""What a data set says of itself before anything in it is opened: its inputs, and what of them cannot be used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from common.io.bad_input import BadInput

__all__ = ["Input", "Listing"]


class Input(Protocol):
    """One input, as `common.data.prepare.prepare_data` uses it; it is sent to other processes.

    Attributes:
        path: the file or folder.
        case: unique name.
        patient: whose it is; None where the file itself says.
        split: "train", "val" or "test"; "" where patients are to be split.
        group: inputs of one group stand for the same scan, of which the first usable one is kept.
        names: names and absolute files by which an exclusion list may mean it.
        columns: further columns of its row in the manifest.
        identity: what else, beside the file, the result of its check depends on; JSON can hold it.
    """

    path: Path
    case: str
    patient: str | None
    split: str
    group: str
    names: Sequence[str | Path]
    columns: Mapping[str, Any]
    identity: Any

    @property
    def files(self) -> Sequence[Path]:
        """What it is made of; one of them that changes makes it be checked again.

        Raises:
            OSError: if it cannot be looked at.
        """
        ...

    def check(self, out: Path, thorough: bool) -> dict[str, Any]:
        """Open it, and convert it below the output folder where it must be.

        Returns:
            What JSON can hold: "row", columns of the manifest that the file told; "image" and "bytes", the file that
            is used, as seen from the output folder, and its size, if it was written here.

        Raises:
            BadInput: naming why it cannot be used.
        """
        ...


@dataclass
class Listing(ABC):
    """The inputs of a data set; one subclass for CTs, one for X-rays.

    Attributes:
        rows: the inputs.
        problems: what is not usable.
        left_out: (path, reason) of what was left out on purpose, which is no fault.
        other: kind -> files of the folder that were not looked at, see `common.data.folder_files`.
        facts: for prepare.json.
    """

    rows: list[Any] = field(default_factory=list)
    problems: list[BadInput] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)

    one: ClassVar[str]
    """What an input is called: "case", "image"."""
    listable: ClassVar[str]
    """What an exclusion list may name: "case, study or image"."""
    short: ClassVar[Callable[[str], str] | None] = None
    """Gives a second name for which an entry of an exclusion list stands, such as a file's without its ending."""
    libraries: ClassVar[Sequence[str]]
    """Packages whose versions are recorded, and decide whether a check is done again; those not installed are none."""
    chunk: ClassVar[int] = 1
    """How many inputs a process checks at a time."""
    fractions: ClassVar[Sequence[float] | None] = None
    """Shares of patients in train, val and test, see `common.data.splits.split_by_patient`."""
    tables: ClassVar[Sequence[str]] = ()
    """Names of the tables that `conclude` writes."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Columns of the manifest, in order."""

    @abstractmethod
    def conclude(self, out: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], str]:
        """Write the tables that lie beside the manifest.

        Args:
            out: the output folder.
            rows: of the manifest.

        Returns:
            Further counts for prepare.json, and the SHA-256 of the data, which does not depend on where they lie.
        """
