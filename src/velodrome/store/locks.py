"""Locks between processes of one machine. The kernel frees them when the holder dies, kill -9 included."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from velodrome.core.errors import RunHeld, StorageError
from velodrome.store.files import make_folder

__all__ = ["hold", "is_held"]


@contextmanager
def hold(path: Path, holder: str) -> Iterator[None]:
    """Hold the lock file `path` during the block; `holder` is what others are told.

    Raises:
        RunHeld: another process holds it; the message names that process.
        StorageError: the file may not be written, as where it is another user's, or its file system has no locks.
    """
    make_folder(path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        _lock(handle, path, holder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, holder: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.pwrite(handle, holder.encode(), 0)
    except BlockingIOError as error:
        other = os.pread(handle, 1000, 0).decode(errors="replace") or "a process that has just begun"
        raise RunHeld(
            "the same run is being executed by another process",
            received=other,
            remedy="wait for it to end, or end that process",
        ) from error
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot lock {path}: {error.strerror}",
        remedy="check the space and the permissions of its folder, and whose it is",
    )


def is_held(path: Path) -> bool:
    """Whether a live process has locked a file or folder; what may not be opened counts as held, and what is gone does not.

    Looks by a shared lock, so that those who look do not see each other.
    """
    with suppress(FileNotFoundError):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False
