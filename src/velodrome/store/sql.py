"""The ledger on an SQL database: what every database shares, which is the queries, the writes and the care of the schema.

A database adds how a transaction begins in which nobody else writes, where the version of its schema is kept, how it is
backed up and how it is checked. As writers stand in line, a write may read and then decide: positions have no gaps, chains
are linear and compare-and-set is a comparison. Each transaction looks at the schema's version first, so a program that was
running while a newer one migrated the ledger is refused before it writes.
Cost: neighbouring writes of one type travel together; an event takes two statements and a move four.
"""

import os
import threading
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from velodrome.core.errors import LedgerVersionError, PointerMoved, StateError, StorageError
from velodrome.core.extras import load
from velodrome.store import schema
from velodrome.store.ledger import (
    Append,
    Batch,
    Block,
    Drop,
    Edge,
    Event,
    Expect,
    Fact,
    Ledger,
    Link,
    Move,
    Pointer,
    Put,
    Stored,
    Write,
)
from velodrome.store.query import Found, Query
from velodrome.store.rows import (
    edge_row,
    event_row,
    moment_text,
    read_edge,
    read_event,
    read_moment,
    read_pointer,
    read_sealed,
    read_stored,
    read_verified,
    record_row,
)
from velodrome.store.search import fact_row, facts_statement, found_of, keys_statement, search_statement, starts

__all__ = ["SqlLedger", "apply_writes"]

_BATCH = 200
"""Rows of a table that are read or written together."""


class SqlLedger(Ledger):
    """A ledger on the database of `engine`, which hands out connections that begin and end no transaction by themselves.

    Attributes:
        name: the ledger as a person is told about it, without any secret.
    """

    def __init__(self, engine: sa.Engine, name: str) -> None:
        self.name = name
        self._engine = engine
        self._pid = os.getpid()
        self._writer = threading.Lock()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def commit(self, writes: Sequence[Write], *, actor: str, now: datetime) -> None:
        self._refuse_fork()
        _require_text(writes, actor)
        with self._writer:
            self._commit(writes, actor, now.astimezone(UTC))  # an event is sealed with the time as it will be read

    def get(self, digest: str) -> Stored | None:
        row = self._one(sa.select(schema.record).where(schema.record.c.digest == digest))
        return None if row is None else read_verified(row)

    def records(
        self, kind: str, *, name: str | None = None, newest_first: bool = True, limit: int | None = None
    ) -> list[Stored]:
        query = sa.select(schema.record).where(schema.record.c.kind == kind)
        if name is not None:
            query = query.where(schema.record.c.name == name)
        order = schema.record.c.position.desc() if newest_first else schema.record.c.position
        return [read_sealed(row) for row in self._all(query.order_by(order).limit(limit))]

    def edges(self, node: str, *, incoming: bool = False, role: str | None = None) -> list[Edge]:
        near, far = (schema.edge.c.dst, schema.edge.c.src) if incoming else (schema.edge.c.src, schema.edge.c.dst)
        query = sa.select(schema.edge).where(near == node)
        if role is not None:
            query = query.where(schema.edge.c.role == role)
        return [read_edge(row) for row in self._all(query.order_by(schema.edge.c.role, far))]

    def events(self, subject: str) -> list[Event]:
        query = sa.select(schema.event).where(schema.event.c.subject == subject).order_by(schema.event.c.seq)
        return [read_event(row) for row in self._all(query)]

    def pointer(self, subject: str) -> Pointer | None:
        row = self._one(sa.select(schema.pointer).where(schema.pointer.c.subject == subject))
        return None if row is None else read_pointer(row)

    def pointers(self, prefix: str) -> list[Pointer]:
        query = sa.select(schema.pointer).where(starts(schema.pointer.c.subject, prefix))
        return [read_pointer(row) for row in self._all(query.order_by(schema.pointer.c.subject))]

    def blocks(self, run: str, series: str | None = None) -> list[Block]:
        columns = schema.series_block.c
        query = sa.select(*(columns[name] for name in Block.__struct_fields__)).where(columns.run == run)
        if series is not None:
            query = query.where(columns.series == series)
        ordered = query.order_by(columns.series, columns.attempt, columns.first_step)
        return [Block(**row._mapping) for row in self._all(ordered)]

    def search(self, query: Query) -> list[Found]:
        return [found_of(row) for row in self._all(search_statement(query, self._engine.dialect.name))]

    def facts(self, subjects: Iterable[str], *keys: str) -> dict[str, dict[str, float | str]]:
        found: dict[str, dict[str, float | str]] = {subject: {} for subject in subjects}
        query, given = facts_statement(list(found), keys, self._engine.dialect.name)
        rows: Sequence[Any] = self._all(query, given)
        for subject, key, number, text in rows:
            found.setdefault(subject, {})[key] = (
                text if number is None else number
            )  # a damaged index answers for others
        return found

    def fact_keys(self) -> list[str]:
        return [row[0] for row in self._all(keys_statement())]

    def subjects(self, prefix: str = "") -> list[str]:
        query = sa.select(schema.event.c.subject).where(schema.event.c.seq == 1, starts(schema.event.c.subject, prefix))
        return [row[0] for row in self._all(query.order_by(schema.event.c.subject))]

    def scan(self) -> Iterator[Stored]:
        for row in self._all(sa.select(schema.record).order_by(schema.record.c.position)):
            yield read_stored(row)

    def rows(self, table: str, column: str, values: Iterable[str]) -> list[tuple[Any, ...]]:
        asked, known = list(values), schema.metadata.tables[table]
        query = sa.select(known).order_by(*known.primary_key)
        groups = (asked[first : first + _BATCH] for first in range(0, len(asked), _BATCH))
        return [tuple(row) for group in groups for row in self._all(query.where(known.c[column].in_(group)))]

    def dump(self, *tables: str, after: int = 0) -> Generator[Batch, None, None]:
        with self._connection() as connection:
            try:
                self._begin_reading(connection)
                self._require_schema(self._version(connection))
                for table in schema.metadata.sorted_tables:
                    if tables and table.name not in tables:
                        continue
                    query = sa.select(table).order_by(*table.primary_key)
                    if after and table is schema.record:
                        query = query.where(table.c.position > after)
                    with closing(connection.execute(query, execution_options={"yield_per": _BATCH})) as found:
                        yield from ((table.name, [tuple(row) for row in rows]) for rows in found.partitions())
            finally:
                with suppress(sa.exc.SQLAlchemyError):  # a broken connection has ended by itself
                    connection.exec_driver_sql("ROLLBACK")

    def fill(self, batches: Iterable[Batch]) -> None:
        with self._writer, self._transaction() as connection:
            self._require_empty(connection)
            for name, rows in batches:
                table = schema.metadata.tables[name]
                connection.execute(table.insert(), [dict(zip(table.c.keys(), row, strict=True)) for row in rows])

    def close(self) -> None:
        self._engine.dispose()

    @abstractmethod
    def _commit(self, writes: Sequence[Write], actor: str, now: datetime) -> None:
        """Apply the writes in a transaction of their own."""

    @abstractmethod
    def _version(self, connection: sa.Connection) -> int:
        """The version of the schema; 0 where there are no tables yet."""

    @abstractmethod
    def _begin(self, connection: sa.Connection) -> int:
        """Begin a transaction in which nobody else writes to the ledger or migrates it; the version as it then stands."""

    @abstractmethod
    def _begin_reading(self, connection: sa.Connection) -> None:
        """Begin a transaction that sees one moment, however long it lasts."""

    @abstractmethod
    def _set_version(self, connection: sa.Connection, version: int) -> None:
        """Write the version down, in the present transaction."""

    @abstractmethod
    def _back_up(self, connection: sa.Connection, version: int) -> None:
        """Copy the ledger as the present transaction sees it, and verify the copy."""

    def _refusal(self, error: Exception) -> StorageError:
        """What the database said, as an error of ours."""
        said = getattr(error, "orig", None) or error
        return StorageError(f"the ledger {self.name} refused: {said}", remedy="run `velodrome doctor`")

    def _prepare(self) -> None:
        """Make the tables, or migrate them, unless they are what this program needs."""
        with self._connection() as connection:
            version = self._version(connection)
        self._refuse_newer(version)
        if version < schema.VERSION:
            with self._alone() as (connection, version):
                self._bring_up(connection, version)

    def _bring_up(self, connection: sa.Connection, version: int) -> None:
        self._refuse_newer(version)
        if version == schema.VERSION:  # another process was first
            return
        if version == 0:
            schema.metadata.create_all(connection, checkfirst=False)
        else:
            self._back_up(connection, version)
            load("ledger:migrations").upgrade(connection, version)
        self._set_version(connection, schema.VERSION)

    def _refuse_newer(self, version: int) -> None:
        if version > schema.VERSION:
            raise LedgerVersionError(
                f"the ledger {self.name} was written by a newer velodrome",
                received=f"schema {version}, this program knows {schema.VERSION}",
                remedy="upgrade velodrome",
            )

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction of the only writer, on the schema that this program knows."""
        with self._alone() as (connection, version):
            self._require_schema(version)
            yield connection

    def _require_schema(self, version: int) -> None:
        self._refuse_newer(version)
        if version < schema.VERSION:
            raise LedgerVersionError(
                f"the ledger {self.name} was put back to an older schema while it was open",
                received=f"schema {version}, this program needs {schema.VERSION}",
                remedy="open it again, which migrates it",
            )

    def _require_empty(self, connection: sa.Connection) -> None:
        for table in schema.metadata.sorted_tables:
            if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
                raise StateError(
                    f"the ledger {self.name} is not empty",
                    received=f"rows in {table.name}",
                    remedy="fill one that was never used",
                )

    @contextmanager
    def _alone(self) -> Iterator[tuple[sa.Connection, int]]:
        """A transaction of the only writer and the schema's version: committed at the end, rolled back by what escapes."""
        with self._connection() as connection:
            try:
                yield connection, self._begin(connection)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(sa.exc.SQLAlchemyError):  # a broken connection has rolled back by itself
                    connection.exec_driver_sql("ROLLBACK")
                raise

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        self._refuse_fork()
        try:
            with self._engine.connect() as connection:
                yield connection
        except (sa.exc.StatementError, sa.exc.TimeoutError, UnicodeDecodeError) as error:
            raise self._refusal(error) from error  # SQLite quotes what it cannot read, which may be no text

    def _refuse_fork(self) -> None:
        if os.getpid() != self._pid:
            raise StorageError(
                "a ledger handle was used after a fork", remedy="open the workspace again in the child process"
            )

    def _all(self, query: Any, given: Mapping[str, Any] | None = None) -> Sequence[sa.Row[Any]]:
        with self._connection() as connection:
            return connection.execute(query, given).all()

    def _one(self, query: Any) -> sa.Row[Any] | None:
        with self._connection() as connection:
            return connection.execute(query).one_or_none()


def apply_writes(connection: sa.Connection, writes: Sequence[Write], actor: str, now: datetime) -> Event | None:
    """Carry the writes out in their order, in the present transaction; the last event that they appended, if any."""
    last = None
    for type_, group in groupby(writes, type):
        last = _APPLY[type_](connection, list(group), actor, now) or last
    return last


def _require_text(writes: Sequence[Write], actor: str) -> None:
    """PostgreSQL cannot keep a NUL and nobody half a character: refused everywhere, so that a ledger can be moved."""
    named = (
        (f"{type(write).__name__}.{name}", getattr(write, name)) for write in writes for name in write.__struct_fields__
    )
    for name, text in (("actor", actor), *named):
        if isinstance(text, str) and not _is_text(text):
            raise StorageError(
                f"the ledger cannot keep this {name}: it has a NUL or half a character",
                received=ascii(text),
                remedy="take the character out",
            )


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _put(connection: sa.Connection, writes: Sequence[Put], actor: str, now: datetime) -> None:
    rows = [record_row(write, actor, now) for write in writes]
    connection.execute(_keeping(schema.record, connection.dialect.name), rows)


def _link(connection: sa.Connection, writes: Sequence[Link], actor: str, now: datetime) -> None:
    rows = [edge_row(write.src, write.role, write.dst) for write in writes]
    connection.execute(_keeping(schema.edge, connection.dialect.name), rows)


def _append(connection: sa.Connection, writes: Sequence[Append], actor: str, now: datetime) -> Event:
    return [_append_one(connection, write, actor, now) for write in writes][-1]


def _append_one(connection: sa.Connection, write: Append, actor: str, now: datetime) -> Event:
    last = connection.execute(_NEWEST, {"of": write.subject}).one_or_none()
    seq, previous = (last[0] + 1, last[1]) if last else (1, "")
    time = max(now, read_moment(last[2])) if last else now  # a clock that was set back makes no history ambiguous
    event = Event(
        subject=write.subject, seq=seq, type=write.type, time=time, actor=actor, body=write.body, previous=previous
    ).sealed()
    connection.execute(schema.event.insert(), event_row(event))
    return event


def _move(connection: sa.Connection, writes: Sequence[Move], actor: str, now: datetime) -> Event:
    return [_move_one(connection, write, actor, now) for write in writes][-1]


def _move_one(connection: sa.Connection, write: Move, actor: str, now: datetime) -> Event:
    revision = _require_present(connection, write.subject, write.expected)
    moved = Append(write.subject, write.type, write.body | {"from": write.expected, "to": write.value})
    event = _append_one(connection, moved, actor, now)
    row = {"subject": write.subject, "value": write.value, "revision": revision + 1, "moved": moment_text(event.time)}
    connection.execute(_replacing(schema.pointer, connection.dialect.name), row)
    return event


def _expect(connection: sa.Connection, writes: Sequence[Expect], actor: str, now: datetime) -> None:
    for write in writes:
        _require_present(connection, write.subject, write.value)


def _require_present(connection: sa.Connection, subject: str, expected: str | None) -> int:
    """How often a pointer moved, whose present value must be the expected one."""
    found = connection.execute(_PRESENT, {"of": subject}).one_or_none()
    present, revision = (found[0], found[1]) if found else (None, 0)
    if present != expected:
        raise PointerMoved(
            f"{subject!r} was expected to be {expected!r}",
            received=present,
            remedy="somebody moved it meanwhile: look at it and decide again",
        )
    return int(revision)


def _block(connection: sa.Connection, writes: Sequence[Block], actor: str, now: datetime) -> None:
    rows = [msgspec.structs.asdict(write) for write in writes]
    connection.execute(_replacing(schema.series_block, connection.dialect.name), rows)


def _drop(connection: sa.Connection, writes: Sequence[Drop], actor: str, now: datetime) -> None:
    runs = [{"of": write.run} for write in writes]
    connection.execute(schema.series_block.delete().where(schema.series_block.c.run == sa.bindparam("of")), runs)


def _fact(connection: sa.Connection, writes: Sequence[Fact], actor: str, now: datetime) -> None:
    """Of several that are told about one key the last counts."""
    rows = {(row["subject"], row["key"]): row for row in map(fact_row, writes)}
    known = [row for row in rows.values() if row["number"] is not None or row["text"] is not None]
    unknown = [
        {"of": of, "under": key} for (of, key), row in rows.items() if row["number"] is None and row["text"] is None
    ]
    if known:
        connection.execute(_replacing(schema.fact, connection.dialect.name), known)
    if unknown:
        connection.execute(_FORGET, unknown)


_APPLY: dict[type, Any] = {
    Put: _put,
    Link: _link,
    Append: _append,
    Move: _move,
    Expect: _expect,
    Block: _block,
    Drop: _drop,
    Fact: _fact,
}

_NEWEST = (
    sa.select(schema.event.c.seq, schema.event.c.digest, schema.event.c.time)
    .where(schema.event.c.subject == sa.bindparam("of"))
    .order_by(schema.event.c.seq.desc())
    .limit(1)
)
_FORGET = schema.fact.delete().where(
    schema.fact.c.subject == sa.bindparam("of"), schema.fact.c.key == sa.bindparam("under")
)
_PRESENT = sa.select(schema.pointer.c.value, schema.pointer.c.revision).where(
    schema.pointer.c.subject == sa.bindparam("of")
)


@cache
def _keeping(table: sa.Table, dialect: str) -> sa.Insert:
    """Insert what is not there yet. Records take the next position, without the gaps that a sequence leaves for losers."""
    insert = _insert(table, dialect)
    if table is schema.record:
        last = sa.select(sa.func.coalesce(sa.func.max(table.c.position), 0)).scalar_subquery()
        insert = insert.values(position=last + 1)
    return insert.on_conflict_do_nothing()


@cache
def _replacing(table: sa.Table, dialect: str) -> sa.Insert:
    """Insert, in the place of what has the same key."""
    insert = _insert(table, dialect)
    changed = {column.name: insert.excluded[column.name] for column in table.c if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)


def _insert(table: sa.Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    """The two databases say alike what happens on a conflict, and SQLAlchemy has a class for each."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
