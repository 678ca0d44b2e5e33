"""Lives of the training program: begun, watched from outside, ended by themselves or not."""

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from doom import Doom
from project import PROGRAM
from trial import WORDS, program

__all__ = ["KILLED", "End", "Life", "be_ready", "begin", "begin_outside", "saved", "until"]

KILLED = "killed"
_PROCESSES = multiprocessing.get_context("forkserver")
_LONGEST = 600.0


@dataclass(frozen=True)
class End:
    """How a life ended.

    Attributes:
        code: the exit code, `KILLED`, or "escaped" for an error that nobody named.
        operations: those of the save that was meant, where there was one.
        said: the last line that it printed.
    """

    code: int | str
    operations: tuple[str, ...] = ()
    said: str = ""

    @property
    def error(self) -> dict[str, Any]:
        """What the program said about its failure."""
        try:
            return dict(json.loads(self.said))
        except ValueError:
            return {}


class Life:
    """A process of the program, forked from one that has imported everything."""

    def __init__(self, folder: Path, doom: Doom | None) -> None:
        self.folder = folder
        (folder / "ended").unlink(missing_ok=True)
        self._process: BaseProcess = _PROCESSES.Process(target=program, args=(folder, doom), daemon=True)
        self._process.start()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        if self.alive and self._process.pid:
            os.kill(self._process.pid, number)

    def end(self) -> End:
        """Wait for it."""
        self._process.join(_LONGEST)
        late = self.alive
        if late:
            self._process.kill()
            self._process.join()
        lines = (self.folder / "output").read_text(errors="replace").splitlines()
        with suppress(FileNotFoundError):
            told = json.loads((self.folder / "ended").read_text())
            return End(told["code"], tuple(told["operations"]), lines[-1] if lines else "")
        return End("late" if late else KILLED, (), lines[-1] if lines else "")


def begin(folder: Path, doom: Doom | None = None) -> Life:
    return Life(folder, doom)


def begin_outside(folder: Path) -> subprocess.Popen[bytes]:
    """The program as a person starts it."""
    with open(folder / "output", "wb") as printed:
        return subprocess.Popen([PROGRAM, *WORDS], cwd=folder, stdout=printed, stderr=printed)


def be_ready(module: str) -> None:
    """Processes are forked from one that has imported the module."""
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    _PROCESSES.set_forkserver_preload([module])


def saved(folder: Path) -> int:
    """How many checkpoints were recorded, read beside the running program."""
    return told(folder, "checkpoint.saved")


def told(folder: Path, type_: str) -> int:
    """How many events there are of a type."""
    path = folder / ".velodrome" / "ledger.db"
    if path.exists():
        with closing(sqlite3.connect(path, timeout=60)) as connection, suppress(sqlite3.OperationalError):
            query = "SELECT count(*) FROM event WHERE type = ?"
            return int(connection.execute(query, (type_,)).fetchone()[0])
    return 0


def until(reached: Callable[[], bool], alive: Callable[[], bool]) -> bool:
    """Wait for something; False if the process is over before."""
    end = time.monotonic() + _LONGEST
    while not reached():
        if not alive() or time.monotonic() > end:
            return reached()
        time.sleep(0.002)
    return True
