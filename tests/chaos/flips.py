"""Bits that flip where they lie: in the ledger's pages, in blobs and keys, in copies of the cache.

Whatever a bit changes is told by the doctor or by the audit, and mended as they say; a copy of the cache is fetched again.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from deeds import backups
from places import Place

from velodrome.control.auditing import anchor, verify
from velodrome.control.backups import back_up, mend, restore
from velodrome.control.checkup import examine
from velodrome.core.errors import VelodromeError
from velodrome.registry.series import read_histories
from velodrome.store import schema
from velodrome.store.blobs import FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.encryption import EncryptedObjects
from velodrome.store.named import AddressedBlobs, Content
from velodrome.store.transfer import origin
from velodrome.store.workspace import Workspace

__all__ = ["flip"]

_TABLES = ("edge", "event", "pointer", "record", "series_block")
_LISTED = ("edge", "event", "pointer", "record")


def flip(
    place: Place, rng: random.Random, told: Callable[[str], object], outcome: Callable[[Workspace], object]
) -> Iterator[str]:
    """Flip a bit in a project that has a backup, and have it found and mended; what did not go so.

    Args:
        told: hears what is done.
        outcome: what must be the same in a project that was restored.
    """
    with place.open() as ws:
        anchor(ws)
        back_up(ws, backups(ws))
        before, expected = _contents(ws), outcome(ws)
        kind = rng.choice(["blob", "ledger", *(["cache"] if isinstance(ws.blobs, CachedBlobs) else [])])
        if kind == "blob":
            told(f"flip in {_flip_blob(ws, rng)}")
        elif kind == "cache":
            told(f"flip in {_flip_copy(ws, rng)}")
        elif place.ledger == "PostgreSQL":
            told(f"flip in {_flip_value(ws, rng)}")
    if kind == "ledger" and place.ledger == "SQLite":
        told(f"flip in {_flip_page(place, rng)}")
    if kind == "cache":
        yield from _unharmed(place)
    elif kind == "blob":
        yield from _mended(place)
    else:
        yield from _restored(place, before, expected, outcome)


def _unharmed(place: Place) -> Iterator[str]:
    with place.open() as ws:
        for digest in ws.blobs.list():
            ws.blobs.local(digest)
        yield from (f"after a flip in the cache: {problem}" for problem in _problems(ws))


def _mended(place: Place) -> Iterator[str]:
    """A blob is brought back by `velodrome restore --mend`, as the doctor says."""
    with place.open() as ws:
        if not _problems(ws):
            yield "the doctor does not see the blob"
        mended = mend(ws, backups(ws))
        yield from (f"lost, though a backup has it: {digest}" for digest in mended.lost)
        yield from (f"after mending: {problem}" for problem in _problems(ws))


def _restored(
    place: Place, before: dict[str, Any], expected: object, outcome: Callable[[Workspace], object]
) -> Iterator[str]:
    """A ledger is restored into an empty project; a flip that nothing finds has changed nothing."""
    problems: list[str] = []
    try:
        with place.open() as ws:
            problems = _problems(ws)
            if not problems and (now := _contents(ws)) != before:
                changed = [what for what in now if now[what] != before[what]]
                yield f"nobody sees that the ledger says something else: {changed}"
    except VelodromeError as error:
        problems = [error.problem]
    if problems:
        config = msgspec.structs.replace(place.config, store=".again", ledger="", blobs="")
        with replace(place, config=config).open() as again:
            restore(again, backups(again))
            yield from (f"restored: {problem}" for problem in _problems(again))
            if outcome(again) != expected:
                yield "what was restored is not what was backed up"


def _problems(ws: Workspace) -> list[str]:
    """What the doctor and the audit find."""
    found = [f"{problem.subject}: {problem.finding}" for problem in examine(ws).problems]
    return found + [str(damage) for damage in verify(ws).damages]


def _contents(ws: Workspace) -> dict[str, Any]:
    """What a ledger says, as far as it has any meaning: of histories only what counts is told."""
    rows: dict[str, list[Any]] = {table: [] for table in _LISTED}
    for table, batch in ws.ledger.dump(*_LISTED):
        rows[table] += batch
    runs = [pointer.subject.removeprefix("run:") for pointer in ws.ledger.pointers("run:")]
    return rows | {"histories": {run: repr(read_histories(ws, run)) for run in runs}}


# -------------------------------------------------------------------------------------------------------------- the flips


def _flipped(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _flip_file(path: Path, rng: random.Random) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(_flipped(path.read_bytes(), rng))
    path.chmod(mode & 0o777)


def _flip_blob(ws: Workspace, rng: random.Random) -> str:
    """In a blob where it lies, encrypted or not."""
    blobs = origin(ws.blobs)
    if isinstance(blobs, FolderBlobs):
        path = rng.choice(sorted(path for path in blobs.root.glob("??/*") if path.stat().st_size))
        _flip_file(path, rng)
        return f"blob {path.name[:12]}"
    assert isinstance(blobs, AddressedBlobs)
    objects = blobs.objects._inner if isinstance(blobs.objects, EncryptedObjects) else blobs.objects
    name = rng.choice(sorted(name for name in objects.list() if len(name.partition("/")[0]) == 2))
    data = _flipped(b"".join(objects.get(name)), rng)
    objects.put(name, Content(len(data), lambda: iter([data])))
    return f"object {name[:12]}"


def _flip_copy(ws: Workspace, rng: random.Random) -> str:
    """In a file of the cache."""
    for digest in ws.blobs.list():
        ws.blobs.read(digest)
    assert isinstance(ws.blobs, CachedBlobs)
    path = rng.choice(sorted(path for path in ws.blobs.folder.glob("??/*") if path.stat().st_size))
    _flip_file(path, rng)
    return f"copy {path.name[:12]}"


def _flip_page(place: Place, rng: random.Random) -> str:
    """Anywhere in the file of a ledger that nobody has open."""
    path = place.root / place.config.store / "ledger.db"
    _flip_file(path, rng)
    return "a page of the ledger"


def _flip_value(ws: Workspace, rng: random.Random) -> str:
    """In one value of one row."""
    table = schema.metadata.tables[rng.choice(_TABLES)]
    column = rng.choice([column for column in table.c if not isinstance(column.type, sa.Integer)])
    place = sa.literal_column("ctid")
    with ws.ledger._transaction() as connection:  # type: ignore[attr-defined]
        rows = connection.execute(
            sa.select(place, column).where(column.is_not(None)).order_by(*table.primary_key)
        ).all()
        at, value = rng.choice([row for row in rows if row[1]] or [(None, None)])
        if at is None:
            return f"no row of {table.name}"
        spoilt = _flipped(value, rng) if isinstance(value, bytes) else _other(value, rng)
        connection.execute(table.update().where(place == sa.text(f"'{at}'")).values({column.name: spoilt}))
    return f"{column.name} of a row of {table.name}"


def _other(text: str, rng: random.Random) -> str:
    """A text with one letter changed."""
    place = rng.randrange(len(text))
    return text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]
