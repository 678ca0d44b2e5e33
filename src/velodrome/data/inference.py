"""The types of text: numbers, truth values, dates and times, where every value of a column is one.

A reader that looks at the first rows alone cannot know what comes; here a type is taken only if no value of the column is
lost by it. Dates are never guessed: 03/04/2013 is a day in March for one reader and in April for another, so a column of
such values stays text unless some value of it leaves one reading only.
Cost: nothing but a look at the first values for text that is text; one or two casts per column for the others.
"""

from collections.abc import Iterable

import polars as pl

__all__ = ["infer_times", "infer_types", "parse_time", "plain_time"]

_PROBE = 100

_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S%.f",
    "%d.%m.%Y",
)
_OFFSET = "%Y-%m-%d %H:%M:%S%.f%:z"
_SLASHED = ("%d/%m/%Y", "%m/%d/%Y", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M:%S%.f", "%m/%d/%Y %H:%M:%S%.f")
_FIRST_YEAR = 1000  # or any three small numbers would be a date


def parse_time(text: pl.Expr) -> pl.Expr:
    """Datetimes (µs, UTC where an offset is given) from text in any format that can be read in one way; else null."""
    plain = plain_time(text)
    return pl.coalesce(*(_parsed(plain, form) for form in (*_FORMATS, "%Y%m%d", _OFFSET)))


def plain_time(text: pl.Expr) -> pl.Expr:
    """ISO 8601 text with a space in the place of the T, and without the Z."""
    return text.str.strip_chars().str.replace("T", " ", literal=True).str.strip_suffix("Z")


def infer_times(frame: pl.DataFrame, but: Iterable[str] = ()) -> pl.DataFrame:
    """The frame with text columns turned into dates or datetimes (µs) where all their values are, but those named."""
    kept = set(but)
    return frame.with_columns(_times(column) for column in _text(frame) if column.name not in kept)


def infer_types(frame: pl.DataFrame, but: Iterable[str] = ()) -> pl.DataFrame:
    """The frame with text columns turned into int64, float64 or boolean where all their values are, but those named."""
    kept = set(but)
    return frame.with_columns(_numbers(column) for column in _text(frame) if column.name not in kept)


def _text(frame: pl.DataFrame) -> list[pl.Series]:
    return [
        column for column in frame.iter_columns() if column.dtype == pl.String and column.null_count() < len(column)
    ]


def _numbers(column: pl.Series) -> pl.Series:
    name = pl.col(column.name)
    truth = name.replace_strict(
        {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False},
        default=None,
        return_dtype=pl.Boolean,
    )
    for reading in (name.cast(pl.Int64, strict=False), name.cast(pl.Float64, strict=False), truth):
        if _fits(column.drop_nulls().head(_PROBE), reading) and _fits(column, reading):
            return column.to_frame().select(reading).to_series()
    return column


def _times(column: pl.Series) -> pl.Series:
    plain = plain_time(pl.col(column.name))
    probe = column.drop_nulls().head(_PROBE)
    readings = {form: _parsed(plain, form) for form in (*_FORMATS, *_SLASHED, _OFFSET)}
    found = {
        form: column.to_frame().select(reading.cast(pl.Datetime("us") if "%H" in form else pl.Date)).to_series()
        for form, reading in readings.items()
        if _fits(probe, reading) and _fits(column, reading)
    }
    ways = list(found.values())
    return ways[0] if ways and all(way.equals(ways[0], check_dtypes=True) for way in ways) else column


def _fits(column: pl.Series, reading: pl.Expr) -> bool:
    """Whether every value that is there can be read."""
    return column.to_frame().select(reading).to_series().null_count() == column.null_count()


def _parsed(plain: pl.Expr, form: str) -> pl.Expr:
    moment = plain.str.to_datetime(form, time_unit="us", strict=False)
    if form == _OFFSET:
        moment = moment.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return pl.when(moment.dt.year() >= _FIRST_YEAR).then(moment)
