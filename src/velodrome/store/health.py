"""What can be wrong with the places that a workspace lies in, and how each is mended; and tallies, by which ledgers are
compared. Everything here only looks.

Cost: a `stat` for each file; of a cache, a hash of each copy; a tally, 2 µs a row.
"""

import os
import pwd
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import msgspec

from velodrome.core.digest import Digest, Hasher
from velodrome.core.units import show_bytes
from velodrome.store import schema
from velodrome.store.blobs import Blobs, FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.encryption import EncryptedObjects
from velodrome.store.files import digest_file
from velodrome.store.ledger import Batch, Ledger
from velodrome.store.named import AddressedBlobs
from velodrome.store.sqlite import SqliteLedger
from velodrome.store.transfer import origin
from velodrome.store.workspace import Workspace

__all__ = [
    "Finding",
    "Tally",
    "blob_folder",
    "damaged_copies",
    "examine_access",
    "examine_space",
    "keyring",
    "local_places",
    "tallied",
    "tally",
]

_LITTLE, _LEAST, _MOST = 0.05, 1 << 30, 10 << 30


class Finding(msgspec.Struct, frozen=True):
    """One thing: with what, what it is, and what to do. A note needs no hurry; a problem is a broken promise."""

    subject: str
    finding: str
    remedy: str
    severity: Literal["problem", "note"] = "problem"


class Tally(msgspec.Struct, frozen=True):
    """All rows of a table in one line: how many, and the digest of them in the order of their keys."""

    rows: int
    digest: Digest


def tallied(batches: Iterable[Batch], into: dict[str, Tally]) -> Iterator[Batch]:
    """The same batches; `into` has the tally of each table when they are exhausted. All databases tally alike."""
    into.update(dict.fromkeys(schema.metadata.tables, Tally(0, Hasher().digest())))
    for table, group in groupby(batches, itemgetter(0)):
        hasher, count = Hasher(), 0
        for batch in group:
            for row in batch[1]:
                hasher.update(msgspec.msgpack.encode(row))
            count += len(batch[1])
            yield batch
        into[table] = Tally(count, hasher.digest())


def tally(ledger: Ledger) -> dict[str, Tally]:
    """What each table of a ledger holds, in one line."""
    tallies: dict[str, Tally] = {}
    deque(tallied(ledger.dump(), tallies), maxlen=0)
    return tallies


def blob_folder(blobs: Blobs) -> Path | None:
    """The folder on this machine that blobs lie in; None where they are elsewhere."""
    blobs = origin(blobs)
    if isinstance(blobs, FolderBlobs):
        return blobs.root
    where = blobs.objects.where if isinstance(blobs, AddressedBlobs) else "elsewhere://"
    return None if "://" in where else Path(where)


def keyring(blobs: Blobs) -> EncryptedObjects | None:
    """What knows the keys that blobs are encrypted under; None where they are plain."""
    blobs = origin(blobs)
    objects = blobs.objects if isinstance(blobs, AddressedBlobs) else None
    return objects if isinstance(objects, EncryptedObjects) else None


def damaged_copies(blobs: Blobs) -> list[Path]:
    """The files in a cache of blobs whose bytes are not what their names say."""
    if not isinstance(blobs, CachedBlobs):
        return []
    copies = (path for path in blobs.folder.glob("[0-9a-f][0-9a-f]/*") if path.is_file())
    return sorted(path for path in copies if digest_file(path) != path.parent.name + path.name)


def local_places(ws: Workspace) -> list[Path]:
    """The folders and files on this machine that a workspace lies in: its store, and what of it lies elsewhere."""
    places = [ws.store]
    if isinstance(ws.ledger, SqliteLedger):
        places += [ws.ledger.path.with_name(ws.ledger.path.name + rest) for rest in ("", "-wal", "-shm")]
    if folder := blob_folder(ws.blobs):
        places.append(folder)
    found = [place.resolve() for place in places if place.exists()]
    return [place for place in found if not any(place != other and place.is_relative_to(other) for other in found)]


def examine_space(places: Iterable[Path], usage: Callable[[Path], Any] = shutil.disk_usage) -> list[Finding]:
    """Disks with little room: 5 %, but at least 1 GiB and at most 10 GiB. A tenth of that is a problem, not a note."""
    found = []
    for place in {place.stat().st_dev: place for place in places}.values():
        total, _, free = usage(place)
        limit = min(max(_LITTLE * total, _LEAST), _MOST)
        if free < limit:
            text = f"its disk is nearly full: {show_bytes(free)} of {show_bytes(total)} are free"
            remedy = f"make room, at least {show_bytes(limit - free)}; `velodrome gc` removes what nothing needs"
            found.append(Finding(str(place), text, remedy, "problem" if free < limit / 10 else "note"))
    return found


def examine_access(places: Iterable[Path]) -> list[Finding]:
    """Who may do what to the files: everybody may not write, and all of them are ours."""
    found = []
    for place in places:
        known = list(_below(place))
        exposed = [path for path, status in known if status.st_mode & stat.S_IWOTH and not stat.S_ISLNK(status.st_mode)]
        foreign = [(path, status.st_uid) for path, status in known if status.st_uid != os.geteuid()]
        if exposed:
            found.append(Finding(str(place), f"everybody may change {_names(exposed)}", f"chmod -R o-w {place}"))
        if foreign:
            usable = all(os.access(path, os.R_OK) for path, _ in foreign)
            text = f"{_user(foreign[0][1])} owns {_names([path for path, _ in foreign])}"
            remedy = f"chown -R {_user(os.geteuid())} {place}, unless several people share it"
            found.append(Finding(str(place), text, remedy, "note" if usable else "problem"))
    return found


def _below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """A folder and everything in it; what goes meanwhile, or may not be looked at, is passed over."""
    with suppress(OSError):
        yield folder, folder.lstat()
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path))
            else:
                with suppress(OSError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


def _names(paths: Sequence[Path]) -> str:
    return f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
