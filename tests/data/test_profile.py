import math
from collections import Counter
from datetime import date

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velodrome.core.digest import canonical
from velodrome.data.profile import (
    MOST_VALUES,
    ColumnProfile,
    Profile,
    ValueCount,
    merge_profiles,
    merge_sketches,
    profile_frame,
    put_sketches,
    read_sketches,
    sketch_frame,
)
from velodrome.data.schema import Column, schema_of, unify
from velodrome.evaluation.sketches import CATEGORIES, ColumnSketch, FrequencySketch
from velodrome.store.workspace import open_folder

NUMBERS = st.lists(st.none() | st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=20)
SCHEMA = {"x": pl.Float64(), "n": pl.Int64(), "word": pl.String(), "flag": pl.Boolean(), "day": pl.Date()}
ROWS = st.lists(
    st.tuples(
        st.none() | st.floats(-1e6, 1e6),
        st.none() | st.integers(-(10**6), 10**6),
        st.none() | st.sampled_from("abc"),
        st.none() | st.booleans(),
        st.none() | st.dates(date(1990, 1, 1), date(2030, 1, 1)),
    ),
    max_size=20,
)


def only(values: list[object], dtype: pl.DataType) -> ColumnProfile:
    (found,) = profile_frame(pl.DataFrame({"a": pl.Series(values, dtype=dtype)}))
    return found


def near(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)


@given(NUMBERS)
def test_figures_of_numbers_are_those_of_the_finite_ones(values: list[float | None]) -> None:
    found = only(list(values), pl.Float64())
    finite = np.array([value for value in values if value is not None and math.isfinite(value)])
    assert found.count == len(finite)
    assert found.nulls == sum(value is None or math.isnan(value) for value in values)
    if not len(finite):
        assert (found.minimum, found.maximum, found.mean, found.std) == (None,) * 4
        return
    assert (found.minimum, found.maximum) == (finite.min(), finite.max())
    assert found.mean == pytest.approx(finite.mean(), abs=1e-9)
    assert found.std == pytest.approx(finite.std(), rel=1e-9, abs=1e-9)
    canonical(Profile(columns=(found,)))


def test_text_booleans_and_whole_numbers_have_their_values_counted() -> None:
    assert only(["b", "a", "b", None], pl.String()).values == (ValueCount("a", 1), ValueCount("b", 2))
    assert only([3, 1, 3], pl.Int64()).values == (ValueCount(1, 1), ValueCount(3, 2))
    truth = only([True, False, True, True], pl.Boolean())
    assert (truth.mean, truth.values) == (0.75, (ValueCount(False, 1), ValueCount(True, 3)))


@pytest.mark.parametrize("most", [MOST_VALUES, MOST_VALUES + 1])
def test_many_values_are_not_listed(most: int) -> None:
    assert (only(list(range(most)), pl.Int64()).values is None) == (most > MOST_VALUES)
    late = [0] * 20_000 + list(range(most))
    assert (only(list(late), pl.Int64()).values is None) == (most > MOST_VALUES)


def test_whole_numbers_keep_exact_extremes_and_days_are_iso() -> None:
    assert only([2**62 + 1, -1], pl.Int64()).maximum == 2**62 + 1
    found = only([date(2013, 3, 1), date(2013, 1, 1)], pl.Date())
    assert (found.minimum, found.maximum) == ("2013-01-01", "2013-03-01")


def test_sums_that_overflow_are_left_out() -> None:
    found = only([1e308, 1e308], pl.Float64())
    assert (found.mean, found.std, found.maximum) == (None, None, 1e308)


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_merged_profiles_are_the_profile_of_all_rows(parts: list[list[tuple[object, ...]]]) -> None:
    frames = [pl.DataFrame(part, schema=SCHEMA, orient="row") for part in parts]
    columns = unify([(f"{number}", schema_of(frame)) for number, frame in enumerate(frames)])
    merged = merge_profiles(columns, [profile_frame(frame) for frame in frames])
    whole = profile_frame(pl.concat(frames))
    for one, other in zip(merged, whole, strict=True):
        assert (one.count, one.nulls, one.minimum, one.maximum) == (
            other.count,
            other.nulls,
            other.minimum,
            other.maximum,
        )
        if one.dtype == other.dtype:
            assert one.values == other.values
        assert near(one.mean, other.mean)
        assert near(one.std, other.std)


def test_merging_takes_the_type_of_the_whole() -> None:
    frames = [
        pl.DataFrame({"a": [1, 2]}),
        pl.DataFrame({"a": [0.5]}),
        pl.DataFrame({"a": [None]}, schema={"a": pl.String}),
    ]
    columns = unify([("f", schema_of(frame)) for frame in frames])
    (merged,) = merge_profiles(columns, [profile_frame(frame) for frame in frames])
    assert (merged.dtype, merged.minimum, merged.maximum, merged.values) == ("float64", 0.5, 2.0, None)
    assert isinstance(merged.maximum, float)


def test_days_merge_with_moments() -> None:
    frames = [pl.select(a=pl.date(2013, 1, 2)), pl.select(a=pl.datetime(2013, 1, 1, 5, time_unit="us"))]
    columns = unify([("f", schema_of(frame)) for frame in frames])
    (merged,) = merge_profiles(columns, [profile_frame(frame) for frame in frames])
    assert (merged.minimum, merged.maximum) == ("2013-01-01T05:00:00", "2013-01-02T00:00:00")


def test_figures_that_overflow_when_they_are_merged_are_left_out() -> None:
    parts = [profile_frame(pl.DataFrame({"a": [value]})) for value in (0.0, 1.9e154)]
    (merged,) = merge_profiles([Column("a", "float64")], parts)
    assert (merged.mean, merged.std) == (9.5e153, None)
    parts = [profile_frame(pl.DataFrame({"a": [value]})) for value in (1.7e308, 1.7e308)]
    (merged,) = merge_profiles([Column("a", "float64")], parts)
    assert (merged.mean, merged.maximum) == (None, 1.7e308)


# ------------------------------------------------------------------------------------------------------------- sketches


@given(NUMBERS)
def test_a_sketch_counts_every_row_and_sketches_the_finite_ones(values: list[float | None]) -> None:
    (found,) = sketch_frame(pl.DataFrame({"a": pl.Series(values, dtype=pl.Float64)}))
    finite = [value for value in values if value is not None and math.isfinite(value)]
    missing = sum(value is None or math.isnan(value) for value in values)
    assert (found.name, found.rows, found.nulls) == ("a", len(values), missing)
    if all(value is None for value in values):
        assert (found.dtype, found.quantiles) == ("null", None)
        return
    assert found.quantiles is not None
    assert (found.dtype, found.quantiles.rows, found.quantiles.error) == ("float64", len(finite), 0.0)
    counts = Counter(finite)
    assert dict(zip(found.quantiles.values, found.quantiles.counts, strict=True)) == dict(sorted(counts.items()))


def test_text_and_booleans_have_frequencies_and_times_have_neither() -> None:
    frame = pl.DataFrame(
        {
            "word": ["b", "a", "b", None],
            "flag": [True, False, True, True],
            "day": [date(2013, 1, 1)] * 4,
            "nothing": pl.Series([None] * 4, dtype=pl.Int64),
        }
    )
    word, flag, day, nothing = sketch_frame(frame)
    assert word.frequencies == FrequencySketch(3, {"a": 1, "b": 2}, 0.0)
    assert (word.rows, word.nulls) == (4, 1)
    assert flag.frequencies == FrequencySketch(4, {"false": 1, "true": 3}, 0.0)
    assert (day.quantiles, day.frequencies) == (nothing.quantiles, nothing.frequencies) == (None, None)
    assert (nothing.dtype, nothing.rows, nothing.nulls) == ("null", 4, 4)


def test_of_many_texts_the_frequent_ones_are_kept_within_the_stated_error() -> None:
    texts = ["often"] * 5_000 + ["seldom"] * 500 + [f"{number}" for number in range(20_000)]
    (found,) = sketch_frame(pl.DataFrame({"a": texts}))
    assert found.frequencies is not None
    assert found.frequencies.rows == len(texts)
    assert 0 < found.frequencies.error <= 1 / (CATEGORIES + 1)
    assert len(found.frequencies.counts) <= CATEGORIES
    for text, count in (("often", 5_000), ("seldom", 500)):
        kept = found.frequencies.counts[text]
        assert count - found.frequencies.error * len(texts) <= kept <= count


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_merged_sketches_of_few_values_are_the_sketches_of_all_rows(parts: list[list[tuple[object, ...]]]) -> None:
    frames = [pl.DataFrame(part, schema=SCHEMA, orient="row") for part in parts]
    columns = unify([(f"{number}", schema_of(frame)) for number, frame in enumerate(frames)])
    merged = merge_sketches(columns, [sketch_frame(frame) for frame in frames])
    assert [(one.name, one.dtype) for one in merged] == [(column.name, column.dtype) for column in columns]
    for one, whole in zip(merged, sketch_frame(pl.concat(frames)), strict=True):
        assert (one.rows, one.nulls, one.quantiles, one.frequencies) == (
            whole.rows,
            whole.nulls,
            whole.quantiles,
            whole.frequencies,
        )


def test_numbers_without_a_value_join_text() -> None:
    frames = [pl.DataFrame({"a": [None, None]}, schema={"a": pl.Float64}), pl.DataFrame({"a": ["x"]})]
    columns = unify([("f", schema_of(frame)) for frame in frames])
    (merged,) = merge_sketches(columns, [sketch_frame(frame) for frame in frames])
    assert merged == ColumnSketch(
        name="a", dtype="string", rows=3, nulls=2, frequencies=FrequencySketch(1, {"x": 1}, 0.0)
    )


@settings(max_examples=20)
@given(ROWS)
def test_stored_sketches_are_canonical_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[object, ...]]
) -> None:
    sketches = sketch_frame(pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    with open_folder(tmp_path_factory.mktemp("project")) as ws:
        digest = put_sketches(ws, sketches)
        assert read_sketches(ws, digest) == sketches
        assert ws.blobs.read(digest) == canonical({"columns": msgspec.to_builtins(sketches)})


def test_what_was_written_without_sketches_keeps_its_digest() -> None:
    profile = Profile(columns=profile_frame(pl.DataFrame({"a": [1]})))
    assert set(msgspec.json.decode(canonical(profile))) == {"kind", "columns"}
