"""`Field`: one named array of what a model receives, and the signature that `network(inputs)` is built from.

A field is what is left of the data once the transforms have run: float32 numbers (one per row, or a one-hot row of
them) or int64 codes. Nothing here touches an array; the cost is that of a handful of small values.
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

__all__ = ["Field", "as_json", "rows_within", "width"]

_BYTES = {"float32": 4, "int64": 8, "uint8": 1}


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array of a model's input.

    Attributes:
        name: the name under which `forward` receives it.
        dtype: "float32" for numbers and one-hot rows, "int64" for codes.
        shape: the shape of one row: () for one number or code, (k,) for a one-hot row.
        cardinality: for codes, how many there are: they lie in 0 .. cardinality - 1; 0 stands for unknown or missing.
    """

    name: str
    dtype: Literal["float32", "int64", "uint8"]
    shape: tuple[int, ...] = ()
    cardinality: int | None = None


def as_json(fields: Iterable[Field]) -> list[dict[str, Any]]:
    """The fields as plain JSON values, in their order: what `network(inputs)` receives.

    >>> as_json([Field("carrier", "int64", cardinality=17)])
    [{'name': 'carrier', 'dtype': 'int64', 'shape': [], 'cardinality': 17}]
    """
    plain: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(list(fields)))
    return plain


def rows_within(fields: Iterable[Field], size: int) -> int:
    """How many rows take `size` bytes at most; one at least.

    >>> rows_within([Field("image", "float32", shape=(3, 8, 8))], 1 << 20)
    1365
    """
    row = sum(width(field) * _BYTES[field.dtype] for field in fields)
    return max(1, size // max(1, row))


def width(field: Field) -> int:
    """How many columns one row of the field takes: 1 for a number or code, k for a one-hot row."""
    columns = 1
    for size in field.shape:
        columns *= size
    return columns
