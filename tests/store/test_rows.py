"""Rows and values: there and back, and what was changed so that it does not read is named."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import IntegrityError
from velodrome.store.ledger import Event, Link, Move, Put, digest_record
from velodrome.store.rows import event_row, moment_text, read_event, read_moment
from velodrome.store.sqlite import SqliteLedger
from velodrome.testing.ledger import Sample

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
MOMENTS = st.integers(-(10**15), 10**15).map(
    lambda us: NOW.astimezone(timezone(timedelta(hours=5))) + timedelta(microseconds=us)
)


@given(MOMENTS, MOMENTS)
def test_times_as_texts_are_ordered_as_times(one: datetime, other: datetime) -> None:
    assert (moment_text(one) < moment_text(other)) == (one < other)
    assert read_moment(moment_text(one)) == one


def test_an_event_has_one_row() -> None:
    event = Event(subject="s", seq=1, type="t", time=NOW, actor="ann", body={"b": 1, "a": None}, previous="").sealed()
    row = tuple(event_row(event).values())
    assert row[5] == b'{"a":null,"b":1}'
    assert read_event(row) == event


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    with closing(SqliteLedger(tmp_path / "ledger.db")) as made:
        made.commit([Put(Sample(number=1)), Move("s", None, "1", "t")], actor="ann", now=NOW)
        yield made


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("event SET time = ''", lambda ledger: ledger.events("s")),
        ("event SET body = x'ff'", lambda ledger: ledger.events("s")),
        ("event SET body = '[1]'", lambda ledger: ledger.events("s")),
        ("pointer SET moved = ''", lambda ledger: ledger.pointer("s")),
        ("record SET created = x'00'", lambda ledger: list(ledger.scan())),
        (
            "event SET time = 'yesterday'",
            lambda ledger: ledger.commit([Move("s", "1", "2", "t")], actor="ann", now=NOW),
        ),
    ],
)
def test_what_does_not_read_is_an_error_with_a_name(ledger: SqliteLedger, change: str, read: object) -> None:
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        connection.execute(f"UPDATE {change}")
    with pytest.raises(IntegrityError, match="does not read"):
        read(ledger)  # type: ignore[operator]
    assert ledger.check() == []


FLIPS = [
    *(("record", column) for column in ("kind", "name", "created", "actor", "seal")),
    *(("edge", column) for column in ("src", "role", "dst", "seal")),
]


@pytest.mark.parametrize(("table", "column"), FLIPS)
def test_a_column_that_no_digest_covers_is_sealed(ledger: SqliteLedger, table: str, column: str) -> None:
    sample = digest_record(Sample(number=2))
    ledger.commit([Put(Sample(number=2), "name"), Link("src", sample, "role")], actor="ann", now=NOW)
    key = "digest" if table == "record" else "role"
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        flipped = f"{column} = substr({column}, 1, 2) || char(unicode(substr({column}, 3)) + 1) || substr({column}, 4)"
        connection.execute(f"UPDATE {table} SET {flipped} WHERE {key} = ?", [sample if table == "record" else "role"])
    reads: list[Callable[[], object]] = [lambda: ledger.get(sample), lambda: ledger.records("sample")]
    if table == "edge":
        reads = [lambda: ledger.edges("src"), lambda: ledger.edges(sample, incoming=True)]
    found_elsewhere = {"kind": 1, "src": 0, "dst": 1}  # what was looked for by this column is not found there any more
    for read in [each for number, each in enumerate(reads) if number != found_elsewhere.get(column)]:
        with pytest.raises(IntegrityError, match="was changed after it was written"):
            read()
    assert len(list(ledger.scan())) == 2
    assert len(ledger.rows("record", "digest", [sample])) == 1
