from datetime import date, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.data.inference import infer_times, infer_types, parse_time, plain_time

NOON = datetime(2013, 3, 25, 12)  # noqa: DTZ001
DAYS = st.lists(st.none() | st.dates(date(1000, 1, 1), date(2999, 12, 31)), min_size=1)


def times(*texts: str | None) -> pl.Series:
    return infer_times(pl.DataFrame({"a": pl.Series(texts, dtype=pl.String)}))["a"]


def types(*texts: str | None) -> pl.Series:
    return infer_types(pl.DataFrame({"a": pl.Series(texts, dtype=pl.String)}))["a"]


@given(st.lists(st.none() | st.text(alphabet="0123456789.-+einfNa truefals", max_size=6), min_size=1))
def test_a_type_loses_no_value(texts: list[str | None]) -> None:
    found = types(*texts)
    assert found.null_count() == texts.count(None)
    if found.dtype == pl.String:
        assert found.to_list() == texts


@given(st.lists(st.none() | st.text(alphabet="0123456789-/.:TZ ", max_size=12), min_size=1))
def test_a_time_loses_no_value(texts: list[str | None]) -> None:
    assert times(*texts).null_count() == texts.count(None)


@given(DAYS, st.sampled_from(["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y"]))
def test_days_are_found_in_every_plain_format(days: list[date | None], form: str) -> None:
    texts = [None if day is None else day.strftime(form).replace("0000", "") for day in days]
    found = times(*texts)
    assert found.to_list() == days


@pytest.mark.parametrize(
    "text",
    [
        "2013-03-25 12:00:00",
        "2013-03-25T12:00:00",
        "2013-03-25T12:00:00Z",
        "2013-03-25 12:00",
        "2013-03-25T12:00:00.000",
        "2013-03-25T14:00:00+02:00",
        "2013/03/25 12:00:00",
        "25/03/2013 12:00",
        "3/25/2013 12:00",
        "3/25/2013 12:00:00",
    ],
)
def test_moments_are_found_in_every_plain_format(text: str) -> None:
    found = times(text, None, text)
    assert (found.dtype, found.to_list()) == (pl.Datetime("us"), [NOON, None, NOON])


def test_days_that_can_be_read_in_two_ways_stay_text() -> None:
    assert times("03/04/2013", "05/06/2013").dtype == pl.String
    assert times("03/04/2013", "25/06/2013").to_list() == [date(2013, 4, 3), date(2013, 6, 25)]
    assert times("03/04/2013", "06/25/2013").to_list() == [date(2013, 3, 4), date(2013, 6, 25)]
    assert times("03/03/2013").to_list() == [date(2013, 3, 3)]


@pytest.mark.parametrize(
    "texts", [("2013-03-25", "soon"), ("2013-02-30",), ("05:30",), ("12-05-07",), ("2013-03-25", "25.03.2013")]
)
def test_what_is_no_time_stays_text(texts: tuple[str, ...]) -> None:
    assert times(*texts).to_list() == list(texts)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("1", None, "-2"), [1, None, -2]),
        (("1", "2.5"), [1.0, 2.5]),
        (("true", "FALSE"), [True, False]),
        (("1", "x"), ["1", "x"]),
        (("true", "yes"), ["true", "yes"]),
        ((None, None), [None, None]),
    ],
)
def test_types_of_text(texts: tuple[str | None, ...], expected: list[Any]) -> None:
    found = types(*texts).to_list()
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_a_late_value_counts_as_much_as_an_early_one() -> None:
    assert types(*["1"] * 1000, "x").dtype == pl.String
    assert times(*["2013-01-01"] * 1000, "x").dtype == pl.String


def test_named_columns_stay_text() -> None:
    frame = pl.DataFrame({"a": ["1"], "b": ["2013-01-01"]})
    assert infer_times(infer_types(frame, but=["a"]), but=["b"]).equals(frame)


def test_single_texts_are_read_one_by_one() -> None:
    texts = ["2013-03-25T12:00:00Z", "20130325", "25.03.2013", "25/03/2013", "x", None]
    found = pl.DataFrame({"a": texts}).select(parse_time(pl.col("a")))["a"].to_list()
    day = NOON.replace(hour=0)
    assert found == [NOON, day, day, None, None, None]
    assert pl.select(plain_time(pl.lit(" 2013-03-25T12:00:00Z "))).item() == "2013-03-25 12:00:00"
