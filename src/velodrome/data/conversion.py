"""From the types of a file to the eight types of a snapshot, as Polars expressions.

A conversion never drops a part of a number: 1.5 is no integer, "abc" is no number, 2**40 is no int32. What does not convert
becomes null, and the caller, who still has the value, tells. Text is converted where a file's reader left it as text: numbers
with spaces around them, dates and times that can be read in one way only, yes/no.
Cost: nothing for a column that has its type already; one cast for the others, one for each format of a time in text.
"""

import polars as pl

from velodrome.core.errors import SchemaError
from velodrome.data.inference import parse_time
from velodrome.data.schema import DTYPES

__all__ = ["convert", "is_present"]

_TRUTH = {word: word in {"true", "t", "yes", "y", "1"} for word in "true t yes y 1 false f no n 0".split()}


def convert(name: str, source: pl.DataType, target: str) -> pl.Expr:
    """The column `name` in the type `target`; null where a value does not convert.

    Raises:
        SchemaError: no value of type `source` can become a `target`.

    >>> frame = pl.DataFrame({"a": [" 7", "1.0", "1.5", "x", None]})
    >>> frame.select(convert("a", pl.String(), "int32"))["a"].to_list()
    [7, 1, None, None, None]
    """
    converted = _converted(pl.col(name), source, target)
    if converted is None:
        raise SchemaError(
            f"the column {name!r} cannot become {target}",
            received=str(source),
            remedy="name another type in vd.Types(...), or convert or leave out the column before it gets here",
        )
    return converted.alias(name)


def is_present(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whether a column of that type has a value: not null and, among real numbers, not NaN."""
    return column.is_not_null() & column.is_not_nan() if dtype.is_float() else column.is_not_null()


def _converted(column: pl.Expr, source: pl.DataType, target: str) -> pl.Expr | None:
    if source == DTYPES[target]:
        return column
    if source == pl.Null:
        return column.cast(DTYPES[target])
    if source in (pl.String, pl.Categorical, pl.Enum):
        return _from_text(column.cast(pl.String), target)
    if target == "string":
        return None if source.is_nested() or source == pl.Binary else column.cast(pl.String)
    family = _from_number if source.is_numeric() or source == pl.Boolean else _from_time
    return family(column, source, target)


def _from_text(column: pl.Expr, target: str) -> pl.Expr:
    if target == "string":
        return column
    text = column.str.strip_chars()
    if target == "boolean":
        return text.str.to_lowercase().replace_strict(_TRUTH, default=None, return_dtype=pl.Boolean)
    if target in ("date", "datetime"):
        return parse_time(text).cast(DTYPES[target])
    number = text.cast(pl.Float64, strict=False)
    if target in ("float32", "float64"):
        return number.cast(DTYPES[target])
    whole = pl.coalesce(text.cast(pl.Int64, strict=False), _whole(number).cast(pl.Int64, strict=False))
    return whole.cast(DTYPES[target], strict=False)


def _from_number(column: pl.Expr, source: pl.DataType, target: str) -> pl.Expr | None:
    if target in ("float32", "float64"):
        return column.cast(DTYPES[target])
    if target in ("int32", "int64"):
        exact = column if source.is_integer() or source == pl.Boolean else _whole(column)
        return exact.cast(DTYPES[target], strict=False)
    if target == "boolean":
        return pl.when(column == 1).then(True).when(column == 0).then(False)
    return None


def _from_time(column: pl.Expr, source: pl.DataType, target: str) -> pl.Expr | None:
    if target not in ("date", "datetime") or source not in (pl.Date, pl.Datetime):
        return None
    if isinstance(source, pl.Datetime) and source.time_zone:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.cast(DTYPES[target])


def _whole(number: pl.Expr) -> pl.Expr:
    return pl.when(number == number.floor()).then(number)
