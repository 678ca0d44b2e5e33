"""Batches as tensors: rows gathered from memory-mapped blocks, arrays in memory or data of one's own, by field name.

Small batches are gathered several at once, each block into fresh memory, and the fields of a batch are views of it: nothing
that a step keeps is overwritten by a later one, but it keeps its whole gather alive. Augmentation changes the gathered rows
in place. Gathers may be made ahead in threads; what they are does not depend on it (`velodrome.data.loader`).
The last bits of a matrix product may depend on where in memory its operands begin. So the memory begins at a multiple of 64
bytes, and gathers begin at multiples of a fixed number of steps: a resumed run finds each batch where the first one did.
What data of one's own answers with is copied for the same reason, and since it may use its memory again.
Cost: a few µs beyond the bare copy for a small batch, the gather's own speed for a large one.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any, TypeAlias
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray

from velodrome.core.errors import DataError, RecipeError
from velodrome.data.augmentation import Augmentation, augment, counters
from velodrome.data.layout import CODES, NUMBERS, Layout, Place, places
from velodrome.data.loader import prefetched
from velodrome.data.order import EpochOrder
from velodrome.data.own import OwnData, OwnRows

__all__ = ["Batch", "TensorBatches"]

Batch: TypeAlias = tuple[NDArray[np.uint32], dict[str, torch.Tensor], torch.Tensor]
"""Row ids uint32 (batch,), inputs by field name (batch, *shape), target (batch,)."""

_TOGETHER_BATCHES, _TOGETHER_BYTES = 64, 1 << 21
"""Most of what is gathered at once: enough to pay a gather's fixed cost once, little enough to stay in the cache."""

_Group: TypeAlias = list[tuple[int, NDArray[np.uint32]]]
"""Step and ids of each batch of a gather."""


class TensorBatches:
    """Prepared rows as batches of tensors.

    Args:
        source: a layout, arrays by input name, each (rows, ...), or data of one's own.
        order: of ids below the number of rows.
        target: (rows, ...); a layout and data of one's own bring theirs.
        augment: what is done to the inputs, in this order.
        seed: of the augmentation.
        workers: threads that prepare batches ahead; 0: each is prepared when it is taken.

    Raises:
        DataError: no target, arrays of different lengths, or ids beyond the rows.
        RecipeError: an augmentation that does not fit the inputs, or fewer than 0 workers.
    """

    def __init__(
        self,
        source: Layout | Mapping[str, NDArray[Any]] | OwnData | OwnRows,
        order: EpochOrder,
        target: NDArray[Any] | None = None,
        *,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self._order, self._augment, self._seed, self._workers = order, tuple(augment), seed, workers
        self._source = _Asked(source) if isinstance(source, OwnData | OwnRows) else _Stored(source, target)
        if order.largest >= self._source.rows:
            raise DataError(
                "an order and its source are of the same rows",
                received=f"ids up to {order.largest} of {self._source.rows} rows",
            )
        if workers < 0:
            raise RecipeError("workers are 0 or more", received=workers)
        self._together = self._source.together(order.batch)
        self._open: WeakSet[Generator[Batch, None, None]] = WeakSet()
        if self._augment:
            self._change(self._source.none(), [])  # refuses now what would not fit later

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def batches_from(self, step: int) -> Generator[Batch, None, None]:
        """The batches from a global step on, epoch after epoch without end.

        Closing it, or dropping it, ends its threads.

        Raises:
            SourceError, DataError: where data of one's own fails, at the batch that it fails for.
        """
        stream = self._stream(step)
        self._open.add(stream)
        return stream

    def close(self) -> None:
        """End the threads of all that `batches_from` handed out, which gives no further batch."""
        for stream in list(self._open):
            stream.close()

    def _stream(self, step: int) -> Generator[Batch, None, None]:
        skipped = step % self._together
        with closing(self._order.batches_from(step - skipped)) as order:
            groups = (list(islice(order, self._together)) for _ in count())
            if not self._workers:
                yield from islice(chain.from_iterable(map(self._gather, groups)), skipped, None)
                return
            with closing(prefetched(lambda group: list(self._gather(group)), groups, self._workers)) as gathers:
                yield from islice(chain.from_iterable(gathers), skipped, None)

    def _gather(self, group: _Group) -> Iterator[Batch]:
        ids = [each for _, each in group]
        rows = self._source.gather(np.concatenate(ids).astype(np.intp))
        if self._augment:
            self._change(rows, group)
        return rows.cut(ids)

    def _change(self, rows: "_Rows", group: _Group) -> None:
        drawn = [counters(self._order.epoch_of(step), ids) for step, ids in group]
        augment(self._augment, rows.arrays(), np.concatenate([np.empty(0, np.uint64), *drawn]), self._seed)


_Pieces: TypeAlias = Iterable[Sequence[torch.Tensor]]
"""For each field of a part, its batches."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The fields that lie in one block of memory: their names, and how a block is cut into them without a copy.

    Attributes:
        pieces: takes a block cut into batches.
        arrays: takes a block as an array.
    """

    names: tuple[str, ...]
    pieces: Callable[[Sequence[torch.Tensor]], _Pieces]
    arrays: Callable[[NDArray[Any]], Iterable[NDArray[Any]]]


def _whole(name: str) -> _Part:
    return _Part((name,), lambda batches: (batches,), lambda block: (block,))


def _columns(held: Sequence[Place]) -> _Part:
    def pieces(batches: Sequence[torch.Tensor]) -> _Pieces:
        if any(place.field.shape for place in held):
            return [[place.of(batch) for batch in batches] for place in held]
        # One call for a block of single columns costs what one slice does.
        return zip(*(batch.unbind(1) for batch in batches), strict=True)

    return _Part(tuple(place.field.name for place in held), pieces, lambda block: [place.of(block) for place in held])


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows in memory of their own: a tensor for each part, and the target."""

    parts: Sequence[_Part]
    blocks: Sequence[torch.Tensor]
    target: torch.Tensor

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields as arrays that share the tensors' memory."""
        fields = [part.arrays(block.numpy()) for part, block in zip(self.parts, self.blocks, strict=True)]
        return dict(zip(_names(self.parts), chain.from_iterable(fields), strict=True))

    def cut(self, ids: Sequence[NDArray[np.uint32]]) -> Iterator[Batch]:
        """The rows as the batches of these ids, in views."""
        names, lengths = _names(self.parts), [len(each) for each in ids]
        fields = [
            pieces
            for part, block in zip(self.parts, self.blocks, strict=True)
            for pieces in part.pieces(block.split_with_sizes(lengths))
        ]
        targets = self.target.split_with_sizes(lengths)
        return (
            (each, dict(zip(names, values, strict=True)), target)
            for each, target, *values in zip(ids, targets, *fields, strict=True)
        )


class _Stored:
    """A source of arrays that are gathered from."""

    def __init__(self, source: Layout | Mapping[str, NDArray[Any]], target: NDArray[Any] | None) -> None:
        arrays = _layout_parts(source) if isinstance(source, Layout) else [(_whole(n), a) for n, a in source.items()]
        self._parts, self._arrays = [part for part, _ in arrays], [array for _, array in arrays]
        chosen = source.target if isinstance(source, Layout) and target is None else target
        if chosen is None:
            raise DataError("batches need a target", remedy="TensorBatches(arrays, order, target=...)")
        self._target, self.rows = chosen, len(chosen)
        if {len(array) for array in self._arrays} - {self.rows}:
            raise DataError(
                f"inputs and target are of the same rows: the target has {self.rows}",
                received=f"inputs of {', '.join(str(len(array)) for array in self._arrays)} rows",
            )

    def together(self, batch: int) -> int:
        """How many batches are gathered at once."""
        row = sum(array[:1].nbytes for array in self._arrays)
        return max(1, min(_TOGETHER_BATCHES, _TOGETHER_BYTES // max(1, row * batch)))

    def gather(self, index: NDArray[np.intp]) -> _Rows:
        return _Rows(self._parts, [_gathered(array, index) for array in self._arrays], _gathered(self._target, index))

    def none(self) -> _Rows:
        return self.gather(np.empty(0, np.intp))


class _Asked:
    """A source of one's own, asked for one batch at a time, so that an error belongs to its batch."""

    def __init__(self, data: OwnData | OwnRows) -> None:
        self._take = data.take if isinstance(data, OwnData) else data.batch
        self._fields, self.rows = data.fields, data.rows
        self._parts = [_whole(field.name) for field in data.fields]

    def together(self, batch: int) -> int:
        return 1

    def gather(self, index: NDArray[np.intp]) -> _Rows:
        inputs, target = self._take(index)
        return _Rows(self._parts, [_copied(values) for values in inputs.values()], _copied(target))

    def none(self) -> _Rows:
        blocks = [_copied(np.empty((0, *field.shape), field.dtype)) for field in self._fields]
        return _Rows(self._parts, blocks, torch.empty(0))


def _layout_parts(layout: Layout) -> list[tuple[_Part, NDArray[Any]]]:
    where = places(layout.fields)
    blocks = [([place for place in where if place.block == name], layout.arrays[name]) for name in (NUMBERS, CODES)]
    return [(_columns(held), array) for held, array in blocks if held]


def _names(parts: Sequence[_Part]) -> list[str]:
    return [name for part in parts for name in part.names]


def _gathered(array: NDArray[Any], index: NDArray[np.intp]) -> torch.Tensor:
    rows = _fresh(len(index), array)
    # The ids are known to be in range; "clip" spares numpy the check and the buffer that it would need to raise.
    array.take(index, axis=0, out=rows.numpy(), mode="clip")
    return rows


def _copied(array: NDArray[Any]) -> torch.Tensor:
    rows = _fresh(len(array), array)
    rows.numpy()[...] = array
    return rows


def _fresh(rows: int, like: NDArray[Any]) -> torch.Tensor:
    """Memory of torch's own, which begins at a multiple of 64 bytes, for rows like those of an array."""
    return torch.from_numpy(np.empty(0, like.dtype)).new_empty((rows, *like.shape[1:]))
