import hashlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import ConfigurationError, DataError, RecipeError, SplitError
from velodrome.data.splits import TEST, TRAIN, UNUSED, VALIDATION, RandomSplit, TimeSplit, assign

DAY = 86_400_000_000
PARTS_GOLDEN = "2d332625dcf40507"
SEEDS = st.integers(-(2**70), 2**70)


def keys(count: int, start: int = 0) -> npt.NDArray[np.uint64]:
    return np.arange(start, start + count, dtype=np.uint64)


def by_key(split: RandomSplit, rows: npt.NDArray[np.uint64], seed: int = 0) -> npt.NDArray[np.uint8]:
    return assign(split, keys=rows, times=None, seed=seed)


def by_time(split: TimeSplit, times: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    return assign(split, keys=keys(len(times)), times=times, seed=0)


@given(SEEDS, st.permutations(range(200)), st.integers(100, 200))
def test_the_part_of_a_row_depends_on_its_key_and_the_seed_alone(seed: int, order: list[int], kept: int) -> None:
    split, rows = RandomSplit(0.3, 0.3), keys(200)
    parts = by_key(split, rows, seed)
    assert np.array_equal(by_key(split, rows[order], seed), parts[order])
    assert np.array_equal(by_key(split, rows[:kept], seed), parts[:kept])
    assert np.array_equal(by_key(split, np.repeat(rows, 2), seed), np.repeat(parts, 2))


@given(SEEDS, st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_shares_are_as_asked_and_no_row_is_in_two_parts(seed: int, validation: float, test: float) -> None:
    parts = by_key(RandomSplit(validation, test), keys(20_000), seed)
    for part, share in ((VALIDATION, validation), (TEST, test), (TRAIN, 1 - validation - test)):
        assert abs(np.mean(parts == part) - share) < 0.02
    assert parts.dtype == np.uint8
    assert set(np.unique(parts)) == {TRAIN, VALIDATION, TEST}


def test_another_seed_is_another_split() -> None:
    assert not np.array_equal(by_key(RandomSplit(), keys(1000), 1), by_key(RandomSplit(), keys(1000), 2))


def test_a_larger_test_share_keeps_the_rows_of_the_smaller() -> None:
    small, large = (by_key(RandomSplit(0.1, test), keys(5000)) for test in (0.2, 0.3))
    assert np.all(large[small == TEST] == TEST)


def test_parts_never_change() -> None:
    parts = by_key(RandomSplit(), keys(10_000), seed=7)
    assert hashlib.sha256(parts.tobytes()).hexdigest()[:16] == PARTS_GOLDEN


@given(st.lists(st.integers(0, 60 * DAY)), st.none() | st.integers(1, 30))
def test_windows_count_back_from_the_newest_row(days: list[int], train: int | None) -> None:
    times = np.array([*days, 60 * DAY, 46 * DAY, 39 * DAY])  # so that no part is empty
    age = times.max() - times
    expected = np.where(age < 14 * DAY, TEST, np.where(age < 21 * DAY, VALIDATION, TRAIN))
    if train is not None:
        expected[age >= (21 + train) * DAY] = UNUSED
    split = TimeSplit("7d", "14d", None if train is None else f"{train}d")
    parts = by_time(split, times)
    assert np.array_equal(parts, expected)
    assert np.array_equal(by_time(split, times[::-1]), parts[::-1])


def test_a_row_on_a_border_is_in_the_older_part() -> None:
    times = np.array([0, 1, 2, 3]) * DAY
    assert by_time(TimeSplit("1d", "1d"), times).tolist() == [TRAIN, TRAIN, VALIDATION, TEST]
    assert by_time(TimeSplit("1d", "1d", train="1d"), times).tolist() == [UNUSED, TRAIN, VALIDATION, TEST]


@pytest.mark.parametrize("unit", ["D", "s", "ms", "us", "ns"])
def test_times_of_any_unit(unit: str) -> None:
    times = np.array(["2013-01-01", "2013-01-09", "2013-01-10"], dtype=f"datetime64[{unit}]")
    parts = assign(TimeSplit("1d", "1d"), keys=keys(3), times=times, seed=0)
    assert parts.tolist() == [TRAIN, VALIDATION, TEST]


def test_a_missing_time_is_refused_with_the_count() -> None:
    times = np.array(["2013-01-01", "NaT"], dtype="datetime64[us]")
    with pytest.raises(DataError, match="1 of 2 rows"):
        assign(TimeSplit("1d", "1d"), keys=keys(2), times=times, seed=0)
    with pytest.raises(DataError, match="needs the time"):
        assign(TimeSplit("1d", "1d"), keys=keys(2), times=None, seed=0)


def test_an_empty_part_is_named_with_its_bounds_and_the_rows() -> None:
    times = np.array(["2013-01-01", "2013-01-02", "2013-03-31T12:00"], dtype="datetime64[us]")
    with pytest.raises(SplitError) as caught:
        assign(TimeSplit("7d", "14d"), keys=keys(3), times=times, seed=0)
    for part in ("validation", "after 2013-03-10 12:00:00 up to 2013-03-17 12:00:00", "3 rows"):
        assert part in str(caught.value)
    with pytest.raises(SplitError, match="the training part has no rows"):
        by_time(TimeSplit("1d", "1d"), np.array([0, DAY]))
    with pytest.raises(SplitError, match="the validation part has no rows"):
        by_key(RandomSplit(0.001, 0.5), keys(4))


@pytest.mark.parametrize("split", [RandomSplit(), TimeSplit("7d", "14d")])
def test_no_rows_are_an_empty_part(split: RandomSplit | TimeSplit) -> None:
    with pytest.raises(SplitError, match="of 0 rows"):
        assign(split, keys=keys(0), times=np.array([], dtype="datetime64[us]"), seed=0)


@pytest.mark.parametrize("shares", [(0, 0.2), (0.1, 0), (0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.2)])
def test_shares_that_leave_a_part_empty_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(RecipeError, match="shares"):
        RandomSplit(*shares)


def test_durations_are_checked_when_they_are_written() -> None:
    with pytest.raises(ConfigurationError, match="a duration is a number"):
        TimeSplit("7 days", "14d")
    with pytest.raises(RecipeError, match="validation window"):
        TimeSplit("0d", "14d")
