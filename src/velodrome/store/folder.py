"""Files in a folder that are written by many and collected by some at once: what blobs and objects in folders share.

A new file is written under a temporary name, flushed, linked to its name, and the name flushed: it is there whole or not at
all, also after a power cut. Its modification time says when it was put or kept last, by the clock of the machine that did.

Why `collect(path, before)` takes nothing that was put or kept by somebody who began at `before` or later:
- What changes or removes a file *that is there* (a keep, a replacement, a collection, a removal) does so under one lock, so
  that a collector's look at the time and its removal are one step among these, and no replacement makes a time earlier.
- A new file takes no lock, and needs none: a link is made only where nothing is, so it never comes between a collector's
  look and its removal, and what it makes carries the time of its writer. A writer who finds the name taken after all (or a
  file system without links) goes the way of a replacement.
- So when a collector looks, the time is at least that of everybody who has put or kept the file; whoever comes later finds
  it gone, and puts it again or is told so.
The kernel frees the lock when its holder is killed, and each change is one system call: nothing is ever half done. What a
killed writer leaves is its temporary file, which it held locked while it lived. A network file system must lock for all
the machines that write to it, as NFS does.
Cost: a put of what is new, a link and an unlink where a rename would do; a keep, 20 µs.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from velodrome.core.clock import SystemClock
from velodrome.core.errors import StorageError
from velodrome.store.files import flush_folder, make_folder, temporary_file

__all__ = ["Folder", "file_time"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000_000
_COARSE = timedelta(seconds=2)  # the coarsest that file systems keep times


class Folder:
    """Files `root`/folder/name. Methods raise StorageError where the folder cannot be used."""

    def __init__(self, root: Path) -> None:
        self.root = make_folder(root)

    @contextmanager
    def new(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A file to write, with its path; removed at the end of the block."""
        with temporary_file(self.root / "incoming") as (temporary, out):
            with suppress(OSError):  # where files cannot be locked, its time alone says that it is in use
                fcntl.flock(out, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield temporary, out

    def names(self, folder: str = "") -> Iterator[str]:
        """`folder/name` of every file, or of those in one folder; what begins with a dot is nobody's."""
        for each in [folder] if folder else self._folders():
            with suppress(FileNotFoundError), self.usable():
                yield from (f"{each}/{name}" for name in os.listdir(self.root / each) if not name.startswith("."))

    def stat(self, name: str) -> os.stat_result | None:
        """What the system knows of a file; None where there is none."""
        with self.usable():
            try:
                return os.stat(f"{self.root}/{name}")
            except FileNotFoundError:
                return None

    def publish(self, temporary: Path, out: BinaryIO, path: Path) -> None:
        """Give a new file that is whole its name, durably; put now."""
        _finish(out)
        if not path.parent.exists():
            make_folder(path.parent)
            flush_folder(self.root)
        try:
            os.link(temporary, path)
        except OSError:  # the name is taken, or there are no links here; what else is wrong is told by the replacement
            self._replace(temporary, path)
        else:
            flush_folder(path.parent)

    def keep(self, path: Path) -> bool:
        """Whether the file is there; if so, it counts as put now."""
        with self.usable():
            try:
                return path.exists() and self._touch(path)
            except PermissionError:
                return self._renew(path)
            except FileNotFoundError:
                return False

    def collect(self, path: Path, before: datetime) -> bool:
        """Remove the file, unless it was put or kept at `before` or later; True if it went."""
        with self.usable(), self._locked():
            try:
                old = _latest(path.stat()) < before
            except FileNotFoundError:
                return False
            if old:
                path.unlink()
            return old

    def remove(self, path: Path) -> None:
        """Remove the file; one that is not there is fine."""
        with self.usable(), self._locked():
            path.unlink(missing_ok=True)

    def sweep(self, before: datetime) -> int:
        """Remove what writers that were killed before `before` have left; how many files."""
        with self.usable():
            return sum(_swept(path, before) for path in self.root.glob("incoming/.*"))

    @contextmanager
    def usable(self) -> Iterator[None]:
        """What goes wrong in the block is the folder's fault; that a file is not there passes.

        Raises:
            StorageError: the disk refused.
        """
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> StorageError:
        return StorageError(
            f"cannot use {self.root}: {error.strerror}", remedy="check the disk and the permissions of the folder"
        )

    def _folders(self) -> list[str]:
        try:
            with os.scandir(self.root) as found:
                return [entry.name for entry in found if entry.is_dir() and not entry.name.startswith(".")]
        except OSError as error:
            raise self._unusable(error) from error

    def _touch(self, path: Path) -> bool:
        with self._locked():
            found = path.stat()
            time = max(_now(), found.st_mtime_ns)
            os.utime(path, ns=(found.st_atime_ns, time))
        if found.st_nlink > 1:  # its writer has not flushed the name yet
            flush_folder(path.parent)
        return True

    def _renew(self, path: Path) -> bool:
        """Put another user's file, whose time we may not set, again as ours."""
        try:
            with path.open("rb") as old, self.new() as (temporary, out):
                shutil.copyfileobj(old, out)
                _finish(out)
                self._replace(temporary, path)
        except FileNotFoundError:
            return False
        return True

    def _replace(self, temporary: Path, path: Path) -> None:
        with self._locked():
            time = _now()
            with suppress(FileNotFoundError):
                time = max(time, path.stat().st_mtime_ns)
            os.utime(temporary, ns=(time, time))
            temporary.replace(path)
            flush_folder(path.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def file_time(found: os.stat_result) -> datetime:
    """When a file was put or kept last."""
    return _EPOCH + found.st_mtime_ns // 1000 * _MICROSECOND


def _latest(found: os.stat_result) -> datetime:
    """The latest that this may have been: a whole second was cut by the file system."""
    return file_time(found) + (timedelta(0) if found.st_mtime_ns % _SECOND else _COARSE)


def _finish(out: BinaryIO) -> None:
    """Make a file that is whole read-only, new and durable."""
    out.flush()
    os.fchmod(out.fileno(), 0o444)
    now = _now()
    os.utime(out.fileno(), ns=(now, now))
    os.fsync(out.fileno())


def _now() -> int:
    """Nanoseconds since 1970."""
    return (SystemClock().now() - _EPOCH) // _MICROSECOND * 1000


def _swept(path: Path, before: datetime) -> bool:
    """Whether this temporary file was old and nobody's, and is gone."""
    with suppress(FileNotFoundError, PermissionError, BlockingIOError):
        if file_time(path.stat()) + _COARSE < before:  # by the kernel's clock, which is a little behind ours
            with path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            return True
    return False
