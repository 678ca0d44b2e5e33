import math
from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.digest import canonical
from velodrome.data.profile import MOST_VALUES, ColumnProfile, Profile, ValueCount, merge_profiles, profile_frame
from velodrome.data.schema import schema_of, unify

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
