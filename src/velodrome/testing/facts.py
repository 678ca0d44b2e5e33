"""What every ledger must do with the facts and the series of runs: part of `LedgerConformance`."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from velodrome.core.errors import StorageError
from velodrome.store.ledger import Append, Block, Drop, Fact, Ledger
from velodrome.store.query import And, Compare, Comparison, Condition, Found, In, Known, Not, Or, Order, Query

__all__ = ["FactConformance"]

_NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

_INJECTION = "'); DROP TABLE fact; --"
_FACTS = [
    *(Fact(f"run:{id_}", "id", id_) for id_ in "abcd"),
    *(Fact(f"run:{id_}", "k", value) for id_, value in (("a", 1.0), ("b", 2.0), ("c", "100 %_é"))),
    *(Fact(f"run:{id_}", "two", 0.0) for id_ in "ab"),
    Fact("run:a", "odd `\"'key", _INJECTION),
    Fact("no run", "k", 1.0),
]


def _compare(operator: Comparison, value: float | str) -> Condition:
    return Compare("k", operator, value)


_FINDS: list[tuple[Condition, str]] = [
    (_compare("=", 1.0), "a"),
    (_compare("=", "1.0"), ""),
    (_compare("!=", 1.0), "cb"),
    (_compare("!=", "100 %_é"), "ba"),
    (_compare("<", 2.0), "a"),
    (_compare("<=", 2.0), "ba"),
    (_compare(">", 1.0), "b"),
    (_compare(">=", 1.0), "ba"),
    (_compare("<", "2"), "c"),
    (_compare(">=", "100 %_é"), "c"),
    (_compare(">", "100 %_É"), "c"),
    (_compare("contains", "%_é"), "c"),
    (_compare("contains", "%"), "c"),
    (_compare("contains", ""), "c"),
    (_compare("contains", "É"), ""),
    (_compare("contains", 1.0), ""),
    (_compare("<", math.inf), "ba"),
    (Compare("nobody's", "=", 1.0), ""),
    (Compare("nobody's", "!=", 1.0), ""),
    (Compare("odd `\"'key", "=", _INJECTION), "a"),
    (In("k", (2.0, "100 %_é", 7.0)), "cb"),
    (In("k", (2.0, "1")), "b"),
    (In("k", (2.0, "1"), negated=True), "ca"),
    (In("k", ()), ""),
    (In("k", (), negated=True), "cba"),
    (Known("k"), "cba"),
    (Known("k", negated=True), "d"),
    (And(()), "dcba"),
    (Or(()), ""),
    (And((_compare(">", 0.0), Not(_compare("=", 1.0)))), "b"),
    (Or((_compare("=", 1.0), Known("k", negated=True))), "da"),
    (And((Or((_compare("=", 1.0), _compare("=", 2.0))), Compare("id", ">", "a"))), "b"),
]


class FactConformance:
    """The contract of `Ledger` for facts and series blocks, one test a sentence."""

    def test_blocks_are_ordered_and_idempotent(self, ledger: Ledger) -> None:
        blocks = [
            Block("r", "loss", 1, 10, 19, 10, b"b"),
            Block("r", "loss", 1, 0, 9, 10, b"a"),
            Block("r", "acc", 1, 0, 9, 10, b"c"),
        ]
        for _ in range(2):
            ledger.commit(blocks, actor="ann", now=_NOW)
        assert ledger.blocks("r", "loss") == [blocks[1], blocks[0]]
        assert len(ledger.blocks("r")) == 3

    def test_the_blocks_of_a_dropped_run_go_and_its_facts_stay(self, ledger: Ledger) -> None:
        blocks = [Block(run, series, 1, 0, 9, 10, b"a") for run in ("r", "r2") for series in ("loss", "acc")]
        ledger.commit([*blocks, Fact("run:r", "series.loss.last", 0.5)], actor="ann", now=_NOW)
        for _ in range(2):
            ledger.commit([Drop("r")], actor="ann", now=_NOW)
        assert (ledger.blocks("r"), len(ledger.blocks("r2"))) == ([], 2)
        assert ledger.facts(["run:r"]) == {"run:r": {"series.loss.last": 0.5}}

    def test_a_fact_is_what_was_said_last(self, ledger: Ledger) -> None:
        ledger.commit([Fact("a", "k", 1.0), Fact("a", "l", "x"), Fact("b", "k", "")], actor="ann", now=_NOW)
        again = [Fact("a", "k", "two"), Fact("a", "l", 5.0), Fact("a", "l", None), Fact("a", "m", None)]
        ledger.commit([*again, Fact("a", "m", math.inf)], actor="ann", now=_NOW)
        assert ledger.facts(["b", "a", "c"]) == {"a": {"k": "two", "m": math.inf}, "b": {"k": ""}, "c": {}}
        ledger.commit([Fact("a", "m", math.nan)], actor="ann", now=_NOW)
        assert ledger.facts(["a"]) == {"a": {"k": "two"}}

    def test_the_facts_of_many_subjects_are_read_at_once(self, ledger: Ledger) -> None:
        facts = [Fact(f"s{number}", key, float(number)) for number in range(450) for key in ("a", "a.b", "a_b", "ab")]
        ledger.commit(facts, actor="ann", now=_NOW)
        found = ledger.facts((f"s{number}" for number in range(450)), "a_b", "a.")
        assert found == {f"s{number}": {"a.b": number, "a_b": number} for number in range(450)}
        assert list(found["s7"]) == ["a.b", "a_b"]
        assert ledger.facts(["s7"], "a") == {"s7": {"a": 7.0}}
        assert ledger.fact_keys() == ["a", "a.b", "a_b", "ab"]

    def test_long_texts_are_cut_and_long_keys_refused(self, ledger: Ledger) -> None:
        long = "x" + "é" * 5000
        ledger.commit([Fact("a", "id", long), Fact("k" * 512, "k" * 512, "🚲" * 300)], actor="ann", now=_NOW)
        assert ledger.facts(["a"])["a"]["id"] == "x" + "é" * 511
        assert [found.subject for found in ledger.search(Query(where=Compare("id", "=", long)))] == ["a"]
        for subject, key in (("é" * 257, "k"), ("s", "é" * 257)):
            with pytest.raises(StorageError, match="512 bytes"):
                ledger.commit([Append("s", "t"), Fact(subject, key, 1.0)], actor="ann", now=_NOW)
        assert ledger.events("s") == []

    @pytest.mark.parametrize(("condition", "expected"), _FINDS, ids=str)
    def test_a_condition_finds(self, ledger: Ledger, condition: Condition, expected: str) -> None:
        ledger.commit(_FACTS, actor="ann", now=_NOW)
        assert _ids(ledger.search(Query(where=condition))) == expected
        rest = _ids(ledger.search(Query(where=Not(condition))))
        assert rest == "".join(id_ for id_ in "dcba" if id_ not in expected)

    def test_an_order_puts_numbers_before_texts_and_what_is_missing_last(self, ledger: Ledger) -> None:
        more: dict[str, float | str] = {"e": 1.0, "f": -math.inf, "g": math.inf, "h": "Z"}
        named = [Fact(f"run:{id_}", "id", id_) for id_ in more]
        valued = [Fact(f"run:{id_}", "k", value) for id_, value in more.items()]
        ledger.commit([*_FACTS, *named, *valued], actor="ann", now=_NOW)
        rising, falling = Query(order=(Order("k"),)), Query(order=(Order("k", descending=True),))
        assert _ids(ledger.search(rising)) == "feabgchd"
        assert _ids(ledger.search(falling)) == "hcgbeafd"
        second = Query(order=(Order("two"), Order("k", descending=True), Order("k")))
        assert ledger.search(second)[:2] == [Found("run:b", (0.0, 2.0, 2.0)), Found("run:a", (0.0, 1.0, 1.0))]

    def test_pages_hold_what_is_there_once(self, ledger: Ledger) -> None:
        ledger.commit(_FACTS, actor="ann", now=_NOW)
        for order in ((), (Order("k"),), (Order("k", descending=True),), (Order("two"), Order("k"))):
            whole = ledger.search(Query(order=order))
            for size in (1, 2, 3):
                last: Found | None = None
                pages: list[Found] = []
                while page := ledger.search(Query(order=order, limit=size, after=last)):
                    pages, last = [*pages, *page], page[-1]
                assert pages == whole

    def test_a_page_goes_on_where_the_one_before_ended_whatever_came_meanwhile(self, ledger: Ledger) -> None:
        ledger.commit(_FACTS, actor="ann", now=_NOW)
        query = Query(order=(Order("k"),), limit=1)
        [first] = ledger.search(query)
        new = [Fact("run:x", "id", "x"), Fact("run:x", "k", 0.5), Fact("run:y", "id", "y"), Fact("run:y", "k", 1.5)]
        ledger.commit([*new, Fact(first.subject, "id", None), Fact(first.subject, "k", None)], actor="ann", now=_NOW)
        assert _ids(ledger.search(Query(order=query.order, after=first))) == "ybcd"


def _ids(found: Sequence[Found]) -> str:
    return "".join(each.subject.removeprefix("run:") for each in found)
