"""The training layout: prepared rows on disk, row after row, as memory maps that runs, trials and workers share.

All float32 fields lie side by side in one block `numbers` (rows, F), all codes in another, `codes` (rows, C), and the
target in a third, so that a batch of rows is three gathers however many fields there are. A layout is named by the
digest of what it was made from, lives in the workspace's cache, and can be made again at any time: a damaged one is.
Cost: one write of the prepared rows (block-wise, so little memory beyond them); opening reads every byte once to
verify it.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velodrome.core.digest import is_digest
from velodrome.core.errors import DataError, IntegrityError, StorageError
from velodrome.data.fields import Field, width
from velodrome.store.arrays import map_arrays, write_arrays
from velodrome.store.files import publish_folder, remove_tree, temporary_folder, write_atomic
from velodrome.store.workspace import Workspace

__all__ = [
    "CODES",
    "NUMBERS",
    "SOURCE",
    "TARGET",
    "Layout",
    "Place",
    "Prepared",
    "layouts_beyond",
    "materialise",
    "places",
]

NUMBERS, CODES, TARGET = "numbers", "codes", "target"

SOURCE = "snapshot"
"""The file of a layout that names the snapshot it was made from, with whose collection it goes."""

Prepared: TypeAlias = tuple[Mapping[str, NDArray[Any]], NDArray[Any]]
"""Inputs by field name, each (rows, *shape), and the target (rows,)."""

_CHUNK_ROWS = 1 << 16
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field lies: columns `start` to `stop` of a block; a field of one column is handed out as (rows,)."""

    field: Field
    block: str
    start: int
    stop: int

    def of(self, block: Any) -> Any:
        """The field as a view of (rows of) its block, an array or a tensor: (rows,) or (rows, k)."""
        return block[:, self.start : self.stop] if self.field.shape else block[:, self.start]


@dataclass(frozen=True, slots=True)
class Layout:
    """Prepared rows.

    Attributes:
        fields: what a row holds, in the order of the preparation's outputs.
        arrays: the memory-mapped blocks: "numbers" float32 (rows, F), "codes" int64 (rows, C), "target" (rows,).
    """

    fields: tuple[Field, ...]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def rows(self) -> int:
        return len(self.target)

    @property
    def target(self) -> NDArray[Any]:
        """Codes of the label, int64, or its values, float32."""
        return self.arrays[TARGET]

    def take(self, ids: ArrayLike) -> dict[str, NDArray[Any]]:
        """The inputs of some rows by field name: (len(ids), *shape), views of one gathered block for each dtype.

        Args:
            ids: row numbers, each in 0 .. rows - 1.
        """
        index = np.asarray(ids, dtype=np.intp)
        blocks = {name: self.arrays[name].take(index, axis=0) for name in (NUMBERS, CODES)}
        return {place.field.name: place.of(blocks[place.block]) for place in places(self.fields)}


def places(fields: Sequence[Field]) -> tuple[Place, ...]:
    """Where each field lies in the blocks: in their order, numbers and codes each from the left."""
    ends = {NUMBERS: 0, CODES: 0}
    found = []
    for field in fields:
        block = CODES if field.dtype == "int64" else NUMBERS
        start = ends[block]
        ends[block] = start + width(field)
        found.append(Place(field, block, start, ends[block]))
    return tuple(found)


def materialise(
    ws: Workspace, name: str, fields: Sequence[Field], produce: Callable[[], Prepared], snapshot: str = ""
) -> Layout:
    """The layout of that name; made from `produce()` where it is missing or damaged.

    Several processes may ask at once: each makes it, one is first, and all use that one's.

    Args:
        name: digest of everything that `produce` depends on.
        fields: what the inputs hold.
        produce: pure; called only if the layout must be made. Targets of floats are kept as float32, others as int64.
        snapshot: what it is made from, if that is one.

    Raises:
        DataError: what was produced does not fit the fields.
        StorageError: the disk refused, or whatever is written comes back damaged.
    """
    if not is_digest(name):
        raise StorageError("a layout is named by the digest of what it is made from", received=name)
    folder = ws.cache / "layouts" / name
    for _ in range(_ATTEMPTS):
        if not folder.is_dir():
            _make(folder, fields, produce, snapshot)
        try:
            return Layout(tuple(fields), _open(folder, fields))
        except IntegrityError:
            remove_tree(folder)  # a cache: what is damaged is made again
    raise StorageError(
        f"a training layout comes back damaged {_ATTEMPTS} times",
        received=str(folder),
        remedy="check the disk and its free space",
    )


def layouts_beyond(ws: Workspace, kept: Container[str], before: datetime) -> list[Path]:
    """The folders of layouts that were made before a moment, and whose snapshots are not among the kept ones."""
    found = []
    for path in (ws.cache / "layouts").glob(f"[!.]*/{SOURCE}"):
        with suppress(FileNotFoundError):  # somebody else removes it
            old, snapshot = path.stat().st_mtime < before.timestamp(), path.read_text()
            if old and snapshot and snapshot not in kept:
                found.append(path.parent)
    return sorted(found)


def _make(folder: Path, fields: Sequence[Field], produce: Callable[[], Prepared], snapshot: str) -> None:
    inputs, target = produce()
    _check(fields, inputs, target)
    with temporary_folder(folder.parent) as temporary:
        write_arrays(temporary, _chunks(fields, inputs, target))
        write_atomic(temporary / SOURCE, snapshot.encode())
        publish_folder(temporary, folder)


def _open(folder: Path, fields: Sequence[Field]) -> dict[str, NDArray[Any]]:
    arrays = map_arrays(folder)
    if arrays.keys() != {NUMBERS, CODES, TARGET} or any(
        arrays[p.block].ndim != 2 or p.stop > arrays[p.block].shape[1] for p in places(fields)
    ):
        raise IntegrityError(
            "a training layout does not hold the fields that its name stands for", received=str(folder)
        )
    return arrays


def _check(fields: Sequence[Field], inputs: Mapping[str, NDArray[Any]], target: NDArray[Any]) -> None:
    if target.ndim != 1:
        raise DataError("the target of a training layout has one value for each row", received=f"shape {target.shape}")
    for field in fields:
        shape = inputs[field.name].shape if field.name in inputs else None
        if shape != (len(target), *field.shape):
            raise DataError(
                f"the rows of field {field.name!r} have the shape {(len(target), *field.shape)}",
                received=f"shape {shape}",
            )


def _chunks(
    fields: Sequence[Field], inputs: Mapping[str, NDArray[Any]], target: NDArray[Any]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Some rows of each block after the other; one empty chunk where there are no rows."""
    where = places(fields)
    kind = np.float32 if target.dtype.kind == "f" else np.int64
    for start in range(0, max(len(target), 1), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        chunk: dict[str, NDArray[Any]] = {TARGET: target[rows].astype(kind)}
        for block, dtype in ((NUMBERS, "float32"), (CODES, "int64")):
            columns = max((place.stop for place in where if place.block == block), default=0)
            chunk[block] = np.empty((len(chunk[TARGET]), columns), dtype)
        for place in where:
            place.of(chunk[place.block])[...] = inputs[place.field.name][rows]
        yield chunk
