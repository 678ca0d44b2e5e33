"""Splits: which rows train, validate and test, as pure functions of each row's key or time. Nothing is stored.

A random split looks at a row's key alone: the row keeps its part when others come, go or change places. A time split counts
back from the newest row. Cost: a few nanoseconds per row.
"""

from datetime import timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from velodrome.core.counter import derive_seed, uniform
from velodrome.core.errors import DataError, RecipeError, SplitError
from velodrome.core.units import parse_duration
from velodrome.core.values import Value

__all__ = ["TEST", "TRAIN", "UNUSED", "VALIDATION", "RandomSplit", "TimeSplit", "assign"]

TRAIN: Final = 0
VALIDATION: Final = 1
TEST: Final = 2
UNUSED: Final = 3
"""Rows older than the training window of a TimeSplit."""

_STREAM = 0x5B117
_NAMES = {TRAIN: "training", VALIDATION: "validation", TEST: "test"}


class RandomSplit(Value, frozen=True, tag="random_split"):
    """Shares of the rows, in expectation; the rest trains. Rows with equal keys are always in the same part."""

    validation: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            raise RecipeError(
                "the shares of a RandomSplit are above 0, and together below 1",
                received=f"validation={self.validation}, test={self.test}",
            )


class TimeSplit(Value, frozen=True, tag="time_split"):
    """Windows that end at the newest row, as durations: the newest rows test, those before validate, those before train.

    With n the newest time, a row at t is in the test part if t > n - test, in the validation part if it is not and
    t > n - test - validation, and trains if it is in neither and, where `train` is given, t > n - test - validation - train.
    """

    validation: str
    test: str
    train: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, text in (("validation", self.validation), ("test", self.test), ("train", self.train)):
            if text is not None and parse_duration(text) <= timedelta(0):
                raise RecipeError(
                    f"the {name} window of a TimeSplit has a length", received=text, remedy="write for example '7d'"
                )


def assign(
    split: RandomSplit | TimeSplit,
    *,
    keys: npt.NDArray[np.uint64],
    times: npt.NDArray[np.datetime64] | npt.NDArray[np.int64] | None,
    seed: int,
) -> npt.NDArray[np.uint8]:
    """The part of each row, uint8 (rows,): TRAIN, VALIDATION, TEST or UNUSED.

    Args:
        keys: uint64 (rows,), see `snapshots.row_keys`; only a RandomSplit looks at them, and at the seed.
        times: datetime64 of any unit, or int64 microseconds, (rows,); only a TimeSplit looks at them.

    Raises:
        DataError: a TimeSplit without times, or with a missing one.
        SplitError: no row trains, validates or tests.
    """
    if isinstance(split, RandomSplit):
        parts = _by_key(split, keys, seed)
        bounds = {VALIDATION: f"a share of {split.validation}", TEST: f"a share of {split.test}", TRAIN: "the rest"}
    else:
        moments = _microseconds(times)
        newest = int(moments.max()) if len(moments) else 0
        parts = _by_time(split, moments, newest)
        bounds = _windows(split, newest)
    for part, name in _NAMES.items():
        if not np.any(parts == part):
            raise SplitError(
                f"the {name} part has no rows", received=f"{bounds[part]}, of {len(parts)} rows", remedy=_remedy(split)
            )
    return parts


def _by_key(split: RandomSplit, keys: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint8]:
    place = uniform(keys, derive_seed(seed, _STREAM))
    return np.where(
        place < split.test, TEST, np.where(place < split.test + split.validation, VALIDATION, TRAIN)
    ).astype(np.uint8)


def _by_time(split: TimeSplit, moments: npt.NDArray[np.int64], newest: int) -> npt.NDArray[np.uint8]:
    test, validation, train = _starts(split, newest)
    parts = np.full(len(moments), TRAIN, dtype=np.uint8)
    parts[moments > validation] = VALIDATION
    parts[moments > test] = TEST
    if train is not None:
        parts[moments <= train] = UNUSED
    return parts


def _starts(split: TimeSplit, newest: int) -> tuple[int, int, int | None]:
    """Where the test, validation and training windows begin, in microseconds, each just before its first row."""
    test = newest - _length(split.test)
    validation = test - _length(split.validation)
    return test, validation, None if split.train is None else validation - _length(split.train)


def _length(duration: str) -> int:
    return parse_duration(duration) // timedelta(microseconds=1)


def _windows(split: TimeSplit, newest: int) -> dict[int, str]:
    test, validation, train = _starts(split, newest)
    return {
        TEST: f"after {_shown(test)} up to {_shown(newest)}",
        VALIDATION: f"after {_shown(validation)} up to {_shown(test)}",
        TRAIN: f"{'' if train is None else f'after {_shown(train)} '}up to {_shown(validation)}",
    }


def _shown(moment: int) -> str:
    return str(np.datetime64(moment, "us").astype("datetime64[s]")).replace("T", " ")


def _microseconds(times: npt.NDArray[np.datetime64] | npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    if times is None:
        raise DataError(
            "a TimeSplit needs the time of each row", remedy="name its column: vd.Dataset(..., time='scheduled')"
        )
    if times.dtype.kind != "M":
        return times.astype(np.int64)
    missing = int(np.isnat(times).sum())
    if missing:
        raise DataError(
            "a TimeSplit needs the time of each row",
            received=f"{missing} of {len(times)} rows have none",
            remedy="keep such rows out with vd.NotNull on the time column",
        )
    return times.astype("datetime64[us]").astype(np.int64)


def _remedy(split: RandomSplit | TimeSplit) -> str:
    return (
        "take larger shares, or more rows" if isinstance(split, RandomSplit) else "take other durations, or more rows"
    )
