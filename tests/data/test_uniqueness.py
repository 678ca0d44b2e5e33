import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import SchemaError
from velodrome.data.contracts import Unique
from velodrome.data.uniqueness import find_repeats, unique_columns

FRAMES = st.lists(
    st.lists(st.tuples(st.none() | st.integers(0, 4), st.none() | st.sampled_from("xyz")), max_size=8),
    min_size=1,
    max_size=4,
)
RULES = st.lists(
    st.builds(Unique, st.sampled_from(["a", "b", ("a", "b")]), st.sampled_from(["quarantine", "warn"])),
    min_size=1,
    max_size=3,
)


def brute_force(rules: list[Unique], rows: list[dict[str, object]]) -> set[int]:
    excluded: set[int] = set()
    for rule in rules:
        seen, repeated = set(), set()
        for number, row in enumerate(rows):
            key = tuple(row[name] for name in ((rule.columns,) if isinstance(rule.columns, str) else rule.columns))
            if number in excluded or None in key:
                continue
            if key in seen:
                repeated.add(number)
            seen.add(key)
        excluded |= repeated if rule.action == "quarantine" else set()
    return excluded


@given(FRAMES, RULES)
def test_later_rows_with_a_known_key_are_excluded(
    parts: list[list[tuple[int | None, str | None]]], rules: list[Unique]
) -> None:
    frames = [pl.DataFrame(part, schema={"a": pl.Int64, "b": pl.String}, orient="row") for part in parts]
    found = find_repeats(rules, frames)
    rows = [row for frame in frames for row in frame.to_dicts()]
    starts = [sum(frame.height for frame in frames[:number]) for number in range(len(frames))]
    assert {start + int(row) for start, part in zip(starts, found.rows, strict=True) for row in part} == brute_force(
        rules, rows
    )
    assert [len(part) for part in found.rows] == [len(part) for part in found.reasons]


def test_a_reason_names_the_columns_and_an_example_the_values() -> None:
    frames = [pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}), pl.DataFrame({"a": [2], "b": ["y"]})]
    assert find_repeats([Unique("a")], frames).reasons == ((), ("a was there before",))
    (violation,) = find_repeats([Unique(("a", "b"), action="stop")], frames).violations
    assert (violation.rule, violation.rows, violation.examples) == ("unique(a, b)", 1, ("a, b: 2, y was there before",))


def test_a_warning_excludes_nothing() -> None:
    found = find_repeats([Unique("a", action="warn")], [pl.DataFrame({"a": [1, 1]})])
    assert [part.tolist() for part in found.rows] == [[]]
    assert found.violations[0].rows == 1


def test_columns_of_the_rules_are_named_once_and_must_be_there() -> None:
    assert unique_columns([Unique("a"), Unique(("b", "a"))], ["a", "b", "c"]) == ("a", "b")
    with pytest.raises(SchemaError, match="did you mean 'flight'"):
        unique_columns([Unique("fligth")], ["flight"])
