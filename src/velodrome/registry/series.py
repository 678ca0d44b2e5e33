"""Metric histories: written in blocks by a thread while training goes on, read as one curve whatever happened meanwhile.

`log` appends one tuple to a queue and returns; a thread turns what has gathered into blocks, one per series, and commits
them every two seconds. Training never waits for it and never dies of it: what could not be committed is kept for the next
try, what is no number is dropped, and both are logged and reported at the end. A kill loses at most what was logged since
the last `flush`, which a checkpoint calls before it is recorded.

Steps are counted from 1: the points of step s are logged when s steps are done, so an attempt that restored the state after
step r goes on from r + 1 and everything later that earlier attempts logged is not part of the history any more. Hence the
history of a run that was killed and resumed equals that of one that was not, and so do their digests.
Series of durations (`data_wait`, `step_time`, `..._seconds`) differ from run to run: they are marked as timing and are not
in the digest. Cost: under a microsecond for `log`, 16 bytes for a point; reading one series reads all of its run.
"""

import struct
import threading
from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from velodrome.core.digest import Digest, Hasher
from velodrome.core.errors import IntegrityError, NotFound, StateError, nearest
from velodrome.core.logging import logger
from velodrome.store.ledger import Block
from velodrome.store.workspace import Workspace

__all__ = [
    "RESTORED",
    "Series",
    "SeriesKind",
    "SeriesReport",
    "SeriesWriter",
    "history_digest",
    "kind_of",
    "read_histories",
    "read_series",
    "series_names",
]

RESTORED = "run.restored"
"""Type of the event on a run's chain that says which step an attempt restored."""

_HEADER = struct.Struct("<4sBB2x")
_MAGIC, _FORMAT = b"vdms", 1
_TIMING = ("_seconds", "_time", "_wait")
_OF_THE_MACHINE = ("host.", "gpu.")


class SeriesKind(IntEnum):
    """VALUE: a function of the run's inputs. TIMING: a duration, or what the machine did meanwhile: different each time."""

    VALUE = 0
    TIMING = 1


class Series(msgspec.Struct, frozen=True):
    """One history: steps int64 (n,), strictly increasing, and values float64 (n,)."""

    kind: SeriesKind
    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class SeriesReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the points that were logged.

    Attributes:
        kept: points in the ledger.
        dropped: points that were no numbers, or whose step was not after the one before in their series.
        lost: points that could not be committed by the end.
        failures: commits that failed, whether a later one brought their points or not.
        problem: the last thing that went wrong, or nothing.
    """

    kept: int
    dropped: int
    lost: int
    failures: int
    problem: str


class _Pending:
    """Points of one series that are not committed yet. Arrays, so that a ledger that is away for long costs little memory."""

    def __init__(self) -> None:
        self.steps, self.values = array("q"), array("d")
        self.last: int | None = None


class SeriesWriter:
    """Keeps what an attempt of a run logs. Any thread may log; close it, or use it in a `with` block."""

    def __init__(self, ws: Workspace, run: str, attempt: int, *, seconds: float = 2.0) -> None:
        self._ws, self._run, self._attempt, self._seconds = ws, run, attempt, seconds
        self._points: deque[tuple[int, Mapping[str, float]]] = deque()
        self._queue: deque[tuple[int, Mapping[str, float]]] | _Closed = self._points
        self._pending: defaultdict[str, _Pending] = defaultdict(_Pending)
        self._kept = self._dropped = self._failures = 0
        self._problem = ""
        self._shipping = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._ship_regularly, name="series", daemon=True)
        self._thread.start()

    def log(self, step: int, /, **values: float) -> None:
        """Record values of a step. Values are numbers by the time the thread looks at them, so hand in no live tensors.

        Raises:
            StateError: the writer is closed.
        """
        self._queue.append((step, values))

    def flush(self) -> bool:
        """Commit all that was logged before; whether nothing is left. Never raises for the ledger's sake."""
        with self._shipping:
            return self._ship()

    def close(self) -> SeriesReport:
        """Commit what is left, end the thread and say what became of everything. Closing again says it again."""
        self._queue = _Closed()
        self._closing.set()
        self._thread.join()
        with self._shipping:
            self._ship()
            lost = sum(len(series.steps) for series in self._pending.values())
            report = SeriesReport(
                kept=self._kept, dropped=self._dropped, lost=lost, failures=self._failures, problem=self._problem
            )
        if report.problem:
            logger().warning("series.incomplete", **msgspec.structs.asdict(report))
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ship_regularly(self) -> None:
        while not self._closing.wait(self._seconds):
            self.flush()

    def _ship(self) -> bool:
        self._gather()
        blocks = [self._block(name, series) for name, series in self._pending.items() if series.steps]
        if not blocks:
            return True
        try:
            self._ws.commit(*blocks)
        except Exception as error:  # noqa: BLE001 (whatever it is, training goes on, and the points wait for the next try)
            self._failures += 1
            self._problem = f"{type(error).__name__}: {error}"
            logger().warning("series.not_committed", run=self._run, error=self._problem)
            return False
        self._kept += sum(block.count for block in blocks)
        for series in self._pending.values():
            series.steps, series.values = array("q"), array("d")
        return True

    def _gather(self) -> None:
        """Take what is in the queue now; what is logged meanwhile stays for the next time."""
        for _ in range(len(self._points)):
            step, values = self._points.popleft()
            for name, value in values.items():
                self._add(name, step, value)

    def _add(self, name: str, step: int, value: float) -> None:
        series = self._pending[name]
        try:
            number = float(value)
            if series.last is not None and step <= series.last:
                raise ValueError(f"step {step} comes after step {series.last}")
            series.steps.append(step)
        except Exception as error:  # noqa: BLE001 (float() of a stranger's object may raise anything; training goes on)
            self._dropped += 1
            self._problem = f"{name} at step {step!r}: {type(error).__name__}: {error}"
            return
        series.values.append(number)
        series.last = step

    def _block(self, name: str, series: _Pending) -> Block:
        steps, values = series.steps, series.values
        data = _encode(kind_of(name), np.array(steps), np.array(values))
        return Block(self._run, name, self._attempt, steps[0], steps[-1], len(steps), data)


class _Closed:
    """Stands in the place of a closed writer's queue, so that `log` needs not ask whether it is open."""

    def append(self, _: object) -> None:
        raise StateError("the run's histories are closed", remedy="log before the run ends")


def kind_of(name: str) -> SeriesKind:
    """The kind of a series, told by its name.

    >>> kind_of("loss").name, kind_of("step_time").name, kind_of("host.cpu_percent").name
    ('VALUE', 'TIMING', 'TIMING')
    """
    timing = name.endswith(_TIMING) or name.startswith(_OF_THE_MACHINE)
    return SeriesKind.TIMING if timing else SeriesKind.VALUE


def read_histories(ws: Workspace, run: str) -> dict[str, Series]:
    """Every series of a run by name, as it stands after all attempts.

    Raises:
        IntegrityError: a block is not what was written.
    """
    restored = {
        event.body["attempt"]: event.body["step"] for event in ws.ledger.events(f"run:{run}") if event.type == RESTORED
    }
    blocks: defaultdict[str, list[Block]] = defaultdict(list)
    for block in ws.ledger.blocks(run):
        blocks[block.series].append(block)
    attempts = {block.attempt for each in blocks.values() for block in each} | restored.keys()
    starts = {attempt: restored.get(attempt, 0) for attempt in sorted(attempts)}
    return {name: _merged(blocks[name], starts) for name in sorted(blocks)}


def read_series(ws: Workspace, run: str, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Steps, int64 (n,), strictly increasing, and values, float64 (n,), of one series.

    Raises:
        NotFound: the run has no such series; the nearest is named.
        IntegrityError: a block is not what was written.
    """
    histories = read_histories(ws, run)
    if name not in histories:
        raise NotFound("the run has no such series", received=name, remedy=nearest(name, histories))
    return histories[name].steps, histories[name].values


def series_names(ws: Workspace, run: str) -> tuple[str, ...]:
    """The names of a run's series, sorted."""
    return tuple(sorted({block.series for block in ws.ledger.blocks(run)}))


def history_digest(ws: Workspace, run: str) -> Digest:
    """One digest over the value series of a run: equal histories, equal digest, whatever attempts and blocks they came in."""
    hasher = Hasher()
    for name, series in read_histories(ws, run).items():
        if series.kind is SeriesKind.VALUE and len(series.steps):
            hasher.update(f"{name}\0{len(series.steps)}\0".encode())
            hasher.update(_little(series.steps, series.values))
    return hasher.digest()


def _merged(blocks: Iterable[Block], starts: Mapping[int, int]) -> Series:
    """The points that count: each attempt overrides what earlier ones logged after the step that it started from."""
    kind, points = SeriesKind.VALUE, {attempt: [(_NO_STEPS, _NO_VALUES)] for attempt in starts}
    for block in blocks:
        kind, steps, values = _decode(block)
        points[block.attempt].append((steps, values))
    steps, values = _NO_STEPS, _NO_VALUES
    for attempt, start in starts.items():
        kept = steps <= start
        later = points[attempt]
        steps = np.concatenate([steps[kept], *(each for each, _ in later)])
        values = np.concatenate([values[kept], *(each for _, each in later)])
    return Series(kind, *_last_of_each_step(steps, values))


def _last_of_each_step(
    steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Sorted by step; where a step stands twice (step 0, which no restart takes back) the later point counts."""
    unique, first_from_behind = np.unique(steps[::-1], return_index=True)
    return unique, values[::-1][first_from_behind]


_NO_STEPS = np.empty(0, dtype=np.int64)
_NO_VALUES = np.empty(0, dtype=np.float64)


def _encode(kind: SeriesKind, steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> bytes:
    return _HEADER.pack(_MAGIC, _FORMAT, kind) + _little(steps, values)


def _little(steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> bytes:
    return steps.astype("<i8").tobytes() + values.astype("<f8").tobytes()


def _decode(block: Block) -> tuple[SeriesKind, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    size = _HEADER.size + 16 * block.count
    magic, version, kind = _HEADER.unpack_from(block.data) if len(block.data) == size else (b"", 0, 0)
    if magic != _MAGIC or version != _FORMAT:
        raise IntegrityError(
            f"a block of the series {block.series!r} does not read",
            received=f"{len(block.data)} bytes for {block.count} points",
            remedy="restore the ledger from a backup, or upgrade velodrome",
        )
    steps = np.frombuffer(block.data, "<i8", block.count, _HEADER.size).astype(np.int64)
    values = np.frombuffer(block.data, "<f8", block.count, _HEADER.size + 8 * block.count).astype(np.float64)
    return SeriesKind(kind), steps, values
