"""The stated errors against exact ranks and counts: of sketches, of merges, and of merges of merges in any grouping."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from velodrome.core.errors import DataError
from velodrome.evaluation import sketches
from velodrome.evaluation.sketches import (
    CATEGORIES,
    POINTS,
    ColumnSketch,
    FrequencySketch,
    QuantileSketch,
    merge_columns,
    merge_frequencies,
    merge_quantiles,
    sketch_counts,
    sketch_numbers,
)

Array = NDArray[Any]
Sketch = TypeVar("Sketch")

ROUNDING = 1e-12  # of the comparison below, in float64

COLUMNS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, rows: rng.normal(size=rows),
    "float32": lambda rng, rows: rng.normal(size=rows).astype(np.float32),
    "integers": lambda rng, rows: rng.integers(-(2**62), 2**62, rows),
    "beyond 2**53": lambda rng, rows: 2**53 + rng.integers(0, 4000, rows),
    "small integers": lambda rng, rows: rng.integers(-128, 128, rows).astype(np.int8),
    "a thousand values": lambda rng, rows: rng.integers(0, 1000, rows).astype(np.int32),
    "booleans": lambda rng, rows: rng.random(rows) < 0.3,
    "mostly zero": lambda rng, rows: np.where(rng.random(rows) < 0.95, 0.0, rng.exponential(size=rows)),
    "two atoms": lambda rng, rows: np.where(rng.random(rows) < 0.5, rng.integers(0, 2, rows), rng.normal(size=rows)),
    "zeros of both signs": lambda rng, rows: np.where(rng.random(rows) < 0.5, -0.0, 0.0),
    "huge and tiny": lambda rng, rows: rng.choice([-1, 1], rows) * 10.0 ** rng.integers(-320, 308, rows) * 1.5,
    "ascending": lambda rng, rows: np.arange(rows),
}


def off_by(sketch: QuantileSketch, column: Array) -> float:
    """The greatest difference of the two distribution functions: both are steps, so it is at a value of either."""
    exact = np.sort(column.astype(np.float64))
    at = np.concatenate([exact, sketch.values])
    cumulated = np.concatenate([[0], np.cumsum(sketch.counts)])
    said = cumulated[np.searchsorted(sketch.values, at, side="right")] / cumulated[-1]
    return float(np.abs(said - np.searchsorted(exact, at, side="right") / len(exact)).max())


def check_quantiles(sketch: QuantileSketch, column: Array) -> None:
    assert sketch.rows == len(column)
    assert set(sketch.values) <= set(column.astype(np.float64).tolist())
    assert list(sketch.values) == sorted(set(sketch.values))
    assert len(sketch.values) == len(sketch.counts) <= sketches.POINTS
    assert all(count > 0 for count in sketch.counts)
    if len(column):
        assert off_by(sketch, column) <= sketch.error + ROUNDING
    if not sketch.error:
        assert Counter(dict(zip(sketch.values, sketch.counts, strict=True))) == Counter((column + 0.0).tolist())


def merged_in_groups(parts: Sequence[Sketch], merge: Callable[[Sequence[Sketch]], Sketch], rng: Any) -> Sketch:
    """Merges of merges: random ones of the parts are replaced by their merge until one is left."""
    left = list(parts)
    while len(left) > 1:
        size = rng.integers(2, len(left) + 1)
        rng.shuffle(left)
        left = [merge(left[:size]), *left[size:]]
    return left[0]


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("rows", [0, 1, 2, POINTS - 1, POINTS, POINTS + 1, 2 * POINTS, 5001, 60_000])
def test_the_error_is_a_bound(kind: str, rows: int) -> None:
    column = COLUMNS[kind](np.random.default_rng(rows), rows)
    sketch = sketch_numbers(column)
    check_quantiles(sketch, column)
    few = len(np.unique(column.astype(np.float64))) <= POINTS
    assert sketch.error == (0.0 if few else 0.5 / POINTS)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)), st.integers(1, 9))
def test_the_error_is_a_bound_of_any_numbers(numbers: list[float], points: int) -> None:
    with patch.object(sketches, "POINTS", points):
        column = np.array(numbers, np.float64)
        check_quantiles(sketch_numbers(column), column)


@given(
    st.lists(st.lists(st.integers(-5, 5) | st.floats(-1e300, 1e300)), min_size=1, max_size=8),
    st.integers(1, 9),
    st.integers(0, 2**32),
)
def test_the_error_of_merges_of_merges_is_a_bound(parts: list[list[float]], points: int, seed: int) -> None:
    with patch.object(sketches, "POINTS", points):
        whole = np.array([number for part in parts for number in part], np.float64)
        sketched = [sketch_numbers(np.array(part, np.float64)) for part in parts]
        check_quantiles(merge_quantiles(sketched), whole)
        check_quantiles(merged_in_groups(sketched, merge_quantiles, np.random.default_rng(seed)), whole)


@pytest.mark.parametrize("kind", COLUMNS)
def test_one_merge_of_many_parts_adds_half_a_point(kind: str) -> None:
    rng = np.random.default_rng(0)
    columns = [COLUMNS[kind](rng, int(rows)) for rows in rng.integers(0, 8000, 12)]
    merged = merge_quantiles([sketch_numbers(column) for column in columns])
    check_quantiles(merged, np.concatenate(columns))
    assert merged.error <= 1 / POINTS
    assert merge_quantiles([sketch_numbers(column) for column in columns]) == merged


def test_the_order_of_the_parts_does_not_matter_to_a_merge() -> None:
    rng = np.random.default_rng(0)
    parts = [sketch_numbers(rng.normal(loc, size=3000 * (1 + loc))) for loc in range(5)]
    assert merge_quantiles(parts) == merge_quantiles(parts[::-1])


def test_the_parts_weigh_as_much_as_their_rows() -> None:
    many, few = sketch_numbers(np.linspace(0, 1, 90_000)), sketch_numbers(np.linspace(2, 3, 10_000))
    merged = merge_quantiles([few, many])
    below_two = sum(count for value, count in zip(merged.values, merged.counts, strict=True) if value < 2)
    assert below_two / sum(merged.counts) == pytest.approx(0.9, abs=1 / POINTS)


def test_ranks_are_in_the_middle_of_what_a_point_stands_for() -> None:
    sketch = sketch_numbers(np.arange(10 * POINTS)[::-1])
    assert sketch.values == tuple(float(10 * i + 5) for i in range(POINTS))
    assert sketch.counts == (1,) * POINTS


def test_few_values_are_exact_also_after_a_merge() -> None:
    a, b = np.array([3, 1, 1, 2]), np.array([2.5, 1.0])
    merged = merge_quantiles([sketch_numbers(a), sketch_numbers(b)])
    assert merged == QuantileSketch(6, (1.0, 2.0, 2.5, 3.0), (3, 1, 1, 1), 0.0)


def test_a_merge_of_one_part_or_of_none_changes_nothing() -> None:
    empty, sketch = sketch_numbers(np.array([])), sketch_numbers(np.random.default_rng(0).normal(size=5000))
    assert empty == merge_quantiles([]) == QuantileSketch(0, (), (), 0.0)
    assert merge_quantiles([empty, sketch, empty]) == sketch


def test_there_is_one_zero() -> None:
    for zeros in (np.array([-0.0, 0.0]), np.array([0.0, -0.0]), np.full(5000, -0.0)):
        sketch = sketch_numbers(zeros)
        assert [str(value) for value in sketch.values] == ["0.0"]


@pytest.mark.parametrize("bad", [[1.0, np.nan], [np.inf], [-np.inf, 1.0], [[1.0]], ["a"], [1j]])
def test_what_is_no_finite_number_is_refused(bad: Any) -> None:
    with pytest.raises(DataError, match="numbers"):
        sketch_numbers(np.array(bad))


def check_frequencies(sketch: FrequencySketch, exact: Counter[str]) -> None:
    assert sketch.rows == exact.total()
    assert list(sketch.counts) == sorted(sketch.counts)
    assert len(sketch.counts) <= sketches.CATEGORIES
    allowed = round(sketch.error * sketch.rows)
    for value, count in exact.items():
        assert count - allowed <= sketch.counts.get(value, 0) <= count
    assert sketch.counts.keys() <= exact.keys()
    assert sketch.error <= 1 / (sketches.CATEGORIES + 1)


@given(
    st.lists(st.dictionaries(st.sampled_from("abcdefghijkl"), st.integers(1, 50)), min_size=1, max_size=8),
    st.integers(1, 13),
    st.integers(0, 2**32),
)
def test_counts_are_too_small_by_the_error_at_most(parts: list[dict[str, int]], most: int, seed: int) -> None:
    with patch.object(sketches, "CATEGORIES", most):
        whole = sum((Counter(part) for part in parts), Counter())
        sketched = [sketch_counts(part) for part in parts]
        check_frequencies(sketch_counts(whole), whole)
        check_frequencies(merge_frequencies(sketched), whole)
        check_frequencies(merged_in_groups(sketched, merge_frequencies, np.random.default_rng(seed)), whole)


def test_frequencies_are_exact_up_to_their_number() -> None:
    counts = {f"{i:04}": i + 1 for i in range(CATEGORIES)}
    assert sketch_counts(counts) == FrequencySketch(sum(counts.values()), counts, 0.0)
    one_more = sketch_counts({value: count + 2 for value, count in counts.items()} | {"one more": 3})
    assert one_more.error == 3 / one_more.rows
    assert one_more.counts == {value: count - 1 for value, count in counts.items() if count > 1}


def test_the_most_frequent_values_are_enough() -> None:
    counts = Counter({str(i): 10_000 // (i + 1) for i in range(3 * CATEGORIES)})
    most = dict(counts.most_common(CATEGORIES + 1))
    assert sketch_counts(most, rows=counts.total()) == sketch_counts(counts)


def test_nothing_merges_to_nothing() -> None:
    assert merge_frequencies([]) == sketch_counts({}) == FrequencySketch(0, {}, 0.0)


def column(dtype: str, *, name: str = "x", rows: int = 4) -> ColumnSketch:
    numbers = sketch_numbers(np.arange(rows - 1)) if dtype[:3] in ("int", "flo") else None
    texts = sketch_counts({"true": rows - 1}) if dtype in ("string", "boolean") else None
    nulls = rows if dtype == "null" else 1
    return ColumnSketch(name=name, dtype=dtype, rows=rows, nulls=nulls, quantiles=numbers, frequencies=texts)


@pytest.mark.parametrize(
    ("types", "common"),
    [
        (["int32", "int32"], "int32"),
        (["int32", "int64"], "int64"),
        (["int64", "float32"], "float64"),
        (["float32", "float64"], "float64"),
        (["null", "string"], "string"),
        (["boolean", "null"], "boolean"),
        (["date", "datetime"], "datetime"),
        (["null", "null"], "null"),
    ],
)
def test_columns_merge_to_the_type_that_holds_both(types: list[str], common: str) -> None:
    parts = [column(dtype) for dtype in types]
    merged = merge_columns(parts)
    assert merged.dtype == common
    assert (merged.rows, merged.nulls) == (8, sum(part.nulls for part in parts))
    assert merged.quantiles == (
        merge_quantiles([part.quantiles for part in parts if part.quantiles]) if common[:3] in ("int", "flo") else None
    )
    assert (merged.frequencies is not None) == (common in ("string", "boolean"))


def test_a_part_without_values_does_not_bring_an_empty_sketch_of_another_type() -> None:
    empty = ColumnSketch(name="x", dtype="null", rows=2, nulls=2, quantiles=sketch_numbers(np.array([])))
    assert merge_columns([empty, column("string")]).quantiles is None


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [column("int32"), column("int32", name="y")],
        [column("int32"), column("string")],
        [column("boolean"), column("string")],
        [column("float64"), column("date")],
    ],
)
def test_columns_that_do_not_belong_together_are_refused(parts: list[ColumnSketch]) -> None:
    with pytest.raises(DataError):
        merge_columns(parts)


def test_a_sketch_survives_json_bit_for_bit() -> None:
    numbers = sketch_numbers(np.random.default_rng(0).normal(size=5000))
    sketch = ColumnSketch(name="x", dtype="float64", rows=5000, nulls=0, quantiles=numbers)
    text = msgspec.json.encode(sketch)
    assert msgspec.json.decode(text, type=ColumnSketch) == sketch
    assert len(text) < 14_000
    assert json.loads(text)["quantiles"]["values"][0] == numbers.values[0]
