"""A cache of remote blobs in a local folder, verified whenever it is used.

A copy is hashed when it is filled and again at each use, like a blob in a folder: a bit that flipped on the disk changes no
time stamp, so no remembered stamp would find it. A copy that is damaged or gone is fetched again, so the cache may vanish
at any time and only that costs time. Copies are not flushed to the disk, for the same reason. What was used longest ago
goes first; what was asked for within the last hour stays even above the limit, since a path that was handed out may not
have been opened yet (a file that is open, or mapped, outlives its name). Each process looks at the whole folder after it
has filled a twentieth of the limit, and makes room down to the limit less another twentieth.
Cost: a hit is a hash, 1 to 6 GB/s; a look is one `stat` per copy.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from velodrome.core.clock import Clock, SystemClock
from velodrome.core.digest import CHUNK, Digest, Hasher, digest_bytes
from velodrome.core.errors import SourceError, StorageError
from velodrome.core.logging import logger
from velodrome.store.blobs import Blob, Blobs, Entry
from velodrome.store.files import digest_file, make_folder, temporary_file
from velodrome.store.named import AddressedBlobs, blob_name

__all__ = ["CachedBlobs"]

_SHARE = 20
_HOUR = 3600.0


class CachedBlobs(Blobs):
    """The blobs of `remote`, with copies in `folder` (only this user can enter it) of at most `limit` bytes.

    What is put goes to `remote` alone; what is read, or asked for as a file, stays here too. `has` and `list` ask `remote`.
    Copies of encrypted blobs are plain.

    Args:
        grace: seconds that a copy stays after it was asked for, whatever the limit.
    """

    def __init__(
        self, remote: AddressedBlobs, folder: Path, limit: int, *, grace: float = _HOUR, clock: Clock | None = None
    ) -> None:
        self.remote = remote
        self.folder = make_folder(folder)
        self.folder.chmod(0o700)
        self._limit = limit
        self._grace = grace
        self._clock = clock or SystemClock()
        self._until_look = 0

    def __repr__(self) -> str:
        return f"CachedBlobs({self.remote!r}, {str(self.folder)!r})"

    def put(self, source: bytes | memoryview | BinaryIO | Path) -> Blob:
        return self.remote.put(source)

    def read(self, digest: str) -> bytes:
        path = self._path(digest)
        with suppress(OSError):
            os.utime(path)
            data = path.read_bytes()
            if digest_bytes(data) == digest:
                return data
        data = self.remote.read(digest)
        try:
            with self._filled(path) as out:
                out.write(data)
        except StorageError as error:
            logger().warning("cache.not_filled", problem=error.problem)
        return data

    def local(self, digest: str) -> Path:
        path = self._path(digest)
        with suppress(OSError, SourceError):
            os.utime(path)  # first of all, so that nobody removes it between the hash and the use
            if digest_file(path) == digest:
                return path
        with self._filled(path) as out:
            self.remote.copy_to(digest, out)
        return path

    def copy_to(self, digest: str, out: BinaryIO) -> int:
        """From the copy that is here, else past the cache: whoever copies much would drive everything else out of it."""
        path, begin = self._path(digest), out.tell()
        with suppress(OSError):
            with path.open("rb") as copy:
                hasher = Hasher()
                while chunk := copy.read(CHUNK):
                    hasher.update(chunk)
                    out.write(chunk)
            if hasher.digest() == digest:
                return out.tell() - begin
        out.seek(begin)
        out.truncate()
        return self.remote.copy_to(digest, out)

    def has(self, digest: str) -> bool:
        return self.remote.has(digest)

    def keep(self, digest: str) -> bool:
        return self.remote.keep(digest)

    def delete(self, digest: str) -> None:
        self._forget(digest)
        self.remote.delete(digest)

    def list(self) -> Iterator[Digest]:
        return self.remote.list()

    def entries(self) -> Iterator[Entry]:
        return self.remote.entries()

    def collect(self, digest: str, before: datetime) -> bool:
        went = self.remote.collect(digest, before)
        if went:
            self._forget(digest)
        return went

    def sweep(self, before: datetime) -> int:
        return self.remote.sweep(before)

    def _forget(self, digest: str) -> None:
        with suppress(OSError):
            self._path(digest).unlink()

    def _path(self, digest: str) -> Path:
        return self.folder / blob_name(digest)

    @contextmanager
    def _filled(self, path: Path) -> Iterator[BinaryIO]:
        """A file to write a copy to, which takes its place at the end of the block."""
        with temporary_file(self.folder / "incoming") as (temporary, out):
            yield out
            out.flush()
            os.fchmod(out.fileno(), 0o400)
            self._until_look -= out.tell()
            make_folder(path.parent)
            temporary.replace(path)
        if self._until_look <= 0:
            self._make_room()
            self._until_look = self._limit // _SHARE

    def _make_room(self) -> None:
        copies = sorted(self._copies())
        above = sum(size for _, size, _ in copies) - self._limit + self._limit // _SHARE
        ended = self._clock.now().timestamp() - self._grace
        for used, size, path in copies:
            if above <= 0 or used > ended:
                break
            with suppress(OSError):
                path.unlink()
            above -= size

    def _copies(self) -> Iterator[tuple[float, int, Path]]:
        """When it was last used (seconds of the epoch), size in bytes and path of each copy, and of each file that is being
        filled or was left when that was killed: those count as used an hour later."""
        for path in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                filling = path.parent.name == "incoming"
                yield found.st_mtime + (_HOUR if filling else 0.0), found.st_size, path
