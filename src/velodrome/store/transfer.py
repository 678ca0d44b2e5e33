"""Many blobs at a time: carried from one store to another, or read through where they lie.

A few go together, in threads, since each waits for a disk or a server most of the time. What is read is verified; a cache is
passed by, so that it is neither trusted nor filled.
Cost: one read of each blob, and for what is carried one write. Memory: four blobs of 8 MiB; larger ones lie in a file
meanwhile.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from velodrome.core.digest import Digest
from velodrome.core.errors import IntegrityError, MissingBlob, StorageError
from velodrome.store.blobs import Blob, Blobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.files import temporary_file, temporary_folder

__all__ = ["Carried", "carry", "origin", "unreadable"]

_IN_MEMORY = 8 << 20
_AT_ONCE = 4
_GROUP = 256

_T = TypeVar("_T")
_R = TypeVar("_R")


class Carried(msgspec.Struct, frozen=True):
    """What became of the blobs that were to be carried over: how many were, and which were gone or damaged at their source."""

    count: int
    gone: tuple[Digest, ...] = ()
    damaged: tuple[Digest, ...] = ()


class _Nowhere(io.BytesIO):
    """A file that forgets what is written to it."""

    def write(self, data: Any) -> int:
        return len(data)


def carry(
    blobs: Iterable[Blob], source: Blobs, target: Blobs, folder: Path, advance: Callable[[], object] = lambda: None
) -> Carried:
    """Put blobs of one store into another. What is there already, but damaged, is mended.

    Args:
        folder: where large blobs lie for a moment.
        advance: called for each blob.

    Raises:
        StorageError: the target refused, or the source could not be used.
    """
    source, ends = origin(source), dict[Digest, type[StorageError] | None]()
    with temporary_folder(folder) as temporary:
        for blob, end in _together(blobs, lambda blob: _carry(blob, source, target, temporary / blob.digest)):
            ends[blob.digest] = end
            advance()
    gone = tuple(digest for digest, end in ends.items() if end is MissingBlob)
    damaged = tuple(digest for digest, end in ends.items() if end is IntegrityError)
    return Carried(len(ends) - len(gone) - len(damaged), gone, damaged)


def unreadable(
    digests: Iterable[Digest], blobs: Blobs, advance: Callable[[], object] = lambda: None
) -> dict[Digest, StorageError]:
    """Which of the blobs are missing or damaged, and how.

    Raises:
        StorageError: the store could not be used.
    """
    blobs, found = origin(blobs), dict[Digest, StorageError]()
    for digest, problem in _together(digests, lambda digest: _read(digest, blobs)):
        if problem is not None:
            found[digest] = problem
        advance()
    return found


def origin(blobs: Blobs) -> Blobs:
    """Where the blobs lie, without what is kept of them on this machine."""
    return blobs.remote if isinstance(blobs, CachedBlobs) else blobs


def _carry(blob: Blob, source: Blobs, target: Blobs, path: Path) -> type[StorageError] | None:
    try:
        content = _fetched(blob, source, path)
    except MissingBlob:
        return MissingBlob
    except IntegrityError:
        return IntegrityError
    target.put(content)
    path.unlink(missing_ok=True)
    return None


def _fetched(blob: Blob, source: Blobs, path: Path) -> bytes | Path:
    if blob.size <= _IN_MEMORY:
        return source.read(blob.digest)
    with temporary_file(path.parent) as (draft, out):
        source.copy_to(blob.digest, out)
        out.flush()
        draft.replace(path)
    return path


def _read(digest: Digest, blobs: Blobs) -> StorageError | None:
    try:
        blobs.copy_to(digest, _Nowhere())
    except (MissingBlob, IntegrityError) as error:
        return error
    return None


def _together(items: Iterable[_T], act: Callable[[_T], _R]) -> Iterator[tuple[_T, _R]]:
    """Each item with what came of it, in their order. Ends with the first error."""
    rest = iter(items)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="blobs") as threads:
        while group := list(islice(rest, _GROUP)):
            yield from zip(group, threads.map(act, group), strict=True)
