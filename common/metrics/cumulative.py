"""Accumulate rows over batches and processes; the base of the metrics that need all cases at once."""

from __future__ import annotations

import math
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.metrics import Cumulative
from monai.utils import convert_to_tensor, evenly_divisible_all_gather

_UNNAMED = -1


class CumulativeMetric(Cumulative):
    """Rows of numbers, one per case, kept in float64 on the CPU until all processes bring theirs together.

    A sampler that deals equal shares to several processes repeats cases to fill the last one; those would count twice.
    Give the index of each case in the data set: a case then counts once, in the order of the indices, and the result is
    that of one process. Without indices every row counts.

    Every process must ask for the result, also one that was dealt no case.

    Args:
        columns: columns of each kind of rows that `update` adds.
        metric: one key of the summary of `compute`, to be the only value of `aggregate`.
    """

    def __init__(self, columns: tuple[int, ...], metric: str | None = None) -> None:
        self._columns, self.metric = columns, metric
        super().__init__()

    def add(self, *rows: Any, cases: Any = None) -> None:
        """Add a batch.

        Args:
            rows: for each kind, (B, columns).
            cases: (B,) index of every case in the data set, from 0.

        Raises:
            ValueError: if the sizes of the batch differ, or an index is negative.
        """
        arrays = [convert_to_tensor(array, track_meta=False).detach().double().cpu() for array in rows]
        shapes = [(len(arrays[0]), columns) for columns in self._columns]
        if [tuple(array.shape) for array in arrays] != shapes:
            raise ValueError(f"A batch holds {[tuple(array.shape) for array in arrays]}, expected {shapes}.")
        index = torch.full((len(arrays[0]),), _UNNAMED) if cases is None else torch.as_tensor(cases).long().cpu()
        if index.shape != (len(arrays[0]),) or (cases is not None and len(index) and index.min() < 0):
            raise ValueError(f"The cases are {index.tolist()}, expected an index from 0 for each of {len(arrays[0])}.")
        self.extend(*arrays, index)

    def gather(self) -> list[np.ndarray]:
        """The rows of all processes, each kind (n, columns) float64, every indexed case once.

        Raises:
            ValueError: if some cases have an index and others none, or two rows of one case differ.
        """
        *rows, index = (tensor.numpy() for tensor in self.get_buffer())
        if (index == _UNNAMED).all():
            return rows
        if (index == _UNNAMED).any():
            raise ValueError("Some cases were added with an index and others without, expected one or the other.")
        _, first, inverse = np.unique(index, return_index=True, return_inverse=True)
        for array in rows:
            differs = ~np.isclose(array, array[first][inverse], rtol=1e-5, atol=1e-6, equal_nan=True).all(axis=1)
            if differs.any():
                raise ValueError(f"Case {index[differs][0]} was added twice with different values, expected it once.")
        return [array[first] for array in rows]

    def aggregate(self) -> dict[str, float] | float:
        """Plain numbers for a handler, undefined ones absent; with `metric` that number, NaN if it is undefined."""
        summary = self.compute(draws=0).summary()
        return summary if self.metric is None else summary.get(self.metric, math.nan)

    def _sync(self) -> None:
        # MONAI's own returns at once in a process without rows, and the others would wait for it for ever.
        if self._synced:
            return
        kinds = self._buffers or [[] for _ in range(len(self._columns) + 1)]
        empty = [torch.empty((0, columns), dtype=torch.float64) for columns in self._columns]
        empty.append(torch.empty((0,), dtype=torch.long))
        tensors = [torch.stack(kind) if kind else none for kind, none in zip(kinds, empty, strict=True)]
        if idist.get_world_size() > 1:
            tensors = [evenly_divisible_all_gather(tensor.to(idist.device())).cpu() for tensor in tensors]
        self._synced_tensors = tensors
        self._synced = True
