from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.config import Limits
from velodrome.registry.retention import Item, due

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SIZES = {letter: 1 + number for number, letter in enumerate("abcdef")}


def items_of(facts: list[tuple[str, int, str]]) -> list[Item]:
    """Items by group, age in days and blobs."""
    return [
        Item(name=f"{number:02}", group=group, time=NOW - timedelta(days=age), blobs=frozenset(blobs))
        for number, (group, age, blobs) in enumerate(facts)
    ]


facts = st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 9), st.text("abcdef", max_size=3)), max_size=8)
limits = st.builds(
    Limits,
    age=st.none() | st.integers(0, 9).map("{}d".format),
    count=st.none() | st.integers(0, 4),
    size=st.none() | st.integers(0, 21).map("{}B".format),
)


@given(facts.map(items_of), limits, st.sets(st.integers(0, 7).map("{:02}".format)))
def test_what_goes_is_what_is_beyond_a_limit_and_not_safe(items: list[Item], limits: Limits, safe: set[str]) -> None:
    beyond = set()
    for item in items:
        newer = [
            other for other in items if other.group == item.group and (other.time, other.name) >= (item.time, item.name)
        ]
        taken = {blob for other in newer for blob in other.blobs}
        if limits.age is not None and NOW - item.time > timedelta(days=int(limits.age[:-1])):
            beyond.add(item.name)
        if limits.count is not None and len(newer) > limits.count:
            beyond.add(item.name)
        if limits.size is not None and sum(SIZES[blob] for blob in taken) > int(limits.size[:-1]):
            beyond.add(item.name)
    assert due(items, limits, "r", now=NOW, sizes=SIZES, safe=safe).keys() == beyond - safe


@given(facts.map(items_of))
def test_without_limits_everything_stays(items: list[Item]) -> None:
    assert due(items, Limits(), "r", now=NOW, sizes=SIZES, safe=()) == {}


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (Limits(age="3d"), 'retention.runs.age = "3d"'),
        (Limits(count=1), "retention.runs.count = 1"),
        (Limits(size="5B"), 'retention.runs.size = "5B"'),
        (Limits(age="3d", count=1, size="5B"), 'retention.runs.age = "3d"'),
    ],
)
def test_the_limit_that_is_exceeded_is_named(limits: Limits, rule: str) -> None:
    items = items_of([("x", 4, "f"), ("x", 1, "a")])
    assert due(items, limits, "retention.runs", now=NOW, sizes=SIZES, safe=()) == {"00": rule}


def test_what_an_item_that_stays_needs_stays_too() -> None:
    judge = Item(name="judge", group="x", time=NOW - timedelta(days=2))
    refit = Item(name="refit", group="x", time=NOW - timedelta(days=1), needs=frozenset(["judge"]))
    newest = Item(name="newest", group="x", time=NOW)
    arguments = {"now": NOW, "sizes": SIZES}
    assert due([judge, refit, newest], Limits(count=2), "r", safe=(), **arguments) == {}
    assert list(due([judge, refit, newest], Limits(count=1), "r", safe=(), **arguments)) == ["judge", "refit"]
    assert due([judge, refit, newest], Limits(count=1), "r", safe={"refit"}, **arguments) == {}


def test_the_oldest_goes_first() -> None:
    items = items_of([("x", 1, ""), ("x", 3, ""), ("x", 2, "")])
    assert list(due(items, Limits(count=0), "r", now=NOW, sizes={}, safe=())) == ["01", "02", "00"]
