"""Anchors and what they prove: whatever single thing is changed in a ledger is found and named, and nothing else is."""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from velodrome.control.auditing import Anchored, Audit, anchor, anchor_if_due, verify
from velodrome.core.clock import ManualClock
from velodrome.core.digest import Digest
from velodrome.core.errors import ConfigurationError, MissingBlob, PointerMoved, StorageError
from velodrome.registry import anchors as anchors_module
from velodrome.registry.anchors import AUDIT, Anchor
from velodrome.registry.runs import Outcome
from velodrome.registry.series import encode_block, history_digest
from velodrome.store import schema
from velodrome.store.audit import Damage
from velodrome.store.blobs import FolderBlobs
from velodrome.store.ledger import Append, Block, Drop, Event, Ledger, Link, Move, Put, digest_record, read_record
from velodrome.store.postgres import PostgresLedger
from velodrome.store.rows import edge_row, event_row
from velodrome.store.sql import SqlLedger
from velodrome.store.sqlite import SqliteLedger
from velodrome.store.workspace import Workspace
from velodrome.testing.ledger import Sample

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TABLES = {table.name: table for table in (schema.edge, schema.event, schema.pointer, schema.record)}


def workspace(root: Path, ledger: Ledger) -> Workspace:
    return Workspace(
        root=root, store=root, ledger=ledger, blobs=FolderBlobs(root / "blobs"), actor="ann", clock=ManualClock(START)
    )


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with workspace(tmp_path, SqliteLedger(tmp_path / "ledger.db")) as opened:
        yield opened


def live(ws: Workspace, first: int, last: int) -> None:
    """What a ledger goes through: records with their edges, and pointers that move, each with others beside them."""
    for number in range(first, last):
        ws.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]
        sample = Sample(number=number)
        before = ws.ledger.pointer("alias:m@champion")
        ws.acting_as(f"actor-{number % 3}").commit(
            Put(sample, f"name-{number % 2}"),
            Link(digest_record(sample), f"run:{number}", "run"),
            Link(f"run:{number}", "blob", "artifact"),
            Move(f"run:{number}", None, "created/0", "run.created", {"record": digest_record(sample)}),
            Append("log", "tick", {"number": number, "é": None}),
            Move("alias:m@champion", before.value if before else None, str(number), "promoted", {"reason": "newer"}),
        )


def said(audit: Audit) -> list[str]:
    return [f"{one.what} {one.subject} {one.position}: {one.problem}" for one in audit.damages]


# --------------------------------------------------------------------------------------------------- nothing is wrong


def test_a_healthy_ledger_verifies_and_tells_what_came_since(ws: Workspace) -> None:
    live(ws, 0, 4)
    first = anchor(ws)
    live(ws, 4, 6)
    audit = verify(ws, anchor=first.digest)
    assert said(audit) == []
    assert (audit.anchors, audit.newest) == (1, (first.digest, first.time))
    assert audit.seen == {"edges": 13, "events": 19, "chains": 9, "pointers": 8, "records": 7, "histories": 0}
    assert audit.later == {"edges": 4, "events": 6, "records": 2}
    assert audit.late == ()


def test_without_an_anchor_the_chains_alone_are_looked_at(ws: Workspace) -> None:
    live(ws, 0, 2)
    audit = verify(ws)
    assert (audit.anchors, audit.newest, said(audit)) == (0, None, [])
    assert audit.later == {"edges": 4, "events": 6, "records": 2}


def test_an_empty_ledger_is_anchored_too(ws: Workspace) -> None:
    assert said(verify(ws)) == []
    assert anchor(ws).anchor == Anchor(
        number=1, records=0, edges=0, events=0, chains=0, lists={"edge": (), "event": (), "record": ()}
    )
    assert said(verify(ws)) == []


def test_an_anchor_lists_only_what_is_new(ws: Workspace) -> None:
    live(ws, 0, 4)
    assert anchor(ws).anchor.lists.keys() == {"edge", "event", "record"}
    live(ws, 4, 5)
    second = anchor(ws).anchor
    lines = {table: msgspec.json.decode(ws.blobs.read(parts[0])) for table, parts in second.lists.items()}
    assert [line[:2] for line in lines["event"]] == [["alias:m@champion", 5], ["log", 5], ["run:4", 1]]
    assert [line[0] for line in lines["record"]] == [5, 6]  # the first is the anchor before
    assert sorted(line[1] for line in lines["edge"]) == ["anchor", "artifact", "run"]
    assert (second.number, second.records, second.edges, second.events, second.chains) == (2, 6, 11, 15, 7)


def test_long_lists_are_cut_into_blobs(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors_module, "LINES", 3)
    for first, last in ((0, 5), (5, 10)):
        live(ws, first, last)
        assert all(len(parts) > 1 for parts in anchor(ws).anchor.lists.values())
        assert said(verify(ws)) == []


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=5,
)
_BODY = st.dictionaries(_TEXT.filter(lambda key: key not in ("from", "to")), _JSON, max_size=3)
_WRITE = st.one_of(
    st.builds(Put, st.builds(Sample, number=st.integers(0, 5)), _TEXT),
    st.builds(Link, _TEXT, _TEXT, _TEXT),
    st.builds(Append, _TEXT, _TEXT, _BODY),
    st.builds(lambda subject, value, body: ("move", subject, value, body), _TEXT, st.none() | _TEXT, _BODY),
    st.just("anchor"),
    st.builds(lambda minutes: ("clock", minutes), st.integers(-500, 500)),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(writes=st.lists(_WRITE, max_size=25))
def test_whatever_happens_to_a_healthy_ledger_it_verifies(
    tmp_path_factory: pytest.TempPathFactory, writes: list[Any]
) -> None:
    root = tmp_path_factory.mktemp("ws")
    with workspace(root, SqliteLedger(root / "ledger.db")) as ws:
        for write in writes:
            if write == "anchor":
                anchor(ws)
            elif isinstance(write, tuple) and write[0] == "clock":
                ws.clock.advance(timedelta(minutes=write[1]))  # type: ignore[attr-defined]
            elif isinstance(write, tuple):
                _, subject, value, body = write
                present = ws.ledger.pointer(subject)
                ws.commit(Move(subject, present.value if present else None, value, "t", body))
            else:
                ws.commit(write)
        kept = anchor(ws)
        assert said(verify(ws, anchor=kept.digest)) == []


@pytest.mark.slow
def test_what_is_written_meanwhile_raises_no_false_alarm(address: str, tmp_path: Path) -> None:
    ledger = PostgresLedger(address) if "://" in address else SqliteLedger(Path(address))
    with workspace(tmp_path, ledger) as ws:
        live(ws, 0, 3)
        done = threading.Event()

        def write() -> None:
            for number in range(3, 60):
                live(ws, number, number + 1)
            done.set()

        def make_anchors() -> None:
            while not done.is_set():
                with suppress(PointerMoved):
                    anchor(ws)

        threads = [threading.Thread(target=work) for work in (write, make_anchors, make_anchors)]
        for thread in threads:
            thread.start()
        audits = [verify(ws)]
        while not done.is_set():
            audits.append(verify(ws))
        for thread in threads:
            thread.join()
        assert [said(audit) for audit in audits] == [[]] * len(audits)
        assert said(verify(ws, anchor=anchor(ws).digest)) == []


# ------------------------------------------------------------------------------------------------ something is wrong


@dataclass(frozen=True)
class Change:
    """One change by SQL to one row of a table: a column gets a value, or without a column the row goes."""

    table: str
    row: tuple[Any, ...]
    column: str = ""
    value: Any = None

    def apply(self, connection: sa.Connection) -> None:
        table = sa.table(self.table, *map(sa.column, TABLES[self.table].c.keys()))  # without types: they refuse nothing
        which = sa.and_(*(column == value for column, value in zip(table.c, self.row, strict=True)))
        statement = table.update().values({self.column: self.value}) if self.column else table.delete()
        assert connection.execute(statement.where(which)).rowcount == 1

    def is_named_by(self, damage: Damage) -> bool:
        """Whether the damage says which table, and whose row or where."""
        row = dict(zip(TABLES[self.table].c.keys(), self.row, strict=True))
        if self.table == "edge":
            return (damage.what, damage.subject) == ("edge", f"{row['src']} → {row['dst']}")
        if self.table == "record":
            return (damage.what, damage.position) == ("record", row["position"])
        if self.table == "pointer":
            return (damage.what, damage.subject) == ("pointer", row["subject"])
        if row["subject"] == AUDIT and damage.what == "anchor":
            return True
        where = (row["seq"], self.value if self.column == "seq" else None)
        return (damage.what, damage.subject) == ("event", row["subject"]) and damage.position in where


@contextmanager
def writing(ledger: SqlLedger) -> Iterator[sa.Connection]:
    with ledger._connection() as connection:
        connection.exec_driver_sql("BEGIN")
        yield connection
        connection.exec_driver_sql("COMMIT")


def rows_of(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
    for table, batch in ledger.dump(*TABLES):
        rows[table] += batch
    return rows


def restore(ledger: SqlLedger, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    with writing(ledger) as connection:
        for name, table in TABLES.items():
            connection.execute(table.delete())
            connection.execute(table.insert(), [dict(zip(table.c.keys(), row, strict=True)) for row in rows[name]])


def others(value: Any, others: list[Any], random: Random) -> list[Any]:
    """What may stand in the place of a value: of another row, a little else, and what says the same in other words."""
    candidates = [*others, None]
    if isinstance(value, int):
        candidates += [value + 1, value - 1, value + 1000, -value]
    elif isinstance(value, bytes):
        at = random.randrange(len(value))
        candidates += [value + b" ", b"{}", value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]]
    else:
        text = str(value)
        candidates += [text + " ", "", text.upper(), text.replace("+00:00", "Z"), text.replace("04:", "05:"), "é"]
    return [one for one in dict.fromkeys(candidates) if one != value or type(one) is not type(value)]


def changes(rows: dict[str, list[tuple[Any, ...]]], kept: Anchored) -> Iterator[Change]:
    """Every single change to what was there when the anchor was made, and to the event that made it."""
    random = Random(0)
    for name, table in TABLES.items():
        old = [row for row in rows[name] if not is_anchors_own(name, row, kept)]
        for row in old:
            yield Change(name, row)
            for index, column in enumerate(table.c.keys()):
                for value in others(row[index], [random.choice(old)[index]], random):
                    yield Change(name, row, column, value)


def is_anchors_own(table: str, row: tuple[Any, ...], kept: Anchored) -> bool:
    digest = digest_record(kept.anchor)
    return (table == "record" and row[1] == digest) or (table == "edge" and row[2] == digest)


def prepared(ws: Workspace) -> Anchored:
    for first, last in ((0, 2), (2, 4), (4, 5)):
        live(ws, first, last)
        kept = anchor(ws)
    return kept


def made(ledger: Ledger, change: Change) -> bool:
    """Make a change; False where the database refuses it, or makes something else of it that was there."""
    assert isinstance(ledger, SqlLedger)
    before = rows_of(ledger)
    try:
        with writing(ledger) as connection:
            change.apply(connection)
    except StorageError:
        return False
    return rows_of(ledger) != before


def assert_found(ws: Workspace, kept: Anchored, change: Change) -> bool:
    """Make a change and see it named; False where the database refuses it."""
    if not made(ws.ledger, change):
        return False
    audit = verify(ws, anchor=kept.digest)
    assert any(map(change.is_named_by, audit.damages)), (change, said(audit))
    return True


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_change_of_any_column_is_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, prepared_ledger: Path, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("ws")
    shutil.copytree(prepared_ledger, root, dirs_exist_ok=True)
    with workspace(root, SqliteLedger(root / "ledger.db")) as ws:
        kept = newest(ws)
        rows = rows_of(ws.ledger)
        name = data.draw(st.sampled_from(sorted(TABLES)))
        row = data.draw(st.sampled_from([row for row in rows[name] if not is_anchors_own(name, row, kept)]))
        column = data.draw(st.sampled_from(range(len(row))))
        value = data.draw(st.integers(-(2**40), 2**40) | _TEXT | st.binary(max_size=5) | st.none())
        assume(value != row[column])
        assert_found(ws, kept, Change(name, row, TABLES[name].c.keys()[column], value))


@pytest.fixture(scope="session")
def prepared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    with workspace(root, SqliteLedger(root / "ledger.db")) as ws:
        prepared(ws)
    return root


def newest(ws: Workspace) -> Anchored:
    event = ws.ledger.events(AUDIT)[-1]
    return Anchored(Digest(event.digest), event.time, read_record(ws.ledger, event.body["to"], Anchor))


@pytest.mark.slow
def test_every_kind_of_change_to_every_row_is_found_and_named(address: str, tmp_path: Path) -> None:
    """All of them on SQLite; every thirtieth on PostgreSQL, which refuses what is of another type."""
    ledger = PostgresLedger(address) if "://" in address else SqliteLedger(Path(address))
    with workspace(tmp_path, ledger) as ws:
        kept = prepared(ws)
        rows, found = rows_of(ledger), Counter[str]()
        for change in list(changes(rows, kept))[:: 30 if "://" in address else 1]:
            found[change.table] += assert_found(ws, kept, change)
            restore(ledger, rows)
        assert found.keys() == TABLES.keys()
        assert min(found.values()) > (3 if "://" in address else 100)
        assert said(verify(ws, anchor=kept.digest)) == []


@pytest.mark.slow
def test_without_any_anchor_every_change_of_a_value_is_found_and_named(ws: Workspace) -> None:
    """What came after the newest anchor: chains, pointers and seals hold it, but for what is gone whole."""
    live(ws, 0, 2)
    rows, found = rows_of(ws.ledger), Counter[str]()
    random = Random(0)
    for name, table in TABLES.items():
        for row in rows[name]:
            for index, column in enumerate(table.c.keys()):
                for value in others(row[index], [random.choice(rows[name])[index]], random)[::2]:
                    change = Change(name, row, column, value)
                    if made(ws.ledger, change):  # type: ignore[arg-type]
                        assert verify(ws).damages, change
                        found[f"{name}.{column}"] += 1
                        restore(ws.ledger, rows)  # type: ignore[arg-type]
    assert found.keys() == {f"{name}.{column}" for name, table in TABLES.items() for column in dict(table.c)}


# ------------------------------------------------------------------------------------------- what a skilled hand would do


def execute(ws: Workspace, *statements: str) -> None:
    assert isinstance(ws.ledger, SqlLedger)
    with writing(ws.ledger) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def sealed_again(ws: Workspace, subject: str, edit: Callable[[list[Event]], list[Event]]) -> None:
    """Rewrite a chain so that it is unbroken, as who knows how chains are made would."""
    events, previous = edit(ws.ledger.events(subject)), ""
    execute(ws, f"DELETE FROM event WHERE subject = '{subject}'")
    assert isinstance(ws.ledger, SqlLedger)
    with writing(ws.ledger) as connection:
        for seq, event in enumerate(events, 1):
            written = msgspec.structs.replace(event, seq=seq, previous=previous).sealed()
            previous = written.digest
            connection.execute(schema.event.insert(), event_row(written))


def edited(event: Event) -> Event:
    return msgspec.structs.replace(event, actor="somebody else")


REWRITINGS: dict[str, tuple[Callable[[list[Event]], list[Event]], str]] = {
    "edited": (lambda events: [edited(events[0]), *events[1:]], "event log 2: it is not the event that an anchor saw"),
    "middle removed": (lambda events: [events[0], *events[2:]], "event log 5: event 5 is gone"),
    "first removed": (lambda events: events[1:], "event log 5: event 5 is gone"),
    "tail removed": (lambda events: events[:-2], "event log 4: events 4 to 5 are gone"),
    "inserted": (lambda events: [events[0], *events], "event log 2: it is not the event that an anchor saw"),
    "swapped": (
        lambda events: [events[1], events[0], *events[2:]],
        "event log 2: it is not the event that an anchor saw",
    ),
    "all removed": (lambda events: [], "event log 1: events 1 to 5 are gone"),
}


@pytest.mark.parametrize("name", REWRITINGS)
def test_a_chain_that_was_rewritten_whole_is_not_what_an_anchor_saw(ws: Workspace, name: str) -> None:
    prepared(ws)
    edit, expected = REWRITINGS[name]
    sealed_again(ws, "log", edit)
    assert expected in said(verify(ws))


def test_events_that_change_places_are_both_named(ws: Workspace) -> None:
    prepared(ws)
    execute(
        ws,
        *(f"UPDATE event SET seq = {to} WHERE subject = 'log' AND seq = {at}" for at, to in ((2, 9), (3, 2), (9, 3))),
    )
    assert said(verify(ws)) == [f"event log {seq}: it was changed after it was written" for seq in (2, 3)]


def test_records_that_change_places_are_both_named(ws: Workspace) -> None:
    prepared(ws)
    execute(ws, *(f"UPDATE record SET position = {to} WHERE position = {at}" for at, to in ((1, 99), (2, 1), (99, 2))))
    assert {damage.position for damage in verify(ws).damages} == {1, 2}


def test_what_was_put_in_among_the_old_is_named(ws: Workspace) -> None:
    prepared(ws)
    columns = "digest, kind, name, created, actor, payload"
    execute(ws, "DELETE FROM record WHERE position = 7")  # the newest anchor's own: so 7 is free
    execute(
        ws,
        f"INSERT INTO record (position, {columns}) SELECT 0, 'f' || substr(digest, 2), {columns[8:]} FROM record LIMIT 1",
    )
    execute(ws, "INSERT INTO pointer SELECT 'alias:other@champion', value, revision, moved FROM pointer LIMIT 1")
    audit = said(verify(ws))
    assert "record sample name-0 0: it was put in where nothing was" in audit
    assert "pointer alias:other@champion None: no event moved it" in audit


def test_a_pointer_that_was_moved_without_its_event_is_named_whatever_the_anchors_are(ws: Workspace) -> None:
    live(ws, 0, 3)
    execute(ws, "UPDATE pointer SET value = '0' WHERE subject = 'alias:m@champion'")
    assert said(verify(ws)) == ["pointer alias:m@champion None: its value is '0', its events say '2'"]


def test_a_move_that_does_not_begin_where_the_pointer_was_is_named(ws: Workspace) -> None:
    live(ws, 0, 3)
    sealed_again(ws, "alias:m@champion", lambda events: [events[0], events[2]])
    assert "event alias:m@champion 2: it moves from '1', but the pointer was '0'" in said(verify(ws))


def test_an_edge_made_up_for_an_old_record_is_told(ws: Workspace) -> None:
    kept = prepared(ws)
    digest = digest_record(Sample(number=0))
    columns = ", ".join(f"'{value}'" for value in edge_row(digest, "snapshot", "nicer data").values())
    execute(ws, f"INSERT INTO edge (src, role, dst, seal) VALUES ({columns})")
    audit = verify(ws, anchor=kept.digest)
    assert said(audit) == []  # an older program may have left it out; a person decides
    assert [(edge.role, edge.dst) for edge in audit.late] == [("snapshot", "nicer data")]


# -------------------------------------------------------------------------------------------------------------- anchors


def forget_newest_anchor(ws: Workspace) -> None:
    """Take the newest anchor out, with everything that tells of it."""
    first, second = (event.body["to"] for event in ws.ledger.events(AUDIT)[-2:])
    execute(
        ws,
        f"DELETE FROM event WHERE subject = '{AUDIT}' AND seq = 3",
        f"DELETE FROM record WHERE digest = '{second}'",
        f"DELETE FROM edge WHERE dst = '{second}'",
        f"""UPDATE pointer SET value = '{first}', revision = 2, moved = (SELECT time FROM event WHERE subject = '{AUDIT}'
            AND seq = 2) WHERE subject = '{AUDIT}'""",
    )


def test_anchors_that_were_cut_off_are_missed_by_who_kept_a_digest(ws: Workspace) -> None:
    kept = prepared(ws)
    forget_newest_anchor(ws)
    assert said(verify(ws)) == []
    (damage,) = verify(ws, anchor=kept.digest).damages
    assert (damage.what, damage.subject) == ("anchor", kept.digest)
    assert "taken out or rewritten" in damage.problem


@pytest.mark.parametrize("first", [1, 3])
def test_an_anchor_whose_event_was_cut_off_is_named_by_itself(ws: Workspace, first: int) -> None:
    kept = prepared(ws)
    execute(ws, f"DELETE FROM event WHERE subject = '{AUDIT}' AND seq >= {first}")
    assert f"anchor {digest_record(kept.anchor)} None: no event made it: the chain of anchors was cut" in said(
        verify(ws)
    )


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_list_that_cannot_be_read_is_named_and_the_rest_is_looked_at(ws: Workspace, harm: str) -> None:
    kept = prepared(ws)
    first = read_record(ws.ledger, ws.ledger.events(AUDIT)[0].body["to"], Anchor)
    assert isinstance(ws.blobs, FolderBlobs)
    digest = first.lists["record"][0]
    path = ws.blobs.local(digest)
    path.chmod(0o644)
    path.unlink() if harm == "missing" else path.write_bytes(b"[]")
    execute(ws, "UPDATE event SET actor = 'x' WHERE subject = 'log' AND seq = 1")
    problems = said(verify(ws, anchor=kept.digest))
    assert len(problems) == 2
    assert f"its list {digest} cannot be read" in problems[0]
    assert problems[1] == "event log 1: it was changed after it was written"


def test_an_anchor_that_was_changed_is_named_and_the_rest_is_looked_at(ws: Workspace) -> None:
    prepared(ws)
    execute(ws, "UPDATE record SET created = 'yesterday' WHERE kind = 'anchor' AND position = 3")
    execute(ws, "DELETE FROM edge WHERE dst = 'blob' AND src = 'run:4'")
    problems = said(verify(ws))
    assert any("cannot be read" in problem for problem in problems)
    assert any(problem.startswith("record anchor 3") for problem in problems)
    assert "edge run:4 → blob None: the edge 'artifact' is gone" in problems


def test_a_chain_of_anchors_that_does_not_read_is_named(ws: Workspace) -> None:
    prepared(ws)
    execute(ws, f"UPDATE event SET time = 'yesterday' WHERE subject = '{AUDIT}' AND seq = 2")
    assert any(problem.startswith("event audit 2: it was changed") for problem in said(verify(ws)))


def test_a_damaged_ledger_is_anchored_as_it_is_and_stays_damaged(ws: Workspace) -> None:
    prepared(ws)
    execute(ws, "DELETE FROM edge WHERE dst = 'blob' AND src = 'run:1'")
    sealed_again(ws, "log", lambda events: events[:-1])
    anchor(ws)
    assert {"edge run:1 → blob None: the edge 'artifact' is gone", "event log 5: event 5 is gone"} <= set(
        said(verify(ws))
    )


def test_what_is_no_digest_is_refused(ws: Workspace) -> None:
    with pytest.raises(ConfigurationError, match="64 characters"):
        verify(ws, anchor="abc")


def test_of_anchors_made_at_once_each_is_made(ws: Workspace) -> None:
    """Another process anchors while this one looks; the same lines are listed twice, which does no harm."""
    live(ws, 0, 2)
    late = meanwhile(ws, lambda: anchor(ws), times=1)
    assert anchor(late).anchor.number == 2
    late = meanwhile(ws, lambda: anchor(ws), times=9)
    with pytest.raises(PointerMoved):
        anchor(late)
    assert said(verify(ws)) == []
    ws.clock.advance(timedelta(days=2))  # type: ignore[attr-defined]
    assert anchor_if_due(meanwhile(ws, lambda: anchor(ws), times=1)) is None


def meanwhile(ws: Workspace, action: Callable[[], object], times: int) -> Workspace:
    """The workspace, in which `action` happens just before each of the next commits."""
    assert isinstance(ws.ledger, SqliteLedger)
    left = iter(range(times))

    class Late(SqliteLedger):
        def commit(self, *arguments: Any, **named: Any) -> None:
            if next(left, None) is not None:
                action()
            super().commit(*arguments, **named)

    return replace(ws, ledger=Late(ws.ledger.path))


def test_an_anchor_is_due_once_a_day(ws: Workspace) -> None:
    live(ws, 0, 1)
    made = []
    for hours in (0, 1, 22, 2, 23, -100, 200):
        ws.clock.advance(timedelta(hours=hours))  # type: ignore[attr-defined]
        made.append(anchor_if_due(ws) is not None)
    assert made == [True, False, False, True, False, False, True]


def test_an_anchor_is_not_made_on_a_list_that_is_gone(ws: Workspace) -> None:
    kept = prepared(ws)
    ws.blobs.delete(kept.anchor.lists["edge"][0])
    with pytest.raises(MissingBlob):
        anchor(ws)


# ------------------------------------------------------------------------------------------------------------ histories


@pytest.fixture
def run(ws: Workspace) -> str:
    """A run that finished, with a history of three points."""
    block = encode_block("r1", "loss", 1, np.array([1, 2, 3]), np.array([3.0, 2.0, 1.0]))
    ws.commit(block, Move("run:r1", None, "running/1", "run.started"))
    outcome = Outcome(run="r1", steps=3, planned_steps=3, seconds=1.0, history=history_digest(ws, "r1"))
    ws.commit(Put(outcome, "r1"), Move("run:r1", "running/1", "finished/1", "run.finished"))
    return "r1"


def test_a_history_that_was_changed_is_named(ws: Workspace, run: str) -> None:
    assert (said(verify(ws)), verify(ws).seen["histories"]) == ([], 1)
    ws.commit(Drop(run))
    assert said(verify(ws)) == ["series run:r1 None: its histories are not those that it finished with"]
    assert said(verify(ws, histories=False)) == []
    ws.commit(Block(run, "loss", 1, 1, 3, 3, b"nonsense"))
    assert len(verify(ws).damages) == 1


def test_a_bit_that_flips_in_a_history_is_named_whatever_became_of_its_run(ws: Workspace, run: str) -> None:
    """Of a run that goes on, and in a timing of one that finished, which its outcome says nothing of."""
    for flipped, name in (("r1", "step_time"), ("r2", "loss")):
        block = encode_block(flipped, name, 1, np.array([1, 2]), np.array([3.0, 2.0]))
        ws.commit(msgspec.structs.replace(block, data=block.data[:-1] + bytes([block.data[-1] ^ 1])))
    assert said(verify(ws)) == [
        f"series run:{run} None: a block of the series 'step_time' of the run {run} was changed after it was written",
        "series run:r2 None: a block of the series 'loss' of the run r2 was changed after it was written",
    ]


def test_a_run_that_was_collected_needs_no_history(ws: Workspace, run: str) -> None:
    ws.commit(Drop(run), Move("run:r1", "finished/1", "collected/1", "run.collected"))
    assert said(verify(ws)) == []
