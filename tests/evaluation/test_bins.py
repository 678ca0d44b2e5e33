"""Bins against counting rows one by one, their names, and which categories get one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.evaluation.bins import Bins, bins_of_categories, bins_of_numbers, categories_of
from velodrome.evaluation.sketches import CATEGORIES, FrequencySketch, sketch_counts, sketch_numbers

NUMBERS = st.integers(-4, 4) | st.floats(-1e9, 1e9)


def bins_between(before: list[float], after: list[float], bins: int = 10, whole: bool = False) -> Bins:
    return bins_of_numbers(sketch_numbers(np.array(before)), sketch_numbers(np.array(after)), bins, whole)


def categories_between(before: FrequencySketch, after: FrequencySketch) -> Bins:
    return bins_of_categories(categories_of(before, after), 0.01)


@given(st.lists(NUMBERS, min_size=1), st.lists(NUMBERS, min_size=1), st.integers(2, 50), st.booleans())
def test_every_row_is_in_one_bin(before: list[float], after: list[float], bins: int, whole: bool) -> None:
    found = bins_between(before, after, bins, whole)
    assert len(found.before) == len(found.after) == len(found.slack) == len(found.names)
    assert found.before.min() >= 0
    assert found.after.min() >= 0
    assert found.before.sum() == pytest.approx(1)
    assert found.after.sum() == pytest.approx(1)
    assert found.rows == (len(before), len(after))


def test_numbers_are_cut_into_equal_shares_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=200_000), rng.normal(0.5, size=100_000)
    found = bins_of_numbers(sketch_numbers(before), sketch_numbers(after), 10, False)
    assert found.before == pytest.approx(np.full(10, 0.1), abs=1 / 512)
    exact = np.histogram(after, np.concatenate([[-np.inf], np.quantile(before, np.arange(1, 10) / 10), [np.inf]]))[0]
    assert found.after == pytest.approx(exact / len(after), abs=3 / 512)
    assert found.slack == pytest.approx(np.full(10, 2 / 512))


def test_a_value_that_fills_a_bin_has_it_for_itself() -> None:
    rng = np.random.default_rng(0)
    before = np.concatenate([np.zeros(95_000), rng.exponential(size=4000), -rng.exponential(size=1000)])
    found = bins_of_numbers(sketch_numbers(before), sketch_numbers(before), 10, False)
    zero = found.names.index("0")
    assert found.before[zero] == pytest.approx(0.95, abs=1 / 512)
    assert found.names[zero - 1].endswith("below 0")
    assert found.names[zero + 1].startswith("above 0 to ")
    assert len(found.names) >= 6


def test_what_was_never_there_has_a_bin() -> None:
    found = bins_between([0.0] * 60 + [1.0] * 40, [0.0] * 50 + [0.5] * 20 + [1.0] * 10 + [7.0] * 15 + [-3.0] * 5)
    shares = dict(zip(found.names, zip(found.before, found.after, strict=True), strict=True))
    assert shares == {
        "below 0": (0, 0.05),
        "0": (0.6, 0.5),
        "above 0 to below 1": (0, 0.2),
        "1": (0.4, 0.1),
        "above 1": (0, 0.15),
    }


@pytest.mark.parametrize(
    ("before", "bins", "whole", "names"),
    [
        (list(range(12)), 3, True, ["up to 3", "4 to 7", "8 or more"]),
        (list(range(12)), 3, False, ["up to 3", "3 to 7", "above 7"]),
        (list(range(4)), 2, True, ["up to 1", "2 or more"]),
        ([5] * 9, 10, True, ["up to 4", "5", "6 or more"]),
        ([1, 1, 1, 2, 3, 4], 2, True, ["up to 0", "1", "2 or more"]),
        ([1.5] * 9, 10, False, ["below 1.5", "1.5", "above 1.5"]),
        ([1234.5, 1234.5, 1234.5625], 2, False, ["below 1234.5", "1234.5", "above 1234.5"]),
        ([1e-7, 1e20, 3e20, 4e20], 2, False, ["up to 1e+20", "above 1e+20"]),
        ([0.1 + 0.2], 10, False, ["below 0.30000000000000004", "0.30000000000000004", "above 0.30000000000000004"]),
        ([20130401, 20130402, 20130403, 20130404], 2, False, ["up to 20130402", "above 20130402"]),
    ],
)
def test_bins_have_names_that_a_person_reads(before: list[float], bins: int, whole: bool, names: list[str]) -> None:
    found = bins_between(before, before, bins, whole)
    assert [name for name in found.names if found.before[found.names.index(name)] or len(names) < 4] == names


def test_neighbours_in_floating_point_have_different_names() -> None:
    numbers = [0.1]
    for _ in range(30):
        numbers.append(math.nextafter(numbers[-1], 1))
    names = bins_between(numbers, numbers, 10).names
    assert len(set(names)) == len(names)


def test_the_largest_numbers_have_bins() -> None:
    big = 1.7976931348623157e308
    found = bins_between([-big] * 50 + [big] * 50, [big] * 100)
    assert float(found.names[int(found.after.argmax())]) == pytest.approx(big, rel=1e-4)
    assert found.after.max() == 1


def test_frequent_categories_have_a_bin_and_rare_ones_share_one() -> None:
    before = sketch_counts({"often": 9000, "seldom": 954, "hardly": 36} | {f"once {i}": 1 for i in range(10)})
    after = sketch_counts({"often": 880, "seldom": 112, "hardly": 4, "unknown": 2, "once 3": 2})
    found = categories_between(before, after)
    assert found.names == ["often", "seldom", "all others"]
    assert found.before == pytest.approx([0.9, 0.0954, 0.0046])
    assert found.after == pytest.approx([0.88, 0.112, 0.008])
    assert found.chance_of_rare is not None
    assert found.chance_of_rare > 0.01 / 10


def test_a_rare_category_that_stands_out_has_a_bin() -> None:
    before = sketch_counts({f"{i:03}": 10_000 for i in range(100)})
    after = sketch_counts({f"{i:03}": 8 for i in range(100)} | {"nothing": 200})
    found = categories_between(before, after)
    assert found.names[0] == "nothing"
    assert (found.before[0], found.after[0]) == (0, 0.2)
    assert found.chance_of_rare is not None
    assert found.chance_of_rare < 1e-100


def test_a_category_that_a_sketch_may_have_forgotten_does_not_stand_out() -> None:
    before = sketch_counts({str(i): 1000 for i in range(CATEGORIES)} | {f"x {i}": 999 for i in range(9)})
    assert before.error > 0
    found = categories_between(before, sketch_counts({"x 1": 3, "y": 497}))
    assert found.names == ["y", "all others"]
    assert found.slack == pytest.approx([before.error, before.error])


def test_rows_where_there_were_none_stand_out() -> None:
    before = np.zeros(1_000_000)
    assert bins_between(list(before), [0.0] * 1000).chance_of_rare is None
    found = bins_of_numbers(sketch_numbers(before), sketch_numbers(np.array([0.0] * 950 + [1.0] * 50)), 10, False)
    assert found.chance_of_rare == pytest.approx((1000 / 1_001_000) ** 50)


def test_rows_that_a_sketch_may_have_missed_do_not_stand_out() -> None:
    """There are 999 rows between two values, but none at a rank that the sketch looks at."""
    before = sketch_numbers(np.concatenate([np.zeros(600_700), np.linspace(0.1, 0.9, 999), np.ones(398_301)]))
    after = sketch_numbers(np.array([0.0] * 360 + [0.3, 0.6] + [1.0] * 240))
    found = bins_of_numbers(before, after, 10, False)
    assert found.before[2] == 0 < found.after[2]
    assert found.chance_of_rare is not None
    assert found.chance_of_rare > 0.1


def test_rows_that_a_sketch_may_have_made_more_of_do_not_stand_out() -> None:
    """There is one row between two values, at a rank that stands for four."""
    before = sketch_numbers(np.concatenate([np.zeros(500_000), np.full(400_000, 10), np.linspace(11, 12, 100_000)]))
    after = sketch_numbers(np.concatenate([np.zeros(1001), [5.0], np.full(398, 10.0), np.linspace(11, 12, 600)]))
    found = bins_of_numbers(before, after, 10, False)
    assert found.before[2] == 0 < found.after[2]
    assert found.chance_of_rare == 1


def test_bins_with_enough_rows_are_not_rare() -> None:
    assert bins_between(list(range(600)), list(range(600))).chance_of_rare is None


def test_the_rarest_categories_share_a_bin_however_many_rows_there_are() -> None:
    sketch = sketch_counts({"often": 999_600, "seldom": 400})
    assert categories_between(sketch, sketch).names == ["often", "all others"]


def test_which_categories_are_compared_does_not_depend_on_the_side() -> None:
    rng = np.random.default_rng(0)
    one, other = (sketch_counts({f"{i}": int(n) for i, n in enumerate(rng.poisson(6, 300)) if n}) for _ in range(2))
    assert set(categories_between(one, other).names) == set(categories_between(other, one).names)
