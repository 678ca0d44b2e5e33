"""The order of rows in training: a pure function of (seed, epoch), cut into batches, that can be entered at any step.

An epoch is a permutation by a counter-based hash (`velodrome.core.counter`), so the order depends on nothing but its
arguments: not on who asked before, on how many workers share it, or on whether an epoch was prepared ahead. Resuming
a run is a seek. While one epoch is handed out a thread prepares the next, so that training does not wait for it.
Cost: a hash and a stable argsort for each epoch, tens of milliseconds for a million rows; 8 bytes a row for two
epochs at a time. Above 2**27 rows the blocks are shuffled and the rows within each block, which bounds what the sort
needs.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velodrome.core.counter import derive_seed, permutation
from velodrome.core.errors import DataError

__all__ = ["BLOCK_ROWS", "EpochOrder"]

BLOCK_ROWS = 1 << 27
"""Rows that are shuffled as one; more are shuffled in blocks of this size. Part of what makes a run reproducible."""

_MAXIMUM_ROWS = 1 << 32


class EpochOrder:
    """Batches of row ids in shuffled order, epoch after epoch without end.

    Args:
        rows: how many rows (ids 0 .. rows - 1), or the ids themselves, each below 2**32.
        batch: rows in a batch; the last one of an epoch holds what is left.
        seed: every order is a function of it and the epoch.
        block: see `BLOCK_ROWS`.

    Raises:
        DataError: there are no rows, more than 2**32, or an empty batch.
    """

    def __init__(self, rows: int | ArrayLike, batch: int, seed: int, block: int = BLOCK_ROWS) -> None:
        self._ids = None if isinstance(rows, int) else np.asarray(rows, dtype=np.uint32)
        self.rows = rows if isinstance(rows, int) else int(np.size(rows))
        self.batch = batch
        self._seed = seed
        self._block = block
        if not 0 < self.rows <= _MAXIMUM_ROWS or batch < 1:
            raise DataError(
                "an order needs between 1 and 2**32 rows, and batches of 1 or more",
                received=f"{self.rows} rows in batches of {batch}",
            )

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.batch)

    @property
    def largest(self) -> int:
        """The largest id."""
        return self.rows - 1 if self._ids is None else int(self._ids.max())

    def epoch(self, number: int) -> NDArray[np.uint32]:
        """The ids of an epoch in their order, uint32 (rows,): each id once."""
        order = permutation(self.rows, self._seed, number) if self.rows <= self._block else self._in_blocks(number)
        return order if self._ids is None else self._ids[order]

    def ids_of(self, step: int) -> NDArray[np.uint32]:
        """The ids of the batch of any step. Orders that whole epoch: to look at a batch, not to train."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[within * self.batch : (within + 1) * self.batch]

    def batches_from(self, step: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        """(step, ids) from a global step on, without end; ids are uint32 (batch,), a view of the epoch's order."""
        epoch, within = divmod(step, self.steps_per_epoch)
        pool = ThreadPoolExecutor(1, thread_name_prefix="velodrome-order")
        try:
            order = self.epoch(epoch)
            while True:
                following = pool.submit(self.epoch, epoch + 1)
                for start in range(within * self.batch, self.rows, self.batch):
                    yield step, order[start : start + self.batch]
                    step += 1
                order, epoch, within = following.result(), epoch + 1, 0
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _in_blocks(self, epoch: int) -> NDArray[np.uint32]:
        order = np.empty(self.rows, dtype=np.uint32)
        filled = 0
        for number in permutation(-(-self.rows // self._block), self._seed, epoch).tolist():
            first = number * self._block
            inside = permutation(min(self._block, self.rows - first), derive_seed(self._seed, number), epoch)
            order[filled : filled + len(inside)] = inside + np.uint32(first)
            filled += len(inside)
        return order
