"""What befalls a training program from inside: killed, asked to leave, or refused by its disk, at a moment that is sure.

Random times hit what takes long. These hit what is short: the n-th evaluation, the n-th save, and within a save each
operation of its thread, such as a write, an fsync, a rename, an unlink or a statement of SQL. Nothing of velodrome is replaced;
its calls, those of `os` and those of the database are counted on their way.
"""

import builtins
import errno
import fcntl
import io
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from velodrome.control import training
from velodrome.registry.series_writer import SeriesWriter
from velodrome.store import files
from velodrome.training.checkpoints import Checkpointer
from velodrome.training.torch_step import Objective
from velodrome.training.torch_validation import Validation

__all__ = ["DISK", "SHIP", "Act", "Doom", "Failpoints", "takes_room"]

_CALLS = {
    os: ("open", "fsync", "fchmod", "utime", "link", "rename", "replace", "unlink", "mkdir"),
    fcntl: ("flock",),
}
_ROOM = {"open", "write", "fsync", "link", "rename", "replace", "mkdir", "sql"}
"""What a disk refuses that is full, or read-only."""

DISK = {
    "ENOSPC": (errno.ENOSPC, "database or disk is full"),
    "EROFS": (errno.EROFS, "attempt to write a readonly database"),
    "EIO": (errno.EIO, "disk I/O error"),
}
"""How a disk refuses, in the words of the system and of SQLite."""

SHIP = "ship "
"""Before the names of operations that bring histories into the ledger."""

_NEVER = 3600.0
"""Seconds, more than a training takes here."""

Act = Literal["kill", "leave", "hang", "ENOSPC", "EROFS", "EIO", "count"]


@dataclass(frozen=True)
class Doom:
    """What happens, and when.

    Attributes:
        point: "start", "step", "evaluation" or "save"; call: at which of them, from 1, in this process.
        operation: within the save: at its n-th operation, from 1; 0: before its first.
        act: "leave" is SIGTERM; "ENOSPC" and "EROFS" last to the end of the save, "EIO" comes once; "count" harms nothing;
            "hang" lets the next step wait until the file `hang` is taken away.
    """

    point: Literal["start", "step", "evaluation", "save"]
    call: int
    act: Act
    operation: int = 0

    def __str__(self) -> str:
        within = f", operation {self.operation}" if self.operation else ""
        return f"{self.act} in {self.point} {self.call}{within}"

    def install(self) -> "Failpoints":
        """From now on this process is doomed."""
        points = Failpoints(self)
        where: Any
        where, name = {
            "start": (training, "build_training_set"),
            "step": (Objective, "__call__"),
            "evaluation": (Validation, "__call__"),
            "save": (Checkpointer, "_write"),
        }[self.point]
        wrap = points.saving if self.point == "save" else points.reaching
        setattr(where, name, wrap(getattr(where, name)))
        return points


class Failpoints:
    """Counts calls of the point, and the operations of the save that is meant; `names` says what these were."""

    def __init__(self, doom: Doom) -> None:
        self.names: list[str] = []
        self._doom, self._calls = doom, 0
        self._within = threading.local()

    def reaching(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """What was called has done its work, and its caller knows nothing of it yet."""

        def reached(*arguments: Any, **named: Any) -> Any:
            answer = call(*arguments, **named)
            self._calls += 1
            if self._calls == self._doom.call:
                self._act("")
            return answer

        return reached

    def saving(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Counts saves, and the operations of one. All saves are alike: histories leave the buffer in saves, never by the clock."""
        regularly = SeriesWriter._thread
        SeriesWriter._thread = lambda writer, name, act, _: regularly(writer, name, act, _NEVER)  # type: ignore[method-assign]
        self._watch_operations()

        def saved(*arguments: Any, **named: Any) -> Any:
            self._calls += 1
            self._within.armed = self._calls == self._doom.call
            if self._within.armed:
                checkpointer = arguments[0]
                checkpointer._flush = self._shipping(checkpointer._flush)
            try:
                if self._within.armed and not self._doom.operation:
                    self._act("")
                return call(*arguments, **named)
            finally:
                self._within.armed = False

        return saved

    def _shipping(self, flush: Callable[[], object]) -> Callable[[], object]:
        """What belongs to the histories is named so: they wait in a spool when the ledger refuses."""

        def flushed() -> object:
            self._within.shipping = True
            try:
                return flush()
            finally:
                self._within.shipping = False

        return flushed

    def passes(self, name: str) -> None:
        """An operation of the save begins."""
        if not getattr(self._within, "armed", False):
            return
        self.names.append(f"{SHIP}{name}" if getattr(self._within, "shipping", False) else name)
        operation, act = self._doom.operation, self._doom.act
        lasting = act in ("ENOSPC", "EROFS") and operation and len(self.names) > operation and takes_room(name)
        if len(self.names) == operation or lasting:
            self._act(name)

    def _act(self, name: str) -> None:
        act = self._doom.act
        if act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if act == "leave":
            os.kill(os.getpid(), signal.SIGTERM)
        if act == "hang":
            Path("hang").touch()
        if act in DISK and (act == "EIO" or takes_room(name)):
            number, words = DISK[act]
            raise sqlite3.OperationalError(words) if name.startswith("sql") else OSError(number, os.strerror(number))

    def _watch_operations(self) -> None:
        for module, names in _CALLS.items():
            for name in names:
                setattr(module, name, self._counted(name, getattr(module, name)))
        files.open = self._opened  # type: ignore[attr-defined]
        for event in ("do_execute", "do_executemany", "do_execute_no_params"):
            sa.event.listen(sa.Engine, event, self._statement)

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.passes(name)
            return call(*arguments, **named)

        return counted

    def _opened(self, handle: Any, mode: str) -> Any:
        """As `open`; whatever reaches the file goes there half before it is harmed."""
        if not getattr(self._within, "armed", False):
            return builtins.open(handle, mode)
        return io.BufferedWriter(_Torn(handle, mode, self))  # type: ignore[type-var]

    def _statement(self, cursor: Any, statement: str, *_: Any) -> None:
        if "ROLLBACK" not in statement:  # which takes no room
            self.passes(f"sql {statement.split(maxsplit=1)[0]}")


def takes_room(name: str) -> bool:
    """Whether a disk that is full or read-only refuses such an operation."""
    return name.split(" ", maxsplit=1)[0] in _ROOM


class _Torn(io.FileIO):
    """A file of which half of what is written gets there, if the write is harmed."""

    def __init__(self, handle: Any, mode: str, points: Failpoints) -> None:
        super().__init__(handle, mode)
        self._points = points

    def write(self, data: Any) -> int:
        view = memoryview(data)
        half = super().write(view[: len(view) // 2])
        self._points.passes("write")
        return half + super().write(view[half:])
