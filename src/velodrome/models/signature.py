"""The inputs of a model without a preparation, read off a frame as they are.

A number is a column of its name. A row of numbers, (k,), is a column of its name that holds lists or arrays of k numbers; a
model with that one input also takes a frame of exactly k columns, side by side in their order. So a network `forward(x)`
predicts from `{"x": array}` and from the table that the array was made of. Cost: a copy of the columns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from velodrome.core.errors import SchemaError, nearest
from velodrome.data.fields import Field

__all__ = ["read_inputs"]

_TYPES = {"float32": pl.Float32, "int64": pl.Int64}


def read_inputs(fields: Sequence[Field], frame: pl.DataFrame) -> dict[str, NDArray[Any]]:
    """The inputs by name, each of its field's dtype, (rows, *shape), contiguous.

    Raises:
        SchemaError: a column is missing, of another type or shape, or holds nulls or, for whole numbers, fractions.
    """
    return {field.name: _read(field, frame, alone=len(fields) == 1) for field in fields}


def _read(field: Field, frame: pl.DataFrame, *, alone: bool) -> NDArray[Any]:
    if field.name in frame.columns:
        return _column(field, field.name, frame[field.name], field.shape)
    if alone and len(field.shape) == 1 and frame.width == field.shape[0]:
        columns = [_column(field, name, frame[name], ()) for name in frame.columns]
        return np.ascontiguousarray(np.stack(columns, axis=1))
    whole = f", or exactly {field.shape[0]} columns of numbers" if alone and len(field.shape) == 1 else ""
    raise SchemaError(
        f"the model takes a column {field.name!r} ({_described(field)}){whole}",
        received=f"columns {', '.join(frame.columns) or 'none'}",
        remedy=nearest(field.name, frame.columns),
    )


def _column(field: Field, name: str, column: pl.Series, shape: tuple[int, ...]) -> NDArray[Any]:
    wanted: pl.DataType | type[pl.DataType] = pl.Array(_TYPES[field.dtype], shape) if shape else _TYPES[field.dtype]
    numbers = column.explode() if column.dtype == pl.List else column
    try:
        values = column.cast(wanted)
    except pl.exceptions.PolarsError as error:
        raise _unfit(field, name, column) from error
    array = np.ascontiguousarray(values.to_numpy())
    inner = column.dtype if not column.dtype.is_nested() else numbers.dtype if not numbers.dtype.is_nested() else _innermost(column.dtype)
    text = not (inner.is_numeric() or inner == pl.Boolean)
    if text or array.dtype != field.dtype or array.shape != (len(column), *shape) or _loses(field, column, array):
        raise _unfit(field, name, column)
    return array
