import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.training.rate_range import curve_of, exploded, growing_rates, rounded, suggest_rate

STEPS = 100
RATES = growing_rates(1e-6, 10, STEPS)
CENTRES = st.floats(-4.0, -1.0)
"""Powers of ten at which a made-up loss falls."""


def falling(centre: float, *, noise: float = 0.0, seed: int = 0) -> list[float]:
    """A loss that falls from 1 to 0.3 around a rate of 10**centre, and explodes a decade and a half above it."""
    powers = np.log10(RATES)
    loss = 1 - 0.7 / (1 + np.exp(-(powers - centre) * 6)) + np.exp(np.minimum(8 * (powers - centre - 1.5), 20))
    return list(loss + noise * np.random.default_rng(seed).normal(size=STEPS))


def until_exploded(losses: list[float]) -> list[float]:
    """As a test would end."""
    return next((losses[:n] for n in range(1, STEPS) if exploded(curve_of(RATES, losses[:n]))), losses)


@given(CENTRES)
def test_the_suggestion_is_where_the_loss_falls(centre: float) -> None:
    curve = curve_of(RATES, until_exploded(falling(centre)))
    assert exploded(curve)
    found = suggest_rate(curve, STEPS)
    assert found is not None
    assert abs(math.log10(found.rate) - centre) < 0.5
    assert found.rate <= found.lowest
    assert found.cautious == pytest.approx(found.lowest / 10, rel=0.06)


@given(CENTRES, st.integers(0, 1000))
def test_noise_moves_it_little(centre: float, seed: int) -> None:
    found = suggest_rate(curve_of(RATES, until_exploded(falling(centre, noise=0.03, seed=seed))), STEPS)
    assert found is not None
    assert abs(math.log10(found.rate) - centre) < 1.0


@given(CENTRES, st.floats(0.01, 100.0), st.integers(-2, 2))
def test_units_of_the_loss_and_of_the_rate_do_not_matter(centre: float, unit: float, power: int) -> None:
    losses = until_exploded(falling(centre))
    found = suggest_rate(curve_of(RATES, losses), STEPS)
    other = suggest_rate(
        curve_of(growing_rates(1e-6 * 10**power, 10 * 10**power, STEPS), [unit * loss for loss in losses]), STEPS
    )
    assert found is not None
    assert other is not None
    assert other.rate == pytest.approx(found.rate * 10**power, rel=0.1)


@given(st.floats(-5.0, 5.0), st.lists(st.floats(0.0, 1.0), min_size=20, max_size=STEPS))
def test_a_loss_that_does_not_fall_recommends_nothing(base: float, rises: list[float]) -> None:
    assert suggest_rate(curve_of(RATES, [base] * STEPS), STEPS) is None
    assert suggest_rate(curve_of(RATES, [base + rise for rise in np.cumsum(rises)]), STEPS) is None


def test_of_losses_that_only_chance_moves_few_recommend_anything() -> None:
    rng = np.random.default_rng(0)
    found = [suggest_rate(curve_of(RATES, list(rng.normal(0.7, 0.05, STEPS))), STEPS) for _ in range(400)]
    assert sum(each is not None for each in found) <= 400 * 0.05


def test_too_few_steps_recommend_nothing() -> None:
    assert suggest_rate(curve_of(RATES, [1.0, 0.5, 0.2, 0.1]), STEPS) is None
    assert suggest_rate((), STEPS) is None


@given(st.floats(1e-9, 1.0), st.floats(1.01, 1e9), st.integers(2, 300))
def test_rates_grow_evenly_from_one_end_to_the_other(low: float, factor: float, steps: int) -> None:
    rates = growing_rates(low, low * factor, steps)
    assert len(rates) == steps
    assert (rates[0], rates[-1]) == pytest.approx((low, low * factor))
    ratios = [after / before for before, after in pairwise(rates)]
    assert min(ratios) == pytest.approx(max(ratios))
    assert min(ratios) > 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=STEPS))
def test_the_smoothed_loss_lies_among_the_losses_and_begins_with_the_first(losses: list[float]) -> None:
    curve = curve_of(RATES, losses)
    assert curve[0].smoothed == pytest.approx(losses[0])
    for place, step in enumerate(curve):
        assert step.loss == losses[place]
        assert step.smoothed is not None
        span = 1e-6 * (1 + max(map(abs, losses)))
        assert min(losses[: place + 1]) - span <= step.smoothed <= max(losses[: place + 1]) + span


@pytest.mark.parametrize("last", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_part_of_the_curve_and_ends_it(last: float) -> None:
    losses = falling(-3.0)[:60]
    curve = curve_of(RATES, [*losses, last])
    assert exploded(curve)
    assert not exploded(curve[:-1])
    assert (curve[-1].loss, curve[-1].smoothed) == (None, None)
    assert suggest_rate(curve, STEPS) == suggest_rate(curve[:-1], STEPS)


def test_losses_below_zero_explode_as_others_do() -> None:
    falls = [-1.0 - 0.05 * step for step in range(40)]
    assert not exploded(curve_of(RATES, falls))
    assert exploded(curve_of(RATES, [*falls, 200.0]))


def test_two_digits_are_kept() -> None:
    assert [rounded(rate) for rate in (0.0123456, 9.96, 1e-6)] == [0.012, 10.0, 1e-6]
