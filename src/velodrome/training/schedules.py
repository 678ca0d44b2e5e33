"""The learning rate as a pure function of the step, so that resuming needs no schedule state.

A plateau is the exception: how often the rate was lowered follows from the evaluations, and the loop remembers it.
"""

import math

from velodrome.training.learners import Constant, Linear, OneCycle, Plateau, Schedule, StepDecay

__all__ = ["factor"]


def factor(schedule: Schedule, step: int, steps: int, steps_per_epoch: int = 1) -> float:
    """What the optimiser's learning rate is multiplied with at `step` of `steps` (both from 0).

    The first `round(warmup * steps)` steps rise linearly to 1; the rest follow the schedule, whose last step is one before
    `final`, as in the schedules of the transformers library. One-cycle rises and falls along cosines, and its last step is at
    `final`, as in PyTorch's `OneCycleLR`.

    >>> [round(factor(Linear(warmup=0.5), step, 4), 2) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if isinstance(schedule, OneCycle):
        return _one_cycle(schedule, step, steps)
    warm = round(schedule.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    if isinstance(schedule, Constant | Plateau):
        return 1.0
    if isinstance(schedule, StepDecay):
        return float(schedule.gamma ** (step // (schedule.epochs * steps_per_epoch)))
    progress = (step - warm) / max(1, steps - warm)
    if isinstance(schedule, Linear):
        return schedule.final + (1 - schedule.final) * (1 - progress)
    return _between(1.0, schedule.final, progress)


def _one_cycle(schedule: OneCycle, step: int, steps: int) -> float:
    top = schedule.warmup * steps - 1
    if step <= top:
        return _between(1 / schedule.start, 1.0, step / max(top, 1.0))
    return _between(1.0, 1 / schedule.final, min(1.0, (step - top) / max(steps - 1 - top, 1.0)))


def _between(first: float, last: float, progress: float) -> float:
    """From `first` to `last` along half a cosine."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
