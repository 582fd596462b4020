"""The cases of an inference: each is read once, and one that cannot be used is listed with the reason."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.data import list_data_collate
from torch.utils.data import DataLoader, Dataset

from common.io.bad_input import BadInput, first_error
from common.io.output_folder import csv_text, write_text

__all__ = ["CaseLoader", "excluded_path", "no_usable_case", "reason_of", "write_excluded"]

logger = logging.getLogger("predict")


def excluded_path(case: Mapping[str, Any]) -> str:
    """What a list of excluded cases calls this one: its file; its name if it is of prepared data (has a split).

    The paths of a data set may name its patients, the names of cases do not.
    """
    return str(case["case"] if "split" in case else case.get("image") or case["case"])


def reason_of(error: Exception) -> str:
    """Why a case cannot be used, as `excluded.csv` says it, whatever failed: its reader, a transform, the network.

    Raises:
        Exception: the error itself where it is none of one case: the disk is full, a library is missing.
    """
    cause = first_error(error)
    if isinstance(cause, (OSError, ImportError)):
        raise error
    text = " ".join(str(cause).split())
    if isinstance(cause, BadInput):
        return cause.reason
    return text if isinstance(cause, ValueError) and text else f"{type(cause).__name__}: {text}".rstrip(": ")


def write_excluded(folder: Path, excluded: Sequence[Mapping[str, str]]) -> Path:
    """Write FOLDER/excluded.csv; without any row that of an earlier call goes, as it would be taken for this one's."""
    path = folder / "excluded.csv"
    if excluded:
        write_text(path, csv_text(("path", "reason"), excluded))
    else:
        path.unlink(missing_ok=True)
    return path


def no_usable_case(source: str | os.PathLike[str], folder: Path, excluded: Sequence[Mapping[str, str]]) -> BadInput:
    """The error that an input holds no usable case; several reasons are written to FOLDER/excluded.csv.

    Args:
        source: the input.
        folder: of the output.
        excluded: `{"path", "reason"}` of each case.
    """
    if not excluded:
        return BadInput(source, "holds no case")
    first = excluded[0]
    if len(excluded) == 1:
        return BadInput(first["path"], first["reason"])
    path = write_excluded(folder, excluded)
    return BadInput(source, f"holds no usable case, see {path}; the first of {len(excluded)}: {first['reason']}")


class CaseLoader:
    """Batches of the cases that can be used, in their order.

    A case whose item cannot be read or changed is left out of its batch; the others stay together, so that what a
    network says of a case does not depend on the cases of other batches. A batch without any usable case is passed
    over.

    Attributes:
        excluded: `{"path", "reason"}` of each case that was left out, once the loader has been iterated over.
        paths: of the cases of the batch that was given last, as `excluded` calls them.

    Args:
        dataset: an item per case, in the order of the cases.
        cases: names them, see `excluded_path`.
        batch_size: cases of a batch.
        collate_fn: makes a batch of a list of items.
        num_workers: processes that read.
    """

    def __init__(
        self,
        dataset: Dataset,
        cases: Sequence[Mapping[str, Any]],
        batch_size: int = 1,
        collate_fn: Callable[[list[Any]], Any] = list_data_collate,
        num_workers: int = 0,
    ) -> None:
        if len(dataset) != len(cases):
            raise ValueError(f"The data set has {len(dataset)} items for {len(cases)} cases, expected one for each.")
        self.excluded: list[dict[str, str]] = []
        self.paths: list[str] = []
        collate = partial(_usable_batch, collate_fn=collate_fn)
        guarded = _GuardedDataset(dataset, cases)
        self._loader = DataLoader(guarded, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)

    def __iter__(self) -> Iterator[Any]:
        self.excluded.clear()
        for batch, paths, excluded in self._loader:
            self.paths = paths
            for row in excluded:
                self.exclude(**row)
            if batch is not None:
                yield batch

    def exclude(self, path: str, reason: str) -> None:
        """Leave out a case."""
        logger.warning("excluded: %s: %s", path, reason)
        self.excluded.append({"path": path, "reason": reason})


class _GuardedDataset(Dataset):
    """Items of a data set, or the row of `excluded.csv` in place of one that cannot be read."""

    def __init__(self, dataset: Dataset, cases: Sequence[Mapping[str, Any]]) -> None:
        self.dataset, self.names = dataset, [excluded_path(case) for case in cases]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        try:
            return self.names[index], self.dataset[index]
        except Exception as error:
            return self.names[index], _Unusable({"path": self.names[index], "reason": reason_of(error)})


class _Unusable(dict):
    """The row of a case that cannot be used."""


def _usable_batch(
    items: Sequence[tuple[str, Any]], collate_fn: Callable[[list[Any]], Any]
) -> tuple[Any, list[str], list[dict[str, str]]]:
    """A batch of the items that can be used, None without any; whose they are; and the rows of the others."""
    usable = [item for _, item in items if not isinstance(item, _Unusable)]
    paths = [path for path, item in items if not isinstance(item, _Unusable)]
    excluded = [dict(item) for _, item in items if isinstance(item, _Unusable)]
    return (collate_fn(usable) if usable else None), paths, excluded
