"""Search on real databases beside a search in plain Python, which knows neither SQL nor indexes."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import cmp_to_key
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velodrome.store import schema
from velodrome.store.ledger import Fact
from velodrome.store.postgres import PostgresLedger
from velodrome.store.query import And, Compare, Condition, Found, In, Known, Not, Or, Order, Query
from velodrome.store.search import search_statement
from velodrome.store.sql import SqlLedger
from velodrome.store.sqlite import SqliteLedger

pytestmark = pytest.mark.slow  # together more than two seconds

NOW = datetime(2026, 1, 2, tzinfo=UTC)
Facts = dict[str, dict[str, float | str]]

KEYS = ["metrics.a", "b", "key with 'quotes', `more` and \"most\"", "%_\\"]
NUMBERS = [-math.inf, -1.5, -0.0, 0.0, 1.0, 1e-300, 2.0**53, math.inf]
TEXTS = [
    "",
    "a",
    "A",
    "a%",
    "é",
    "z\u0301",
    "🚲",
    "x' OR '1'='1",
    "'); DROP TABLE fact; --",
    "%",
    "_",
    "1.0",
    "\\",
    "y" * 1030,
]

values = st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.floats(allow_nan=False) | st.integers(-3, 3).map(float)
keys = st.sampled_from(KEYS)
facts = st.dictionaries(
    st.text("0123456789abcdef", min_size=1, max_size=2), st.dictionaries(keys, values, max_size=4), max_size=12
)
comparisons = st.one_of(
    st.builds(Compare, keys, st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "contains"]), values),
    st.builds(In, keys, st.lists(values, max_size=4).map(tuple), st.booleans()),
    st.builds(Known, keys, st.booleans()),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)
orders = st.lists(st.builds(Order, keys, st.booleans()), max_size=3).map(tuple)


@pytest.fixture
def ledger(address: str) -> Iterator[SqlLedger]:
    with closing(PostgresLedger(address) if "://" in address else SqliteLedger(Path(address))) as made:
        yield made


# -------------------------------------------------------------------------------------------------------- in plain Python


def holds(condition: Condition, known: dict[str, float | str]) -> bool:
    match condition:
        case And(all_of):
            return all(holds(each, known) for each in all_of)
        case Or(any_of):
            return any(holds(each, known) for each in any_of)
        case Not(other):
            return not holds(other, known)
        case Known(key, negated):
            return (key in known) != negated
        case In(key, some, negated):
            return key in known and any(same(known[key], each) for each in some) != negated
        case Compare(key, operator, value):
            return key in known and compares(known[key], operator, value)


def compares(found: float | str, operator: str, value: float | str) -> bool:
    if operator in ("=", "!="):
        return same(found, value) == (operator == "=")
    if isinstance(found, str) != isinstance(value, str):
        return False
    found, value = cut(found), cut(value)
    operations: dict[str, Callable[..., bool]] = {
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
        "contains": lambda a, b: isinstance(a, str) and b in a,
    }
    return operations[operator](found, value)


def same(one: float | str, other: float | str) -> bool:
    return isinstance(one, str) == isinstance(other, str) and cut(one) == cut(other)


def cut(value: float | str) -> float | str:
    return value[:1024] if isinstance(value, str) else value  # all the long ones are of letters with one byte


def before(
    one: tuple[str, dict[str, float | str]], other: tuple[str, dict[str, float | str]], by: tuple[Order, ...]
) -> int:
    for order in by:
        first, second = (known.get(order.key) for _, known in (one, other))
        if first is None or second is None:
            if (first is None) != (second is None):
                return 1 if first is None else -1
            continue
        pair = [(isinstance(value, str), cut(value)) for value in (first, second)]
        if pair[0] != pair[1]:
            return -1 if (pair[0] < pair[1]) != order.descending else 1
    return (one[0] < other[0]) - (one[0] > other[0])


def expected(known: Facts, query: Query) -> list[str]:
    fit = [(id_, each) for id_, each in known.items() if holds(query.where, each | {"id": id_})]
    return [id_ for id_, _ in sorted(fit, key=cmp_to_key(lambda a, b: before(a, b, query.order)))]


# ------------------------------------------------------------------------------------------------------------- beside it


def put(ledger: SqlLedger, known: Facts) -> None:
    named = [Fact(f"run:{id_}", "id", id_) for id_ in known]
    others = [Fact(f"run:{id_}", key, value) for id_, each in known.items() for key, value in each.items()]
    ledger.commit([*named, *others], actor="ann", now=NOW)


def id_of(found: Found) -> str:
    return found.subject.removeprefix("run:")


def clear(ledger: SqlLedger) -> None:
    with ledger._transaction() as connection:
        connection.execute(schema.fact.delete())


def pages(ledger: SqlLedger, query: Query, size: int, last: Found | None = None) -> Iterator[Found]:
    where, order = query.where, query.order
    while page := ledger.search(Query(where=where, order=order, limit=size, after=last)):
        yield from page
        last = page[-1]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(known=facts, more=facts, where=conditions, order=orders, size=st.integers(1, 5))
def test_a_search_finds_what_a_search_in_plain_python_finds(
    ledger: SqlLedger, known: Facts, more: Facts, where: Condition, order: tuple[Order, ...], size: int
) -> None:
    clear(ledger)
    put(ledger, known)
    query = Query(where=where, order=order)
    whole = [id_of(found) for found in ledger.search(query)]
    assert whole == expected(known, query)
    assert [id_of(found) for found in pages(ledger, query, size)] == whole
    if not whole:
        return
    # what is added between two pages takes no other out and puts no other in twice
    first = ledger.search(Query(where=where, order=order, limit=size))
    known = more | known
    put(ledger, known)
    rest = [id_of(found) for found in pages(ledger, query, size, first[-1])]
    now = expected(known, query)
    assert rest == now[now.index(id_of(first[-1])) + 1 :]
    assert [id_ for id_ in [*(id_of(found) for found in first), *rest] if id_ in whole] == whole


def test_no_word_of_a_query_is_part_of_the_statement() -> None:
    hostile = "'); DROP TABLE fact; --"
    where = And((Compare(hostile, "contains", hostile), In(hostile, (hostile,)), Not(Known(hostile))))
    after = Found(hostile, (hostile,))
    query = Query(where=where, order=(Order(hostile),), after=after, limit=5)
    for dialect in ("sqlite", "postgresql"):
        assert "DROP" not in str(search_statement(query, dialect))


def test_the_most_that_may_be_asked_is_answered(ledger: SqlLedger) -> None:
    put(ledger, {f"{number:04d}": {"a": float(number % 7), "b": str(number)} for number in range(500)})
    deep: Condition = Compare("a", "<", 5.0)
    for _ in range(32):
        deep = Not(deep)
    wide = Or(tuple(Compare("b", "=", str(number)) for number in range(100)))
    many = In("a", tuple(float(number) for number in range(5000)))
    query = Query(where=And((deep, wide, many)), order=tuple(Order(key) for key in "abababab"))
    assert len(ledger.search(query)) == sum(number % 7 < 5 for number in range(100))


def test_a_search_reads_what_its_conditions_name(tmp_path: Path) -> None:
    with closing(SqliteLedger(tmp_path / "ledger.db")) as ledger:
        put(ledger, {f"{number:04d}": {"a": float(number), "b": str(number)} for number in range(500)})
        plan = explained(ledger, Query(where=Compare("a", ">", 400.0), order=(Order("b"),), limit=10))
        assert not [step for step in plan if step.startswith("SCAN")]
        assert any("fact_by_number" in step and "number>?" in step for step in plan)
        newest = explained(ledger, Query(limit=10))
        assert [step for step in newest if "SORT" in step or "TEMP" in step or "SCAN" in step] == []


def explained(ledger: SqlLedger, query: Query) -> list[str]:
    compiled = search_statement(query, "sqlite").compile(ledger._engine, compile_kwargs={"literal_binds": True})
    with ledger._connection() as connection:
        return [row[-1] for row in connection.execute(sa.text(f"EXPLAIN QUERY PLAN {compiled}"))]
