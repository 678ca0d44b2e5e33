"""The ledger on SQLite: one file, any number of processes on one machine.

Each write is one `BEGIN IMMEDIATE` transaction (so that two writers never deadlock on an upgrade), in WAL mode with
synchronous FULL, which makes a returned commit survive a power cut. Readers never block. The schema's version is in
`PRAGMA user_version`. Cost: a commit is one fsync, milliseconds on a disk; a read is tens of microseconds.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import sqlalchemy as sa

from velodrome.core.digest import Digest, canonical, digest_bytes
from velodrome.core.errors import IntegrityError, LedgerVersionError, PointerMoved, StorageError
from velodrome.store import schema
from velodrome.store.ledger import Append, Block, Edge, Event, Ledger, Link, Move, Pointer, Put, Stored, Write

__all__ = ["SqliteLedger"]

_NETWORK = {"nfs", "nfs4", "cifs", "smb", "smbfs", "smb2", "afs", "9p", "fuse.sshfs", "glusterfs", "lustre", "ceph"}


class SqliteLedger(Ledger):
    """A ledger in the file `path`, made if it is not there.

    Raises:
        StorageError: the folder is on a network file system, whose locks SQLite cannot trust, or the file is no database.
        LedgerVersionError: the file was written by a newer velodrome.
    """

    def __init__(self, path: Path) -> None:
        _refuse_network(path)
        self.path = path
        self._pid = os.getpid()
        self._writer = threading.Lock()
        self._engine = sa.create_engine(
            f"sqlite:///{path}", connect_args={"isolation_level": None, "check_same_thread": False, "timeout": 60}
        )
        sa.event.listen(self._engine, "connect", _set_pragmas)
        with _translated(path):
            self._prepare()

    def commit(self, writes: Sequence[Write], *, actor: str, now: datetime) -> None:
        with self._writer, self._connection() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                for write in writes:
                    _APPLY[type(write)](connection, write, actor, now)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise

    def get(self, digest: str) -> Stored | None:
        row = self._one(sa.select(schema.record).where(schema.record.c.digest == digest))
        if row is None:
            return None
        stored = _stored(row)
        if digest_bytes(stored.payload) != digest:
            raise IntegrityError(
                f"the {stored.kind} {digest[:12]} was changed after it was written",
                received=f"its bytes have the digest {digest_bytes(stored.payload)[:12]}",
                remedy="restore the ledger from a backup",
            )
        return stored

    def records(
        self, kind: str, *, name: str | None = None, newest_first: bool = True, limit: int | None = None
    ) -> list[Stored]:
        query = sa.select(schema.record).where(schema.record.c.kind == kind)
        if name is not None:
            query = query.where(schema.record.c.name == name)
        order = schema.record.c.position.desc() if newest_first else schema.record.c.position
        return [_stored(row) for row in self._all(query.order_by(order).limit(limit))]

    def edges(self, node: str, *, incoming: bool = False, role: str | None = None) -> list[Edge]:
        near, far = (schema.edge.c.dst, schema.edge.c.src) if incoming else (schema.edge.c.src, schema.edge.c.dst)
        query = sa.select(schema.edge.c.src, schema.edge.c.dst, schema.edge.c.role).where(near == node)
        if role is not None:
            query = query.where(schema.edge.c.role == role)
        return [Edge(row.src, row.dst, row.role) for row in self._all(query.order_by(schema.edge.c.role, far))]

    def events(self, subject: str) -> list[Event]:
        query = sa.select(schema.event).where(schema.event.c.subject == subject).order_by(schema.event.c.seq)
        return [_event(row) for row in self._all(query)]

    def pointer(self, subject: str) -> Pointer | None:
        row = self._one(sa.select(schema.pointer).where(schema.pointer.c.subject == subject))
        return None if row is None else _pointer(row)

    def pointers(self, prefix: str) -> list[Pointer]:
        query = sa.select(schema.pointer).where(_starts(schema.pointer.c.subject, prefix))
        return [_pointer(row) for row in self._all(query.order_by(schema.pointer.c.subject))]

    def blocks(self, run: str, series: str | None = None) -> list[Block]:
        columns = schema.series_block.c
        query = sa.select(
            columns.run,
            columns.series,
            columns.attempt,
            columns.first_step,
            columns.last_step,
            columns.count,
            columns.data,
        )
        query = query.where(columns.run == run)
        if series is not None:
            query = query.where(columns.series == series)
        return [
            Block(**row._mapping)
            for row in self._all(query.order_by(columns.series, columns.attempt, columns.first_step))
        ]

    def subjects(self, prefix: str = "") -> list[str]:
        query = sa.select(schema.event.c.subject).where(
            schema.event.c.seq == 1, _starts(schema.event.c.subject, prefix)
        )
        return [row[0] for row in self._all(query.order_by(schema.event.c.subject))]

    def scan(self) -> Iterator[Stored]:
        for row in self._all(sa.select(schema.record).order_by(schema.record.c.position)):
            yield _stored(row)

    def check(self) -> list[str]:
        try:
            with self._connection() as connection:
                answers = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
        except StorageError as error:
            return [str(error)]
        return [] if answers == ["ok"] else answers

    def close(self) -> None:
        self._engine.dispose()

    def _prepare(self) -> None:
        with self._engine.connect() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version > schema.VERSION:
                raise LedgerVersionError(
                    f"{self.path} was written by a newer velodrome",
                    received=f"schema {version}, this program knows {schema.VERSION}",
                    remedy="upgrade velodrome",
                )
            if version == schema.VERSION:
                return
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            schema.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {schema.VERSION}")
            connection.exec_driver_sql("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        if os.getpid() != self._pid:
            raise StorageError(
                "a ledger handle was used after a fork", remedy="open the workspace again in the child process"
            )
        with _translated(self.path), self._engine.connect() as connection:
            yield connection

    def _all(self, query: Any) -> Sequence[sa.Row[Any]]:
        with self._connection() as connection:
            return connection.execute(query).all()

    def _one(self, query: Any) -> sa.Row[Any] | None:
        with self._connection() as connection:
            return connection.execute(query).one_or_none()


def _set_pragmas(connection: Any, _: object) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 60000", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sa.exc.DatabaseError as error:
        raise StorageError(f"the ledger {path} refused: {error.orig}", remedy="run `velodrome doctor`") from error


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


def _put(connection: sa.Connection, write: Put, actor: str, now: datetime) -> None:
    payload = canonical(write.record)
    row = {
        "digest": digest_bytes(payload),
        "kind": write.record.kind(),
        "name": write.name,
        "created": _text(now),
        "actor": actor,
        "payload": payload,
    }
    connection.execute(schema.record.insert().prefix_with("OR IGNORE"), row)


def _link(connection: sa.Connection, write: Link, actor: str, now: datetime) -> None:
    connection.execute(
        schema.edge.insert().prefix_with("OR IGNORE"), {"src": write.src, "dst": write.dst, "role": write.role}
    )


def _append(connection: sa.Connection, write: Append, actor: str, now: datetime) -> None:
    columns = schema.event.c
    newest = (
        sa.select(columns.seq, columns.digest)
        .where(columns.subject == write.subject)
        .order_by(columns.seq.desc())
        .limit(1)
    )
    last = connection.execute(newest).one_or_none()
    seq, previous = (last[0] + 1, last[1]) if last else (1, "")
    event = Event(
        subject=write.subject, seq=seq, type=write.type, time=now, actor=actor, body=write.body, previous=previous
    ).sealed()
    row = {name: getattr(event, name) for name in ("subject", "seq", "type", "actor", "previous", "digest")}
    connection.execute(schema.event.insert(), row | {"time": _text(now), "body": canonical(write.body)})


def _move(connection: sa.Connection, write: Move, actor: str, now: datetime) -> None:
    columns = schema.pointer.c
    found = connection.execute(
        sa.select(columns.value, columns.revision).where(columns.subject == write.subject)
    ).one_or_none()
    present, revision = (found[0], found[1]) if found else (None, 0)
    if present != write.expected:
        raise PointerMoved(
            f"{write.subject!r} was expected to be {write.expected!r}",
            received=present,
            remedy="somebody moved it meanwhile: look at it and decide again",
        )
    row = {"subject": write.subject, "value": write.value, "revision": revision + 1, "moved": _text(now)}
    connection.execute(schema.pointer.insert().prefix_with("OR REPLACE"), row)
    _append(
        connection,
        Append(write.subject, write.type, write.body | {"from": write.expected, "to": write.value}),
        actor,
        now,
    )


def _block(connection: sa.Connection, write: Block, actor: str, now: datetime) -> None:
    connection.execute(schema.series_block.insert().prefix_with("OR REPLACE"), msgspec.structs.asdict(write))


_APPLY: dict[type, Any] = {Put: _put, Link: _link, Append: _append, Move: _move, Block: _block}


def _starts(column: sa.Column[Any], prefix: str) -> sa.ColumnElement[bool]:
    """Whether a text starts with `prefix`: a range, since LIKE ignores case in SQLite and would not use the index."""
    return column.between(prefix, prefix + chr(0x10FFFF))


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _stored(row: sa.Row[Any]) -> Stored:
    payload = (
        row.payload if isinstance(row.payload, bytes) else str(row.payload).encode()
    )  # an edit by hand may leave text
    return Stored(Digest(row.digest), row.kind, row.name, datetime.fromisoformat(row.created), row.actor, payload)


def _event(row: sa.Row[Any]) -> Event:
    return Event(
        subject=row.subject,
        seq=row.seq,
        type=row.type,
        time=datetime.fromisoformat(row.time),
        actor=row.actor,
        body=msgspec.json.decode(row.body),
        previous=row.previous,
        digest=row.digest,
    )


def _pointer(row: sa.Row[Any]) -> Pointer:
    return Pointer(row.subject, row.value, row.revision, datetime.fromisoformat(row.moved))
