"""Batches as tensors: rows gathered from memory-mapped blocks (or arrays in memory), handed out by field name.

A batch is one gather for each block into fresh memory, and the fields are views of it, so nothing that a step keeps
is overwritten by the next. There are no worker processes: the gather is memory-bound, and a process would only add a
copy.
Cost: some 10 µs beyond the bare copy for a small batch, the gather's own speed for a large one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        for _, ids in self._order.batches_from(step):
            index = ids.astype(np.intp)
            inputs: dict[str, torch.Tensor] = {}
            for array, names, cut in self._blocks:
                inputs.update(zip(names, cut(_gathered(array, index)), strict=True))
            yield ids, inputs, _gathered(self._target, index)


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
    # The ids are known to be in range; "clip" spares numpy the check and the buffer that it would need to raise.
    return torch.from_numpy(array.take(index, axis=0, mode="clip"))
