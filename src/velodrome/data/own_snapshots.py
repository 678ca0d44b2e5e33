"""Snapshots of data of one's own: a dataset named as it was, of which no row is kept.

The rows stay where the user has them. A snapshot says how many there are, what a row holds, and the name of the content; so it
is an immutable input of a run as a snapshot of files is, and the same data is the same snapshot on every machine. Before
anything rests on an older snapshot again (`prove`, `reproduce`) the data is held to it.
Data that names itself, by an attribute `digest`, is believed, but for its first and its last row, which are read anyhow.
Cost: without a `digest`, a read of all rows each time.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from velodrome.core.digest import Digest, digest_json
from velodrome.core.errors import DataError, NotFound, SourceError, VelodromeError, nearest
from velodrome.core.units import parse_duration
from velodrome.core.values import Record
from velodrome.data.dataset import Dataset
from velodrome.data.keys import hash_places
from velodrome.data.newest import publish
from velodrome.data.own import TIMES, OwnData, Rows
from velodrome.data.snapshots import Snapshot, row_keys
from velodrome.data.sources import Own
from velodrome.store.ledger import digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = [
    "AnySnapshot",
    "Array",
    "OwnSnapshot",
    "OwnTaken",
    "keys_of",
    "own_keys",
    "read_snapshot",
    "retake",
    "take_own",
]


class Array(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One array of the data: the type and shape of what it holds for a row."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class OwnSnapshot(Record, frozen=True, kw_only=True, tag="own_snapshot"):
    """Data of one's own as it was.

    Attributes:
        arrays: by name, the label among them.
        content: the name of all values: what the data calls itself, or the digest of all rows.
        ends: digest of the first and the last row.
    """

    format: Literal[1] = 1
    dataset: str
    time: str | None
    rows: int
    arrays: tuple[Array, ...]
    content: Digest
    ends: Digest

    @property
    def quarantined(self) -> int:
        """None: no contract keeps rows of one's own aside."""
        return 0


AnySnapshot: TypeAlias = Snapshot | OwnSnapshot


@dataclass(frozen=True, slots=True)
class OwnTaken:
    """A snapshot of data of one's own, and that data."""

    digest: Digest
    snapshot: OwnSnapshot
    data: OwnData


def take_own(ws: Workspace, dataset: Dataset, label: str) -> OwnTaken:
    """The data as it is now, named and recorded.

    Raises:
        SourceError: it cannot be loaded or read; the row is named.
        DataError: it holds no label or time of that name, is no data (`OwnData`), or calls itself what it is not.
    """
    with ws.writing():
        taken = _take(ws, dataset, label)
        pointer = ws.ledger.pointer(f"dataset:{dataset.name}")
        if pointer and pointer.value:
            _require_honest(read_snapshot(ws, pointer.value), taken.snapshot)
        publish(ws, taken.snapshot, dataset.name, [], {"rows": taken.snapshot.rows})
        return taken


def retake(ws: Workspace, dataset: Dataset, label: str, digest: Digest) -> OwnTaken:
    """The data as it was when that snapshot was taken.

    Raises:
        DataError: it is not that any more. As `take_own`.
    """
    taken, then = _take(ws, dataset, label), read_record(ws.ledger, digest, OwnSnapshot)
    _require_honest(then, taken.snapshot)
    if taken.digest != digest:
        raise DataError(
            f"the data of {dataset.name!r} is not what the run learned from",
            received=f"{_told(taken.snapshot)}; then {_told(then)}",
            remedy="bring back the data of then where load= finds it; of data of one's own velodrome keeps no row",
        )
    return taken


def read_snapshot(ws: Workspace, digest: Digest | str) -> AnySnapshot:
    """A snapshot of either kind. Raises as `read_record`."""
    stored = ws.ledger.get(digest)
    if stored is not None and stored.kind == OwnSnapshot.kind():
        return read_record(ws.ledger, digest, OwnSnapshot)
    return read_record(ws.ledger, digest, Snapshot)


def keys_of(ws: Workspace, snapshot: AnySnapshot) -> npt.NDArray[np.uint64]:
    """The number that identifies each row, uint64 (rows,); see `row_keys` and `own_keys`."""
    return own_keys(snapshot) if isinstance(snapshot, OwnSnapshot) else row_keys(ws, snapshot)


def own_keys(snapshot: OwnSnapshot) -> npt.NDArray[np.uint64]:
    """From the dataset's name and the row's number: a row keeps its part of a split when others are appended."""
    return hash_places(digest_json(["own", snapshot.dataset]), np.arange(1, snapshot.rows + 1))


def _take(ws: Workspace, dataset: Dataset, label: str) -> OwnTaken:
    assert isinstance(dataset.source, Own)
    patience = dataset.source.patience
    data = OwnData(_loaded(dataset.source), label, parse_duration(patience).total_seconds() if patience else None)
    data.require_steady()
    _require_time(data, dataset.time)
    snapshot = OwnSnapshot(
        dataset=dataset.name,
        time=dataset.time,
        rows=data.rows,
        arrays=tuple(Array(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in data.kinds.items()),
        content=data.digest(ws.progress, keep=[label, *([dataset.time] if dataset.time else [])]),
        ends=data.ends,
    )
    return OwnTaken(digest_record(snapshot), snapshot, data)


def _loaded(source: Own) -> Rows:
    try:
        data: Rows = source.load()
    except VelodromeError:
        raise
    except Exception as error:
        raise SourceError(
            f"data of one's own cannot be loaded: {type(error).__name__}: {error}",
            received=f"{source.load.__module__}:{source.load.__qualname__}",
            remedy="mend that function. It is called without arguments, and by prove and reproduce from a copy of the code: "
            "let it find files from the working directory or the root, not from __file__",
        ) from error
    return data


def _require_time(data: OwnData, time: str | None) -> None:
    if time is None:
        return
    if time not in data.kinds:
        raise NotFound("the data has no such array", received=f"time={time!r}", remedy=nearest(time, data.kinds))
    if data.kinds[time] != (TIMES, ()):
        raise DataError(
            f"the time {time!r} of data of one's own is one datetime64 for each row",
            received=f"{data.kinds[time][0]} of shape {('n', *data.kinds[time][1])}",
            remedy='answer with values.astype("datetime64[us]")',
        )


def _require_honest(then: AnySnapshot, now: OwnSnapshot) -> None:
    """Refuse data that calls itself as before and is another."""
    if isinstance(then, OwnSnapshot) and then.content == now.content:
        same = ("rows", "arrays", "ends")
        changed = [name for name in same if getattr(then, name) != getattr(now, name)]
        if changed:
            raise DataError(
                f"the data of {now.dataset!r} has the digest of the snapshot before, and other {changed[0]}",
                received=f"{_told(now)}; before {_told(then)}",
                remedy="its attribute digest must change whenever a value does; without one each row is hashed",
            )


def _told(snapshot: OwnSnapshot) -> str:
    return f"{snapshot.rows} rows, content {snapshot.content[:12]}, first and last row {snapshot.ends[:12]}"
