"""Progress of long work on standard error: a live bar on a terminal, nothing where nobody looks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from velodrome.core.progress import Progress as Reporter
from velodrome.core.progress import Silent, Task

__all__ = ["reporter"]


def reporter(quiet: bool) -> Reporter:
    """Bars when standard error is a terminal and `quiet` is off, else silence."""
    return Silent() if quiet or not sys.stderr.isatty() else _Bars()


class _Bars:
    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Task]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=8) as bars:
            yield _Bar(bars, bars.add_task(name, total=total, note=""))


class _Bar:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, by: int = 1, note: str = "") -> None:
        self._bars.update(self._task, advance=by, note=note)
