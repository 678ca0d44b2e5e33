"""Backup, restore, and what mends single blobs: a workspace carried to a place of backups and back.

A backup that exists is whole: its ledger was read through, every blob that its records name is in it, and all came over
verified. Meanwhile nobody collects blobs on this machine; if one went all the same, because somebody collected elsewhere,
the ledger is copied anew. A restore looks at everything before it writes, brings the blobs, and fills the empty ledger in
one commit at the end: a killed one is carried on by the next. Since any ledger is copied through a file, and any blob by its
digest, a restore is also the way from one database, bucket or key to another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import msgspec

from velodrome.control.auditing import Audit, anchor
from velodrome.control.auditing import verify as audit
from velodrome.control.checkup import missing_blobs
from velodrome.core.digest import Digest
from velodrome.core.errors import ConfigurationError, IntegrityError, StateError, StorageError
from velodrome.registry.anchors import AUDIT
from velodrome.store import schema
from velodrome.store.backup import Backup, BackupPlace, copied_ledger, fill_ledger, require_sound
from velodrome.store.blobs import Blob
from velodrome.store.files import remove_tree
from velodrome.store.health import tally
from velodrome.store.ledger import Ledger
from velodrome.store.transfer import carry, origin, unreadable
from velodrome.store.workspace import Workspace

__all__ = ["BackupDone", "Mended", "back_up", "check", "mend", "restore"]

_TRIES = 3
_SHOWN = 5
_DOCTOR = "run `velodrome doctor`; earlier backups are as they were"
_ELSEWHERE = "name an empty place in velodrome.toml (store, ledger, blobs), or bring single blobs back with --mend"

_Opened: TypeAlias = tuple[Backup, Ledger, dict[Digest, int]]
"""A backup, its ledger, and its blobs with their sizes."""


class BackupDone(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was made, restored or checked: where it is, and how many blobs were carried over."""

    backup: Backup
    where: str
    carried: int


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """Blobs that were missing or damaged: how many are whole again, and which are not, since no backup in the place has them."""

    where: str
    mended: int
    lost: tuple[Digest, ...]


def back_up(ws: Workspace, place: BackupPlace, *, verify: bool = False) -> BackupDone:
    """Make a backup of everything that is there now.

    Args:
        verify: read also what lies in the place since earlier backups, and mend it.

    Raises:
        ConfigurationError: the place is that of the workspace's own blobs, or has the backups of another workspace.
        IntegrityError: the ledger or a blob is damaged, or a blob is missing. What came over stays for the next backup.
        StorageError: the place refused. Conflict: somebody collects, or makes a backup.
    """
    with _alone(ws) as folder:
        _require_same(ws, place)
        _require_apart(ws, place)
        if any(_require_as_written(ws, "the ledger", _DOCTOR, histories=False).later.values()):
            anchor(ws)
        carried = 0
        for _ in range(_TRIES):
            now = ws.clock.now()
            with copied_ledger(ws.ledger, folder) as copy:
                listing, count = _brought(ws, place, folder, verify)
                carried += count
                with copy.opened() as ledger:
                    newest = _require_as_written(replace(ws, ledger=ledger), "the ledger", _DOCTOR).newest
                    missing = missing_blobs(ledger, listing, ws.blobs)
                if not missing:
                    backup = place.publish(ws.new_id(), now, ws.actor, copy, listing, newest and newest[0])
                    return BackupDone(backup=backup, where=place.where, carried=carried)
        raise IntegrityError(
            f"{len(missing)} blobs that the ledger names are not there",
            received=_some(f"{digest} of a {kind}" for digest, kind in missing.items()),
            remedy=_DOCTOR,
        )


def restore(ws: Workspace, place: BackupPlace, id_: str | None = None) -> BackupDone:
    """Let the empty ledger and blobs of the workspace hold what a backup, by default the newest, holds.

    May be killed and called again, and may be called again when all is done.

    Raises:
        NotFound: there is no such backup. StateError: something else is in the workspace already.
        IntegrityError: the backup is damaged; nothing was written.
        StorageError: the workspace refused: its ledger is as empty as before.
    """
    with _alone(ws) as folder, _opened(place, id_, folder) as opened:
        backup, ledger, listing = opened
        done, here = _room(ws, ledger, listing)
        _require_whole(ws, place, opened, listing.keys() - here)
        blobs = [Blob(digest, size) for digest, size in listing.items() if digest not in here]
        with ws.progress.task("restore blobs", len(blobs)) as task:
            carried = carry(blobs, place.blobs, ws.blobs, folder, task.advance)
        _require_readable(place.where, [*carried.gone, *carried.damaged])
        if not done:
            fill_ledger(ledger, ws.ledger)
        return BackupDone(backup=backup, where=place.where, carried=carried.count)


def check(ws: Workspace, place: BackupPlace, id_: str | None = None) -> BackupDone:
    """Read all of a backup, by default of the newest, and write nothing of it.

    Raises:
        NotFound: there is no such backup. IntegrityError: it is damaged.
    """
    with _alone(ws) as folder, _opened(place, id_, folder) as opened:
        _require_whole(ws, place, opened, opened[2])
        return BackupDone(backup=opened[0], where=place.where, carried=0)


def mend(ws: Workspace, place: BackupPlace) -> Mended:
    """Bring blobs back that are missing or damaged in the workspace, out of any backup in the place; nothing else changes."""
    with _alone(ws) as folder:
        kept = {entry.digest: Blob(entry.digest, entry.size) for entry in place.blobs.entries()}
        present = dict.fromkeys(ws.blobs.list())
        with ws.progress.task("read blobs", len(present)) as task:
            damaged = unreadable(present, ws.blobs, task.advance).keys()
        present = dict.fromkeys(present.keys() - damaged)
        mended: set[Digest] = set()
        while True:  # a tree that came back may name leaves that are missing too
            wanted = (missing_blobs(ws.ledger, present, ws.blobs).keys() | damaged) - mended
            able = [kept.pop(digest) for digest in sorted(wanted & kept.keys())]
            if not able:
                return Mended(where=place.where, mended=len(mended), lost=tuple(sorted(wanted)))
            carried = carry(able, place.blobs, ws.blobs, folder)
            mended |= {blob.digest for blob in able} - {*carried.gone, *carried.damaged}
            present |= dict.fromkeys(mended)


@contextmanager
def _alone(ws: Workspace) -> Iterator[Path]:
    """A folder for what lies on this machine meanwhile, while nobody here collects blobs or does what we do."""
    folder = ws.cache / ".backup"  # hidden, so that collection removes what nobody comes back to
    with ws.collecting(), ws.writing(), ExitStack() as stack:
        remove_tree(folder)  # what a killed one left
        stack.callback(remove_tree, folder)
        yield folder


@contextmanager
def _opened(place: BackupPlace, id_: str | None, folder: Path) -> Iterator[_Opened]:
    """A backup, its ledger and its blobs with their sizes."""
    backup = place.read(id_)
    with place.opened_ledger(backup, folder) as ledger:
        yield backup, ledger, place.listing(backup)


def _require_same(ws: Workspace, place: BackupPlace) -> None:
    """Refuse a place of another workspace's backups, whose next restore would bring ours, as the newest. A backup of this
    ledger, or of what it was restored from, has an anchor that this ledger knows.

    Raises:
        ConfigurationError: no backup in the place has one.
    """
    ours = {event.digest for event in ws.ledger.events(AUDIT)}
    others = 0
    for id_ in place.ids():
        with suppress(StorageError):  # a damaged manifest tells nothing; `--list` names it
            if (known := place.read(id_).anchor) in ours:
                return
            others += known is not None
    if others:
        raise ConfigurationError(
            "the backups there are of another workspace, and a restore takes the newest",
            received=f"{others} backups in {place.where}",
            remedy="give this workspace a place of its own",
        )


def _require_apart(ws: Workspace, place: BackupPlace) -> None:
    """Refuse a place in which the next collection would find what a backup has put there. Its address does not tell, as many
    lead to one place: so something is put there, and looked for here.

    Raises:
        ConfigurationError: it is found here.
    """
    probe = place.blobs.put(f"velodrome backup {ws.new_id()}".encode()).digest
    found = origin(ws.blobs).has(probe)
    with suppress(StorageError):  # a place in which nobody may delete keeps these few bytes
        place.blobs.delete(probe)
    if found:
        raise ConfigurationError(
            "a backup beside the blobs that it copies is lost with them, and collected as what nothing needs",
            received=place.where,
            remedy="name another folder or bucket, or another prefix",
        )


def _brought(ws: Workspace, place: BackupPlace, folder: Path, verify: bool) -> tuple[dict[Digest, int], int]:
    """The blobs that are now in the place, with their sizes, and how many of them came over."""
    listing = {entry.digest: entry.size for entry in origin(ws.blobs).entries()}
    there = set() if verify else set(place.blobs.list())
    blobs = [Blob(digest, size) for digest, size in sorted(listing.items()) if digest not in there]
    with ws.progress.task("back up blobs", len(blobs)) as task:
        carried = carry(blobs, ws.blobs, place.blobs, folder, task.advance)
    _require_readable("the workspace", carried.damaged)
    for digest in carried.gone:
        del listing[digest]
    return listing, carried.count


def _room(ws: Workspace, ledger: Ledger, listing: Mapping[Digest, int]) -> tuple[bool, set[Digest]]:
    """Whether the workspace's ledger holds all of that one already, and which blobs are there.

    Raises:
        StateError: the workspace holds anything else.
    """
    tallies = tally(ws.ledger)
    rows = {table: each.rows for table, each in tallies.items() if each.rows}
    if rows and tallies != tally(ledger):
        counts = ", ".join(f"{count} of {table}" for table, count in rows.items())
        raise StateError("a backup is restored into an empty ledger", received=f"rows: {counts}", remedy=_ELSEWHERE)
    here = set(ws.blobs.list())
    if strange := sorted(here - listing.keys()):
        raise StateError(
            f"{len(strange)} blobs are here that the backup does not have", received=_some(strange), remedy=_ELSEWHERE
        )
    return bool(rows), here


def _require_whole(ws: Workspace, place: BackupPlace, opened: _Opened, digests: Iterable[Digest]) -> None:
    """Look at a backup: all of its ledger, and those of its blobs.

    Raises:
        IntegrityError: it is damaged.
    """
    backup, ledger, listing = opened
    name, digests = f"the backup {backup.id} in {place.where}", sorted(digests)
    require_sound(ledger, name)
    if backup.schema == schema.VERSION and tally(ledger) != backup.tables:
        raise IntegrityError(f"{name} has another ledger than its manifest says", remedy=place.others(backup.id))
    with ws.progress.task("read the backup", len(digests)) as task:
        problems = [
            f"{each.problem}: {digest}" for digest, each in unreadable(digests, place.blobs, task.advance).items()
        ]
    missing = missing_blobs(ledger, listing, place.blobs)
    problems += [f"{digest}, of a {kind}, is not in it" for digest, kind in missing.items()]
    if problems:
        raise IntegrityError(
            f"{name} is damaged: {problems[0]}",
            received=f"{len(problems)} problems; nothing was written",
            remedy=place.others(backup.id),
        )
    _require_as_written(replace(ws, ledger=ledger, blobs=place.blobs), name, place.others(backup.id))


def _require_as_written(view: Workspace, name: str, remedy: str, *, histories: bool = True) -> Audit:
    """Refuse a ledger in which anything was changed after it was written."""
    found = audit(view, histories=histories)
    if damages := found.damages:
        first = damages[0]
        raise IntegrityError(
            f"{name} is damaged: {first.what} of {first.subject}: {first.problem}",
            received=f"{len(damages)} damages",
            remedy=remedy,
        )
    return found


def _require_readable(where: str, digests: Sequence[Digest]) -> None:
    if digests:
        raise IntegrityError(f"{len(digests)} blobs of {where} are damaged", received=_some(digests), remedy=_DOCTOR)


def _some(things: Iterable[str]) -> str:
    listed = list(things)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
