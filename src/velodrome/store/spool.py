"""A spool: a queue of byte strings in a local file, for what must survive a kill before its goal can take it.

The file is a magic number and then frames of length, checksum and payload. An append is one write: what was appended survives
a kill of the process at once, and a power cut from the next `sync` on. What a kill or a power cut tore is cut when the spool
is opened again. Whoever has a spool open holds a lock on its file, which the kernel frees at kill -9, so a spool that can be
opened is one whose process is gone. Its goal must take a payload twice, since a kill may come between taking and forgetting.
Cost: a write into the page cache for an append, microseconds; the file is cut to nothing whenever all of it was forgotten.
"""

import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from velodrome.core.errors import StorageError
from velodrome.store.files import flush_folder, make_folder

__all__ = ["Spool", "open_spool"]

_MAGIC = b"vdspool1"
_FRAME = struct.Struct("<II")


class Spool:
    """A queue of byte strings in the file `path`; first in, first out. Threads may share it.

    Attributes:
        torn: bytes at the end of the file that were cut when it was opened.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle
        self._lock = threading.Lock()
        self._first = len(_MAGIC)
        with self._refusing("read"):
            size = os.fstat(handle).st_size
            magic = os.pread(handle, self._first, 0)
            if size < self._first or not any(magic):  # its process was killed, or the power cut, before it began
                _write(handle, _MAGIC, 0)
            elif magic != _MAGIC:
                raise StorageError(
                    f"{path} is no spool that this program knows", remedy="upgrade velodrome, or move the file away"
                )
            self._last = self._first + sum(_FRAME.size + len(payload) for payload in _frames(handle, self._first, size))
            self.torn = max(0, size - self._last)
            os.ftruncate(handle, self._last)

    @property
    def size(self) -> int:
        """Bytes that the queue takes in the file."""
        return self._last - self._first

    def append(self, payload: bytes) -> None:
        """Put `payload` at the end of the queue.

        Raises:
            StorageError: the disk refused; nothing of it is in the queue.
        """
        frame = _FRAME.pack(len(payload), _checksum(payload)) + payload
        with self._lock, self._refusing("write"):
            try:
                _write(self._handle, frame, self._last)
            except OSError:
                with suppress(OSError):  # what is left there is no whole frame, and the next one is written over it
                    os.ftruncate(self._handle, self._last)
                raise
            self._last += len(frame)

    def read(self, size: int) -> tuple[list[bytes], int]:
        """The payloads at the head of the queue, one at least if there is one, then up to `size` bytes; and their end.

        Raises:
            StorageError: the file cannot be read, or was changed.
        """
        with self._lock:
            place, last = self._first, self._last
        found: list[bytes] = []
        with self._refusing("read"):
            for payload in _frames(self._handle, place, last):
                if found and size < len(payload):
                    break
                found.append(payload)
                size -= len(payload)
                place += _FRAME.size + len(payload)
        if not found and place < last:
            raise StorageError(f"the spool {self.path} was changed behind our back", remedy="check the disk")
        return found, place

    def forget(self, end: int) -> None:
        """Take everything before `end`, which `read` gave, off the queue."""
        with self._lock, self._refusing("write"):
            self._first = end
            if self._first == self._last:
                os.ftruncate(self._handle, len(_MAGIC))
                self._first = self._last = len(_MAGIC)

    def sync(self) -> None:
        """Return when everything that was appended survives a power cut.

        Raises:
            StorageError: the disk refused.
        """
        with self._refusing("write"):
            os.fsync(self._handle)
            flush_folder(self.path.parent)

    def remove(self) -> None:
        """Take the file away, with all that is in it, and close it."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Let go of the file, for others to open it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _refusing(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot {verb} the spool {self.path}: {error.strerror}",
                remedy="check the space and the permissions of its folder",
            ) from error


def open_spool(path: Path, *, make: bool) -> Spool | None:
    """The spool in the file `path`; None if somebody has it open, or if it is not there and is not to be made.

    Raises:
        StorageError: the disk refused, or the file is no spool.
    """
    if make:
        make_folder(path.parent)
    while True:
        handle = _locked(path, os.O_CREAT if make else 0)
        if handle is None:
            return None
        if _is_at(handle, path):
            return _opened(path, handle)
        os.close(handle)  # whoever had it removed it before we had the lock


def _locked(path: Path, flags: int) -> int | None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
    except (FileNotFoundError, BlockingIOError):
        return None
    except OSError as error:
        raise StorageError(f"cannot open the spool {path}: {error.strerror}", remedy="check its folder") from error
    return handle


def _opened(path: Path, handle: int) -> Spool:
    try:
        return Spool(path, handle)
    except BaseException:
        os.close(handle)
        raise


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _frames(handle: int, place: int, last: int) -> Iterator[bytes]:
    """The payloads from `place` on, until the first that is torn."""
    while place + _FRAME.size <= last:
        length, checksum = _FRAME.unpack(os.pread(handle, _FRAME.size, place))
        payload = os.pread(handle, length, place + _FRAME.size) if length <= last - place - _FRAME.size else b""
        if len(payload) != length or _checksum(payload) != checksum:
            return
        yield payload
        place += _FRAME.size + length


def _checksum(payload: bytes) -> int:
    """Of the length as well: zeros, as a file system may leave them after a power cut, are no frame."""
    return zlib.crc32(payload, zlib.crc32(struct.pack("<I", len(payload))))


def _write(handle: int, data: bytes, place: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, place)
        left, place = left[written:], place + written
