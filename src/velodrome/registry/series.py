"""Metric histories: what a block of points is, how the blocks of all attempts make one curve, and how it is read.

Steps are counted from 1: the points of step s are logged when s steps are done, so an attempt that restored the state after
step r goes on from r + 1 and everything later that earlier attempts logged is not part of the history any more. Hence the
history of a run that was killed and resumed equals that of one that was not, and so do their digests. An attempt counts once
it logged anything or restored a state: blocks of the series without a name mark those that logged, so that one series is read
without the others. Series of durations (`data_wait`, `step_time`, `..._seconds`) and of the machine differ from run to run: they
are marked as timing and are not in the digest.
Each block carries a checksum of itself and of the place where it belongs, which is verified whenever it is read.
Cost: 8 bytes for a point, 16 where a series is not logged at regular steps. Reading one series reads its blocks, the marks
and the run's events: milliseconds for 100,000 points. A run from before there were marks is read whole.
"""

import math
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt

from velodrome.core.digest import Digest, Hasher
from velodrome.core.errors import IntegrityError, NotFound, nearest
from velodrome.store.ledger import Block, Event, Fact
from velodrome.store.workspace import Workspace

__all__ = [
    "PULSE",
    "RESTORED",
    "STEP_DIGEST",
    "Series",
    "SeriesKind",
    "Summary",
    "attempt_mark",
    "block_problems",
    "decode_block",
    "digest_histories",
    "encode_block",
    "history_digest",
    "kind_of",
    "merge_blocks",
    "read_histories",
    "read_series",
    "restored_steps",
    "series_facts",
    "series_names",
    "summarise",
]

RESTORED = "run.restored"
"""Type of the event on a run's chain that says which step an attempt restored."""

STEP_DIGEST = "step_digest"
"""Name of the series that holds the links of a sample ledger: names, and no quantity."""

PULSE = "spent."
"""Before the names of the series in which an attempt tells how many seconds it has spent on each class (`time_spent`)."""

_MARKS = ""
"""Name of the series whose blocks say which attempts logged anything."""

_HEADER = struct.Struct("<4sBB?x")
_MAGIC, _FORMAT = b"vdms", 3  # format 1 was always written with its steps, and 2 without a checksum
_CHECKSUM = 8  # bytes: a CRC-32, which sees each bit that flips and each burst of up to 32, and room to the next number
_TIMING = ("_seconds", "_time", "_wait")
_OF_THE_MACHINE = ("host.", "gpu.", PULSE)
_WIDEST = 2**62  # steps of a block lie this near together, or are written out, so that nothing overflows

_Steps = npt.NDArray[np.int64]
_Values = npt.NDArray[np.float64]


class SeriesKind(IntEnum):
    """VALUE: a function of the run's inputs. TIMING: a duration, or what the machine did meanwhile: different each time."""

    VALUE = 0
    TIMING = 1


class Series(msgspec.Struct, frozen=True):
    """One history: steps int64 (n,), strictly increasing, and values float64 (n,)."""

    kind: SeriesKind
    steps: _Steps
    values: _Values


class Summary(msgspec.Struct, frozen=True):
    """What runs are searched and sorted by.

    Attributes:
        last: the value of the last step. low, high: the least and the greatest value; infinities count as such, NaN does
            not. NaN where there is no number.
    """

    count: int = 0
    last_step: int | None = None
    last: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def then(self, steps: _Steps, values: _Values) -> "Summary":
        """The same with more points, one at least, all of later steps.

        >>> Summary().then(np.array([1, 2, 3]), np.array([0.5, 0.2, np.nan])).low
        0.2
        """
        return Summary(
            count=self.count + len(steps),
            last_step=int(steps[-1]),
            last=float(values[-1]),
            low=float(np.fmin(np.fmin.reduce(values), self.low)),
            high=float(np.fmax(np.fmax.reduce(values), self.high)),
        )


def kind_of(name: str) -> SeriesKind:
    """The kind of a series, told by its name.

    >>> kind_of("loss").name, kind_of("step_time").name, kind_of("host.cpu_percent").name
    ('VALUE', 'TIMING', 'TIMING')
    """
    timing = name.endswith(_TIMING) or name.startswith(_OF_THE_MACHINE)
    return SeriesKind.TIMING if timing else SeriesKind.VALUE


# --------------------------------------------------------------------------------------------------------------- reading


def read_histories(ws: Workspace, run: str) -> dict[str, Series]:
    """Every series of a run by name, as it stands after all attempts.

    Raises:
        IntegrityError: a block is not what was written.
    """
    return merge_blocks(ws.ledger.blocks(run), restored_steps(ws.ledger.events(f"run:{run}")))


def read_series(ws: Workspace, run: str, name: str) -> tuple[_Steps, _Values]:
    """Steps, int64 (n,), strictly increasing, and values, float64 (n,), of one series.

    Raises:
        NotFound: the run has no such series; the nearest is named.
        IntegrityError: a block is not what was written.
    """
    blocks = ws.ledger.blocks(run, name) if name != _MARKS else []
    if not blocks:
        raise NotFound("the run has no such series", received=name, remedy=nearest(name, series_names(ws, run)))
    marks = ws.ledger.blocks(run, _MARKS) or ws.ledger.blocks(run)
    series = _merged(blocks, _starts([*blocks, *marks], restored_steps(ws.ledger.events(f"run:{run}"))))
    return series.steps, series.values


def series_names(ws: Workspace, run: str) -> tuple[str, ...]:
    """The names of a run's series, sorted."""
    return tuple(sorted({block.series for block in ws.ledger.blocks(run)} - {_MARKS}))


def history_digest(ws: Workspace, run: str) -> Digest:
    """One digest over the value series of a run: equal histories, equal digest, whatever attempts and blocks they came in."""
    return digest_histories(read_histories(ws, run))


def digest_histories(histories: Mapping[str, Series]) -> Digest:
    """See `history_digest`; the histories come in the order of their names."""
    hasher = Hasher()
    for name, series in histories.items():
        if series.kind is SeriesKind.VALUE and len(series.steps):
            hasher.update(f"{name}\0{len(series.steps)}\0".encode())
            hasher.update(_little(series.steps) + _little(series.values))
    return hasher.digest()


def restored_steps(events: Iterable[Event]) -> dict[int, int]:
    """Attempt → the step that it restored, of those attempts that did, by the events of their run."""
    return {event.body["attempt"]: event.body["step"] for event in events if event.type == RESTORED}


# ---------------------------------------------------------------------------------------------------- attempts made one


def merge_blocks(blocks: Iterable[Block], restored: Mapping[int, int]) -> dict[str, Series]:
    """The series that all blocks of a run make, by name. `restored`: attempt → the step that it restored.

    Raises:
        IntegrityError: a block is not what was written.
    """
    by_name: defaultdict[str, list[Block]] = defaultdict(list)
    for block in blocks:
        by_name[block.series].append(block)
    starts = _starts((block for each in by_name.values() for block in each), restored)
    return {name: _merged(by_name[name], starts) for name in sorted(by_name) if name != _MARKS}


def block_problems(blocks: Iterable[Block]) -> list[str]:
    """What is wrong with each of the blocks that are not what was written."""
    problems = []
    for block in blocks:
        try:
            _require_intact(block)
        except IntegrityError as error:
            problems.append(error.problem)
    return problems


def attempt_mark(run: str, attempt: int) -> Block:
    """The block that says that an attempt logged something."""
    return _checked(
        Block(run, _MARKS, attempt, 0, 0, 0, b""), _HEADER.pack(_MAGIC, _FORMAT, SeriesKind.VALUE, True), b""
    )


def summarise(series: Series) -> Summary:
    return Summary().then(series.steps, series.values) if len(series.steps) else Summary()


def series_facts(run: str, summaries: Mapping[str, Summary]) -> Iterator[Fact]:
    """What the ledger is to know of each series of a run: last, min, max, count; nothing of one that has no points."""
    for name, summary in summaries.items():
        known = {"last": summary.last, "min": summary.low, "max": summary.high, "count": summary.count or None}
        yield from (Fact(f"run:{run}", f"series.{name}.{key}", value) for key, value in known.items())


def _starts(blocks: Iterable[Block], restored: Mapping[int, int]) -> dict[int, int]:
    """Attempt → the step after which it went on, of all attempts that count, in their order."""
    attempts = set(restored)
    for block in blocks:
        if block.series == _MARKS:
            _require_intact(block)
        attempts.add(block.attempt)
    return {attempt: restored.get(attempt, 0) for attempt in sorted(attempts)}


def _merged(blocks: Iterable[Block], starts: Mapping[int, int]) -> Series:
    """The points that count: each attempt overrides what earlier ones logged after the step that it started from."""
    kind, points = SeriesKind.VALUE, {attempt: [(_NO_STEPS, _NO_VALUES)] for attempt in starts}
    for block in blocks:
        kind, steps, values = decode_block(block)
        points[block.attempt].append((steps, values))
    steps, values = _NO_STEPS, _NO_VALUES
    for attempt, start in starts.items():
        kept = steps <= start
        later = points[attempt]
        steps = np.concatenate([steps[kept], *(each for each, _ in later)])
        values = np.concatenate([values[kept], *(each for _, each in later)])
    return Series(kind, *_last_of_each_step(steps, values))


def _last_of_each_step(steps: _Steps, values: _Values) -> tuple[_Steps, _Values]:
    """Sorted by step; where a step stands twice (step 0, which no restart takes back) the later point counts."""
    if (steps[1:] > steps[:-1]).all():
        return steps, values
    unique, first_from_behind = np.unique(steps[::-1], return_index=True)
    return unique, values[::-1][first_from_behind]


_NO_STEPS = np.empty(0, dtype=np.int64)
_NO_VALUES = np.empty(0, dtype=np.float64)


# ---------------------------------------------------------------------------------------------------------------- blocks


def encode_block(run: str, name: str, attempt: int, steps: _Steps, values: _Values) -> Block:
    """A block of points, one at least, of strictly increasing steps. Steps at equal distances are not written out."""
    first, last = int(steps[0]), int(steps[-1])
    regular = last - first < _WIDEST and bool((steps == _regular(first, last, len(steps))).all())
    header = _HEADER.pack(_MAGIC, _FORMAT, kind_of(name), regular)
    points = (b"" if regular else _little(steps)) + _little(values)
    return _checked(Block(run, name, attempt, first, last, len(steps), b""), header, points)


def decode_block(block: Block) -> tuple[SeriesKind, _Steps, _Values]:
    """Kind, steps, int64 (n,), and values, float64 (n,), of a block of this format or an earlier one.

    Raises:
        IntegrityError: the block is not what was written.
    """
    kind, regular, start = _header(block)
    size = start + (8 if regular else 16) * block.count
    if len(block.data) != size:
        raise _unreadable(block, "does not read")
    if regular:
        steps = _regular(block.first_step, block.last_step, block.count)
    else:
        steps = np.frombuffer(block.data, "<i8", block.count, start).astype(np.int64)
    values = np.frombuffer(block.data, "<f8", block.count, size - 8 * block.count).astype(np.float64)
    return kind, steps, values


def _require_intact(block: Block) -> None:
    if block.series != _MARKS or block.data or block.count:  # marks were empty before format 3
        decode_block(block)


def _header(block: Block) -> tuple[SeriesKind, bool, int]:
    """The kind of a block's series, whether its steps are regular, and where its points begin."""
    if type(block.data) is not bytes or type(block.count) is not int or len(block.data) < _HEADER.size:
        raise _unreadable(block, "does not read")
    magic, version, kind, regular = _HEADER.unpack_from(block.data)
    if magic != _MAGIC or not 1 <= version <= _FORMAT or kind not in tuple(SeriesKind):
        raise _unreadable(block, "does not read")
    if version < _FORMAT:
        return SeriesKind(kind), regular, _HEADER.size
    start = _HEADER.size + _CHECKSUM
    header, points = block.data[: _HEADER.size], memoryview(block.data)[start:]
    if block.data[_HEADER.size : start] != _checksum(block, header, points):
        raise _unreadable(block, "was changed after it was written")
    return SeriesKind(kind), regular, start


def _checked(block: Block, header: bytes, points: bytes) -> Block:
    """The block with its data: a header, the checksum, the points."""
    return msgspec.structs.replace(block, data=header + _checksum(block, header, points) + points)


def _checksum(block: Block, header: bytes, points: bytes | memoryview) -> bytes:
    """What vouches for every column of a block, whatever its data is yet."""
    place = (block.run, block.series, block.attempt, block.first_step, block.last_step, block.count)
    return crc32(points, crc32("\0".join(map(str, place)).encode() + header)).to_bytes(_CHECKSUM, "little")


def _unreadable(block: Block, how: str) -> IntegrityError:
    data: object = block.data
    size = len(data) if isinstance(data, bytes) else 0  # somebody may have left another type
    return IntegrityError(
        f"a block of the series {block.series!r} of the run {block.run} {how}",
        received=f"attempt {block.attempt}, from step {block.first_step}: {size} bytes for {block.count} points",
        remedy="restore the ledger from a backup, or upgrade velodrome",
    )


def _regular(first: int, last: int, count: int) -> _Steps:
    """Steps from the first to the last, as near to equal distances as whole numbers are."""
    return first + np.arange(count) * ((last - first) // max(1, count - 1))


def _little(array: _Steps | _Values) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
