"""Holds: who is writing on this machine, so that a collector leaves alone what no row names yet.

A blob is put before the row that names it, and what was found is read before something new rests on it. Whoever does such
things says so first: a hold is a file, named by an id that tells when it began, and locked for as long as it counts. The
kernel frees the lock of a process that was killed, so that no hold outlives its holder; and a file gets its name only when
it is locked, so that no hold that begins looks like one that has ended.
Cost: some 50 µs for a hold; nothing is flushed, since a hold means nothing after a power cut.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from velodrome.core.clock import Clock
from velodrome.core.errors import StorageError
from velodrome.core.ids import IdFactory, made_at
from velodrome.store.files import make_folder
from velodrome.store.locks import is_held

__all__ = ["ended_holds", "oldest_hold", "writing"]

_NAMES = "[0-9a-z]" * 26


@contextmanager
def writing(folder: Path, now: datetime) -> Iterator[None]:
    """Hold during the block, from `now` on. Holds may lie in each other.

    Raises:
        StorageError: the folder cannot be written to, or its files cannot be locked.
    """
    name = IdFactory().new(now)  # a factory of its own: a shared one hides that the clock was set back
    hidden, path = make_folder(folder) / f".{name}", folder / name
    handle = _locked(hidden)
    try:
        hidden.rename(path)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def oldest_hold(folder: Path, clock: Clock) -> datetime | None:
    """When the oldest hold that still counts began, cut to the millisecond; None where nobody holds.

    The beginning of time, where a hold lies in the future: the clock was set back, and nobody knows what is how old.
    """
    begun = [made_at(path.name) for path in folder.glob(_NAMES) if is_held(path)]
    if begun and max(begun) > clock.now():
        return datetime.min.replace(tzinfo=UTC)
    return min(begun, default=None)


def ended_holds(folder: Path) -> list[Path]:
    """What killed holders have left."""
    return [path for path in folder.glob(_NAMES) if not is_held(path)]


def _locked(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StorageError(
            f"cannot write in {path.parent}: {error.strerror}",
            remedy="check the space and the permissions of the folder",
        ) from error
    return handle
