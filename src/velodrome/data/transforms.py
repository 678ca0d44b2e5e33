"""`Preparation`: the fitted way from raw columns to the arrays that a model receives, part of every model.

It is fitted on the training rows and holds nothing but plain numbers and strings, so it goes through canonical JSON
exactly and applies in another process, year and frame as it did in training. `apply` reads the raw columns (their
types are checked), runs the fitted steps one after another as Polars expressions, and hands out numpy arrays; each
row's result depends on that row alone. Cost: one Polars call per step and a copy per output, about a millisecond for
one row, some 25 ns per value for many.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from velodrome.core.errors import DataError, RecipeError, SchemaError, nearest
from velodrome.data.fields import Field
from velodrome.data.steps import EncodeFitted, Encoding, FittedStep, Step

__all__ = ["Preparation", "RawColumn", "apply", "fit_preparation"]

_WHOLE = {"boolean", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"}
_REAL = {"float32", "float64", "decimal", "int128", "uint64", "uint128"}


class RawColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column that the preparation reads.

    Attributes:
        dtype: "string", "boolean", "int64", "float64", "date", "datetime", "datetime[Europe/Paris]" and the like.
    """

    name: str
    dtype: str


class Preparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fitted steps with the columns that they read and the fields that they make, each in order."""

    columns: tuple[RawColumn, ...]
    steps: tuple[FittedStep, ...]
    outputs: tuple[Field, ...]


def fit_preparation(
    steps: Iterable[Step], frame: pl.DataFrame, columns: Sequence[str], encoding: Encoding
) -> Preparation:
    """Fit the steps, in their order.

    Args:
        frame: the training rows only; other columns than `columns` are not looked at.
        columns: the features, in the order that the outputs keep; what a step adds comes after them.
        encoding: what `Encode(to="auto")` does: codes for networks and trees, one-hot columns for linear estimators.

    Raises:
        SchemaError: a feature is no column of the frame, or holds neither numbers, text nor times.
        RecipeError: the steps do not fit each other or the columns, or leave text or times behind.
        DataError: no rows, a column without values, missing values that nothing fills, or infinite ones.
    """
    if frame.is_empty():
        raise DataError("there are no training rows to fit the preparation on")
    _require(frame, columns)
    raw = tuple(RawColumn(name, _dtype_name(name, frame.schema[name])) for name in columns)
    working, fitted = _read(raw, frame), []
    for step in steps:
        fitted.append(step.fit(working, encoding))
        working = fitted[-1].apply(working)
    outputs = tuple(_output(name, dtype, fitted) for name, dtype in working.schema.items())
    _arrays(outputs, working)  # refuses now what `apply` would refuse later
    return Preparation(raw, tuple(fitted), outputs)


def apply(preparation: Preparation, frame: pl.DataFrame) -> dict[str, NDArray[Any]]:
    """The prepared rows.

    Args:
        frame: holds the preparation's columns, in any order and among others.

    Returns:
        By output name and in the outputs' order: float32 or int64, (rows, *shape), contiguous.

    Raises:
        SchemaError: a column is missing or of another type.
        DataError: a missing value that nothing fills, or a number that is not finite as float32.
    """
    _require(frame, [column.name for column in preparation.columns])
    working = _read(preparation.columns, frame)
    for step in preparation.steps:
        working = step.apply(working)
    return _arrays(preparation.outputs, working)


def _require(frame: pl.DataFrame, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in frame.columns:
            raise SchemaError(
                f"the data has no column {name!r}",
                received=", ".join(frame.columns),
                remedy=nearest(name, frame.columns),
            )


def _dtype_name(name: str, dtype: pl.DataType) -> str:
    text = _known_name(dtype)
    if text is None:
        raise SchemaError(
            f"column {name!r} cannot be a feature: it holds neither numbers, text nor times",
            received=str(dtype),
            remedy="leave it out of the features, or give it a type with the contract rule Types",
        )
    return text


def _known_name(dtype: pl.DataType) -> str | None:
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return "string"
    if isinstance(dtype, pl.Datetime):
        return f"datetime[{dtype.time_zone}]" if dtype.time_zone else "datetime"
    text = str(dtype).lower().partition("(")[0]
    return text if text in _WHOLE | _REAL | {"date"} else None


def _read(columns: Sequence[RawColumn], frame: pl.DataFrame) -> pl.DataFrame:
    """The raw columns as the steps know them: int64, float64 without NaN, string, date, datetime in µs without zone."""
    exprs = []
    for column in columns:
        given = frame.schema[column.name]
        expr = _reader(column, given)
        if expr is None or (
            column.dtype in _WHOLE and _known_name(given) in _REAL and _has_fractions(frame[column.name])
        ):
            raise SchemaError(
                f"column {column.name!r} held {column.dtype} in training",
                received=f"{given}, beginning with {frame[column.name].head(3).to_list()}",
                remedy=f"cast the column to {column.dtype}",
            )
        exprs.append(expr)
    return frame.select(exprs)


def _reader(column: RawColumn, given: pl.DataType) -> pl.Expr | None:
    """How to read a column of the type `given`; None where it cannot stand for the type that it had in training."""
    here, source = _known_name(given), pl.col(column.name)
    number = here in _WHOLE | _REAL or given == pl.Null
    if column.dtype == "string":
        return source.cast(pl.String) if here == "string" or given == pl.Null else None
    if column.dtype in _WHOLE:
        return source.cast(pl.Int64, strict=False) if number else None  # a NaN is missing
    if column.dtype in _REAL:
        return source.cast(pl.Float64).fill_nan(None) if number else None
    return _time_reader(column, given)


def _time_reader(column: RawColumn, given: pl.DataType) -> pl.Expr | None:
    source, zone = pl.col(column.name), column.dtype.partition("[")[2].rstrip("]")
    if given == pl.Null:
        return source.cast(pl.Date if column.dtype == "date" else pl.Datetime("us"))
    if column.dtype == "date":
        return source.cast(pl.Date) if isinstance(given, pl.Date | pl.Datetime) else None
    if isinstance(given, pl.Datetime) and zone and given.time_zone:
        source = source.dt.convert_time_zone(zone).dt.replace_time_zone(None)
    elif zone or not (given == pl.Date or (isinstance(given, pl.Datetime) and not given.time_zone)):
        return None
    return source.cast(pl.Datetime("us"))


def _has_fractions(column: pl.Series) -> bool:
    values = column.cast(pl.Float64).fill_nan(None)
    return bool(((values != values.floor()) | (values.abs() >= 2.0**63)).any())


def _output(name: str, dtype: pl.DataType, fitted: Sequence[FittedStep]) -> Field:
    if dtype == pl.UInt32:
        encoded = next(step for step in fitted if isinstance(step, EncodeFitted) and name in step.categories)
        known = len(encoded.categories[name])
        return (
            Field(name, "float32", shape=(known,))
            if encoded.to == "onehot"
            else Field(name, "int64", cardinality=known + 1)
        )
    if dtype in (pl.Float64, pl.Int64):
        return Field(name, "float32")
    kind, remedy = ("text", "vd.Encode()") if dtype == pl.String else ("times", "vd.Calendar()")
    raise RecipeError(
        f"column {name!r} holds {kind}, and no step turns it into numbers", remedy=f"add {remedy} to prepare"
    )


def _arrays(outputs: Sequence[Field], frame: pl.DataFrame) -> dict[str, NDArray[Any]]:
    return {field.name: _array(field, frame[field.name]) for field in outputs}


def _array(field: Field, column: pl.Series) -> NDArray[Any]:
    if field.dtype == "int64":
        return column.cast(pl.Int64).to_numpy(writable=True)
    if field.shape:
        return _onehot(column.to_numpy(), field.shape[0])
    values = column.cast(pl.Float32).to_numpy(writable=True)
    if not np.isfinite(values).all():
        raise _unusable(column, values)
    return values


def _onehot(codes: NDArray[np.uint32], categories: int) -> NDArray[np.float32]:
    rows = np.zeros((len(codes), categories), dtype=np.float32)
    known = np.flatnonzero(codes)
    rows[known, codes[known] - 1] = 1.0
    return rows


def _unusable(column: pl.Series, values: NDArray[np.float32]) -> DataError:
    missing = column.null_count()
    if missing:
        return DataError(
            f"column {column.name!r} misses {missing} of {len(column)} values, and no step fills them",
            remedy="add vd.Impute() to prepare",
        )
    return DataError(
        f"column {column.name!r} holds {int(np.isinf(values).sum())} numbers that are infinite or beyond float32",
        remedy=f'quarantine them with the contract rule Between("{column.name}", ...), or scale them with vd.Scale()',
    )
