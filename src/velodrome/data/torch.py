"""Batches as tensors: rows gathered from memory-mapped blocks (or arrays in memory), handed out by field name.

Small batches are gathered several at once, each block into fresh memory, and the fields of a batch are views of it: nothing
that a step keeps is overwritten by a later one, but it keeps its whole gather alive. There are no worker processes: the
gather is memory-bound, and a process would only add a copy.
The last bits of a matrix product may depend on where in memory its operands begin. So the memory begins at a multiple of 64
bytes, and gathers begin at multiples of a fixed number of steps: a resumed run finds each batch where the first one did.
Cost: a few µs beyond the bare copy for a small batch, the gather's own speed for a large one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from velodrome.core.errors import DataError
from velodrome.data.layout import CODES, NUMBERS, Layout, Place, places
from velodrome.data.order import EpochOrder

__all__ = ["Batch", "TensorBatches"]

Batch: TypeAlias = tuple[NDArray[np.uint32], dict[str, torch.Tensor], torch.Tensor]
"""Row ids uint32 (batch,), inputs by field name (batch, *shape), target (batch,)."""

_TOGETHER_BATCHES, _TOGETHER_BYTES = 64, 1 << 21
"""Most of what is gathered at once: enough to pay a gather's fixed cost once, little enough to stay in the cache."""

_Cut: TypeAlias = Callable[[torch.Tensor], Iterable[torch.Tensor]]


class TensorBatches:
    """Prepared rows as batches of tensors.

    Args:
        source: a layout, or arrays by input name, each (rows, ...).
        order: of ids below the number of rows.
        target: (rows,); a layout brings its own.

    Raises:
        DataError: no target, arrays of different lengths, or ids beyond the rows.
    """

    def __init__(
        self, source: Layout | Mapping[str, NDArray[Any]], order: EpochOrder, target: NDArray[Any] | None = None
    ) -> None:
        self._order = order
        self._blocks = (
            _layout_blocks(source)
            if isinstance(source, Layout)
            else [(array, (name,), _whole) for name, array in source.items()]
        )
        chosen = source.target if isinstance(source, Layout) and target is None else target
        if chosen is None:
            raise DataError("batches need a target", remedy="TensorBatches(arrays, order, target=...)")
        self._target = chosen
        if {len(array) for array, _, _ in self._blocks} - {len(chosen)} or order.largest >= len(chosen):
            lengths = ", ".join(str(len(array)) for array, _, _ in self._blocks)
            raise DataError(
                f"inputs, target and order are of the same rows: the target has {len(chosen)}",
                received=f"inputs of {lengths} rows, ids up to {order.largest}",
            )

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def batches_from(self, step: int) -> Iterator[Batch]:
        """The batches from a global step on, epoch after epoch without end."""
        together = self._together()
        order = self._order.batches_from(step - step % together)
        gathers = (self._gather([ids for _, ids in islice(order, together)]) for _ in count())
        return islice(chain.from_iterable(gathers), step % together, None)

    def _together(self) -> int:
        """How many batches are gathered at once."""
        row = sum(array[:1].nbytes for array, _, _ in self._blocks)
        return max(1, min(_TOGETHER_BATCHES, _TOGETHER_BYTES // max(1, row * self._order.batch)))

    def _gather(self, ids: list[NDArray[np.uint32]]) -> Iterator[Batch]:
        index, lengths = np.concatenate(ids).astype(np.intp), [len(each) for each in ids]
        names = [name for _, names, _ in self._blocks for name in names]
        cuts = [cut for _, _, cut in self._blocks]
        blocks = [_gathered(array, index).split_with_sizes(lengths) for array, _, _ in self._blocks]
        targets = _gathered(self._target, index).split_with_sizes(lengths)
        for each, target, *parts in zip(ids, targets, *blocks, strict=True):
            fields = chain.from_iterable(cut(part) for cut, part in zip(cuts, parts, strict=True))
            yield each, dict(zip(names, fields, strict=True)), target


def _layout_blocks(layout: Layout) -> list[tuple[NDArray[Any], tuple[str, ...], _Cut]]:
    where = places(layout.fields)
    blocks = [(layout.arrays[name], [place for place in where if place.block == name]) for name in (NUMBERS, CODES)]
    return [(array, tuple(place.field.name for place in held), _cutter(held)) for array, held in blocks if held]


def _cutter(held: Sequence[Place]) -> _Cut:
    # One call for a block of single columns costs what one slice does.
    if any(place.field.shape for place in held):
        return lambda block: [place.of(block) for place in held]
    return lambda block: block.unbind(1)


def _whole(block: torch.Tensor) -> Iterable[torch.Tensor]:
    return (block,)


def _gathered(array: NDArray[Any], index: NDArray[np.intp]) -> torch.Tensor:
    rows = torch.from_numpy(np.empty(0, array.dtype)).new_empty((len(index), *array.shape[1:]))
    # The ids are known to be in range; "clip" spares numpy the check and the buffer that it would need to raise.
    array.take(index, axis=0, out=rows.numpy(), mode="clip")
    return rows
