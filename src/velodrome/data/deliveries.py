"""Deliveries: the files of a source as they are now, each named by the digest of its bytes.

The digest of a file is remembered in the workspace's cache with the file's size, inode and times, so that a terabyte that
did not change is not hashed again. The times are the kernel's, which no program can set back without moving the other one;
a file that changed less than two seconds ago is not remembered, since a second change might fall into the same tick. The
cache can be removed at any time: all it spares is the hashing. Cost: one `stat` per known file, 1 to 3 GB/s for the others.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from velodrome.core.digest import Digest
from velodrome.core.errors import SourceError
from velodrome.data.sources import shown_name
from velodrome.store.files import digest_file, write_atomic
from velodrome.store.workspace import Workspace

__all__ = ["Delivery", "look", "require_unchanged"]

_SETTLED_NS = 2_000_000_000


class _Stamp(msgspec.Struct, frozen=True, array_like=True):
    """What changes when a file's bytes change."""

    size: int
    inode: int
    modified_ns: int
    changed_ns: int


class _Seen(msgspec.Struct, frozen=True, array_like=True):
    stamp: _Stamp
    digest: Digest


@dataclass(frozen=True, slots=True)
class Delivery:
    """A file as it is now: where it is, what people call it, what its bytes are called."""

    path: Path
    name: str
    digest: Digest
    stamp: _Stamp


def look(ws: Workspace, files: Iterable[Path]) -> list[Delivery]:
    """The files in the given order, with their digests.

    Raises:
        SourceError: a file is not there any more, or cannot be read.
    """
    known = _recall(ws)
    deliveries = [_delivery(ws, path, known.get(str(path))) for path in files]
    settled = int(ws.clock.now().timestamp() * 1e9) - _SETTLED_NS
    seen = {
        str(delivery.path): _Seen(delivery.stamp, delivery.digest)
        for delivery in deliveries
        if max(delivery.stamp.modified_ns, delivery.stamp.changed_ns) < settled
    }
    if not seen.items() <= known.items():
        write_atomic(_memory(ws), msgspec.json.encode(known | seen))
    return deliveries


def require_unchanged(delivery: Delivery) -> None:
    """Refuse a file that is not what it was when it was named.

    Raises:
        SourceError: it changed meanwhile.
    """
    if _stamp(delivery.path) != delivery.stamp:
        raise SourceError(
            f"{delivery.name} changed while it was read",
            remedy="write files elsewhere and move them here when they are whole",
        )


def _delivery(ws: Workspace, path: Path, seen: _Seen | None) -> Delivery:
    stamp = _stamp(path)
    digest = seen.digest if seen is not None and seen.stamp == stamp else digest_file(path)
    return Delivery(path, shown_name(ws, path), digest, stamp)


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise SourceError(
            f"cannot read {path}: {error.strerror}", remedy="check the path and its permissions"
        ) from error
    return _Stamp(found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


def _memory(ws: Workspace) -> Path:
    return ws.cache / "deliveries.json"


def _recall(ws: Workspace) -> dict[str, _Seen]:
    """What is remembered; nothing where the file is missing or damaged, since all of it can be found again."""
    try:
        return msgspec.json.decode(_memory(ws).read_bytes(), type=dict[str, _Seen])
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
