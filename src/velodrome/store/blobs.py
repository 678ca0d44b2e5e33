"""Bytes named by their digest: the interface, and the store in a folder.

The folder store writes a temporary file, flushes it, renames it to its digest and flushes the folder, so a blob is there
whole or not at all, also after a power cut. Every read hashes what it reads: a flipped bit is an error, never a wrong model.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from velodrome.core.digest import CHUNK, Digest, Hasher, digest_bytes, is_digest
from velodrome.core.errors import IntegrityError, MissingBlob, StorageError
from velodrome.store.files import digest_file, flush_folder, make_folder, temporary_file

__all__ = ["Blob", "Blobs", "FolderBlobs"]


class Blob(msgspec.Struct, frozen=True):
    """The name and size in bytes of a blob."""

    digest: Digest
    size: int


class Blobs(ABC):
    """A store of immutable bytes.

    Contract, held by `velodrome.testing.blobs` for every implementation:
    - `put` is idempotent and atomic: when it returns, the bytes are durable under their digest; when it raises, a blob that
      was there before is unharmed, and no part of the new one can be read.
    - What a read returns has the digest that was asked for. Damage is IntegrityError, absence is MissingBlob; neither is None.
    - Threads and processes may put, read and delete at once.
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
    def local(self, digest: str) -> Path:
        """A path on this machine with the verified bytes of a blob, for memory maps and libraries that take a path. Not to
        be written to. Raises as `read` does."""

    @abstractmethod
    def has(self, digest: str) -> bool:
        """Whether there is such a blob; its bytes are not looked at."""

    @abstractmethod
    def delete(self, digest: str) -> None:
        """Forget a blob; one that is not there is fine."""

    @abstractmethod
    def list(self) -> Iterator[Digest]:
        """The digest of every blob, in no particular order."""


class FolderBlobs(Blobs):
    """Blobs in files `root`/ab/abcd…, read-only once written."""

    def __init__(self, root: Path) -> None:
        self.root = make_folder(root)

    def put(self, source: bytes | memoryview | BinaryIO | Path) -> Blob:
        if isinstance(source, Path):
            with source.open("rb") as stream:
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
        except FileNotFoundError as error:
            raise _missing(digest) from error
        if digest_bytes(data) != digest:
            raise _damaged(digest, Path(path))
        return data

    def local(self, digest: str) -> Path:
        path = self._path(digest)
        if not path.exists():
            raise _missing(digest)
        if digest_file(path) != digest:
            raise _damaged(digest, path)
        return path

    def has(self, digest: str) -> bool:
        return self._path(digest).exists()

    def delete(self, digest: str) -> None:
        with suppress(FileNotFoundError):
            self._path(digest).unlink()

    def list(self) -> Iterator[Digest]:
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            if is_digest(path.name):
                yield Digest(path.name)

    def _path(self, digest: str) -> Path:
        self._check(digest)
        return self.root / digest[:2] / digest

    def _check(self, digest: str) -> None:
        if not is_digest(digest):
            raise StorageError("a blob is named by 64 hexadecimal characters", received=digest)

    def _put_bytes(self, data: bytes | memoryview) -> Blob:
        blob = Blob(digest_bytes(data), len(data) if isinstance(data, bytes) else data.nbytes)
        if not self._intact(blob):
            with temporary_file(self.root / "incoming") as (temporary, out):
                out.write(data)
                self._publish(temporary, out, blob)
        return blob

    def _put(self, stream: BinaryIO) -> Blob:
        hasher, size = Hasher(), 0
        with temporary_file(self.root / "incoming") as (temporary, out):
            while chunk := stream.read(CHUNK):
                hasher.update(chunk)
                size += out.write(chunk)
            blob = Blob(hasher.digest(), size)
            if not self._intact(blob):
                self._publish(temporary, out, blob)
        return blob

    def _publish(self, temporary: Path, out: BinaryIO, blob: Blob) -> None:
        """Give a file that is whole its name, durably."""
        out.flush()
        os.fchmod(out.fileno(), 0o444)
        os.fsync(out.fileno())
        path = self._path(blob.digest)
        if not path.parent.exists():
            make_folder(path.parent)
            flush_folder(self.root)
        temporary.replace(path)
        flush_folder(path.parent)

    def _intact(self, blob: Blob) -> bool:
        """Whether the blob is there with its bytes; a damaged one is written again, which mends it."""
        path = self._path(blob.digest)
        return path.exists() and path.stat().st_size == blob.size and digest_file(path) == blob.digest


def _missing(digest: str) -> MissingBlob:
    return MissingBlob(
        "a blob is not there", received=digest, remedy="run `velodrome doctor`; restore it from a backup"
    )


def _damaged(digest: str, path: Path) -> IntegrityError:
    return IntegrityError(
        f"the bytes of a blob are not what its digest says: {path}",
        received=digest,
        remedy="run `velodrome doctor`; restore it from a backup",
    )
