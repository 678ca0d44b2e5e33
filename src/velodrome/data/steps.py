"""The steps of a preparation: what a user declares (`Impute`, `Scale`, `Encode`, `Calendar`) and what fitting makes.

A declared step is a value of the recipe; `fit` looks at the training rows and returns its fitted twin, which holds
plain numbers and strings only and travels with the model as JSON. `apply` is Polars expressions over those
parameters, row by row independent: one row and a million give the same bits, and another implementation (a compiled
one, for single rows) needs nothing but the parameters.

Between steps a column is of one of four kinds, told by its dtype: a number (float64, int64), text (string), time
(date, datetime), or a code (uint32, what `Encode` leaves). Steps run in the order in which they are listed.
Fitting is deterministic: the same rows in the same order give the same bits. Cost: a sort per imputed or encoded
column, two passes per scaled one.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from velodrome.core.errors import DataError, RecipeError, nearest
from velodrome.core.values import Value

__all__ = [
    "MAXIMUM_ONEHOT",
    "Calendar",
    "CalendarFitted",
    "Encode",
    "EncodeFitted",
    "Encoding",
    "FittedStep",
    "Impute",
    "ImputeFitted",
    "Scale",
    "ScaleFitted",
    "Step",
]

Encoding: TypeAlias = Literal["codes", "onehot"]

MAXIMUM_ONEHOT = 1000
"""More categories than this are refused as one-hot columns: they would fill the memory and teach little."""


class _Fitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    pass


class ImputeFitted(_Fitted, frozen=True, tag="impute"):
    """Attributes: the value that stands for a missing one, by column; and the columns that get a `<column>_missing`."""

    numbers: dict[str, float]
    texts: dict[str, str]
    indicators: tuple[str, ...]

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        flags = [pl.col(name).is_null().cast(pl.Float64).alias(_indicator(name)) for name in self.indicators]
        numbers = [
            pl.col(name).cast(pl.Float64).fill_null(pl.lit(value, pl.Float64)) for name, value in self.numbers.items()
        ]
        texts = [pl.col(name).fill_null(pl.lit(value)) for name, value in self.texts.items()]
        return frame.with_columns(*flags, *numbers, *texts)


class ScaleFitted(_Fitted, frozen=True, tag="scale"):
    """Attributes: mean and standard deviation (1 where a column is constant), by column."""

    means: dict[str, float]
    deviations: dict[str, float]

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(
            (pl.col(name).cast(pl.Float64) - mean) / self.deviations[name] for name, mean in self.means.items()
        )


class EncodeFitted(_Fitted, frozen=True, tag="encode"):
    """Attributes: the categories by column, in the order of their codes 1, 2, ...; 0 is unknown or missing."""

    categories: dict[str, tuple[str, ...]]
    to: Encoding

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(_code(name, categories) for name, categories in self.categories.items())


class CalendarFitted(_Fitted, frozen=True, tag="calendar"):
    """Attributes: the first day seen, in days since 1970-01-01, by column; and the columns that have an hour."""

    first_days: dict[str, int]
    hours: tuple[str, ...]

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(self.parts()).drop(self.first_days)

    def parts(self) -> list[pl.Expr]:
        """The new columns, int64: `<column>_day` (since the first), `_month`, `_weekday` (Monday is 1), `_hour`."""
        parts = []
        for name, first in self.first_days.items():
            time = pl.col(name)
            parts.append((time.cast(pl.Date).cast(pl.Int64) - first).alias(f"{name}_day"))
            parts.append(time.dt.month().cast(pl.Int64).alias(f"{name}_month"))
            parts.append(time.dt.weekday().cast(pl.Int64).alias(f"{name}_weekday"))
        return parts + [pl.col(name).dt.hour().cast(pl.Int64).alias(f"{name}_hour") for name in self.hours]


FittedStep: TypeAlias = ImputeFitted | ScaleFitted | EncodeFitted | CalendarFitted


class Impute(Value, frozen=True, tag="impute"):
    """Fill missing values: in numbers the median, the mean or a value of one's own, in text the most frequent value.

    Attributes:
        columns: which; None takes every column of numbers or text at this place of the list.
        numeric: what stands for a missing number.
        categorical: for missing text: "most_frequent" (of several the first in order), or text of one's own.
        indicator: add a column `<column>_missing` of 0 and 1 for each column that misses values in the training rows.
    """

    columns: Sequence[str] | None = None
    numeric: Literal["median", "mean"] | float = "median"
    categorical: str = "most_frequent"
    indicator: bool = False

    def fit(self, frame: pl.DataFrame, encoding: Encoding) -> ImputeFitted:
        numbers, texts = {}, {}
        for name in _chosen("Impute", self.columns, frame, _is_fillable):
            if _is_number(frame.schema[name]):
                numbers[name] = self._number(frame[name])
            else:
                texts[name] = _most_frequent(frame[name]) if self.categorical == "most_frequent" else self.categorical
        missing = [name for name in (*numbers, *texts) if self.indicator and frame[name].null_count()]
        _refuse_taken("Impute", map(_indicator, missing), frame)
        return ImputeFitted(numbers, texts, tuple(missing))

    def _number(self, column: pl.Series) -> float:
        if not isinstance(self.numeric, str):
            return self.numeric
        values = _values(column)
        return _finite(column.name, float(np.median(values) if self.numeric == "median" else np.mean(values)))


class Scale(Value, frozen=True, tag="scale"):
    """Bring numbers to mean 0 and standard deviation 1 over the training rows; missing ones stay missing.

    Attributes:
        columns: which; None takes every column of numbers at this place of the list.
    """

    columns: Sequence[str] | None = None

    def fit(self, frame: pl.DataFrame, encoding: Encoding) -> ScaleFitted:
        means, deviations = {}, {}
        for name in _chosen("Scale", self.columns, frame, _is_number):
            values = _values(frame[name])
            means[name] = _finite(name, float(np.mean(values)))
            deviations[name] = _finite(name, float(np.std(values))) if values.min() < values.max() else 1.0
        return ScaleFitted(means, deviations)


class Encode(Value, frozen=True, tag="encode"):
    """Turn categories into codes or one-hot columns; what is missing or was not seen in training is 0 (all zeros).

    Attributes:
        columns: which, of text or whole numbers; None takes every column of text at this place of the list.
        to: "auto" gives codes to networks and trees, one-hot columns to linear estimators.
        minimum_count: categories in fewer training rows count as unknown.
    """

    columns: Sequence[str] | None = None
    to: Literal["auto", "codes", "onehot"] = "auto"
    minimum_count: int = 1

    def fit(self, frame: pl.DataFrame, encoding: Encoding) -> EncodeFitted:
        chosen = _chosen("Encode", self.columns, frame, _is_text if self.columns is None else _is_category)
        to = encoding if self.to == "auto" else self.to
        categories = {name: self._categories(frame[name]) for name in chosen}
        for name, known in categories.items():
            if to == "onehot" and len(known) > MAXIMUM_ONEHOT:
                raise DataError(
                    f"column {name!r} has {len(known)} categories; one-hot columns are for {MAXIMUM_ONEHOT} at most",
                    remedy='leave the column out, keep frequent ones only: vd.Encode(minimum_count=...), or to="codes"',
                )
        return EncodeFitted(categories, to)

    def _categories(self, column: pl.Series) -> tuple[str, ...]:
        kept = _counts(column).filter(pl.col("rows") >= self.minimum_count)["value"].sort().cast(pl.String)
        if kept.is_empty():
            raise DataError(
                f"column {column.name!r} has no category in {self.minimum_count} or more training rows",
                remedy="leave the column out of the features",
            )
        return tuple(kept.to_list())


class Calendar(Value, frozen=True, tag="calendar"):
    """Turn dates and times into whole numbers: days since the first seen, month, weekday (Monday is 1), hour of times.

    Attributes:
        columns: which; None takes every column of dates or times at this place of the list.
    """

    columns: Sequence[str] | None = None

    def fit(self, frame: pl.DataFrame, encoding: Encoding) -> CalendarFitted:
        chosen = _chosen("Calendar", self.columns, frame, _is_time)
        first_days = {}
        for name in chosen:
            days = _values(frame[name].cast(pl.Date).cast(pl.Int64))
            first_days[name] = int(days.min())
        fitted = CalendarFitted(first_days, tuple(name for name in chosen if frame.schema[name] != pl.Date))
        _refuse_taken("Calendar", (part.meta.output_name() for part in fitted.parts()), frame)
        return fitted


Step: TypeAlias = Impute | Scale | Encode | Calendar


def _chosen(
    step: str, columns: Sequence[str] | None, frame: pl.DataFrame, fits: Callable[[pl.DataType], bool]
) -> list[str]:
    """The columns that a step works on: those named, which must fit, or all that do."""
    if columns is None:
        return [name for name, dtype in frame.schema.items() if fits(dtype)]
    for name in columns:
        if name not in frame.columns:
            raise RecipeError(
                f"{step} names a column that is not there at its place in prepare",
                received=name,
                remedy=nearest(name, frame.columns),
            )
        if not fits(frame.schema[name]):
            raise RecipeError(
                f"{step} cannot work on column {name!r}",
                received=f"{name!r} holds {_describe(frame.schema[name])} at this place in prepare",
                remedy="encode text and whole numbers, before scaling; scale numbers; put vd.Calendar() before both",
            )
    return list(dict.fromkeys(columns))


def _is_number(dtype: pl.DataType) -> bool:
    return dtype in (pl.Float64, pl.Int64)


def _is_text(dtype: pl.DataType) -> bool:
    return dtype == pl.String


def _is_time(dtype: pl.DataType) -> bool:
    return dtype in (pl.Date, pl.Datetime)


def _is_category(dtype: pl.DataType) -> bool:
    return dtype in (pl.String, pl.Int64)


def _is_fillable(dtype: pl.DataType) -> bool:
    return _is_number(dtype) or _is_text(dtype)


def _describe(dtype: pl.DataType) -> str:
    names = {pl.Int64: "whole numbers", pl.Float64: "real numbers", pl.String: "text", pl.UInt32: "codes"}
    return next((text for kind, text in names.items() if dtype == kind), "times")


def _values(column: pl.Series) -> NDArray[np.float64]:
    """What is there of a column of numbers, float64, in one piece: a sum must not depend on the frame's chunks."""
    values = column.drop_nulls().cast(pl.Float64).to_numpy()
    if not len(values):
        raise DataError(
            f"column {column.name!r} holds no value in the training rows", remedy="leave the column out of the features"
        )
    return np.ascontiguousarray(values)


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise DataError(
            f"column {name!r} holds numbers that are infinite or nearly so",
            remedy=f'quarantine them with the contract rule Between("{name}", ...)',
        )
    return value


def _most_frequent(column: pl.Series) -> str:
    counts = _counts(column)
    if counts.is_empty():
        raise DataError(
            f"column {column.name!r} holds no value in the training rows", remedy="leave the column out of the features"
        )
    return str(counts.sort("rows", "value", descending=[True, False])["value"][0])


def _counts(column: pl.Series) -> pl.DataFrame:
    return column.drop_nulls().alias("value").value_counts(name="rows")


def _code(name: str, categories: tuple[str, ...]) -> pl.Expr:
    # A cast to an Enum is a dictionary look-up, an order of magnitude quicker on one row than `replace_strict`.
    # Its codes may be eight bits wide, so they are widened before one is added.
    position = pl.col(name).cast(pl.String).cast(pl.Enum(categories), strict=False).to_physical().cast(pl.UInt32)
    return (position + 1).fill_null(0)


def _indicator(name: str) -> str:
    return f"{name}_missing"


def _refuse_taken(step: str, names: Iterable[str], frame: pl.DataFrame) -> None:
    for name in names:
        if name in frame.columns:
            raise RecipeError(
                f"{step} would make a column that is there already",
                received=name,
                remedy="rename that column in the data, or leave it out",
            )
