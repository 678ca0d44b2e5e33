"""The learning-rate range test of Smith ("Cyclical Learning Rates for Training Neural Networks", 2017), without the training.

The rate grows exponentially from step to step; where the loss falls most steeply is a good rate, where it explodes is too much.
Everything here is a function of the measured curve; `training.torch_trials` measures it.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["RateStep", "RateSuggestion", "curve_of", "exploded", "growing_rates", "rounded", "suggest_rate"]

_MEMORY = 20
_EXPLOSION = 3.0
_SURE = 5.0


class RateStep(msgspec.Struct, frozen=True):
    """A step of the test.

    Attributes:
        loss: before the weights were moved at that rate. smoothed: with the losses before it. None: not a finite number.
    """

    rate: float
    loss: float | None
    smoothed: float | None


class RateSuggestion(msgspec.Struct, frozen=True, kw_only=True):
    """What a curve says, each rate to two digits.

    Attributes:
        rate: where the smoothed loss falls most steeply.
        lowest: where it is lowest; cautious: a decade below that, the other rule of thumb.
    """

    rate: float
    lowest: float
    cautious: float


def growing_rates(low: float, high: float, steps: int) -> tuple[float, ...]:
    """So many rates from `low` to `high`, each as much larger than the one before.

    >>> [round(rate, 6) for rate in growing_rates(1e-3, 10, 5)]
    [0.001, 0.01, 0.1, 1.0, 10.0]
    """
    return tuple(low * (high / low) ** (step / (steps - 1)) for step in range(steps))


def curve_of(rates: Sequence[float], losses: Sequence[float]) -> tuple[RateStep, ...]:
    """The curve of as many steps as there are losses, with their smoothed course.

    The smoothed loss is an exponential average, divided by the weight that its few values have by then, as in fastai. It
    remembers a twentieth of all steps: fastai's fifty steps would lag behind a curve of a hundred by half of it.
    """
    kept = _kept(len(rates))
    steps, total, weight = [], 0.0, 0.0
    for rate, loss in zip(rates, losses, strict=False):
        total = kept * total + (1 - kept) * loss
        weight = kept * weight + (1 - kept)
        steps.append(RateStep(rate, _finite(loss), _finite(total / weight)))
    return tuple(steps)


def exploded(curve: Sequence[RateStep]) -> bool:
    """Whether the test is to end: the loss is not finite, or the smoothed loss has risen from its lowest by more than three
    times what it had fallen, and three times what it was."""
    smoothed = [step.smoothed for step in curve if step.smoothed is not None]
    if len(smoothed) < len(curve):
        return True
    best = min(smoothed)
    return smoothed[-1] - best > _EXPLOSION * max(abs(best), smoothed[0] - best)


def suggest_rate(curve: Sequence[RateStep], planned: int) -> RateSuggestion | None:
    """The rate that the curve recommends; None where the loss falls by no more than chance would make it.

    The first tenth of the steps is left out: few losses are averaged there. The slope at a step is that between the steps a
    twentieth of the curve before and after it. A fall counts when it is more than five standard errors of the smoothed loss,
    the noise of a loss being read off the differences from step to step (von Neumann, 1941); the lowest of many is looked for, so
    one curve of pure noise in fifty still passes.

    Args:
        planned: steps that the test would have had.
    """
    steps = [(step.rate, step.loss, step.smoothed) for step in curve if step.smoothed is not None]
    skipped = max(3, len(steps) // 10)
    if len(steps) < 2 * skipped:
        return None
    rates, losses, smoothed = np.array(steps, dtype=np.float64).T
    lowest = skipped + int(smoothed[skipped:].argmin())
    if not _falls(losses[: lowest + 1], smoothed[skipped], smoothed[lowest], _averaged(planned, skipped)):
        return None
    reach, places = max(1, len(steps) // 20), np.arange(skipped, lowest + 1)
    before, after = np.maximum(places - reach, skipped), np.minimum(places + reach, lowest)
    slopes = (smoothed[after] - smoothed[before]) / np.log(rates[after] / rates[before])
    return RateSuggestion(
        rate=rounded(rates[skipped + int(slopes.argmin())]),
        lowest=rounded(rates[lowest]),
        cautious=rounded(rates[lowest] / 10),
    )


def rounded(rate: float) -> float:
    """To two digits: more of them would say more than is known.

    >>> rounded(0.0031622), rounded(12.0)
    (0.0032, 12.0)
    """
    return float(f"{rate:.1e}")


def _kept(steps: int) -> float:
    """How much of the smoothed loss is kept at each step."""
    return max(0.0, 1 - _MEMORY / steps)


def _averaged(steps: int, done: int) -> float:
    """How many losses the smoothed one is worth after some steps."""
    kept = _kept(steps)
    return min(done, (1 + kept) / (1 - kept))


def _falls(losses: npt.NDArray[np.float64], first: float, lowest: float, averaged: float) -> bool:
    noise = math.sqrt(float(np.mean(np.diff(losses) ** 2)) / 2) if len(losses) > 1 else 0.0
    return first - lowest > max(_SURE * noise / math.sqrt(averaged), 1e-6 * abs(first))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
