"""The ledger on PostgreSQL: one schema of a database, any number of processes on any number of machines.

Each write transaction first locks the one row of `schema_version`, so writers stand in line and each sees all that those
before it did; readers never wait. A connection that is lost in the middle of a commit leaves open whether the commit was
made: it is looked for on a new connection, under the lock that the lost session may still hold, by the digest of its last
event, and made only where it is not there. A commit without events is made again, as repeating its writes changes nothing.
The session commits synchronously and waits at most `patience` for a statement, a lock or a server that is away. A connection
must stay one session: a pooler in transaction mode would lose these settings.
Cost: a commit is one fsync of the server and a few round trips, one after the other for all writers; a read is a round trip.
"""

import re
import select
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
import sqlalchemy as sa

from velodrome.core.errors import ConfigurationError, StorageError
from velodrome.store import schema
from velodrome.store.ledger import Event, Write
from velodrome.store.sql import SqlLedger, apply_writes

__all__ = ["PostgresLedger"]

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_LARGEST_COPY = 1 << 30

_home = sa.Table("schema_version", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False))
"""One row: the version of the schema, and what writers lock."""

_SESSION = """
SELECT set_config('search_path', %(schema)s, false),
       set_config('statement_timeout', %(patience)s, false),
       set_config('lock_timeout', %(patience)s, false),
       set_config('idle_in_transaction_session_timeout', %(idle)s, false),
       set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply'
                                        ELSE 'on' END, false)
"""

_UNSOUND = """
SELECT 'the server runs with ' || name || ' off: a crash may lose or tear what was committed'
FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'
UNION ALL
SELECT 'the index ' || relname || ' is not valid' FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relnamespace = current_schema()::regnamespace AND NOT indisvalid
"""

_READ = "SELECT '' FROM (SELECT count(hashtext(t::text)) AS rows FROM {} AS t) AS counted WHERE rows < 0"
"""No row, after each of the table was read."""

_REMEDIES = {
    "28P01": "check the password: PGPASSWORD, a pgpass file, or the URL",
    "42501": "grant the user what it needs: CREATE on the database, or all on the schema and its tables",
    "53100": "the server's disk is full: make room",
    "55P03": "another writer holds the ledger: look for its transaction in pg_stat_activity",
    "57014": "the server is busy, or another writer holds the ledger: look in pg_stat_activity",
}
"""SQLSTATE → what to do, where there is more to say than to look."""


class PostgresLedger(SqlLedger):
    """A ledger in a schema of the database at `url`, made if it is not there, migrated if it is older.

    Args:
        url: `postgresql://user@host:port/database`, with any parameter of libpq, and `?schema=name` (velodrome).
        patience: seconds to wait for a statement, for other writers, and for a server that went away during a commit.
        dumped: a dump was taken, so a migration need not copy the tables first.

    Raises:
        ConfigurationError: `url` is no such URL.
        StorageError: the server cannot be reached or refuses.
        LedgerVersionError: the ledger was written by a newer velodrome.
    """

    def __init__(self, url: str, *, patience: float = 60.0, dumped: bool = False) -> None:
        parsed, self._schema = _parsed(url)
        self._patience, self._dumped = patience, dumped
        super().__init__(_engine(parsed, self._schema, patience), _shown(parsed, self._schema))

    def check(self) -> list[str]:
        """Reads everything, so that a page whose checksum is wrong is told."""
        queries = [_UNSOUND, *(_READ.format(table) for table in schema.metadata.tables)]
        return [problem for query in queries for problem in self._problems(query)]

    def _problems(self, query: str) -> list[str]:
        try:
            with self._connection() as connection:
                connection.exec_driver_sql("BEGIN READ ONLY")
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                found = [str(row[0]) for row in connection.exec_driver_sql(query)]
                connection.exec_driver_sql("COMMIT")
        except StorageError as error:
            return [str(error)]
        return found

    def _commit(self, writes: Sequence[Write], actor: str, now: datetime) -> None:
        """Try until there is an answer; `mark` is the event by which a commit that was asked for is found again."""
        deadline, pause = time.monotonic() + self._patience, 0.05
        asked, mark = False, None
        while True:
            try:
                with self._transaction() as connection:
                    if mark is None or not _stands(connection, mark):
                        asked, mark = False, None
                        mark = apply_writes(connection, writes, actor, now)
                        asked = True
                return
            except _ServerLost as error:
                if time.monotonic() + pause > deadline:
                    raise self._unknown(mark) if asked else error from error.__cause__
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _unknown(self, mark: Event | None) -> StorageError:
        return StorageError(
            f"the ledger {self.name} went away in the middle of a commit: whether it was made is not known",
            received=f"event {mark.seq} of {mark.subject!r}, {mark.digest}" if mark else "no event",
            remedy="when the server is back, look for the event" if mark else "write the same again: that does no harm",
        )

    def _version(self, connection: sa.Connection) -> int:
        return int(connection.execute(sa.select(_home.c.version)).scalar_one())

    def _begin(self, connection: sa.Connection) -> int:
        """Each statement must see what was committed before it, so the server's default isolation is not left to chance."""
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL READ COMMITTED")
        return int(connection.execute(sa.select(_home.c.version).with_for_update()).scalar_one())

    def _begin_reading(self, connection: sa.Connection) -> None:
        """However long it takes, and however long whoever reads rests in between."""
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for timeout in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.exec_driver_sql(f"SET LOCAL {timeout} = 0")

    def _set_version(self, connection: sa.Connection, version: int) -> None:
        connection.execute(_home.update().values(version=version))

    def _prepare(self) -> None:
        with self._connection() as connection:
            _require_unicode(connection)
            if not _exists(connection, "to_regclass", _home.name):
                self._make_home(connection)
        super()._prepare()

    def _make_home(self, connection: sa.Connection) -> None:
        """The row that is locked ever after; whoever makes it holds a lock that needs no row."""
        connection.exec_driver_sql("BEGIN")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"velodrome {self._schema}"))))
        if not _exists(connection, "to_regnamespace", self._schema):
            connection.execute(sa.schema.CreateSchema(self._schema))
        if not _exists(connection, "to_regclass", _home.name):
            _home.create(connection, checkfirst=False)
            connection.execute(_home.insert().values(version=0))
        connection.exec_driver_sql("COMMIT")

    def _back_up(self, connection: sa.Connection, version: int) -> None:
        """A copy in the same database, in the transaction of the migration: for a migration gone wrong, not for a lost disk."""
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        if self._dumped:
            return
        tables = sa.inspect(connection).get_table_names(self._schema)
        self._refuse_large(connection, tables)
        copy = f"{self._schema}_backup_v{version}"
        connection.execute(sa.schema.CreateSchema(copy))
        for table in tables:
            _copy_table(connection, f"{self._schema}.{table}", f"{copy}.{table}")

    def _refuse_large(self, connection: sa.Connection, tables: Sequence[str]) -> None:
        sizes = [sa.func.pg_total_relation_size(sa.func.to_regclass(f"{self._schema}.{table}")) for table in tables]
        size = sum(connection.execute(sa.select(*sizes)).one())
        if size > _LARGEST_COPY:
            raise StorageError(
                f"the ledger {self.name} is too large to be copied inside its database before a migration",
                received=f"{size:,} bytes, at most {_LARGEST_COPY:,}",
                remedy="take a dump with pg_dump, then open it once with PostgresLedger(url, dumped=True)",
            )

    def _refusal(self, error: Exception) -> StorageError:
        refused = super()._refusal(error)
        remedy = _REMEDIES.get(_sqlstate(error))
        if _is_lost(error):
            where = f"the ledger {self.name} cannot be reached: {getattr(error, 'orig', error)}"
            return _ServerLost(where, remedy=remedy or "check that the server is up and that the URL is right")
        return StorageError(refused.problem, remedy=remedy or refused.remedy)


class _ServerLost(StorageError):
    """No answer: of a commit it is not known whether it was made."""


def _is_lost(error: Exception) -> bool:
    """Whether the session is gone: it could not be made, broke, or was ended by the server, as an idle writer's is (25P03)."""
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    ended = _sqlstate(error).startswith(("08", "57P", "25P03"))
    return ended or error.connection_invalidated or error.statement is None


def _sqlstate(error: Exception) -> str:
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def _stands(connection: sa.Connection, mark: Event) -> bool:
    """Whether that very event is in the ledger."""
    columns = schema.event.c
    query = sa.select(columns.digest).where(columns.subject == mark.subject, columns.seq == mark.seq)
    return connection.execute(query).scalar_one_or_none() == mark.digest


def _exists(connection: sa.Connection, finder: str, name: str) -> bool:
    """Whether the catalogue knows the name: "to_regclass" asks for a table, "to_regnamespace" for a schema."""
    return connection.execute(sa.select(getattr(sa.func, finder)(name))).scalar_one() is not None


def _require_unicode(connection: sa.Connection) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise StorageError(
            "a ledger needs a database whose encoding is UTF8",
            received=encoding,
            remedy="createdb --encoding=UTF8 --template=template0",
        )


def _copy_table(connection: sa.Connection, source: str, copy: str) -> None:
    """Copy a table with its indexes, and compare: no row of the one may be missing in the other, in either direction."""
    connection.exec_driver_sql(f"CREATE TABLE {copy} (LIKE {source} INCLUDING ALL)")
    connection.exec_driver_sql(f"INSERT INTO {copy} SELECT * FROM {source}")  # noqa: S608 (names of ours, checked)
    for one, other in ((source, copy), (copy, source)):
        difference = f"SELECT count(*) FROM (TABLE {one} EXCEPT ALL TABLE {other}) AS missing"  # noqa: S608
        missing = connection.exec_driver_sql(difference).scalar_one()
        if missing:
            raise StorageError(
                "the backup before the migration is not what was copied; nothing was changed",
                received=f"{missing} rows of {one} are not in {other}",
                remedy="look at the server's log, and take a dump",
            )


def _parsed(text: str) -> tuple[sa.URL, str]:
    """The URL for SQLAlchemy and the schema's name. What is refused is not shown: it may have a password anywhere."""
    url = _url(text)
    if url is None or url.drivername not in _SCHEMES or "@" in f"{url.host}{url.database}":
        raise ConfigurationError(
            "the URL of a PostgreSQL ledger reads postgresql://user@host:port/database",
            remedy="write %40 for @, %3A for : and %2F for / in a password, or better leave it to PGPASSWORD or a pgpass file",
        )
    name = url.query.get("schema", "velodrome")
    if not isinstance(name, str) or not _SCHEMA_NAME.fullmatch(name):
        raise ConfigurationError(
            "the schema of a ledger is named by at most 40 of a-z, 0-9 and _", received=repr(name), remedy="rename it"
        )
    return url.difference_update_query(["schema"]).set(drivername="postgresql+psycopg"), name


def _url(text: str) -> sa.URL | None:
    try:
        return sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):  # their messages quote the text
        return None


def _shown(url: sa.URL, name: str) -> str:
    bare = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database)
    return f"{bare} (schema {name})"


def _engine(url: sa.URL, name: str, patience: float) -> sa.Engine:
    """Connections that commit by themselves, and that notice within half a minute that the network has gone."""
    defaults = {
        "application_name": "velodrome",
        "client_encoding": "utf8",
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_timeout=patience,
        hide_parameters=True,
        use_native_hstore=False,
        connect_args={key: value for key, value in defaults.items() if key not in url.query},
    )
    milliseconds = round(1000 * patience)
    settings = {"schema": name, "patience": str(milliseconds), "idle": str(milliseconds // 2)}
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute(_SESSION, settings))
    sa.event.listen(engine, "checkout", lambda connection, *_: _require_open(connection))
    return engine


def _require_open(connection: psycopg.Connection[Any]) -> None:
    """A server says nothing to a session that asks for nothing, but farewell: heard here without a round trip."""
    poll = select.poll()
    if not connection.closed:
        poll.register(connection.fileno(), select.POLLIN)
    if connection.closed or poll.poll(0):
        raise sa.exc.InvalidatePoolError
