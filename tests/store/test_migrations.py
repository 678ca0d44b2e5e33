import math
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from older import program_of

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import LedgerVersionError, StorageError
from velodrome.store import postgres as postgres_module
from velodrome.store import schema
from velodrome.store.ledger import Append, Link, Move, Put, digest_record, verify_chain
from velodrome.store.migrations import v4
from velodrome.store.migrations.way import STEPS
from velodrome.store.postgres import PostgresLedger
from velodrome.store.query import Compare, Query
from velodrome.store.rows import is_sealed
from velodrome.store.sql import SqlLedger
from velodrome.store.sqlite import SqliteLedger
from velodrome.testing.ledger import Sample

pytestmark = pytest.mark.slow  # together more than two seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FIRST, SECOND = (Path(__file__).with_name(f"ledger-{version}.sql") for version in (1, 2))
VERSIONS = range(1, schema.VERSION)
NewAddress = Callable[[], str]


def open_at(address: str, **options: Any) -> SqlLedger:
    return PostgresLedger(address, **options) if "://" in address else SqliteLedger(Path(address))


def make_old(address: str, version: int) -> None:
    """A ledger of an earlier version with something in it."""
    with program_of(version), closing(open_at(address)) as ledger:
        put = [Put(Sample(number=number), "name") for number in range(20)]
        ledger.commit([*put, Link("a", "b", "r"), Append("s", "t"), Move("p", None, "1", "m")], actor="ann", now=NOW)


def shape(ledger: SqlLedger) -> object:
    """Tables, columns, keys and indexes as the database tells them."""
    with ledger._connection() as connection:
        found = sa.inspect(connection)
        return {
            table: (
                [(column["name"], repr(column["type"]), column["nullable"]) for column in found.get_columns(table)],
                found.get_pk_constraint(table)["constrained_columns"],
                sorted(tuple(unique["column_names"]) for unique in found.get_unique_constraints(table)),
                sorted((index["name"] or "", tuple(index["column_names"])) for index in found.get_indexes(table)),
            )
            for table in sorted(found.get_table_names())
        }


def count(ledger: SqlLedger, table: str) -> int:
    with ledger._connection() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def test_there_is_a_step_for_each_version() -> None:
    assert len(STEPS) == schema.VERSION


@pytest.mark.parametrize("version", VERSIONS)
def test_a_migrated_ledger_has_the_shape_of_a_new_one_and_all_it_had(new_address: NewAddress, version: int) -> None:
    address = new_address()
    make_old(address, version)
    with closing(open_at(address)) as migrated, closing(open_at(new_address())) as new:
        assert shape(migrated) == shape(new)
        with migrated._connection() as connection:
            assert migrated._version(connection) == schema.VERSION
        assert len(migrated.records("sample")) == 20
        assert migrated.get(digest_record(Sample(number=7))) is not None
        verify_chain("p", migrated.events("p"))
        migrated.commit([Move("p", "1", "2", "m")], actor="ann", now=NOW)


def test_the_steps_alone_make_what_is_declared(new_address: NewAddress) -> None:
    address = new_address()
    with program_of(schema.VERSION):
        open_at(address).close()
    with closing(open_at(address)) as climbed, closing(open_at(new_address())) as new:
        assert shape(climbed) == shape(new)
        with climbed._connection() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            differences = compare_metadata(context, schema.metadata)
    assert [each for each in differences if "schema_version" not in str(each)] == []


def test_a_ledger_that_version_1_wrote_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST.read_text(encoding="utf-8"))
    with closing(SqliteLedger(path)) as ledger, closing(SqliteLedger(tmp_path / "new.db")) as new:
        assert shape(ledger) == shape(new)
        assert [stored.digest for stored in ledger.scan()] == [digest_record(Sample(number=n)) for n in (1, 2)]
        for subject in ("job:1", "alias:m"):
            verify_chain(subject, ledger.events(subject))
        assert (len(ledger.edges("run")), len(ledger.blocks("r"))) == (2, 2)


def old_ledger(address: str, fixture: Path, version: int) -> None:
    """A ledger with what the fixture holds, in whatever database."""
    with closing(sqlite3.connect(":memory:" if "://" in address else address)) as source:
        source.executescript(fixture.read_text(encoding="utf-8"))
        if "://" not in address:
            return
        with program_of(version), closing(open_at(address)) as ledger, ledger._transaction() as connection:
            for table in sa.inspect(connection).get_table_names():
                if table != "schema_version":
                    rows = source.execute(f"SELECT * FROM {table}")
                    into = sa.table(table, *(sa.column(column[0]) for column in rows.description))
                    connection.execute(into.insert(), [dict(zip(into.c.keys(), row, strict=True)) for row in rows])


def digest(text: str) -> str:
    return digest_bytes(text.encode())


RUNS = [f"run:01kdyr{number:020d}" for number in range(1, 7)]
RECIPE = {
    "params.type": "recipe",
    "params.learner.lr": 0.01,
    "params.learner.epochs": 6.0,
    "params.learner.refit": "true",
    "params.features": '["a","é"]',
    "params.note": 'it\'s 100 % "ours"',
    "params.long": "é" * 512,
}


def in_version_2(number: int) -> dict[str, Any]:
    """What every run of the fixture has."""
    run = RUNS[number - 1].removeprefix("run:")
    inputs = {name: digest(name) for name in ("code", "environment")}
    return inputs | {"id": run, "key": digest(run), "name": "late", "type": "train", "seed": 7.0, "state": "finished"}


def ended(**other: float | str) -> dict[str, Any]:
    return {"seconds": 1.5} | other


def series(name: str, **figures: float) -> dict[str, float]:
    return {f"series.{name}.{figure}": value for figure, value in figures.items()}


IN_VERSION_2: list[dict[str, Any]] = [
    in_version_2(1)
    | RECIPE
    | {
        "owner": "team-a",
        "snapshot": digest("snapshot"),
        "attempts": 2.0,
        "started": "2026-01-02T03:04:06.678901+00:00",
    }
    | ended(steps=8.0, rows=100.0, artifact=digest("artifact"), weights=digest("weights"))
    | {"metrics.roc_auc": 0.7051, "metrics.log_loss": 0.25, "primary": "roc_auc"}  # of the newest report alone
    | series("loss", last=0.25, min=0.25, max=1.0, count=8)  # not what was done again: -100 at step 6
    | series("step_time", last=0.5, min=0.25, max=1.0, count=8)
    | series("val/roc auc", last=0.54, min=0.51, max=0.54, count=4),
    in_version_2(2)
    | RECIPE
    | {
        "type": "refit",
        "seed": 8.0,
        "snapshot": digest("snapshot"),
        "attempts": 1.0,
        "judge": RUNS[0].removeprefix("run:"),
    }
    | ended(steps=9.0, rows=120.0, artifact=digest("refit"), started="2026-01-02T03:04:11.678901+00:00"),
    in_version_2(3)
    | {"name": "line", "type": "track", "attempts": 1.0, "started": "2026-01-02T03:04:13.678901+00:00"}
    | {"params.lr": 0.1, "params.odd.name": "x", "params.true": "yes"}
    | ended(steps=3.0)
    | {"metrics.loss": 1.0, "metrics.high": -3.0}  # the last of each value series, where it is a number
    | series("loss", last=1.0, min=1.0, max=3.0, count=3)
    | series("broken", min=1.0, max=2.0, count=3)
    | series("never", count=3)
    | series("data_wait", last=0.125, min=0.125, max=0.125, count=3)
    | series("high", last=-3.0, min=-3.0, max=math.inf, count=3),
    in_version_2(4)
    | {"name": "line", "type": "track", "attempts": 1.0, "started": "2026-01-02T03:04:15.678901+00:00"}
    | {"params.lr": 0.2, "state": "failed"}
    | series("loss", last=2.0, min=1.0, max=2.0, count=2),
    in_version_2(5)
    | {"owner": "team-a", "snapshot": digest("snapshot"), "attempts": 0.0, "state": "created"}
    | {"started": "2026-01-02T03:04:16.678901+00:00"},
    in_version_2(6)
    | RECIPE
    | {"owner": "team-a", "snapshot": digest("snapshot"), "attempts": 2.0, "state": "running", "seed": -3.0}
    | {"started": "2026-01-02T03:04:17.678901+00:00"},
]


def test_the_runs_that_version_2_wrote_are_found_by_their_facts(address: str) -> None:
    old_ledger(address, SECOND, 2)
    with closing(open_at(address)) as ledger:
        facts = list(ledger.facts(RUNS).values())
        histories = [found.pop("history", None) for found in facts]
        assert facts == IN_VERSION_2
        assert [history is not None for history in histories] == [True, True, True, False, False, False]
        assert count(ledger, "fact") == sum(map(len, IN_VERSION_2)) + 3
        query = Query(where=Compare("metrics.roc_auc", ">", 0.7))
        assert [found.subject for found in ledger.search(query)] == RUNS[:1]
        verify_chain(RUNS[0], ledger.events(RUNS[0]))


@pytest.mark.parametrize("at_once", [3, 5000])
def test_what_earlier_versions_wrote_is_sealed(
    new_address: NewAddress, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(v4, "_AT_ONCE", at_once)
    address = new_address()
    old_ledger(address, SECOND, 2)
    with closing(open_at(address)) as ledger:
        rows = [row for _, rows in ledger.dump("record", "edge") for row in rows]
        assert len(rows) == count(ledger, "record") + count(ledger, "edge") > 30
        assert all(map(is_sealed, rows))
        assert {row[-1] for row in rows} != {""}


def test_damage_does_not_keep_a_ledger_from_being_migrated(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    old_ledger(str(path), SECOND, 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE record SET payload = X'7B22' WHERE kind IN ('run', 'outcome', 'report')")
        connection.execute("UPDATE series_block SET data = X'00', count = 70")
        connection.execute("UPDATE event SET body = X'FF' WHERE type = 'run.restored'")
        connection.execute("UPDATE record SET name = X'FF', actor = 7 WHERE position = 1")
        connection.execute("INSERT INTO edge VALUES (X'FF', X'00', '7')")
    with closing(SqliteLedger(path)) as ledger:
        for run, expected in zip(RUNS, IN_VERSION_2, strict=True):
            kept = {key: expected[key] for key in ("id", "state", "attempts", "started")}
            assert ledger.facts([run])[run] == kept


def test_the_old_file_is_kept_beside_the_migrated_one(tmp_path: Path) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "ledger-1.db"
    make_old(str(path), 1)
    # left by a migration that was killed, and by a person who looked into the copy
    for name in ("ledger-1.db", "ledger-1.db-wal", ".ledger-1.db"):
        (tmp_path / name).write_bytes(b"left")
    SqliteLedger(path).close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ledger-1.db", "ledger.db"]
    with program_of(1), closing(SqliteLedger(copy)) as ledger:
        assert len(ledger.records("sample")) == 20
        verify_chain("p", ledger.events("p"))


def test_the_old_tables_are_kept_in_a_schema_of_their_own(postgres: Any) -> None:
    url = postgres.url()
    make_old(url, 1)
    with closing(PostgresLedger(url)) as ledger:
        copy = f"{ledger._schema}_backup_v1"
        for table in schema.metadata.tables.keys() - {"fact"} | {"schema_version"}:
            before = 1 if table == "schema_version" else count(ledger, table)
            assert count(ledger, f"{copy}.{table}") == before
    with postgres.connect() as session:  # the way back
        session.execute(f"ALTER SCHEMA {ledger._schema} RENAME TO {ledger._schema}_spoilt")
        session.execute(f"ALTER SCHEMA {copy} RENAME TO {ledger._schema}")
    with program_of(1), closing(PostgresLedger(url)) as restored:
        assert len(restored.records("sample")) == 20
        restored.commit([Move("p", "1", "2", "m")], actor="ann", now=NOW)


def test_an_earlier_copy_is_not_overwritten(postgres: Any) -> None:
    url = postgres.url()
    make_old(url, 1)
    name = url.partition("schema=")[2]
    with postgres.connect() as session:
        session.execute(f"CREATE SCHEMA {name}_backup_v1")
    with pytest.raises(StorageError, match="already exists"):
        PostgresLedger(url)
    with program_of(1), closing(PostgresLedger(url)) as ledger:
        assert len(ledger.records("sample")) == 20


def test_a_large_ledger_asks_for_a_dump(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.url()
    make_old(url, 1)
    monkeypatch.setattr(postgres_module, "_LARGEST_COPY", 1000)
    with pytest.raises(StorageError, match="too large") as caught:
        PostgresLedger(url)
    assert "pg_dump" in str(caught.value)
    with closing(PostgresLedger(url, dumped=True)) as ledger:
        assert len(ledger.records("sample")) == 20
        with ledger._connection() as connection:
            assert f"{ledger._schema}_backup_v1" not in sa.inspect(connection).get_schema_names()


def test_a_damaged_file_is_not_migrated(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_old(str(path), 1)
    data = bytearray(path.read_bytes())
    data[3 * 4096 : 3 * 4096 + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"malformed|backup"):
        SqliteLedger(path)
    assert [each.name for each in tmp_path.iterdir() if "-1" in each.name] == []
    assert stored_version(path) == 1


def test_a_copy_that_cannot_be_put_in_its_place_stops_the_migration(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_old(str(path), 1)
    (tmp_path / "ledger-1.db").mkdir()
    with pytest.raises(StorageError, match="cannot make the backup"):
        SqliteLedger(path)
    assert stored_version(path) == 1
    assert not (tmp_path / ".ledger-1.db").exists()


@contextmanager
def after_statement(start: str, meddle: Callable[[Any, str], object]) -> Iterator[None]:
    """A fault: `meddle(cursor, statement)` once a statement that starts so was carried out, in whatever ledger."""

    def listen(_: object, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
        if statement.startswith(start):
            meddle(cursor, parameters[0] if parameters else statement)

    sa.event.listen(sa.Engine, "after_cursor_execute", listen)
    yield
    sa.event.remove(sa.Engine, "after_cursor_execute", listen)


def tear(_: object, copy: str) -> None:
    with open(copy, "r+b") as stream:
        stream.truncate(8192)


def forget(_: object, copy: str) -> None:
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("DELETE FROM record WHERE position = 20")


@pytest.mark.parametrize(("meddle", "said"), [(tear, "malformed"), (forget, "not what was copied")])
def test_a_copy_that_is_not_whole_stops_the_migration(
    tmp_path: Path, meddle: Callable[[Any, str], object], said: str
) -> None:
    path = tmp_path / "ledger.db"
    make_old(str(path), 1)
    with after_statement("VACUUM INTO", meddle), pytest.raises(StorageError, match=said):
        SqliteLedger(path)
    assert [each.name for each in tmp_path.iterdir() if "-1" in each.name] == []
    assert stored_version(path) == 1


def test_a_copied_table_that_is_not_whole_stops_the_migration(postgres: Any) -> None:
    url = postgres.url()
    make_old(url, 1)

    def forget_row(cursor: Any, statement: str) -> None:
        if ".record " in statement:
            cursor.execute(f"DELETE FROM {statement.split()[2]} WHERE position = 20")

    with after_statement("INSERT INTO test_", forget_row), pytest.raises(StorageError, match="not what was copied"):
        PostgresLedger(url)
    with program_of(1), closing(PostgresLedger(url)) as ledger:
        assert len(ledger.records("sample")) == 20


def test_a_full_disk_leaves_the_old_version_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_old(str(path), 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size - 4096, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"full|I/O error"):
            SqliteLedger(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert stored_version(path) == 1
    with closing(SqliteLedger(path)) as ledger:
        assert len(ledger.records("sample")) == 20


def stored_version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


STOPPED = """
import sys, time
from pathlib import Path
from velodrome.store.migrations import way
from velodrome.store.postgres import PostgresLedger
from velodrome.store.sqlite import SqliteLedger

def step_and_stop(to, step=way.STEPS[-1]):
    step(to)
    print("stopped", flush=True)
    time.sleep(600)

way.STEPS[-1] = step_and_stop
address = sys.argv[1]
PostgresLedger(address) if "://" in address else SqliteLedger(Path(address))
"""


def test_a_migration_that_is_killed_leaves_the_old_version_whole(address: str) -> None:
    make_old(address, schema.VERSION - 1)
    with program_of(schema.VERSION - 1), closing(open_at(address)) as ledger:
        before = shape(ledger)
        with subprocess.Popen([sys.executable, "-c", STOPPED, address], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "stopped\n"
            process.kill()
        ledger.commit([Move("p", "1", "2", "m")], actor="ann", now=NOW)
        assert shape(ledger) == before
    with closing(open_at(address)) as ledger:
        assert shape(ledger) != before
        assert [event.body["to"] for event in ledger.events("p")] == ["1", "2"]


def test_many_who_open_at_once_migrate_once(address: str) -> None:
    make_old(address, schema.VERSION - 1)
    with ThreadPoolExecutor(8) as pool:
        ledgers = list(pool.map(open_at, [address] * 8))
    assert {len(ledger.records("sample")) for ledger in ledgers} == {20}
    for ledger in ledgers:
        ledger.close()


def test_many_who_open_at_once_make_it_once(address: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        ledgers = list(pool.map(open_at, [address] * 8))
    for number, ledger in enumerate(ledgers):
        ledger.commit([Append("s", "t", {"number": number})], actor="ann", now=NOW)
    assert len(ledgers[0].events("s")) == 8
    for ledger in ledgers:
        ledger.close()


def set_version(ledger: SqlLedger, version: int) -> None:
    with ledger._alone() as (connection, _):
        ledger._set_version(connection, version)


def test_a_newer_ledger_is_refused_by_name(address: str) -> None:
    with closing(open_at(address)) as ledger:
        set_version(ledger, 99)
        with pytest.raises(LedgerVersionError, match="newer velodrome") as caught:
            open_at(address)
    assert caught.value.received == f"schema 99, this program knows {schema.VERSION}"


@pytest.mark.parametrize(("version", "said"), [(99, "newer velodrome"), (1, "older schema")])
def test_who_was_open_while_another_program_changed_the_schema_is_refused(
    address: str, version: int, said: str
) -> None:
    with closing(open_at(address)) as ledger, closing(open_at(address)) as other:
        set_version(other, version)
        with pytest.raises(LedgerVersionError, match=said):
            ledger.commit([Append("s", "t")], actor="ann", now=NOW)
        set_version(other, schema.VERSION)
        assert ledger.events("s") == []
        ledger.commit([Append("s", "t")], actor="ann", now=NOW)
