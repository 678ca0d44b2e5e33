"""Bytes named by their digest: the interface, and the store in a folder.

Every read hashes what it reads: a flipped bit is an error, never a wrong model. How a folder keeps what is needed while
the rest is collected is told in `velodrome.store.folder`, how a bucket does in `velodrome.store.marked`.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from velodrome.core.digest import CHUNK, Digest, Hasher, digest_bytes, is_digest
from velodrome.core.errors import IntegrityError, MissingBlob, SourceError, StorageError
from velodrome.store.folder import Folder, file_time

__all__ = ["Blob", "Blobs", "Entry", "FolderBlobs"]


class Blob(msgspec.Struct, frozen=True):
    """The name and size in bytes of a blob."""

    digest: Digest
    size: int


class Entry(msgspec.Struct, frozen=True):
    """A blob as a collector sees it.

    Attributes:
        size: bytes as stored: where the store encrypts, a little more than the blob's own.
        time: when it was put or kept last, in UTC, by the store's clock; buckets say it to a second, cut.
    """

    digest: Digest
    size: int
    time: datetime


class Blobs(ABC):
    """A store of immutable bytes.

    Contract, held by `velodrome.testing.blobs` for every implementation:
    - `put` is idempotent and atomic: when it returns, the bytes are durable under their digest; when it raises, a blob that
      was there before is unharmed, and no part of the new one can be read.
    - What a read returns has the digest that was asked for. Damage is IntegrityError, absence is MissingBlob; neither is None.
    - Threads and processes may put, keep, read, delete and collect at once. Whoever puts or keeps a blob has it from then on:
      a `collect` with a `before` from before that began never takes it away, whenever it comes, and no read misses it
      meanwhile. Writers and collectors may be killed at any point.
    """

    @abstractmethod
    def put(self, source: bytes | memoryview | BinaryIO | Path) -> Blob:
        """Store the bytes, or all that the stream or file holds. Memory stays bounded for streams and files.

        Raises:
            StorageError: the bytes could not be made durable.
        """

    @abstractmethod
    def read(self, digest: str) -> bytes:
        """All bytes of a blob.

        Raises:
            MissingBlob: there is no such blob.
            IntegrityError: its bytes are not what its digest says.
        """

    @abstractmethod
    def copy_to(self, digest: str, out: BinaryIO) -> int:
        """Write a blob to `out`, a file or buffer that can be rewound, from its present position on; its size in bytes.

        When this raises, what `out` holds from its position on is not the blob. Raises as `read` does.
        """

    @abstractmethod
    def local(self, digest: str) -> Path:
        """A path on this machine with the verified bytes of a blob, for memory maps and libraries that take a path. Not to
        be written to. Raises as `read` does."""

    @abstractmethod
    def has(self, digest: str) -> bool:
        """Whether there is such a blob; its bytes are not looked at."""

    @abstractmethod
    def keep(self, digest: str) -> bool:
        """Whether there is such a blob; if so, it counts as put now. Its bytes are not looked at.

        False also while a collector is taking it away: make it again.
        """

    @abstractmethod
    def delete(self, digest: str) -> None:
        """Forget a blob, whoever needs it; one that is not there is fine."""

    @abstractmethod
    def list(self) -> Iterator[Digest]:
        """The digest of every blob, in no particular order."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Every blob with its size and time, in no particular order."""

    @abstractmethod
    def collect(self, digest: str, before: datetime) -> bool:
        """Delete a blob that nobody needs, unless it was put or kept at `before` or later (where that cannot be told: unless
        it may have been); True if it went.

        Args:
            before: by the store's clock. The caller makes it early enough for clocks that differ, and earlier than the
                beginning of every put whose row is not there yet.
        """

    @abstractmethod
    def sweep(self, before: datetime) -> int:
        """Clear away what writers and collectors that were killed before `before` have left beside the blobs; how many
        things that were. A blob that a killed collector had half taken away is put back: collect first, then sweep.
        """


class FolderBlobs(Blobs):
    """Blobs in files `root`/ab/abcd…, read-only once written."""

    def __init__(self, root: Path) -> None:
        self._folder = Folder(root)
        self.root = self._folder.root

    def put(self, source: bytes | memoryview | BinaryIO | Path) -> Blob:
        if isinstance(source, Path):
            with _opened(source) as stream:
                return self._put(stream)
        if isinstance(source, bytes | memoryview):
            return self._put_bytes(source)
        return self._put(source)

    def read(self, digest: str) -> bytes:
        self._check(digest)
        path = f"{self.root}/{digest[:2]}/{digest}"  # text: small blobs are read often, and a Path costs as much as the read
        try:
            with open(path, "rb", buffering=0) as stream:
                data = stream.read()
        except OSError as error:
            raise _unread(digest, path, error) from error
        if digest_bytes(data) != digest:
            raise _damaged(digest, path)
        return data

    def copy_to(self, digest: str, out: BinaryIO) -> int:
        size = 0
        for chunk in self._verified(digest):
            size += out.write(chunk)
        return size

    def local(self, digest: str) -> Path:
        deque(self._verified(digest), maxlen=0)
        return self._path(digest)

    def has(self, digest: str) -> bool:
        self._check(digest)
        return self._folder.stat(f"{digest[:2]}/{digest}") is not None

    def keep(self, digest: str) -> bool:
        return self._folder.keep(self._path(digest))

    def delete(self, digest: str) -> None:
        self._folder.remove(self._path(digest))

    def list(self) -> Iterator[Digest]:
        for name in self._folder.names():
            if is_digest(name[3:]) and name[:3] == f"{name[3:5]}/":
                yield Digest(name[3:])

    def entries(self) -> Iterator[Entry]:
        for digest in self.list():
            if found := self._folder.stat(f"{digest[:2]}/{digest}"):
                yield Entry(digest, found.st_size, file_time(found))

    def collect(self, digest: str, before: datetime) -> bool:
        return self._folder.collect(self._path(digest), before)

    def sweep(self, before: datetime) -> int:
        return self._folder.sweep(before)

    def _path(self, digest: str) -> Path:
        self._check(digest)
        return self.root / digest[:2] / digest

    def _check(self, digest: str) -> None:
        if not is_digest(digest):
            raise StorageError("a blob is named by 64 hexadecimal characters", received=digest)

    def _put_bytes(self, data: bytes | memoryview) -> Blob:
        blob = Blob(digest_bytes(data), len(data) if isinstance(data, bytes) else data.nbytes)
        if not (self._intact(blob) and self.keep(blob.digest)):
            with self._folder.new() as (temporary, out):
                out.write(data)
                self._folder.publish(temporary, out, self._path(blob.digest))
        return blob

    def _put(self, stream: BinaryIO) -> Blob:
        hasher, size = Hasher(), 0
        with self._folder.new() as (temporary, out):
            while chunk := stream.read(CHUNK):
                hasher.update(chunk)
                size += out.write(chunk)
            blob = Blob(hasher.digest(), size)
            if not (self._intact(blob) and self.keep(blob.digest)):
                self._folder.publish(temporary, out, self._path(blob.digest))
        return blob

    def _intact(self, blob: Blob) -> bool:
        """Whether the blob is there with its bytes; a damaged one is written again, which mends it."""
        found = self._folder.stat(f"{blob.digest[:2]}/{blob.digest}")
        if found is None or found.st_size != blob.size:
            return False
        try:
            self.local(blob.digest)
        except (MissingBlob, IntegrityError):
            return False
        return True

    def _verified(self, digest: str) -> Iterator[bytes]:
        """The bytes of a blob; IntegrityError at their end, if they are not what its digest says."""
        path, hasher = self._path(digest), Hasher()
        try:
            with path.open("rb", buffering=0) as stream:
                while chunk := stream.read(CHUNK):
                    hasher.update(chunk)
                    yield chunk
        except OSError as error:
            raise _unread(digest, path, error) from error
        if hasher.digest() != digest:
            raise _damaged(digest, path)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceError(
            f"cannot read {path}: {error.strerror}", remedy="check the path and its permissions"
        ) from error


def _unread(digest: str, path: Path | str, error: OSError) -> StorageError:
    if isinstance(error, FileNotFoundError):
        return _missing(digest)
    return StorageError(
        f"cannot read {path}: {error.strerror}",
        received=digest,
        remedy="check the disk and the permissions of the folder",
    )


def _missing(digest: str) -> MissingBlob:
    return MissingBlob(
        "a blob is not there", received=digest, remedy="run `velodrome doctor`; restore it from a backup"
    )


def _damaged(digest: str, path: Path | str) -> IntegrityError:
    return IntegrityError(
        f"the bytes of a blob are not what its digest says: {path}",
        received=digest,
        remedy="run `velodrome doctor`; restore it from a backup",
    )
