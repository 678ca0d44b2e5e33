"""The flights example's files: nothing leaks into what is known before departure, nothing is lost, the bytes are stable."""

import argparse
import ast
import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

pytestmark = pytest.mark.slow  # together more than two seconds

FOLDER = Path(__file__).parents[2] / "examples" / "flights"
DAYS = pl.col("month").eq(2) & pl.col("day").is_between(11, 13)
"""Three days with snow, and with the wind gauge's wrong reading."""


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flights_prepare", FOLDER / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script: Any = _script()
KNOWN_BEFORE = ["flight_id", "scheduled", "tailnum", *script.FEATURES]


@pytest.fixture(scope="module")
def tables() -> Any:
    return script.read()


@pytest.fixture(scope="module")
def year(tables: Any) -> pl.DataFrame:
    frame: pl.DataFrame = script.table(tables)
    return frame


@pytest.fixture(scope="module")
def few(tables: Any) -> Any:
    """Every 20th flight of three days, with all their weather."""
    return tables._replace(flights=tables.flights.filter(DAYS).gather_every(20), weather=tables.weather.filter(DAYS))


def test_every_flight_is_there_once(tables: Any, year: pl.DataFrame) -> None:
    assert year.height == tables.flights.height == 336_776
    assert year["flight_id"].is_unique().all()
    assert year.columns == script.COLUMNS
    assert not set(script.FEATURES) & {"late", *script.OUTCOMES}


def test_the_label_is_the_arrival_and_null_without_one(tables: Any, year: pl.DataFrame) -> None:
    parts = ("month", "day", "carrier", "flight", "origin", "arr_delay")
    expected = {
        f"2013-{month:02}-{day:02}-{carrier}-{flight}-{origin}": None if delay is None else int(delay > 15)
        for month, day, carrier, flight, origin, delay in tables.flights.select(parts).iter_rows()
    }
    assert dict(year.select("flight_id", "late").iter_rows()) == expected
    assert year["late"].null_count() == 9_430


def test_scheduled_is_utc_and_in_order_and_agrees_with_new_yorks_clock(year: pl.DataFrame) -> None:
    assert year.schema["scheduled"] == pl.Datetime("us", "UTC")
    assert year["scheduled"].is_sorted()
    local = year["scheduled"].dt.convert_time_zone("America/New_York")
    assert (local.dt.hour() == year["hour"]).all()
    assert (local.dt.minute() == year["minute"]).all()
    assert (local.dt.ordinal_day() == year["day_of_year"]).all()
    days = {"Mon": 1, "Tue": 2, "Wed": 3, "Thu": 4, "Fri": 5, "Sat": 6, "Sun": 7}
    assert (local.dt.weekday() == year["weekday"].replace_strict(days)).all()


def test_what_happened_to_flights_changes_nothing_that_is_known_before(tables: Any, year: pl.DataFrame) -> None:
    happened = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
    order = np.random.default_rng(7).permutation(tables.flights.height)
    otherwise = tables.flights.with_columns(tables.flights.select(happened)[order])
    changed = script.table(tables._replace(flights=otherwise))
    assert_frame_equal(changed.select(KNOWN_BEFORE), year.select(KNOWN_BEFORE))
    for column in ("late", *script.OUTCOMES):
        assert not changed[column].equals(year[column]), f"{column} should have changed"


@given(day=st.integers(11, 13), hour=st.integers(0, 23), value=st.sampled_from([None, 1.0, 300.0]), lost=st.booleans())
@settings(max_examples=40)
def test_later_weather_changes_no_earlier_flight(
    few: Any, day: int, hour: int, value: float | None, lost: bool
) -> None:
    cut = datetime(2013, 2, day, hour, tzinfo=UTC)
    later = pl.col("time_hour") >= cut.strftime("%Y-%m-%dT%H:%M:%SZ")
    measured = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    otherwise = (
        few.weather.filter(~later)
        if lost
        else few.weather.with_columns(pl.when(later).then(value).otherwise(pl.col(measured)).name.keep())
    )
    known = pl.col("scheduled") < cut + timedelta(hours=1)
    before, after = script.table(few), script.table(few._replace(weather=otherwise))
    assert_frame_equal(after.filter(known), before.filter(known))
    if known_later := before.filter(~known).height:
        assert not after.filter(~known).equals(before.filter(~known)), f"{known_later} flights should have changed"


def test_weather_is_the_last_that_was_surely_known_and_none_when_that_is_old(few: Any) -> None:
    silent = pl.col("day").eq(12) & pl.col("hour").is_between(9, 17)
    few = few._replace(weather=few.weather.filter(~silent))
    observed: dict[str, list[tuple[datetime, dict[str, Any]]]] = {}
    for row in few.weather.iter_rows(named=True):
        observed.setdefault(row["origin"], []).append((datetime.fromisoformat(row["time_hour"]), row))
    for flight in script.table(few).iter_rows(named=True):
        leaves = flight["scheduled"]
        window = (leaves - timedelta(hours=6), leaves - timedelta(hours=1))
        known = sorted(pair for pair in observed[flight["origin"]] if window[0] <= pair[0] <= window[1])
        assert flight["temperature"] == (known[-1][1]["temp"] if known else None)
        if known:
            stamp = known[-1][0]
            recent = [
                row for time, row in observed[flight["origin"]] if timedelta(0) <= stamp - time < timedelta(hours=6)
            ]
            assert flight["precipitation_6h"] == pytest.approx(sum(row["precip"] for row in recent))
            assert flight["lowest_visibility_6h"] == min(row["visib"] for row in recent)
            assert flight["highest_wind_6h"] == max(row["wind_speed"] for row in recent)


def test_nulls_and_the_wrong_reading_stay_for_the_contract(year: pl.DataFrame) -> None:
    assert year.filter(pl.col("highest_wind_6h") > 150)["origin"].unique().to_list() == ["EWR"]
    for column in ("plane_model", "plane_age", "pressure", "wind_gust", "temperature"):
        assert 0 < year[column].null_count() < year.height


def test_files_are_months_of_new_york_and_a_second_run_leaves_them_alone(
    tmp_path: Path, year: pl.DataFrame, monkeypatch: Any, capsys: Any
) -> None:
    paths = script.prepare(tmp_path, months=[2, 9])
    assert [path.name for path in paths] == ["flights-2013-02.parquet", "flights-2013-09.parquet"]
    assert_frame_equal(pl.read_parquet(paths[0]), year.filter(pl.col("flight_id").str.starts_with("2013-02-")))
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]
    monkeypatch.setattr("sys.argv", ["prepare.py", "--months", "9", str(tmp_path)])
    script.main()
    assert capsys.readouterr().out == f"{paths[1]}: 27,574 flights, 564 of them cancelled or diverted\n"
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths] == before
    assert sorted(tmp_path.iterdir()) == paths


def test_a_file_with_other_bytes_is_replaced(tmp_path: Path) -> None:
    frame, path = pl.DataFrame({"a": [1]}), tmp_path / "a.parquet"
    path.write_bytes(b"cut off")
    assert script.write(frame, path)
    assert pl.read_parquet(path).equals(frame)
    assert not script.write(frame, path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("text", "chosen"), [("3", [3]), ("1-3", [1, 2, 3]), ("12-12", [12])])
def test_months_are_named_by_numbers_and_ranges(text: str, chosen: list[int]) -> None:
    assert list(script.month_range(text)) == chosen


@pytest.mark.parametrize("text", ["", "0", "13", "3-1", "1-2-3", "May", "1,2", "-1", "1-", "0-2"])
def test_other_months_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="1-3"):
        script.month_range(text)


def test_the_recipe_uses_only_what_is_known_before_departure() -> None:
    tree = ast.parse((FOLDER / "recipe.py").read_text(encoding="utf-8"))
    [features] = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "features"]
    used = {node.value for node in ast.walk(features) if isinstance(node, ast.Constant)}
    assert used
    assert used <= set(script.FEATURES)
