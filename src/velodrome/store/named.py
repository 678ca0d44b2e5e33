"""Bytes under names, and blobs over them: what every place that is not a plain folder of blobs has in common.

`Objects` is what a bucket, a folder and their encrypted forms can do: put, get, has, delete and list by name, nothing
about content. `AddressedBlobs` makes blobs of any of them: it names bytes by their digest, hashes again while they travel,
and verifies all that comes back. So encryption and buckets are written once each, below it, and need to know nothing of
digests. How bytes are kept while others are collected is the place's own affair, below the encryption too.
Cost: a put reads its source twice (the name must be known before the first byte goes out) and asks once whether the blob
is there already; a read is one pass. Memory is bounded by a few pieces of 1 MiB, whatever the size.
"""

import io
import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from velodrome.core.digest import CHUNK, Digest, Hasher, digest_bytes, is_digest
from velodrome.core.errors import IntegrityError, MissingBlob, SourceError, StorageError
from velodrome.store.blobs import Blob, Blobs, Entry
from velodrome.store.copies import folder_of
from velodrome.store.files import digest_file, make_folder, temporary_file
from velodrome.store.folder import Folder, file_time

__all__ = [
    "AddressedBlobs",
    "Content",
    "FolderObjects",
    "Held",
    "Objects",
    "Piece",
    "after",
    "blob_name",
    "hashed",
    "spooled",
]

Piece = bytes | memoryview
"""Some of an object's bytes."""

_IN_MEMORY = 8 << 20
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Content:
    """What is put: `size` bytes, in pieces of any length. `pieces` may be called again, when a try has failed."""

    size: int
    pieces: Callable[[], Iterator[Piece]]


@dataclass(frozen=True, slots=True)
class Held:
    """What a place holds under a name: bytes as stored, and when it was put or kept last, in UTC, by the place's clock."""

    name: str
    size: int
    time: datetime


class Objects(ABC):
    """Bytes under names in one place. A name is `folder/rest`, of lower-case letters, digits and hyphens.

    Contract:
    - `put` replaces and is atomic: the old bytes or the new ones are there, whole; durable when it returns.
    - `get` may be damaged bytes: whoever gives the names their meaning verifies them.
    - Whoever calls `keep`, and then `put` where that is False, has the name from then on: a `collect` with a `before` from
      before that began never takes it away, and no `get` or `has` misses it meanwhile.
    - Threads and processes may do all of it at once.
    - Each may raise StorageError, where the place cannot be used; the text never holds a credential.
    """

    @property
    @abstractmethod
    def where(self) -> str:
        """The place, as people call it."""

    @abstractmethod
    def put(self, name: str, content: Content) -> None:
        """Store the content under the name. What `content.pieces` raises passes through, and nothing is stored."""

    @abstractmethod
    def get(self, name: str) -> Iterator[Piece]:
        """The bytes, in pieces.

        Raises:
            FileNotFoundError: with the first piece, if nothing has that name.
        """

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether something has that name."""

    @abstractmethod
    def keep(self, name: str) -> bool:
        """Whether something has that name; if so, it counts as put now, and if not, what is put under it next is safe from
        every collector who is at work. False also while a collector is taking it away."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Forget a name; one that is not there is fine."""

    @abstractmethod
    def list(self, folder: str = "") -> Iterator[str]:
        """Every name, or every name of one folder, in no particular order."""

    @abstractmethod
    def entries(self) -> Iterator[Held]:
        """What is held under every name, in no particular order."""

    @abstractmethod
    def collect(self, name: str, before: datetime) -> bool:
        """Delete what has that name, unless it may have been put or kept at `before` or later; True if it went."""

    @abstractmethod
    def sweep(self, before: datetime) -> int:
        """Clear away what those who were killed before `before` have left beside the names; how many things that were. What
        a killed collector had half taken away is put back."""


class FolderObjects(Objects):
    """Objects in files `root`/folder/rest."""

    def __init__(self, root: Path) -> None:
        self._folder = Folder(root)
        self.root = self._folder.root

    @property
    def where(self) -> str:
        return str(self.root)

    def put(self, name: str, content: Content) -> None:
        with self._folder.new() as (temporary, out):
            for piece in content.pieces():
                out.write(piece)
            self._folder.publish(temporary, out, self.root / name)

    def get(self, name: str) -> Iterator[Piece]:
        with self._folder.usable(), (self.root / name).open("rb") as stream:
            yield from _chunks(stream)

    def has(self, name: str) -> bool:
        return self._folder.stat(name) is not None

    def keep(self, name: str) -> bool:
        return self._folder.keep(self.root / name)

    def delete(self, name: str) -> None:
        self._folder.remove(self.root / name)

    def list(self, folder: str = "") -> Iterator[str]:
        return self._folder.names(folder)

    def entries(self) -> Iterator[Held]:
        for name in self._folder.names():
            if found := self._folder.stat(name):
                yield Held(name, found.st_size, file_time(found))

    def collect(self, name: str, before: datetime) -> bool:
        return self._folder.collect(self.root / name, before)

    def sweep(self, before: datetime) -> int:
        return self._folder.sweep(before)


def blob_name(digest: str) -> str:
    """The name of a blob among objects.

    Raises:
        StorageError: that is no digest.
    """
    if not is_digest(digest):
        raise StorageError("a blob is named by 64 hexadecimal characters", received=digest)
    return f"{digest[:2]}/{digest[2:]}"


def _digest_in(name: str) -> Digest | None:
    """The digest of the blob of that name; None for what is no blob."""
    digest = name.replace("/", "", 1)
    return Digest(digest) if is_digest(digest) and blob_name(digest) == name else None


class AddressedBlobs(Blobs):
    """Blobs over `objects`. Local copies live below `scratch` (the system's folder, where it is None), where only this
    user can enter, as long as this object does: `velodrome.store.cache.CachedBlobs` keeps them longer.
    """

    def __init__(self, objects: Objects, scratch: Path | None = None) -> None:
        self.objects = objects
        self._scratch = None if scratch is None else make_folder(scratch)
        self._copies: Path | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.objects.where!r})"

    def put(self, source: bytes | memoryview | BinaryIO | Path) -> Blob:
        if isinstance(source, Path):
            return self._store(digest_file(source), _file_content(source))
        if isinstance(source, bytes | memoryview):
            data = memoryview(source).cast("B")
            return self._store(digest_bytes(data), Content(data.nbytes, lambda: iter([data])))
        hasher = Hasher()
        with spooled(hashed(hasher, _chunks(source)), self._scratch) as content:
            return self._store(hasher.digest(), content)

    def read(self, digest: str) -> bytes:
        out = io.BytesIO()
        self.copy_to(digest, out)
        return out.getvalue()

    def copy_to(self, digest: str, out: BinaryIO) -> int:
        """As `Blobs.copy_to`; a transfer that was damaged is done once more before the blob is called damaged."""
        name, begin = blob_name(digest), out.tell()
        damage: IntegrityError | None = None
        for _ in range(_ATTEMPTS):
            out.seek(begin)
            out.truncate()
            try:
                if self._copy(name, out) == digest:
                    return out.tell() - begin
            except IntegrityError as error:
                damage = error
        raise self._damaged(digest) from damage

    def local(self, digest: str) -> Path:
        path = self._folder() / blob_name(digest)
        if not path.exists() or digest_file(path) != digest:
            with temporary_file(path.parent) as (temporary, out):
                self.copy_to(digest, out)
                out.flush()
                os.fchmod(out.fileno(), 0o400)
                temporary.replace(path)
        return path

    def has(self, digest: str) -> bool:
        return self.objects.has(blob_name(digest))

    def keep(self, digest: str) -> bool:
        return self.objects.keep(blob_name(digest))

    def delete(self, digest: str) -> None:
        self.objects.delete(blob_name(digest))

    def list(self) -> Iterator[Digest]:
        for name in self.objects.list():
            if digest := _digest_in(name):
                yield digest

    def entries(self) -> Iterator[Entry]:
        for held in self.objects.entries():
            if digest := _digest_in(held.name):
                yield Entry(digest, held.size, held.time)

    def collect(self, digest: str, before: datetime) -> bool:
        return self.objects.collect(blob_name(digest), before)

    def sweep(self, before: datetime) -> int:
        return self.objects.sweep(before)

    def _store(self, digest: Digest, content: Content) -> Blob:
        if not (self.objects.keep(blob_name(digest)) and self._intact(digest)):
            self.objects.put(blob_name(digest), Content(content.size, lambda: _faithful(content.pieces(), digest)))
        return Blob(digest, content.size)

    def _folder(self) -> Path:
        with self._lock:
            if self._copies is None:
                self._copies = folder_of(self, self._scratch)
            return self._copies

    def _intact(self, digest: Digest) -> bool:
        """Whether the blob is there with its bytes; a damaged one is written again, which mends it."""
        hasher = Hasher()
        try:
            for piece in self.objects.get(blob_name(digest)):
                hasher.update(piece)
        except (FileNotFoundError, IntegrityError):
            return False
        return hasher.digest() == digest

    def _copy(self, name: str, out: BinaryIO) -> Digest:
        hasher = Hasher()
        try:
            for piece in self.objects.get(name):
                hasher.update(piece)
                out.write(piece)
        except FileNotFoundError as error:
            raise self._missing(name) from error
        return hasher.digest()

    def _missing(self, name: str) -> MissingBlob:
        return MissingBlob(
            f"a blob is not there: {self.objects.where}",
            received=name.replace("/", ""),
            remedy="run `velodrome doctor`; restore it from a backup",
        )

    def _damaged(self, digest: str) -> IntegrityError:
        return IntegrityError(
            f"the bytes of a blob are not what its digest says: {self.objects.where}",
            received=digest,
            remedy="run `velodrome doctor`; restore it from a backup",
        )


def after(skip: int, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces without the first `skip` bytes."""
    for piece in pieces:
        if len(piece) > skip:
            yield piece[skip:]
        skip = max(0, skip - len(piece))


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


def _file_content(path: Path) -> Content:
    def pieces() -> Iterator[Piece]:
        try:
            with path.open("rb") as stream:
                yield from _chunks(stream)
        except OSError as error:
            raise SourceError(
                f"cannot read {path}: {error.strerror}", remedy="check the path and its permissions"
            ) from error

    return Content(path.stat().st_size, pieces)


def hashed(hasher: Hasher, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces as they are, each fed to the hasher."""
    for piece in pieces:
        hasher.update(piece)
        yield piece


@contextmanager
def spooled(source: Iterator[Piece], scratch: Path | None = None) -> Iterator[Content]:
    """All that the source gives, once; above 8 MiB it waits in a nameless file.

    Raises:
        StorageError: it could not be taken in.
    """
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=None if scratch is None else str(scratch)) as spool:
        try:
            for piece in source:
                spool.write(piece)
        except OSError as error:
            raise StorageError(
                f"cannot take in a stream: {error.strerror}",
                remedy="check its source and the space for temporary files",
            ) from error

        def pieces() -> Iterator[Piece]:
            spool.seek(0)
            while chunk := spool.read(CHUNK):
                yield chunk

        yield Content(spool.tell(), pieces)


def _faithful(pieces: Iterator[Piece], digest: Digest) -> Iterator[Piece]:
    """The pieces as they are; refused at their end, before anything is stored, if they are not what the digest says."""
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
        yield piece
    if hasher.digest() != digest:
        raise StorageError(
            "a source changed while it was stored",
            received=digest,
            remedy="write files elsewhere and move them into place when they are whole",
        )
