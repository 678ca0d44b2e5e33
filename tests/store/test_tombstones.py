from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from velodrome.core.clock import ManualClock
from velodrome.core.errors import Gone, PointerMoved
from velodrome.store.ledger import Append, Expect
from velodrome.store.sqlite import SqliteLedger
from velodrome.store.tombstones import bury, lift, require_kept, tombstone

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
CLOCK = ManualClock(NOW)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    opened = SqliteLedger(tmp_path / "ledger.db")
    yield opened
    opened.close()


def test_what_was_collected_is_gone_until_it_is_back(ledger: SqliteLedger) -> None:
    def commit(*writes: object) -> None:
        ledger.commit(writes, actor="ann", now=NOW)  # type: ignore[arg-type]

    assert require_kept(ledger, tombstone("d"), "the thing") == Expect(tombstone("d"), None)
    commit(bury("d", "thing.collected", "retention.things.count = 1"))
    with pytest.raises(Gone, match="the thing was collected on 2026-01-02 03:04") as caught:
        require_kept(ledger, tombstone("d"), "the thing")
    assert caught.value.received == "by the rule retention.things.count = 1"
    commit(lift(ledger, "d", "thing.back"))
    assert require_kept(ledger, tombstone("d"), "the thing") == Expect(tombstone("d"), None)
    assert [event.type for event in ledger.events(tombstone("d"))] == ["thing.collected", "thing.back"]


def test_of_who_collects_and_who_rests_on_a_thing_one_loses(ledger: SqliteLedger) -> None:
    rests, collects = require_kept(ledger, tombstone("d"), "it"), bury("d", "thing.collected", "rule")
    ledger.commit([collects], actor="ann", now=NOW)
    with pytest.raises(PointerMoved):
        ledger.commit([rests, Append("s", "used")], actor="bob", now=NOW)
    with pytest.raises(PointerMoved):
        ledger.commit([collects], actor="cyd", now=NOW)
    assert ledger.events("s") == []


def test_naming_what_stands_fails_when_it_is_collected_meanwhile(ledger: SqliteLedger) -> None:
    names = lift(ledger, "d", "thing.back")
    ledger.commit([bury("d", "thing.collected", "rule")], actor="ann", now=NOW)
    with pytest.raises(PointerMoved):
        ledger.commit([names], actor="bob", now=NOW)
