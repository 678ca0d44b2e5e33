"""The ledger on SQLite: one file, any number of processes on one machine.

Each write is one `BEGIN IMMEDIATE` transaction (so that two writers never deadlock on an upgrade), in WAL mode with
synchronous FULL, which makes a returned commit survive a power cut. Readers never block. The schema's version is in
`PRAGMA user_version`; before a migration the file is copied to `ledger-<version>.db` beside it.
Cost: a commit is one fsync, milliseconds on a disk; a read is tens of microseconds.
"""

import os
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from velodrome.core.clock import SystemClock
from velodrome.core.errors import StorageError
from velodrome.store.files import flush_folder
from velodrome.store.ledger import Write
from velodrome.store.sql import SqlLedger, apply_writes

__all__ = ["SqliteLedger"]

_TRIES, _PAUSE = 3000, 0.02  # a minute, as long as any other lock is waited for
_NETWORK = {"nfs", "nfs4", "cifs", "smb", "smbfs", "smb2", "afs", "9p", "fuse.sshfs", "glusterfs", "lustre", "ceph"}


_RESTORE = "its file is damaged: restore a backup into an empty workspace (velodrome restore), and check the disk"
_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another writer holds the ledger: look for its process",
    sqlite3.SQLITE_CANTOPEN: "check the permissions of its folder",
    sqlite3.SQLITE_CORRUPT: _RESTORE,
    sqlite3.SQLITE_NOTADB: _RESTORE,
    sqlite3.SQLITE_FULL: "its disk is full: make room (velodrome gc), and run the same again",
    sqlite3.SQLITE_IOERR: "its disk failed or is full: make room, look at the system's log, then run `velodrome doctor`",
    sqlite3.SQLITE_READONLY: "check the permissions of the file and of its folder",
}
"""Primary result code → what to do, where there is more to say than to look."""


class SqliteLedger(SqlLedger):
    """A ledger in the file `path`, made if it is not there, migrated if it is older.

    Raises:
        StorageError: the folder is on a network file system, whose locks SQLite cannot trust, or the file is no database.
        LedgerVersionError: the file was written by a newer velodrome.
    """

    def __init__(self, path: Path) -> None:
        _refuse_network(path)
        self.path = path
        super().__init__(_engine(path), str(path))

    def check(self) -> list[str]:
        try:
            with self._connection() as connection:
                answers = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
        except StorageError as error:
            return [str(error)]
        return [] if answers == ["ok"] else answers

    def _refusal(self, error: Exception) -> StorageError:
        refused = super()._refusal(error)
        code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF
        return StorageError(refused.problem, remedy=_REMEDIES.get(code, refused.remedy))

    def _commit(self, writes: Sequence[Write], actor: str, now: datetime) -> None:
        with self._transaction() as connection:
            apply_writes(connection, writes, actor, now)

    def _begin(self, connection: sa.Connection) -> int:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return self._version(connection)

    def _begin_reading(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    def _version(self, connection: sa.Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())

    def _set_version(self, connection: sa.Connection, version: int) -> None:
        connection.exec_driver_sql(f"PRAGMA user_version = {version}")

    def _back_up(self, connection: sa.Connection, version: int) -> None:
        """Another connection copies, since VACUUM works in no transaction; ours keeps writers away meanwhile."""
        goal = self.path.with_name(f"{self.path.stem}-{version}{self.path.suffix}")
        draft = goal.with_name(f".{goal.name}")  # always the same name: what a kill leaves is overwritten the next time
        try:
            draft.unlink(missing_ok=True)
            with self._connection() as reader:
                reader.exec_driver_sql("VACUUM INTO ?", (str(draft),))
            _require_copy(connection, draft)
            _publish(draft, goal)
        except OSError as error:
            raise StorageError(
                f"cannot make the backup {goal}: {error.strerror}; nothing was changed",
                remedy="check the folder's permissions and what else is in it",
            ) from error
        finally:
            draft.unlink(missing_ok=True)


def _engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": 60},
    )
    sa.event.listen(engine, "connect", _set_pragmas)
    return engine


def _set_pragmas(connection: Any, _: object) -> None:
    for pragma in ("busy_timeout = 60000", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    _write_ahead(connection)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Bring the file into WAL mode, which it remembers. SQLite's own patience does not cover this: who comes while another
    process begins a file is told at once that it is locked."""
    clock = SystemClock()
    for attempt in range(_TRIES):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or attempt == _TRIES - 1:
                raise
            clock.sleep(_PAUSE)


def _require_copy(connection: sa.Connection, copy: Path) -> None:
    """Refuse a backup that SQLite finds damaged, or that has not as many rows as what the connection sees."""
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(copy)))
    try:
        with engine.connect() as copied:
            problems = [str(row[0]) for row in copied.exec_driver_sql("PRAGMA integrity_check")]
            expected, counts = _row_counts(connection), _row_counts(copied)
    finally:
        engine.dispose()
    if problems != ["ok"] or counts != expected:
        raise StorageError(
            "the backup before the migration is not what was copied; nothing was changed",
            received=f"{problems[0]}; rows {counts}, expected {expected}",
            remedy="run `velodrome doctor`, and check the disk",
        )


def _publish(draft: Path, goal: Path) -> None:
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
    for rest in ("-wal", "-shm"):  # of an older copy that somebody opened: they would corrupt this one
        goal.with_name(goal.name + rest).unlink(missing_ok=True)
    draft.replace(goal)
    flush_folder(goal.parent)


def _row_counts(connection: sa.Connection) -> dict[str, int]:
    tables = sorted(sa.inspect(connection).get_table_names())
    count = sa.select(sa.func.count())
    return {name: connection.execute(count.select_from(sa.table(name))).scalar_one() for name in tables}


def _refuse_network(path: Path) -> None:
    folder = path.parent.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    kind = max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else ""
    if kind.lower() in _NETWORK:
        raise StorageError(
            "SQLite's locks cannot be trusted on a network file system",
            received=f"{folder} ({kind})",
            remedy="put the workspace on a local disk",
        )
