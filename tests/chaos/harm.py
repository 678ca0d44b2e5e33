"""What is done to a process: killed at its n-th moment, given faulty stores, a full disk, a clock that was set back.

A *moment* is whatever the process does next to the world outside it: a call of the ledger or of the blobs, a statement of
SQL, a request to a bucket, and each opening, renaming and removing of a file. Killing at the n-th of them hits the middle of
commits, uploads and collections, and means the same thing in each storm.
"""

import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import obstore
import sqlalchemy as sa

from velodrome.core.clock import SystemClock
from velodrome.store.faults import Fault, FaultPlan, FaultyBlobs, FaultyLedger
from velodrome.store.workspace import Workspace

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.chmod", "os.truncate", "fcntl.flock"}
_REQUESTS = ("put", "get", "head", "delete", "list", "copy", "rename")


@dataclass(frozen=True)
class Harm:
    """What one process meets; nothing, unless something is set.

    Attributes:
        moment: the process is killed at this moment of its, from 1.
        seconds: the process is killed after so long.
        fault: what the plan of its stores says.
        disk: no file can be written beyond this size, in bytes, as on a disk that is full.
        back: how far the clock is behind.
    """

    moment: int | None = None
    seconds: float | None = None
    fault: Fault | None = None
    disk: int | None = None
    back: timedelta = timedelta()

    def __str__(self) -> str:
        return ", ".join(self._words()) or "unharmed"

    @property
    def kills(self) -> bool:
        return self.moment is not None or self.seconds is not None

    def _words(self) -> Iterator[str]:
        if self.moment is not None:
            yield f"kill at moment {self.moment}"
        if self.seconds is not None:
            yield f"kill after {self.seconds:.2f} s"
        if self.fault is not None:
            what = f"{self.fault.kind}{' after' if self.fault.after else ''} {self.fault.of or 'call'}"
            yield f"{what} {self.fault.call}-{self.fault.call + self.fault.times - 1}"
        if self.disk is not None:
            yield f"disk full at {self.disk} bytes"
        if self.back:
            yield f"clock back by {self.back}"


UNHARMED = Harm()


class Moments:
    """Counts the moments of this process, and ends it at the fatal one as `kill -9` does."""

    def __init__(self, fatal: int | None) -> None:
        self.passed = 0
        self._fatal = fatal
        self._lock = threading.Lock()
        sys.addaudithook(self._hear)
        sa.event.listen(sa.Engine, "before_cursor_execute", lambda *_: self.passes())
        for name in _REQUESTS:
            setattr(obstore, name, self._counted(getattr(obstore, name)))

    def passes(self) -> None:
        with self._lock:
            self.passed += 1
            if self.passed == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            self.passes()

    def _counted(self, request: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.passes()
            return request(*arguments, **named)

        return counted


class LateClock(SystemClock):
    """A clock that somebody has set back."""

    def __init__(self, back: timedelta) -> None:
        self._back = back

    def now(self) -> datetime:
        return super().now() - self._back


def fill_disk(size: int) -> None:
    """From now on this process can write no file beyond a size; it is told so with EFBIG."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def room() -> Iterator[None]:
    """A block in which the disk is not full."""
    size, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))


def harmed(ws: Workspace, harm: Harm, plan: FaultPlan) -> Workspace:
    """The workspace as this process shall see it; every call is counted by the plan."""
    ledger, blobs = FaultyLedger(ws.ledger, plan), FaultyBlobs(ws.blobs, plan)  # type: ignore[arg-type]
    return replace(ws, ledger=ledger, blobs=blobs, clock=LateClock(harm.back) if harm.back else ws.clock)


def killing(rng: random.Random, moments: int) -> Harm:
    """A kill somewhere in what takes so many moments; sometimes by the clock, which hits between moments too."""
    if rng.random() < 0.2:
        return Harm(seconds=rng.uniform(0.0, 1.0))
    return Harm(moment=rng.randint(1, max(1, moments)))


def failing(rng: random.Random, calls: int) -> Harm:
    """One to four calls of the stores in a row that fail, or are made and not answered; or commits that are torn."""
    torn, times = rng.random() < 0.3, rng.choice((1, 1, 1, 4))
    if torn:  # a torn blob would be a store that breaks its promise: kills and cuts tear where that can happen
        return Harm(fault=Fault(kind="tear", of="ledger.commit", call=rng.randint(1, max(1, calls // 8)), times=times))
    return Harm(fault=Fault(kind="fail", call=rng.randint(1, max(1, calls)), times=times, after=rng.random() < 0.5))
