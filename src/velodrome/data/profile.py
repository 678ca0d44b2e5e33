"""Profiles and sketches: what a column looks like in a few numbers, and how its values are distributed. Both are made per
fragment and merged, so that old files are not read again.

Counts, extremes and values merge exactly, means and deviations up to rounding, sketches within the error that they state.
Sums are NumPy's, over the rows in their order, so that they do not depend on the number of threads. Cost: a few passes over
each column in memory, about 10 ns per number, and a sort of each for the sketches; a merge touches no rows.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.core.digest import Digest, decode
from velodrome.core.values import Record
from velodrome.data.schema import Column, schema_of
from velodrome.evaluation.sketches import (
    CATEGORIES,
    ColumnSketch,
    FrequencySketch,
    merge_columns,
    sketch_counts,
    sketch_numbers,
)
from velodrome.store.workspace import Workspace

__all__ = [
    "MOST_VALUES",
    "ColumnProfile",
    "Profile",
    "ValueCount",
    "merge_profiles",
    "merge_sketches",
    "profile_frame",
    "put_sketches",
    "read_sketches",
    "sketch_frame",
]

MOST_VALUES = 100
"""A column with more distinct values than this has no list of them."""

_PROBE = 10_000
_NUMBERS = ("int32", "int64", "float32", "float64")


class ValueCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value and the number of rows that have it."""

    value: str | int | bool
    rows: int


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column in numbers.

    Attributes:
        count: rows with a value that is finite; `nulls`: rows with null or NaN. Infinities are in neither.
        minimum, maximum: of the finite values; dates and datetimes as ISO 8601 text; None for text and booleans.
        mean, std: of the finite values, the latter with n in the denominator; of booleans the share that is true.
        values: each value of text, whole numbers and booleans, sorted; None where there are more than MOST_VALUES.
    """

    name: str
    dtype: str
    count: int
    nulls: int
    minimum: float | int | str | None = None
    maximum: float | int | str | None = None
    mean: float | None = None
    std: float | None = None
    values: tuple[ValueCount, ...] | None = None


class Profile(Record, frozen=True, kw_only=True, tag="profile", omit_defaults=True):
    """All columns of a snapshot in numbers.

    Attributes:
        sketches: see `read_sketches`; None in what was written before there were any, whose digest stays as it was.
    """

    columns: tuple[ColumnProfile, ...]
    sketches: Digest | None = None


class _Sketches(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The blob."""

    columns: tuple[ColumnSketch, ...]


def profile_frame(frame: pl.DataFrame) -> tuple[ColumnProfile, ...]:
    """The profile of each column, in the frame's order; its columns have the types of `schema`."""
    return tuple(_profile(frame[column.name], column.dtype) for column in schema_of(frame))


def merge_profiles(columns: Iterable[Column], parts: Sequence[tuple[ColumnProfile, ...]]) -> tuple[ColumnProfile, ...]:
    """The profile of several fragments together.

    Args:
        columns: names and types after `unify`, which is where the result's order and types come from.
        parts: the profile of each fragment, with these columns in any order; at least one.
    """
    by_name = [{part.name: part for part in profile} for profile in parts]
    return tuple(_merge(column, [profile[column.name] for profile in by_name]) for column in columns)


def sketch_frame(frame: pl.DataFrame) -> tuple[ColumnSketch, ...]:
    """The sketch of each column, in the frame's order; its columns have the types of `schema`."""
    return tuple(_sketch(frame[column.name], column.dtype) for column in schema_of(frame))


def merge_sketches(columns: Iterable[Column], parts: Sequence[tuple[ColumnSketch, ...]]) -> tuple[ColumnSketch, ...]:
    """The sketch of several fragments together; the arguments are those of `merge_profiles`."""
    by_name = [{part.name: part for part in sketches} for sketches in parts]
    merged = [(column, merge_columns([sketches[column.name] for sketches in by_name])) for column in columns]
    return tuple(msgspec.structs.replace(sketch, dtype=column.dtype) for column, sketch in merged)


def put_sketches(ws: Workspace, sketches: tuple[ColumnSketch, ...]) -> Digest:
    """Store sketches as a blob of canonical JSON, about 10 kB for each column of numbers."""
    # Every number in a sketch is finite and in the type of its field already: looking at each of them, as `canonical`
    # does, would take twenty times as long as the encoding.
    return ws.blobs.put(msgspec.json.encode(_Sketches(sketches), order="sorted")).digest


def read_sketches(ws: Workspace, digest: Digest) -> tuple[ColumnSketch, ...]:
    """The sketches of that blob."""
    return decode(ws.blobs.read(digest), _Sketches).columns


def _sketch(series: pl.Series, dtype: str) -> ColumnSketch:
    nulls, quantiles, frequencies = series.null_count(), None, None
    if dtype in _NUMBERS:
        finite, nulls = _numbers(series)
        quantiles = sketch_numbers(finite)
    elif dtype in ("string", "boolean"):
        frequencies = _frequencies(series.drop_nulls().cast(pl.String))
    return ColumnSketch(
        name=series.name, dtype=dtype, rows=len(series), nulls=nulls, quantiles=quantiles, frequencies=frequencies
    )


def _frequencies(present: pl.Series) -> FrequencySketch:
    counts = _counts(present)
    if counts.height > CATEGORIES:  # the others would not be kept; identifiers would be a million Python objects
        counts = counts.top_k(CATEGORIES + 1, by="rows")
    return sketch_counts(dict(counts.iter_rows()), len(present))


def _profile(series: pl.Series, dtype: str) -> ColumnProfile:
    present = series.drop_nulls()
    if series.dtype.is_numeric():
        return _of_numbers(series, present, dtype)
    mean = present.mean() if dtype == "boolean" else None
    low, high = (present.min(), present.max()) if dtype in ("date", "datetime") else (None, None)
    return ColumnProfile(
        name=series.name,
        dtype=dtype,
        count=len(present),
        nulls=series.null_count(),
        minimum=low.isoformat() if isinstance(low, date) else None,
        maximum=high.isoformat() if isinstance(high, date) else None,
        mean=mean if isinstance(mean, float) else None,
        values=_values(present),
    )


def _of_numbers(series: pl.Series, present: pl.Series, dtype: str) -> ColumnProfile:
    finite, nulls = _numbers(series)
    if not len(finite):
        return ColumnProfile(name=series.name, dtype=dtype, count=0, nulls=nulls, values=_values(present))
    with np.errstate(over="ignore", invalid="ignore"):
        mean = finite.mean(dtype=np.float64)
        std = np.sqrt(np.square(finite - mean).mean())
    return ColumnProfile(
        name=series.name,
        dtype=dtype,
        count=len(finite),
        nulls=nulls,
        minimum=finite.min().item(),
        maximum=finite.max().item(),
        mean=_finite(mean),
        std=_finite(std),
        values=_values(present),
    )


def _values(present: pl.Series) -> tuple[ValueCount, ...] | None:
    """The distinct values of a column of text, whole numbers or booleans, unless they are many or of another type."""
    if not (present.dtype.is_integer() or present.dtype in (pl.String, pl.Boolean)):
        return None
    if present.head(_PROBE).n_unique() > MOST_VALUES:  # as good as always: spares the count of identifiers
        return None
    return _listed(dict(_counts(present).iter_rows()))


def _numbers(series: pl.Series) -> tuple[npt.NDArray[Any], int]:
    """The finite values of a column of numbers, and how many are null or NaN."""
    numbers = series.drop_nulls().to_numpy()
    if series.dtype.is_integer():
        return numbers, series.null_count()
    finite = np.isfinite(numbers)
    if finite.all():  # spares a copy of the column
        return numbers, series.null_count()
    return numbers[finite], series.null_count() + int(np.isnan(numbers).sum())


def _counts(present: pl.Series) -> pl.DataFrame:
    """The columns value and rows: how many rows have each value."""
    return present.rename("value").value_counts(name="rows")


def _listed(counts: dict[str | int | bool, int]) -> tuple[ValueCount, ...] | None:
    return tuple(ValueCount(value, counts[value]) for value in sorted(counts)) if len(counts) <= MOST_VALUES else None


def _merge(column: Column, parts: Sequence[ColumnProfile]) -> ColumnProfile:
    full = [part for part in parts if part.count]
    mean, std = _moments(full)
    return ColumnProfile(
        name=column.name,
        dtype=column.dtype,
        count=sum(part.count for part in parts),
        nulls=sum(part.nulls for part in parts),
        minimum=min((_as(column.dtype, part.minimum) for part in full if part.minimum is not None), default=None),
        maximum=max((_as(column.dtype, part.maximum) for part in full if part.maximum is not None), default=None),
        mean=mean,
        std=std,
        values=_merged_values(column.dtype, parts),
    )


def _moments(parts: Sequence[ColumnProfile]) -> tuple[float | None, float | None]:
    count = sum(part.count for part in parts)
    if not count or any(part.mean is None for part in parts):
        return None, None
    mean = _sum(part.count * (part.mean or 0.0) for part in parts)
    if mean is None:
        return None, None
    mean /= count
    if any(part.std is None for part in parts):
        return mean, None
    squares = _sum(part.count * ((part.std or 0.0) ** 2 + ((part.mean or 0.0) - mean) ** 2) for part in parts)
    return mean, None if squares is None else math.sqrt(squares / count)


def _sum(terms: Iterable[float]) -> float | None:
    """The sum, or None where it is beyond what a float64 holds."""
    try:
        return _finite(math.fsum(terms))
    except (OverflowError, ValueError):  # a sum, a square; infinities of both signs
        return None


def _as(dtype: str, bound: float | str) -> Any:
    """An extreme of one fragment in the type that the column has in all of them."""
    if dtype == "datetime":
        return datetime.fromisoformat(str(bound)).isoformat()
    return float(bound) if dtype in ("float32", "float64") else bound


def _merged_values(dtype: str, parts: Sequence[ColumnProfile]) -> tuple[ValueCount, ...] | None:
    if dtype in ("float32", "float64", "date", "datetime"):
        return None
    counts: Counter[str | int | bool] = Counter()
    for part in parts:
        if part.values is None:
            return None
        counts.update({item.value: item.rows for item in part.values})
    return _listed(counts)


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
