"""Batches as tensors: rows gathered from memory-mapped blocks (or arrays in memory), handed out by field name.

A batch is one gather for each block into fresh memory, and the fields are views of it, so nothing that a step keeps is
overwritten by the next. There are no worker processes: the gather is memory-bound, and a process would only add a copy.
Cost: within a few µs of the bare gather for a small batch, at its speed for a large one.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from velodrome.core.errors import DataError
from velodrome.data.layout import CODES, NUMBERS, Layout, places
from velodrome.data.order import EpochOrder

__all__ = ["Batch", "TensorBatches"]

Batch: TypeAlias = tuple[NDArray[np.uint32], dict[str, torch.Tensor], torch.Tensor]
"""Row ids uint32 (batch,), inputs by field name (batch, *shape), target (batch,)."""


class TensorBatches:
    """Prepared rows as batches of tensors in the order of `order`.

    Args:
        source: a layout, or arrays by input name, each (rows, ...).
        order: of ids below the number of rows.
        target: (rows,); taken from a layout where it is not given.

    Raises:
        DataError: arrays of different lengths, no target, or an order of ids beyond the rows.
    """

    def __init__(self, source: Layout | Mapping[str, NDArray[Any]], order: EpochOrder, target: NDArray[Any] | None = None) -> None:
        self._gather = _Blocks(source) if isinstance(source, Layout) else _Arrays(source)
