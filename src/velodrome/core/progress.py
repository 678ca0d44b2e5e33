"""What long work tells while it goes on. The command line draws it; a library call is silent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Progress", "Silent", "Task"]


class Task(Protocol):
    """One piece of long work."""

    def advance(self, by: int = 1, note: str = "") -> None: ...


class Progress(Protocol):
    """Who is told: `task` opens a piece of work with `total` units (None: unknown), closed when its block ends."""

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Task]:
        yield from ()


class Silent:
    """Tells nobody."""

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Task]:
        yield _SilentTask()


class _SilentTask:
    def advance(self, by: int = 1, note: str = "") -> None:
        return None
