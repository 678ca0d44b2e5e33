"""Profiles: what a column looks like in a few numbers, made per fragment and merged, so that old files are not read again.

Counts, extremes and values merge exactly. Means and deviations merge by the formula of Chan, Golub and LeVeque ("Updating
formulae and a pairwise algorithm for computing sample variances", 1979). Sums are NumPy's, over the rows in their order, so
that they do not depend on the number of threads. Cost: a few passes over each column in memory, about 10 ns per number.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime

import msgspec
import numpy as np
import polars as pl

from velodrome.core.values import Record
from velodrome.data.schema import Column, schema_of

__all__ = ["MOST_VALUES", "ColumnProfile", "Profile", "ValueCount", "merge_profiles", "profile_frame"]

MOST_VALUES = 100
"""A column with more distinct values than this has no list of them."""

Scalar = str | int | float | bool


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


class Profile(Record, frozen=True, kw_only=True, tag="profile"):
    """All columns of a snapshot in numbers."""

    columns: tuple[ColumnProfile, ...]


def profile_frame(frame: pl.DataFrame) -> tuple[ColumnProfile, ...]:
    """The profile of each column, in the frame's order; its columns have the types of `schema`."""
    return tuple(_profile(frame[column.name], column.dtype) for column in schema_of(frame))
