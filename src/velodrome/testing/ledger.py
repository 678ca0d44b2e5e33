"""What every ledger must do. Subclass `LedgerConformance` and give a fixture `ledger` that makes an empty one."""

import multiprocessing
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from velodrome.core.errors import IntegrityError, NotFound, PointerMoved, StateError, StorageError, VelodromeError
from velodrome.core.values import Record
from velodrome.store.ledger import (
    Append,
    Batch,
    Block,
    Drop,
    Edge,
    Expect,
    Fact,
    Ledger,
    Link,
    Move,
    Put,
    Write,
    digest_record,
    read_record,
    verify_chain,
)
from velodrome.testing.facts import FactConformance

__all__ = ["BulkConformance", "LedgerConformance", "Sample"]

_NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Sample(Record, frozen=True, kw_only=True, tag="sample"):
    """A record for the suite."""

    number: int
    weight: float = 0.5


class BulkConformance:
    """The part of the contract that is about many rows at a time: for lineage, audit, collection and backup."""

    def test_many_rows_are_read_at_once(self, ledger: Ledger) -> None:
        nodes = [f"node-{number:04}" for number in range(500)]
        ledger.commit([Link(node, "end", "r") for node in nodes], actor="ann", now=_NOW)
        found = ledger.rows("edge", "src", ["absent", *reversed(nodes[:400])])
        assert [row[:3] for row in sorted(found)] == [(node, "r", "end") for node in nodes[:400]]
        assert len(ledger.rows("edge", "dst", ["end"])) == 500
        assert ledger.rows("pointer", "subject", []) == []

    def test_a_dump_sees_one_moment_and_hinders_nobody(self, ledger: Ledger) -> None:
        ledger.commit([Put(Sample(number=number)) for number in range(500)], actor="ann", now=_NOW)
        whole = list(ledger.dump())
        dump = ledger.dump()
        seen = [next(dump)]
        ledger.commit([Put(Sample(number=500)), Move("p", None, "1", "m")], actor="ann", now=_NOW)
        assert [*seen, *dump] == whole
        left = ledger.dump()
        next(left)
        left.close()
        ledger.commit([Append("s", "t")], actor="ann", now=_NOW)

    def test_a_ledger_is_filled_whole_or_not_at_all_and_only_when_empty(self, ledger: Ledger) -> None:
        columns = (1, "0" * 64, "sample", "n", "2026-01-02T03:04:05.000000+00:00", "ann", b"{}", "seal")
        rows: list[Batch] = [("record", [columns]), ("edge", [("a", "r", "b", "seal")])]
        with pytest.raises(StorageError):
            ledger.fill([*rows, rows[0]])
        assert list(ledger.dump()) == []
        ledger.fill(rows)
        assert sorted(ledger.dump()) == sorted(rows)
        with pytest.raises(StateError):
            ledger.fill([])

    def test_a_dump_may_be_of_some_tables_and_of_the_newest_records(self, ledger: Ledger) -> None:
        for number in range(3):
            ledger.commit(
                [Put(Sample(number=number)), Append("s", "t"), Link("a", str(number), "r")], actor="ann", now=_NOW
            )
        rows = {table: list(rows) for table, rows in ledger.dump("record", "edge", after=2)}
        assert [row[:3] for row in rows["edge"]] == [("a", "r", "0"), ("a", "r", "1"), ("a", "r", "2")]
        assert [row[:2] for row in rows["record"]] == [(3, digest_record(Sample(number=2)))]
        assert rows.keys() == {"edge", "record"}


class LedgerConformance(FactConformance, BulkConformance):
    """The contract of `Ledger`, one test a sentence."""

    def reopen(self, ledger: Ledger) -> Ledger:
        """Another handle on the same records."""
        raise NotImplementedError

    def test_a_record_is_read_by_its_digest(self, ledger: Ledger) -> None:
        sample = Sample(number=1)
        ledger.commit([Put(sample, "name")], actor="ann", now=_NOW)
        stored = ledger.get(digest_record(sample))
        assert stored is not None
        assert (stored.kind, stored.name, stored.actor, stored.created) == ("sample", "name", "ann", _NOW)
        assert read_record(ledger, stored.digest, Sample) == sample

    def test_what_is_not_there_has_a_name(self, ledger: Ledger) -> None:
        assert ledger.get("0" * 64) is None
        with pytest.raises(NotFound):
            read_record(ledger, "0" * 64, Sample)

    def test_putting_again_changes_nothing(self, ledger: Ledger) -> None:
        for actor in ("ann", "bob"):
            ledger.commit([Put(Sample(number=1), actor), Link("a", "b", "r")], actor=actor, now=_NOW)
        assert [(stored.name, stored.actor) for stored in ledger.records("sample")] == [("ann", "ann")]
        assert ledger.edges("a") == [Edge("a", "b", "r")]

    def test_records_come_in_the_order_of_their_commits(self, ledger: Ledger) -> None:
        for number in range(5):
            ledger.commit([Put(Sample(number=number), f"name-{number % 2}")], actor="ann", now=_NOW)
        newest = [read_record(ledger, stored.digest, Sample).number for stored in ledger.records("sample", limit=2)]
        odd = [
            read_record(ledger, stored.digest, Sample).number
            for stored in ledger.records("sample", name="name-1", newest_first=False)
        ]
        assert (newest, odd) == ([4, 3], [1, 3])
        assert [stored.digest for stored in ledger.scan()] == [
            stored.digest for stored in ledger.records("sample", newest_first=False)
        ]

    def test_edges_are_found_from_both_ends(self, ledger: Ledger) -> None:
        ledger.commit(
            [Link("run", "data", "snapshot"), Link("run", "code", "code"), Link("other", "data", "snapshot")],
            actor="ann",
            now=_NOW,
        )
        assert [edge.dst for edge in ledger.edges("run")] == ["code", "data"]
        assert [edge.src for edge in ledger.edges("data", incoming=True)] == ["other", "run"]
        assert ledger.edges("run", role="code") == [Edge("run", "code", "code")]

    def test_events_form_a_chain(self, ledger: Ledger) -> None:
        for number in range(3):
            ledger.commit(
                [Append("job:1", "tick", {"number": number})], actor="ann", now=_NOW + timedelta(seconds=number)
            )
        events = ledger.events("job:1")
        verify_chain("job:1", events)
        assert [event.body["number"] for event in events] == [0, 1, 2]
        for broken in (events[1:], [events[0], events[2]], events[::-1]):
            with pytest.raises(IntegrityError, match="job:1"):
                verify_chain("job:1", broken)

    def test_a_clock_that_is_set_back_makes_no_history_ambiguous(self, ledger: Ledger) -> None:
        minutes = [0, 5, -60, 3, 7]
        for number, minute in enumerate(minutes):
            move = Move("alias:m", str(number) if number else None, str(number + 1), "promoted")
            ledger.commit([move, Put(Sample(number=number))], actor="ann", now=_NOW + timedelta(minutes=minute))
        events, pointer = ledger.events("alias:m"), ledger.pointer("alias:m")
        verify_chain("alias:m", events)
        assert [event.time - _NOW for event in events] == [timedelta(minutes=late) for late in (0, 5, 5, 5, 7)]
        assert pointer is not None
        assert pointer.moved == events[-1].time
        created = [stored.created - _NOW for stored in ledger.records("sample", newest_first=False)]
        assert created == [timedelta(minutes=minute) for minute in minutes]  # what the clock said: order is by position

    def test_times_come_back_in_utc(self, ledger: Ledger) -> None:
        ledger.commit([Append("s", "t")], actor="ann", now=_NOW.astimezone(timezone(timedelta(hours=5))))
        assert ledger.events("s")[0].time == _NOW

    def test_a_pointer_moves_only_from_what_is_expected(self, ledger: Ledger) -> None:
        ledger.commit([Move("alias:m", None, "1", "promoted", {"why": "first"})], actor="ann", now=_NOW)
        with pytest.raises(PointerMoved) as caught:
            ledger.commit([Move("alias:m", None, "2", "promoted")], actor="bob", now=_NOW)
        assert caught.value.received == "1"
        ledger.commit([Move("alias:m", "1", None, "removed")], actor="ann", now=_NOW)
        pointer = ledger.pointer("alias:m")
        assert pointer is not None
        assert (pointer.value, pointer.revision) == (None, 2)
        assert [(event.type, event.body["from"], event.body["to"]) for event in ledger.events("alias:m")] == [
            ("promoted", None, "1"),
            ("removed", "1", None),
        ]

    def test_an_expectation_is_held_against_the_present_value(self, ledger: Ledger) -> None:
        ledger.commit([Expect("alias:m", None), Move("alias:m", None, "1", "promoted")], actor="ann", now=_NOW)
        ledger.commit([Expect("alias:m", "1"), Append("s", "t")], actor="ann", now=_NOW)
        for wrong in (None, "2"):
            with pytest.raises(PointerMoved) as caught:
                ledger.commit([Append("s", "t"), Expect("alias:m", wrong)], actor="bob", now=_NOW)
            assert caught.value.received == "1"
        assert (len(ledger.events("s")), len(ledger.events("alias:m"))) == (1, 1)

    def test_a_failing_commit_leaves_nothing(self, ledger: Ledger) -> None:
        writes: list[Write] = [
            Put(Sample(number=9)),
            Link("a", "b", "c"),
            Append("s", "t"),
            Block("r", "loss", 1, 0, 1, 2, b"x"),
            Fact("run:1", "id", "1"),
            Drop("kept"),
            Move("p", "absent", "1", "moved"),
        ]
        ledger.commit([Block("kept", "loss", 1, 0, 1, 2, b"x")], actor="ann", now=_NOW)
        with pytest.raises(PointerMoved):
            ledger.commit(writes, actor="ann", now=_NOW)
        assert (
            ledger.records("sample"),
            ledger.edges("a"),
            ledger.events("s"),
            ledger.blocks("r"),
            ledger.fact_keys(),
            ledger.pointer("p"),
        ) == ([], [], [], [], [], None)
        assert len(ledger.blocks("kept")) == 1

    def test_a_record_that_json_cannot_say_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(VelodromeError, match="weight"):
            ledger.commit([Append("s", "t"), Put(Sample(number=1, weight=float("nan")))], actor="ann", now=_NOW)
        assert ledger.events("s") == []

    def test_prefixes_are_taken_literally(self, ledger: Ledger) -> None:
        ledger.commit(
            [Move(subject, None, "1", "m") for subject in ("a_b:1", "axb:2", "a_b:0", "A_B:3")], actor="ann", now=_NOW
        )
        assert [pointer.subject for pointer in ledger.pointers("a_b:")] == ["a_b:0", "a_b:1"]
        assert ledger.subjects("a_b:") == ["a_b:0", "a_b:1"]

    def test_another_handle_sees_what_was_committed(self, ledger: Ledger) -> None:
        other = self.reopen(ledger)
        ledger.commit([Append("s", "t")], actor="ann", now=_NOW)
        assert len(other.events("s")) == 1
        other.close()

    def test_racing_writers_are_serialised(self, ledger: Ledger) -> None:
        def count(handle: Ledger) -> None:
            for _ in range(20):
                while True:
                    pointer = handle.pointer("count")
                    present = pointer.value if pointer else None
                    try:
                        handle.commit(
                            [Move("count", present, str(int(present or 0) + 1), "counted")], actor="ann", now=_NOW
                        )
                        break
                    except PointerMoved:
                        continue

        handles = [ledger, ledger, self.reopen(ledger), self.reopen(ledger)]
        threads = [threading.Thread(target=count, args=(handle,)) for handle in handles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pointer = ledger.pointer("count")
        assert pointer is not None
        assert pointer.value == "80"
        verify_chain("count", ledger.events("count"))
        for handle in handles[2:]:
            handle.close()

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_handle_is_refused_after_a_fork(self, ledger: Ledger) -> None:
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(target=_use, args=(ledger, answers))
        child.start()
        child.join(30)
        assert answers.get() == StorageError.__name__

    def test_a_healthy_ledger_checks_out(self, ledger: Ledger) -> None:
        ledger.commit([Put(Sample(number=1))], actor="ann", now=_NOW)
        assert ledger.check() == []


def _use(ledger: Ledger, answers: "multiprocessing.queues.SimpleQueue[str]") -> None:
    try:
        ledger.commit([Append("s", "t")], actor="ann", now=_NOW)
        answers.put("nothing was raised")
    except StorageError as error:
        answers.put(type(error).__name__)
