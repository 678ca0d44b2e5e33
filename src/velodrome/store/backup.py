"""Backups: every blob of a workspace, and its ledger as one file, in a folder or a bucket of their own.

A place of backups holds blobs under their digests, shared by all of its backups, so that the next one carries over only
what is new, and for each backup a manifest, `backups/ID`, written last: what has none does not count, and what a killed
backup brought over is there for the next. The ledger is copied in one read transaction, from whatever database it lies in,
into a file of SQLite, which is a blob too. Writers put a blob first and its row after, so whatever the copied ledger names
was there when it was copied; blobs are listed after that. Under a key, all of it is encrypted.
Cost: each new blob is read once and written once; the copied ledger is read three times. Memory: some hundred bytes for
each blob.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from velodrome.core.digest import Digest, decode, digest_bytes
from velodrome.core.errors import ConfigurationError, IntegrityError, LedgerVersionError, MissingBlob, NotFound, nearest
from velodrome.store import schema
from velodrome.store.blobs import Blob
from velodrome.store.encryption import EncryptedObjects
from velodrome.store.files import temporary_file, temporary_folder
from velodrome.store.health import Tally, tallied, tally
from velodrome.store.keys import WrappingKey
from velodrome.store.ledger import Ledger
from velodrome.store.named import AddressedBlobs, Content, FolderObjects, Objects
from velodrome.store.objects import BucketObjects
from velodrome.store.places import local_path
from velodrome.store.sqlite import SqliteLedger

__all__ = ["Backup", "BackupPlace", "LedgerCopy", "copied_ledger", "fill_ledger", "open_backups", "require_sound"]

_FORMAT = 1
_FOLDER = "backups"
_DISK = "check the disk; earlier backups are as they were"
_OURS = re.compile(r"[0-9a-f]{2}|backups|incoming|keyring|kept|trash")


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a backup.

    Attributes:
        time: when the ledger was copied. velodrome, schema: of the program that copied it.
        tables: what the ledger held.
        ledger: the copy. listing: JSON of all blobs, as a list of `Blob`.
        blobs, bytes: how many these are, and how large as they lay in the workspace.
        anchor: digest of the newest anchor over all chains, if there was one.
    """

    format: int
    id: str
    time: datetime
    actor: str
    velodrome: str
    schema: int
    tables: dict[str, Tally]
    ledger: Blob
    listing: Blob
    blobs: int
    bytes: int
    anchor: str | None = None


class _Sealed(msgspec.Struct, frozen=True):
    """A manifest as it is stored: with the digest of its own bytes."""

    digest: Digest
    backup: msgspec.Raw


class _Origin(msgspec.Struct, frozen=True):
    """What every manifest says, of whatever format."""

    format: int
    id: str
    velodrome: str
    schema: int


class LedgerCopy(msgspec.Struct, frozen=True):
    """A verified copy of a ledger: the file, and what it holds."""

    path: Path
    tables: dict[str, Tally]

    @contextmanager
    def opened(self) -> Iterator[SqliteLedger]:
        with closing(SqliteLedger(self.path)) as ledger:
            yield ledger


class BackupPlace:
    """Backups and their blobs in `objects`.

    Attributes:
        blobs: those of all backups. where: the place, as people call it.
    """

    def __init__(self, objects: Objects, scratch: Path | None = None) -> None:
        self.blobs = AddressedBlobs(objects, scratch)
        self.where = objects.where

    def ids(self) -> list[str]:
        """The backups that are whole, newest first."""
        return sorted((name.removeprefix(f"{_FOLDER}/") for name in self.blobs.objects.list(_FOLDER)), reverse=True)

    def read(self, id_: str | None = None) -> Backup:
        """The backup whose id is, or begins with, `id_`; the newest where that is None.

        Raises:
            NotFound: there is none. IntegrityError: its manifest is damaged.
            LedgerVersionError: it was written by a newer velodrome.
        """
        ids = self.ids()
        found = [each for each in ids if each.startswith(id_ or "")]
        if not found or (id_ and len(found) > 1):
            raise NotFound(
                f"there is no such backup in {self.where}" if not found else f"{len(found)} backups begin so",
                received=id_,
                remedy=nearest(id_ or "", ids) if ids else "`velodrome backup` makes one",
            )
        return self._decoded(found[0], self._manifest(found[0]))

    def listing(self, backup: Backup) -> dict[Digest, int]:
        """The blobs of a backup, with their sizes.

        Raises:
            IntegrityError: the list is damaged, or not there.
        """
        with _part_of(backup, "list of blobs"):
            listed = decode(self.blobs.read(backup.listing.digest), list[Blob])
        return {blob.digest: blob.size for blob in listed}

    def publish(
        self,
        id_: str,
        time: datetime,
        actor: str,
        ledger: LedgerCopy,
        listing: Mapping[Digest, int],
        anchor: str | None = None,
    ) -> Backup:
        """Let a backup count, whose blobs are all there."""
        backup = Backup(
            format=_FORMAT,
            id=id_,
            time=time,
            actor=actor,
            velodrome=version("velodrome"),
            schema=schema.VERSION,
            tables=ledger.tables,
            ledger=self.blobs.put(ledger.path),
            listing=self.blobs.put(
                msgspec.json.encode([Blob(digest, size) for digest, size in sorted(listing.items())])
            ),
            blobs=len(listing),
            bytes=sum(listing.values()),
            anchor=anchor,
        )
        payload = msgspec.json.encode(backup)
        sealed = msgspec.json.encode(_Sealed(digest_bytes(payload), msgspec.Raw(payload)))
        self.blobs.objects.put(f"{_FOLDER}/{id_}", Content(len(sealed), lambda: iter([sealed])))
        return backup

    @contextmanager
    def opened_ledger(self, backup: Backup, folder: Path) -> Iterator[SqliteLedger]:
        """The ledger of a backup, fetched below `folder` and migrated if it is older.

        Raises:
            IntegrityError: it is damaged, or not there.
        """
        with temporary_folder(folder) as temporary:
            path = temporary / "ledger.db"
            with _part_of(backup, "ledger"), temporary_file(temporary) as (draft, out):
                self.blobs.copy_to(backup.ledger.digest, out)
                out.flush()
                draft.replace(path)
            with closing(SqliteLedger(path)) as ledger:
                yield ledger

    def _manifest(self, id_: str) -> bytes:
        """What is stored as a manifest; nothing where that does not open."""
        try:
            return b"".join(self.blobs.objects.get(f"{_FOLDER}/{id_}"))
        except IntegrityError:
            return b""

    def _decoded(self, id_: str, data: bytes) -> Backup:
        opened = _opened(data, id_)
        if opened is None:
            raise IntegrityError(
                f"the manifest of the backup {id_} is damaged", received=self.where, remedy=self.others(id_)
            )
        payload, origin = opened
        if origin.format > _FORMAT or origin.schema > schema.VERSION:
            raise LedgerVersionError(
                f"the backup {id_} was written by a newer velodrome",
                received=f"velodrome {origin.velodrome}, schema {origin.schema}; this program knows {schema.VERSION}",
                remedy="upgrade velodrome",
            )
        return decode(payload, Backup)

    def others(self, id_: str) -> str:
        """What to do where a backup is damaged."""
        others = ", ".join(other for other in self.ids() if other != id_)
        return f"take another: --backup {others}" if others else "make a new one while the workspace is there"


def open_backups(
    where: str,
    *,
    options: Mapping[str, str | bool] | None = None,
    key: WrappingKey | None = None,
    scratch: Path | None = None,
    new: bool = False,
) -> BackupPlace:
    """The backups in a folder or bucket.

    Args:
        options: of a bucket; see `objects.OPTIONS`.
        key: what they are encrypted under; without effect where they are plain, unless `new`.
        new: whether the place is to be written to, and made if it is not there.

    Raises:
        NotFound: there is no such folder.
        ConfigurationError: an address that is not understood, a folder with other things in it, a key that is missing, or
            plain backups where encrypted ones are to come.
    """
    objects = BucketObjects(where, options) if "://" in where else _folder(local_path(Path(), where), new)
    if next(objects.list("keyring"), None) is not None:
        if key is None:
            raise ConfigurationError(f"the backups in {where} are encrypted", remedy="name their key: --key file:PATH")
        return BackupPlace(EncryptedObjects(objects, key), scratch)
    if key is None or not new:
        return BackupPlace(objects, scratch)
    if next(objects.list(), None) is not None:
        raise ConfigurationError(
            f"there are plain backups in {where}, and this workspace is encrypted",
            remedy="give encrypted backups a place of their own",
        )
    return BackupPlace(EncryptedObjects(objects, key), scratch)


def _opened(data: bytes, id_: str) -> tuple[bytes, _Origin] | None:
    """What a manifest says; None where it is not the one of that backup, or not as it was written."""
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        payload, origin = bytes(sealed.backup), msgspec.json.decode(sealed.backup, type=_Origin)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return (payload, origin) if digest_bytes(payload) == sealed.digest and origin.id == id_ else None


def _folder(path: Path, new: bool) -> FolderObjects:
    if not new and not path.is_dir():
        raise NotFound("there is no such folder", received=str(path), remedy="where did `velodrome backup` write to?")
    other = [each.name for each in path.glob("[!.]*") if not _OURS.fullmatch(each.name)]
    if other:
        raise ConfigurationError(
            "a place of backups holds nothing else", received=f"{path / other[0]}", remedy="name another folder"
        )
    return FolderObjects(path)


@contextmanager
def copied_ledger(source: Ledger, folder: Path) -> Iterator[LedgerCopy]:
    """A copy of a ledger as one moment saw it, in a file below `folder` that goes with the block.

    The file is closed, opened anew and read through before it is handed out. Whether what it says is sound is another matter.

    Raises:
        IntegrityError: the copy is not what was copied.
    """
    with temporary_folder(folder) as temporary:
        path, tables = temporary / "ledger.db", dict[str, Tally]()
        with closing(SqliteLedger(path)) as copy:
            copy.fill(tallied(source.dump(), tables))
        with closing(SqliteLedger(path)) as copy:
            require_sound(copy, "the copy of the ledger")
            _require_equal(tally(copy), tables)
        yield LedgerCopy(path, tables)


def require_sound(ledger: Ledger, name: str) -> None:
    """Let the database look at its own files.

    Raises:
        IntegrityError: it finds them damaged.
    """
    if problems := ledger.check():
        raise IntegrityError(f"{name} is damaged: {problems[0]}", received=f"{len(problems)} problems", remedy=_DISK)


def fill_ledger(source: Ledger, target: Ledger) -> None:
    """Let an empty ledger hold what another does: in one commit, and compared afterwards.

    Raises:
        StateError: the target is not empty. StorageError: it refused; it is as empty as before.
    """
    tables = dict[str, Tally]()
    target.fill(tallied(source.dump(), tables))
    _require_equal(tally(target), tables)


@contextmanager
def _part_of(backup: Backup, part: str) -> Iterator[None]:
    """What is read in the block belongs to a backup: an error says so."""
    try:
        yield
    except (IntegrityError, MissingBlob) as error:
        how = "missing" if isinstance(error, MissingBlob) else "damaged"
        raise IntegrityError(
            f"the {part} of the backup {backup.id} is {how}",
            received=error.problem,
            remedy="take another with --backup ID: `velodrome backup DEST --list` names them",
        ) from error


def _require_equal(found: Mapping[str, Tally], expected: Mapping[str, Tally]) -> None:
    different = [table for table in expected if found.get(table) != expected[table]]
    if different:
        raise IntegrityError(
            "the copy of a ledger is not what was copied",
            received=f"{different[0]}: {found.get(different[0])}, expected {expected[different[0]]}",
            remedy=_DISK,
        )
