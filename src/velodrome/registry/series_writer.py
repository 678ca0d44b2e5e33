"""Writing metric histories: `log` puts numbers into a buffer and returns; two threads do the rest while training goes on.

One takes what was logged into a spool, a local file for each attempt, five times a second. The other brings the spool into
the ledger every two seconds, and at `flush`, which a checkpoint calls before it is recorded. They are two so that a ledger
that hangs does not keep the spool waiting. Training never waits for either and never dies of them:

- A kill loses what was logged in the last fifth of a second. The rest is in the ledger or in the spool, which is shipped by
  the next attempt of the run, or by `ship_leftovers`. A power cut loses what was logged in the last five seconds: what the
  ledger did not take by then is flushed to the disk.
- A ledger that is away for hours costs disk, not memory; when it is back, it gets everything.
- What the disk refuses stays in memory, up to 64 MB, and goes to the ledger from there; beyond that the oldest is lost.
- What is no number is dropped. `close` tells what became of everything, and what last went wrong.

Cost: under a microsecond for `log`, and in the threads a tenth for each number of it.
"""

import threading
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Self, TypeAlias
from urllib.parse import quote, unquote

import msgspec
import numpy as np

from velodrome.core.clock import Clock
from velodrome.core.errors import PointerMoved, StateError, StorageError
from velodrome.core.logging import logger
from velodrome.registry.series_shipping import Points, Shipper, pack_points, settle_facts, unpack_points
from velodrome.store.ledger import Expect
from velodrome.store.spool import Spool, open_spool
from velodrome.store.workspace import Workspace

__all__ = ["Leftover", "SeriesReport", "SeriesWriter", "ship_leftovers"]

_SPOOL_EVERY = 0.2
"""Seconds between two looks into the buffer."""

_SAFE_AFTER = 5.0
"""Seconds after which what the ledger did not take is flushed to the disk."""

_SHIPMENT = 8_000_000
"""Bytes of points that travel in one commit, about."""

_MEMORY = 64_000_000
"""Bytes of points that the disk refused and that are kept nevertheless."""

_SLICE = 2048
"""Calls of `log` that are turned into numbers at once, while the interpreter's other threads wait."""

_LONGEST_NAME = 400
"""Bytes of the longest name of a series, since databases have a limit for what they index."""

_LAST_TRIES = 5

_Logged: TypeAlias = tuple[int, Mapping[str, float]]
_Column: TypeAlias = "tuple[array[int], array[float]]"


class SeriesReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the points that were logged.

    Attributes:
        kept: points in the ledger.
        dropped: points that were no numbers, or whose step was not after the one before in their series.
        waiting: points in the spool, which the next attempt of the run will ship, or `ship_leftovers`.
        lost: points that neither ledger nor disk took.
        failures: commits that failed, whether a later one brought their points or not.
        problem: the last thing that went wrong, or nothing.
    """

    kept: int
    dropped: int
    waiting: int
    lost: int
    failures: int
    problem: str

    def require_whole(self) -> None:
        """Refuse to end a run whose histories are not all in the ledger: another attempt brings them there.

        Raises:
            StorageError: points wait in the spool.
        """
        if self.waiting:
            raise StorageError(
                "the histories of the run could not be brought into the ledger",
                received=f"{self.waiting} points wait in the spool: {self.problem}",
                remedy="run the same again when the ledger is back: it goes on from there",
            )


class Leftover(msgspec.Struct, frozen=True):
    """What a killed attempt had left in its spool, now in the ledger: so many points that were not there."""

    run: str
    attempt: int
    points: int


class SeriesWriter:
    """Keeps what an attempt of a run logs. Any thread may log; close it, or use it in a `with` block.

    Args:
        seconds: between two ships.
    """

    def __init__(self, ws: Workspace, run: str, attempt: int, *, seconds: float = 2.0) -> None:
        self._ws, self._run = ws, run
        self._points: deque[_Logged] = deque()
        self._queue: deque[_Logged] | _Closed = self._points
        self._tally = _Tally()
        self._numbers = _Numbers(self._tally)
        self._outbox = _Outbox(_folder(ws) / f"{quote(run, safe='')}@{attempt}", ws.clock, self._tally)
        self._shipper = Shipper(ws, run, attempt)
        self._spooling, self._shipping = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self._report: SeriesReport | None = None
        self._attempted(self._ship_leftovers)
        self._threads = [
            self._thread("series-spool", self._spool, min(seconds, _SPOOL_EVERY)),
            self._thread("series-ship", self._ship, seconds),
        ]

    def log(self, step: int, /, **values: float) -> None:
        """Record values of a step. Values are numbers by the time the thread looks at them, so hand in no live tensors.

        Raises:
            StateError: the writer is closed.
        """
        self._queue.append((step, values))

    def flush(self) -> bool:
        """Bring all that was logged before into the ledger; whether all of it is there. Never raises for the ledger's sake."""
        spooled = self._attempted(self._spool)
        return self._ship() and spooled

    def close(self) -> SeriesReport:
        """Ship what is left, end the threads and say what became of everything. Closing again says it again."""
        self._queue = _Closed()
        self._closing.set()
        for thread in self._threads:
            thread.join()
        if self._report is None:
            self._report = self._finished()
        return self._report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finished(self) -> SeriesReport:
        done = self._shipped() and (not self._tally.taken or self._attempted(lambda: settle_facts(self._ws, self._run)))
        self._outbox.close(remove=done)
        report = self._tally.report()
        if report.problem:
            logger().warning("series.incomplete", **msgspec.structs.asdict(report))
        return report

    def _shipped(self) -> bool:
        """Whether the last shipment arrived; one that fails is tried again, since whoever ends a run needs the ledger anyway."""
        for attempt in range(_LAST_TRIES):
            if self.flush():
                return True
            self._ws.clock.sleep(0.1 * attempt)
        return False

    def _thread(self, name: str, act: Callable[[], object], seconds: float) -> threading.Thread:
        def regularly() -> None:
            while not self._closing.wait(seconds):
                self._attempted(act)

        thread = threading.Thread(target=regularly, name=name, daemon=True)
        thread.start()
        return thread

    def _spool(self) -> None:
        """Take what is in the buffer now into the spool; what is logged meanwhile stays for the next time."""
        with self._spooling:
            logged = [self._points.popleft() for _ in range(len(self._points))]
            slices = (logged[first : first + _SLICE] for first in range(0, len(logged), _SLICE))
            points = [each for part in slices for each in self._numbers.of(part)]
            if points:
                self._outbox.put(pack_points(points), sum(each.count for each in points))
            self._outbox.make_safe()

    def _ship(self) -> bool:
        """Bring what is in the spool into the ledger; whether nothing is left."""
        with self._shipping:
            return self._attempted(self._ship_leftovers) and self._attempted(self._ship_all)

    def _ship_leftovers(self) -> None:
        """What earlier attempts of the run left comes before all that this one logs."""
        ship_leftovers(self._ws, self._run)

    def _ship_all(self) -> None:
        while True:
            with self._outbox.oldest(_SHIPMENT) as payloads:
                if not payloads:
                    return
                points = [each for payload in payloads for each in unpack_points(payload)]
                self._shipper.ship(points)
            self._tally.kept += sum(each.count for each in points)

    def _attempted(self, act: Callable[[], object]) -> bool:
        try:
            act()
        except Exception as error:  # noqa: BLE001 (whatever it is, training goes on, and the points wait for the next try)
            if not self._tally.failures:
                logger().warning("series.not_committed", run=self._run, error=f"{type(error).__name__}: {error}")
            self._tally.failures += 1
            self._tally.problem = f"{type(error).__name__}: {error}"
            return False
        return True


def ship_leftovers(ws: Workspace, run: str | None = None) -> tuple[Leftover, ...]:
    """Bring what killed attempts (of one run) left on this machine into the ledger.

    A spool that is in use is left alone, and so is, with a line in the log, one that this program cannot read.

    Raises:
        StorageError: the ledger refused; what is not shipped is still there.
    """
    shipped = []
    for path in sorted(_folder(ws).iterdir()) if _folder(ws).is_dir() else ():
        named, _, attempt = path.name.rpartition("@")
        spool = _left(path) if attempt.isdecimal() and run in (None, unquote(named)) else None
        if spool is not None:
            with spool:
                shipped.append(_shipped(ws, spool, unquote(named), int(attempt)))
    return tuple(shipped)


def _left(path: Path) -> Spool | None:
    try:
        return open_spool(path, make=False)
    except StorageError as error:
        logger().warning("series.unreadable", spool=str(path), error=str(error))
        return None


def _shipped(ws: Workspace, spool: Spool, run: str, attempt: int) -> Leftover:
    points, subject = 0, f"run:{run}"
    while (state := _state(ws, subject)) is None or not state.startswith("collected"):
        try:
            points += _emptied(ws, spool, run, attempt, Expect(subject, state))
            break
        except PointerMoved:  # it may have been collected meanwhile, and its histories stay gone then
            continue
    spool.remove()
    return Leftover(run, attempt, points)


def _state(ws: Workspace, subject: str) -> str | None:
    pointer = ws.ledger.pointer(subject)
    return pointer.value if pointer else None


def _emptied(ws: Workspace, spool: Spool, run: str, attempt: int, guard: Expect) -> int:
    shipper, points = Shipper(ws, run, attempt, guard), 0
    payloads, end = spool.read(_SHIPMENT)
    while payloads:
        points += shipper.ship([each for payload in payloads for each in unpack_points(payload)])
        spool.forget(end)
        payloads, end = spool.read(_SHIPMENT)
    settle_facts(ws, run, guard)
    return points


def _folder(ws: Workspace) -> Path:
    """Where the spools are, each by the name of its run and the number of its attempt."""
    return ws.store / "spool"


class _Closed:
    """Stands in the place of a closed writer's queue, so that `log` needs not ask whether it is open."""

    def append(self, _: object) -> None:
        raise StateError("the run's histories are closed", remedy="log before the run ends")


class _Tally:
    """What became of the points so far; each number is counted under one lock. `taken`: those that were numbers."""

    def __init__(self) -> None:
        self.taken = self.kept = self.dropped = self.lost = self.failures = 0
        self.problem = ""

    def report(self) -> SeriesReport:
        return SeriesReport(
            kept=self.kept,
            dropped=self.dropped,
            waiting=max(0, self.taken - self.kept - self.lost),
            lost=self.lost,
            failures=self.failures,
            problem=self.problem,
        )


class _Numbers:
    """Makes points of what was logged. Steps of a series must rise."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._last: dict[str, int] = {}

    def of(self, logged: Sequence[_Logged]) -> list[Points]:
        """The points of some calls of `log`, those of a series in the order in which they came."""
        together: defaultdict[tuple[str, ...], list[_Logged]] = defaultdict(list)
        for each in logged:
            together[tuple(each[1])].append(each)
        together.pop((), None)
        names = list(chain.from_iterable(together))
        if len(set(names)) < len(names):  # a series that comes in several companies keeps its order
            return self._one_by_one(logged)
        return [points for each, group in together.items() for points in self._at_once(each, group)]

    def _at_once(self, names: tuple[str, ...], logged: Sequence[_Logged]) -> list[Points]:
        """All values as one array, unless a value, a step or a name is not what it should be."""
        try:
            steps = np.array(array("q", [step for step, _ in logged]))
            values = np.array(array("d", chain.from_iterable(each.values() for _, each in logged)))
            before = [self._last[name] if name in self._last else _require_name(name) for name in names]
        except Exception:  # noqa: BLE001 (a stranger's object may raise anything; then each is looked at by itself)
            return self._one_by_one(logged)
        if steps[0] <= max(before) or not (steps[1:] > steps[:-1]).all():
            return self._one_by_one(logged)
        self._last |= dict.fromkeys(names, int(steps[-1]))
        return [Points(names, steps, values.reshape(len(steps), len(names)).T)]

    def _one_by_one(self, logged: Iterable[_Logged]) -> list[Points]:
        found: defaultdict[str, _Column] = defaultdict(lambda: (array("q"), array("d")))
        for step, values in logged:
            for name, value in values.items():
                try:
                    self._add(found, name, step, value)
                except Exception as error:  # noqa: BLE001 (as above: the point is dropped, and training goes on)
                    self._tally.dropped += 1
                    self._tally.problem = f"{name[:80]!r} at step {step!r}: {type(error).__name__}: {error}"
        return [
            Points((name,), np.array(steps), np.array(values).reshape(1, -1))
            for name, (steps, values) in found.items()
            if steps
        ]

    def _add(self, found: Mapping[str, _Column], name: str, step: int, value: float) -> None:
        last = self._last[name] if name in self._last else _require_name(name)
        number = float(value)
        if step <= last:
            raise ValueError(f"step {step} comes after step {last}")
        steps, values = found[name]
        steps.append(step)
        values.append(number)
        self._last[name] = steps[-1]


_BEFORE_ALL = -(2**63) - 1


def _require_name(name: str) -> int:
    """The step that a new series begins after.

    Raises:
        ValueError: the ledger could not keep the name.
    """
    if not 0 < len(name.encode()) <= _LONGEST_NAME or "\0" in name:
        raise ValueError(f"the name of a series has 1 to {_LONGEST_NAME} bytes, none of them NUL")
    return _BEFORE_ALL


class _Outbox:
    """What is not in the ledger yet: in the spool, and behind it in memory what the disk did not take."""

    def __init__(self, path: Path, clock: Clock, tally: _Tally) -> None:
        self._path, self._clock, self._tally = path, clock, tally
        self._lock = threading.Lock()
        self._spool: Spool | None = None
        self._refused: deque[tuple[bytes, int]] = deque()
        self._lent = 0  # of the refused, from the oldest
        self._unsafe_since: float | None = None

    def put(self, payload: bytes, points: int) -> None:
        with self._lock:
            self._tally.taken += points
            self._refused.append((payload, points))
            if not self._lent:
                self._tried(self._append)
            while sum(len(each) for each, _ in self._refused) > _MEMORY and len(self._refused) > self._lent:
                self._tally.lost += self._refused[self._lent][1]
                del self._refused[self._lent]
            if self._unsafe_since is None:
                self._unsafe_since = self._clock.monotonic()

    @contextmanager
    def oldest(self, size: int) -> Iterator[list[bytes]]:
        """The oldest payloads, up to about so many bytes; taken away when the block ends well.

        Raises:
            StorageError: the spool cannot be read.
        """
        with self._lock:
            payloads, end = self._spool.read(size) if self._spool else ([], 0)
            if not payloads:
                payloads = [payload for payload, _ in self._refused]
                self._lent = len(payloads)
        try:
            yield payloads
            if payloads:
                self._take_away(end)
        finally:
            self._lent = 0

    def make_safe(self) -> None:
        """Flush to the disk what lies here for long."""
        since, now = self._unsafe_since, self._clock.monotonic()
        if self._spool and since is not None and now - since >= _SAFE_AFTER:
            self._unsafe_since = None
            self._tried(self._spool.sync)

    def close(self, *, remove: bool) -> None:
        if self._spool and remove:
            self._spool.remove()
        elif self._spool:
            self._tried(self._spool.sync)
            self._spool.close()

    def _append(self) -> None:
        self._spool = self._spool or open_spool(self._path, make=True)
        if self._spool is None:
            raise StorageError(f"another writer has the spool {self._path} open", remedy="one writer an attempt")
        while self._refused:
            self._spool.append(self._refused[0][0])
            self._refused.popleft()

    def _take_away(self, end: int) -> None:
        with self._lock:
            for _ in range(self._lent):
                self._refused.popleft()
            if self._spool and not self._lent:
                self._spool.forget(end)
            if not self._refused and not (self._spool and self._spool.size):
                self._unsafe_since = None

    def _tried(self, act: Callable[[], None]) -> None:
        try:
            act()
        except StorageError as error:
            self._tally.problem = f"{type(error).__name__}: {error}"
