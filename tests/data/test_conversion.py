import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import SchemaError
from velodrome.data.conversion import convert, is_present
from velodrome.data.schema import DTYPES


def converted(values: list[Any], dtype: pl.DataType, target: str) -> list[Any]:
    column = pl.DataFrame({"a": pl.Series(values, dtype=dtype)}).select(convert("a", dtype, target))["a"]
    assert column.dtype == DTYPES[target]
    return column.to_list()


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none()))
def test_integers_survive_text(values: list[int | None]) -> None:
    assert converted([None if v is None else str(v) for v in values], pl.String(), "int64") == values


@given(st.lists(st.floats(allow_nan=False) | st.none()))
def test_numbers_survive_text(values: list[float | None]) -> None:
    assert converted([None if v is None else repr(v) for v in values], pl.String(), "float64") == values


@given(st.lists(st.floats()))
def test_a_real_number_becomes_a_whole_one_only_if_it_is(values: list[float]) -> None:
    fits = [math.isfinite(v) and v == int(v) and -(2**31) <= v < 2**31 for v in values]
    expected = [int(v) if ok else None for v, ok in zip(values, fits, strict=True)]
    assert converted(values, pl.Float64(), "int32") == expected


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_a_whole_number_that_does_not_fit_is_none(values: list[int]) -> None:
    assert converted(values, pl.UInt64(), "int64") == [v if v < 2**63 else None for v in values]


@given(st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))))  # noqa: DTZ001
def test_times_survive_iso_text(values: list[datetime]) -> None:
    assert converted([v.isoformat() for v in values], pl.String(), "datetime") == values
    assert converted([v.isoformat(sep=" ") for v in values], pl.String(), "date") == [v.date() for v in values]


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.integers(-12 * 60, 12 * 60))  # noqa: DTZ001
def test_a_time_with_an_offset_is_kept_in_utc(value: datetime, minutes: int) -> None:
    aware = value.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = aware.astimezone(UTC).replace(tzinfo=None)
    assert converted([aware.isoformat()], pl.String(), "datetime") == [expected]


def test_a_column_with_a_zone_is_kept_in_utc() -> None:
    noon = datetime(2013, 1, 1, 12, tzinfo=UTC)
    dtype = pl.Datetime("ms", "Asia/Tokyo")
    assert converted([noon], dtype, "datetime") == [noon.replace(tzinfo=None)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2013-02-28", date(2013, 2, 28)),
        (" 2013-02-28 ", date(2013, 2, 28)),
        ("2013/02/28", date(2013, 2, 28)),
        ("28/02/2013", None),
        ("3-2-28", None),
        ("28.02.2013", date(2013, 2, 28)),
        ("20130228", date(2013, 2, 28)),
        ("2013-02-28T05:30Z", date(2013, 2, 28)),
        ("2013-02-30", None),
        ("02/28/2013", None),
        ("soon", None),
        ("", None),
    ],
)
def test_spellings_of_a_day(text: str, expected: date | None) -> None:
    assert converted([text], pl.String(), "date") == [expected]


def test_words_of_truth() -> None:
    words = ["true", "FALSE", "Yes", "n", "1", "0", "maybe", None]
    assert converted(words, pl.String(), "boolean") == [True, False, True, False, True, False, None, None]
    assert converted([1, 0, 2, None], pl.Int64(), "boolean") == [True, False, None, None]
    assert converted([True, False], pl.Boolean(), "float64") == [1.0, 0.0]


def test_a_number_in_text_may_end_in_a_zero_fraction() -> None:
    assert converted(["1.0", "1e3", "1.5", "x"], pl.String(), "int64") == [1, 1000, None, None]


def test_a_column_of_nulls_takes_any_type() -> None:
    for target in DTYPES:
        assert converted([None, None], pl.Null(), target) == [None, None]


@pytest.mark.parametrize(
    ("dtype", "target"),
    [
        (pl.Int64(), "date"),
        (pl.Date(), "int64"),
        (pl.List(pl.Int8), "string"),
        (pl.Binary(), "string"),
        (pl.Boolean(), "datetime"),
    ],
)
def test_types_that_have_nothing_in_common_are_refused(dtype: pl.DataType, target: str) -> None:
    with pytest.raises(SchemaError, match="'a' cannot become"):
        convert("a", dtype, target)


def test_what_is_present() -> None:
    frame = pl.DataFrame({"a": [1.0, math.nan, None, math.inf]})
    assert frame.select(is_present(pl.col("a"), pl.Float64()))["a"].to_list() == [True, False, False, True]
