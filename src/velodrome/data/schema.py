"""The eight types that a column of a snapshot can have, and how columns of several files become one.

Files bring dozens of types; a snapshot knows eight, by names that do not change with a library. A column without a single
value has the type "null" in its fragment and takes the type that the other files give it. Cost: nothing that grows with rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

import msgspec
import polars as pl

from velodrome.core.errors import SchemaError, nearest

__all__ = ["DTYPES", "Column", "DtypeName", "in_types", "require_column", "schema_of", "stored_as", "unify"]

DtypeName: TypeAlias = Literal["int32", "int64", "float32", "float64", "string", "boolean", "date", "datetime"]

DTYPES: Mapping[str, pl.DataType] = {
    "int32": pl.Int32(),
    "int64": pl.Int64(),
    "float32": pl.Float32(),
    "float64": pl.Float64(),
    "string": pl.String(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "datetime": pl.Datetime("us"),
}
"""Name → Polars type. A datetime is in microseconds and has no zone: what had one is in UTC."""

_WIDER = {
    frozenset({"int32", "int64"}): "int64",
    frozenset({"int32", "float32"}): "float64",
    frozenset({"int32", "float64"}): "float64",
    frozenset({"int64", "float32"}): "float64",
    frozenset({"int64", "float64"}): "float64",
    frozenset({"float32", "float64"}): "float64",
    frozenset({"date", "datetime"}): "datetime",
}


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column's name and type: a DtypeName, or "null" for a fragment's column without values."""

    name: str
    dtype: str


def stored_as(dtype: pl.DataType) -> DtypeName | None:
    """The type that a snapshot keeps a column of `dtype` in, or None if it keeps no such columns (lists, structs, bytes).

    Small integers become int32, other integers int64, decimals float64, categories and times of day text.

    >>> stored_as(pl.UInt8()), stored_as(pl.Datetime("ns", "UTC")), stored_as(pl.List(pl.Int8))
    ('int32', 'datetime', None)
    """
    if dtype.is_integer():
        return "int32" if dtype in (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16) else "int64"
    if dtype.is_numeric():
        return "float32" if dtype in (pl.Float16, pl.Float32) else "float64"
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Time, pl.Null):
        return "string"
    if dtype == pl.Boolean:
        return "boolean"
    return "date" if dtype == pl.Date else "datetime" if dtype == pl.Datetime else None


def schema_of(frame: pl.DataFrame) -> tuple[Column, ...]:
    """The columns of a frame that has only the eight types; those without a value are "null"."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    return tuple(
        Column(column.name, "null" if column.null_count() == len(column) else names[column.dtype])
        for column in frame.iter_columns()
    )


def in_types(columns: Iterable[Column], own: Iterable[Column]) -> Iterator[pl.Expr]:
    """Expressions for `columns`, of a frame that has them in the types of its `own`, which `unify` has seen."""
    empty = {column.name for column in own if column.dtype == "null"}
    for column in columns:
        value, dtype = pl.col(column.name), DTYPES[column.dtype]
        nothing = pl.when(value.is_null()).then(pl.lit(None, dtype))  # as long as the column, which a literal is not
        yield (nothing if column.name in empty else value.cast(dtype)).alias(column.name)


def require_column(name: str, known: Iterable[str], asked_by: str) -> None:
    """Refuse a name that is no column.

    Raises:
        SchemaError: says who asked, and names the nearest column.
    """
    names = list(known)
    if name not in names:
        raise SchemaError(
            f"{asked_by} names a column that the data does not have", received=name, remedy=nearest(name, names)
        )


def unify(parts: Iterable[tuple[str, tuple[Column, ...]]]) -> tuple[Column, ...]:
    """The columns of all parts together, in the order of the first: the narrowest type that holds every part's values.

    Args:
        parts: the name of each file with its columns; at least one.

    Raises:
        SchemaError: a column is missing in one file, or has types that have no common one; the files are named.
    """
    (first, columns), *others = parts
    merged = {column.name: column.dtype for column in columns}
    source = dict.fromkeys(merged, first)
    for file, here in others:
        _require_same_names(first, merged, file, [column.name for column in here])
        for column in here:
            known = merged[column.name]
            wider = _wider(known, column.dtype)
            if wider is None:
                raise SchemaError(
                    f"the column {column.name!r} has different types in two files",
                    received=f"{known} in {source[column.name]}, {column.dtype} in {file}",
                    remedy=f"name its type in the contract: vd.Types({{{column.name!r}: ...}})",
                )
            if wider != known:
                merged[column.name], source[column.name] = wider, file
    return tuple(Column(name, "string" if dtype == "null" else dtype) for name, dtype in merged.items())


def _require_same_names(first: str, merged: Mapping[str, str], file: str, names: list[str]) -> None:
    missing, other = [name for name in merged if name not in names], [name for name in names if name not in merged]
    if not missing and not other:
        return
    here, there, name = (file, first, missing[0]) if missing else (first, file, other[0])
    told = {f"{file} lacks": missing, f"{first} lacks": other}
    raise SchemaError(
        f"{here} has no column {name!r}, which {there} has",
        received="; ".join(f"{what} {', '.join(columns)}" for what, columns in told.items() if columns),
        remedy="the files of a dataset have the same columns: mend the file, or narrow the glob",
    )


def _wider(one: str, other: str) -> str | None:
    if other in (one, "null"):
        return one
    return other if one == "null" else _WIDER.get(frozenset({one, other}))
