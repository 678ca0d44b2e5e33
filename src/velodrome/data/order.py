"""The order of rows in training: a pure function of (seed, epoch), cut into batches, that can be entered at any step.

An epoch is a permutation by a counter-based hash (`velodrome.core.counter`), so the order depends on nothing but its
arguments: not on who asked before, on how many workers share it, or on whether an epoch was prepared ahead. Resuming
a run is a seek. While one epoch is handed out a thread prepares the next, so that training does not wait for it.
A curriculum makes the first epochs shorter: each is a permutation of the rows that are eligible by then. Where they begin
is known from the pace alone, so a seek costs the same: one bisection, and the order of one epoch.
Cost: a hash and a stable argsort for each epoch, tens of milliseconds for a million rows; 8 bytes a row for two
epochs at a time. Above 2**27 rows the blocks are shuffled and the rows within each block, which bounds what the sort
needs.
"""

from bisect import bisect_right
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velodrome.core.counter import derive_seed, permutation
from velodrome.core.errors import DataError
from velodrome.data.curriculum import Curriculum

__all__ = ["BLOCK_ROWS", "EpochOrder"]

BLOCK_ROWS = 1 << 27
"""Rows that are shuffled as one; more are shuffled in blocks of this size. Part of what makes a run reproducible."""

_MAXIMUM_ROWS = 1 << 32


class EpochOrder:
    """Batches of row ids in shuffled order, epoch after epoch without end.

    Args:
        rows: how many rows (ids 0 .. rows - 1), or the ids themselves, each below 2**32.
        batch: rows in a batch; the last one of an epoch holds what is left. Where it is more than there are, an epoch is one
            batch of all rows.
        seed: every order is a function of it and the epoch.
        block: see `BLOCK_ROWS`.
        curriculum: with one, the ids are given easiest first (`curriculum.easiest_first`).

    Raises:
        DataError: there are no rows, more than 2**32, or an empty batch.
    """

    def __init__(
        self,
        rows: int | ArrayLike,
        batch: int,
        seed: int,
        block: int = BLOCK_ROWS,
        curriculum: Curriculum | None = None,
    ) -> None:
        self._ids = None if isinstance(rows, int) else np.asarray(rows, dtype=np.uint32)
        self.rows = rows if isinstance(rows, int) else int(np.size(rows))
        self.batch = batch
        self._seed = seed
        self._block = block
        if not 0 < self.rows <= _MAXIMUM_ROWS or batch < 1:
            raise DataError(
                "an order needs between 1 and 2**32 rows, and batches of 1 or more",
                received=f"{self.rows} rows in batches of {batch}",
                remedy="look at what left no rows: the source, the contract, the split; or give a batch of 1 or more",
            )
        self._starts, self._sizes = self._paced(curriculum)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch of all rows. So many epochs of training are so many times that, with a curriculum too: it
        changes which rows the steps see, not how many steps there are."""
        return -(-self.rows // self.batch)

    @property
    def largest(self) -> int:
        """The largest id."""
        return self.rows - 1 if self._ids is None else int(self._ids.max())

    def rows_in(self, epoch: int) -> int:
        """How many rows an epoch has: all of them, or the eligible ones while a curriculum lasts."""
        return self._sizes[epoch] if epoch < len(self._sizes) else self.rows

    def first_step(self, epoch: int) -> int:
        """The global step that an epoch begins with."""
        full = epoch - len(self._sizes)
        return self._starts[epoch] if full < 0 else self._starts[-1] + full * self.steps_per_epoch

    def epoch_of(self, step: int) -> int:
        """The epoch that a global step belongs to."""
        full = step - self._starts[-1]
        if full >= 0:
            return len(self._sizes) + full // self.steps_per_epoch
        return bisect_right(self._starts, step) - 1

    def epoch(self, number: int) -> NDArray[np.uint32]:
        """The ids of an epoch in their order, uint32 (rows_in(number),): each id once."""
        size = self.rows_in(number)
        order = permutation(size, self._seed, number) if size <= self._block else self._in_blocks(number, size)
        return order if self._ids is None else self._ids[order]

    def ids_of(self, step: int) -> NDArray[np.uint32]:
        """The ids of the batch of any step. Orders that whole epoch: to look at a batch, not to train."""
        epoch = self.epoch_of(step)
        start = (step - self.first_step(epoch)) * self.batch
        return self.epoch(epoch)[start : start + self.batch]

    def batches_from(self, step: int) -> Generator[tuple[int, NDArray[np.uint32]], None, None]:
        """(step, ids) from a global step on, without end; ids are uint32 (batch,), a view of the epoch's order.

        Closing it, or dropping it, ends its thread.
        """
        epoch = self.epoch_of(step)
        within = step - self.first_step(epoch)
        pool = ThreadPoolExecutor(1, thread_name_prefix="velodrome-order")
        try:
            order = self.epoch(epoch)
            while True:
                following = pool.submit(self.epoch, epoch + 1)
                for start in range(within * self.batch, len(order), self.batch):
                    yield step, order[start : start + self.batch]
                    step += 1
                order, epoch, within = following.result(), epoch + 1, 0
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _paced(self, curriculum: Curriculum | None) -> tuple[list[int], list[int]]:
        """The first step and the rows of each epoch before all rows take part, and the first step of the one that follows."""
        starts, sizes = [0], list[int]()
        while curriculum is not None:
            size = curriculum.eligible(self.rows, len(sizes), starts[-1])
            if size == self.rows:
                break
            sizes.append(size)
            starts.append(starts[-1] - (-size // self.batch))
        return starts, sizes

    def _in_blocks(self, epoch: int, size: int) -> NDArray[np.uint32]:
        order = np.empty(size, dtype=np.uint32)
        filled = 0
        for number in permutation(-(-size // self._block), self._seed, epoch).tolist():
            first = number * self._block
            inside = permutation(min(self._block, size - first), derive_seed(self._seed, number), epoch)
            order[filled : filled + len(inside)] = inside + np.uint32(first)
            filled += len(inside)
        return order
