"""The learning rate as a pure function of the step, so that resuming needs no schedule state."""

import math

from velodrome.training.learners import Constant, Linear, Schedule

__all__ = ["factor"]


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """What the optimiser's learning rate is multiplied with at `step` of `steps` (both from 0).

    The first `round(warmup * steps)` steps rise linearly to 1; the rest follow the schedule, whose last step is one before
    `final`, as in the schedules of the transformers library.

    >>> [round(factor(Linear(warmup=0.5), step, 4), 2) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warm = round(schedule.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    if isinstance(schedule, Constant):
        return 1.0
    progress = (step - warm) / max(1, steps - warm)
    if isinstance(schedule, Linear):
        return schedule.final + (1 - schedule.final) * (1 - progress)
    return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
