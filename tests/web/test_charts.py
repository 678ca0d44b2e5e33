import math
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from velodrome.web.charts import (
    Scale,
    band_path,
    line_path,
    named_ticks,
    number,
    shorten,
    spread,
    value_axis,
)

NUMBERS = st.floats(min_value=-1e12, max_value=1e12, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-12)


@given(values=st.lists(NUMBERS, min_size=1), count=st.integers(2, 8), zero=st.booleans())
@example(values=[0.0, 1000000001.0], count=5, zero=False)
def test_an_axis_holds_its_values_and_its_marks_differ(values: list[float], count: int, zero: bool) -> None:
    axis = value_axis("", values, count=count, zero=zero)
    slack = 1e-6 * (axis.scale.high - axis.scale.low)
    assert axis.scale.low <= min(values) + slack
    assert axis.scale.high >= max(values) - slack
    assert not zero or (axis.scale.low <= 0 <= axis.scale.high and not axis.scale.log)
    places = [tick.at for tick in axis.ticks]
    assert places == sorted(places)
    assert all(-1e-3 <= place <= 100 + 1e-3 for place in places)
    assert 2 <= len(places) <= count + 2 or axis.scale.log
    told = [tick.label for tick in axis.ticks if tick.label]  # the others have no room
    assert len(set(told)) == len(told)
    assert axis.ticks[-1].label
    assert axis.ticks[-1].narrow


@given(first=st.integers(0, 10**6), length=st.integers(0, 10**7))
def test_a_tight_axis_ends_where_the_steps_end(first: int, length: int) -> None:
    axis = value_axis("step", [first, first + length], tight=True)
    if length:
        assert (axis.scale.low, axis.scale.high) == (first, first + length)
    assert all(0 <= tick.at <= 100 + 1e-6 for tick in axis.ticks)


def test_a_span_of_decades_is_logarithmic_and_says_so() -> None:
    axis = value_axis("loss", [0.003, 250.0])
    assert axis.scale.log
    assert axis.title == "loss, logarithmic"
    assert [tick.label for tick in axis.ticks] == ["0.001", "0.01", "0.1", "1", "10", "100", "1,000"]
    assert axis.scale.at(1.0) == pytest.approx(50.0)


def test_what_lies_outside_a_scale_stands_at_its_end() -> None:
    assert [Scale(0, 10).at(value) for value in (-5, 50)] == [0, 100]
    assert Scale(0, 10).up(2.5) == 75


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [(0.1 + 0.2, 0.1, "0.3"), (-1500.0, 500.0, "−1,500"), (0.0, 0.25, "0.00"), (5e-6, 5e-6, "5e−6"), (2e9, 1e9, "2e9")],
)
def test_labels_have_the_decimals_of_their_step(value: float, step: float, text: str) -> None:
    assert number(value, step) == text


@given(places=st.lists(st.floats(0, 100), max_size=8), gap=st.floats(0.5, 20))
def test_labels_that_would_overlap_are_moved_apart_in_their_order(places: list[float], gap: float) -> None:
    found = spread(places, gap)
    in_order = [place for _, place in sorted(zip(places, found, strict=True))]
    assert in_order == sorted(found)
    assert all(after - before >= gap * (1 - 1e-9) for before, after in pairwise(in_order))


def test_labels_with_room_stay_where_they_are() -> None:
    assert spread([30.0, 10.0], 6) == [30.0, 10.0]


def test_a_path_breaks_where_there_is_no_number() -> None:
    path = line_path([0, 1, 2, 3], [5.0, math.nan, 6.0, 7.0])
    assert path == "M0,5M2,6L3,7"


@given(points=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=20))
def test_a_path_says_where_its_points_are(points: list[tuple[float, float]]) -> None:
    path = line_path(*zip(*points, strict=True))
    found = [tuple(map(float, pair.split(","))) for pair in re.findall(r"[-\d.]+,[-\d.]+", path)]
    assert np.allclose(found, points, atol=0.005001)


def test_a_band_goes_there_and_back() -> None:
    assert band_path([], [], []) == ""
    assert band_path([0, 50], [70, 80], [20, 30]) == "M0,70L50,80L50,30L0,20Z"


def test_names_are_shown_without_what_all_share() -> None:
    assert shorten(["flights-2013-04", "flights-2013-11"]) == ["04", "11"]
    assert shorten(["april", "august"]) == ["april", "august"]
    assert shorten(["x-1", "x-1"]) == ["x-1", "x-1"]
    assert shorten([]) == []
    (long,) = shorten(["a" * 50])
    assert len(long) == 18


@given(names=st.lists(st.text(min_size=1), max_size=30))
def test_every_name_has_a_mark_and_the_last_one_always_room(names: list[str]) -> None:
    ticks = named_ticks(names)
    assert [tick.full for tick in ticks] == names
    assert not ticks or (ticks[-1].narrow and ticks[-1].label)
    for room, shown in ((600, [tick for tick in ticks if tick.label]), (230, [tick for tick in ticks if tick.narrow])):
        assert all(tick.label for tick in shown)
        assert len(shown) < 2 or sum(6.4 * len(tick.label) for tick in shown) <= 1.5 * room
    assert all(0 < tick.at < 100 for tick in ticks)
