"""Thinned curves against the same by hand: nothing that stands out is lost, nothing is made up, and few points remain."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import ConfigurationError, NotFound
from velodrome.registry.curves import read_curve, thin
from velodrome.registry.series_writer import SeriesWriter
from velodrome.store.workspace import Workspace

VALUES = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf])


def by_hand(steps: list[int], values: list[float], points: int) -> list[int]:
    """First, lowest, highest and last step of each bucket, and the first of no finite number; the earliest of equals."""
    count = points // (4 if all(map(math.isfinite, values)) else 5)
    buckets = defaultdict(list)
    for step, value in zip(steps, values, strict=True):
        buckets[min(count - 1, int((step - steps[0]) * (count / (steps[-1] - steps[0] + 1))))].append((step, value))
    kept = set()
    for each in buckets.values():
        finite = [(step, value) for step, value in each if math.isfinite(value)]
        kept |= {each[0][0], each[-1][0]}
        kept |= {choose(finite, key=lambda pair: pair[1])[0] for choose in (min, max) if finite}
        kept |= set([step for step, value in each if not math.isfinite(value)][:1])
    return sorted(kept)


@given(
    values=st.lists(VALUES, min_size=30, max_size=100),
    gaps=st.lists(st.integers(1, 50), min_size=100, max_size=100),
    points=st.integers(5, 29),
)
def test_a_thinned_curve_is_the_one_by_hand(values: list[float], gaps: list[int], points: int) -> None:
    steps = np.cumsum(gaps[: len(values)])
    kept_steps, kept = thin(steps, np.array(values), points)
    assert kept_steps.tolist() == by_hand(steps.tolist(), values, points)
    assert kept.tobytes() == np.array(values)[np.isin(steps, kept_steps)].tobytes()
    assert len(kept) <= points
    assert (kept_steps[0], kept_steps[-1]) == (steps[0], steps[-1])
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        shown = kept[np.isfinite(kept)]
        assert (shown.min(), shown.max()) == (min(finite), max(finite))
    assert len(finite) < len(values) or np.isfinite(kept).all()
    assert len(finite) == len(values) or not np.isfinite(kept).all()


@given(data=st.data())
def test_every_spike_of_one_sample_is_kept(data: st.DataObject) -> None:
    """One in each of the 25 buckets of a hundred points, up or down, wherever in it."""
    noise = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(10_000)
    places = [400 * bucket + data.draw(st.integers(0, 399)) for bucket in range(25)]
    for place in places:
        noise[place] = data.draw(st.sampled_from([1, -1])) * data.draw(st.floats(10, 1e300))
    steps, values = thin(np.arange(10_000), noise, 100)
    assert set(places) <= set(steps.tolist())
    assert (values.min(), values.max()) == (noise.min(), noise.max())
    assert len(steps) <= 100


def test_a_series_of_millions_loses_no_spike() -> None:
    values = np.zeros(3_000_000)
    values[1_234_567] = 1.0
    steps, kept = thin(np.arange(1, 3_000_001), values, 2000)
    assert len(kept) <= 2000
    assert steps[kept.argmax()] == 1_234_568


def test_steps_may_be_moments() -> None:
    """Nanoseconds since 1970, of which a float cannot tell neighbours."""
    steps = 1_780_000_000_000_000_000 + np.arange(1000)
    values = np.zeros(1000)
    values[333] = 1.0
    kept, shown = thin(steps, values, 50)
    assert (kept[0], kept[-1], kept[shown.argmax()]) == (steps[0], steps[-1], steps[333])
    assert (np.diff(kept) > 0).all()


def test_a_short_curve_stays_as_it_is() -> None:
    steps, values = np.array([1, 5, 6]), np.array([1.0, np.nan, 2.0])
    assert [each.tolist() for each in thin(steps, values[[0, 0, 2]], 5)] == [[1, 5, 6], [1.0, 1.0, 2.0]]


def test_nothing_but_no_numbers() -> None:
    steps, values = thin(np.arange(1000), np.full(1000, np.nan), 5)
    assert steps.tolist() == [0, 999]
    assert np.isnan(values).all()


def test_fewer_points_than_make_a_curve_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="5 points"):
        thin(np.arange(10), np.zeros(10), 4)


def test_a_curve_is_read_from_the_ledger(ws: Workspace) -> None:
    with SeriesWriter(ws, "r", 1) as writer:
        for step in range(1, 5001):
            writer.log(step, loss=100.0 if step == 1234 else step / 5000, lr=0.1)
    whole, curve = read_curve(ws, "r", "loss", 5000), read_curve(ws, "r", "loss", 200)
    assert (len(whole.steps), whole.recorded, curve.recorded) == (5000, 5000, 5000)
    assert len(curve.steps) <= 200
    assert curve.steps[curve.values.argmax()] == 1234
    with pytest.raises(NotFound, match="did you mean 'loss'"):
        read_curve(ws, "r", "los")
