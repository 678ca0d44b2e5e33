"""The inputs of a model without a preparation, read off a frame as they are.

A number is a column of its name. A row of numbers, (k,), is a column of its name that holds lists or arrays of k numbers; a
model with that one input also takes a frame of exactly k columns, side by side in their order. So a network `forward(x)`
predicts from `{"x": array}` and from the table that the array was made of. What has more dimensions, (channels, height, width),
say, comes as an array by its name, or as a column of nested lists. Cost: a copy of the columns.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from velodrome.core.errors import SchemaError, nearest
from velodrome.data.fields import Field

__all__ = ["read_inputs"]

_SHOWN = 100


def read_inputs(fields: Sequence[Field], frame: pl.DataFrame) -> dict[str, NDArray[Any]]:
    """The inputs by name, each of its field's dtype, (rows, *shape), contiguous.

    Raises:
        SchemaError: a column is missing, of another type or shape, or holds a value that is missing or not finite, or is
            not whole where codes are meant.
    """
    return {field.name: _read(field, frame, alone=len(fields) == 1) for field in fields}


def _read(field: Field, frame: pl.DataFrame, *, alone: bool) -> NDArray[Any]:
    if field.name in frame.columns:
        return _column(field, frame[field.name], field.shape)
    spread = alone and len(field.shape) == 1
    if spread and frame.width == field.shape[0]:
        return np.stack([_column(field, column, ()) for column in frame], axis=1)
    raise SchemaError(
        f"the model takes a column {field.name!r} of {_described(field)}{f', or a frame of {field.shape[0]} columns' if spread else ''}",
        received=f"columns {', '.join(frame.columns) or 'none'}",
        remedy=_by_name(field) if field.shape else nearest(field.name, frame.columns),
    )


def _column(field: Field, column: pl.Series, shape: tuple[int, ...]) -> NDArray[Any]:
    leaf = _leaf(column.dtype)
    if not (leaf.is_numeric() or leaf == pl.Boolean):
        raise _unfit(field, column)
    try:
        given = (column.cast(pl.Array(leaf, shape)) if shape else column).to_numpy()
    except pl.exceptions.PolarsError as error:
        raise _unfit(field, column) from error
    with np.errstate(invalid="ignore", over="ignore"):  # judged by their results
        values = np.ascontiguousarray(given, dtype=field.dtype) if given.dtype != object else np.empty(0, field.dtype)
    whole = field.dtype == "float32" or np.array_equal(values, given)
    if values.shape != (len(column), *shape) or not whole or not np.isfinite(values).all():
        raise _unfit(field, column)
    return values


def _leaf(dtype: pl.DataType) -> pl.DataType:
    """The type inside lists and arrays."""
    while isinstance(dtype, pl.List | pl.Array):
        dtype = cast("pl.DataType", dtype.inner)
    return dtype


def _described(field: Field) -> str:
    kind = "whole numbers" if field.dtype == "int64" else "numbers"
    return f"{kind}, {' x '.join(map(str, field.shape))} in a row" if field.shape else kind


def _unfit(field: Field, column: pl.Series) -> SchemaError:
    return SchemaError(
        f"column {column.name!r} cannot be the input {field.name!r}, which takes {_described(field)}, none missing and all finite",
        received=f"{column.dtype}, beginning with {str(column.head(3).to_list())[:_SHOWN]}",
        remedy=_by_name(field) if field.shape else "cast the column, and fill what is missing",
    )


def _by_name(field: Field) -> str:
    """How to give what no CSV file can hold."""
    shape = ", ".join(map(str, ("rows", *field.shape)))
    return f"give an array ({shape}) by its name, in Python: vd.load(...).predict({{{field.name!r}: array}})"
