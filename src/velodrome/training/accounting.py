"""Where the time of a run goes: every second falls into one class, and the classes add up to the wall clock.

A stopwatch is never stopped: each lap gives the time since the lap before to one class, so that nothing is counted twice and
nothing is left out. Goodput is the share that made progress: forward, backward and optimiser of steps that nobody had done
before. Cost: a fifth of a microsecond for a lap.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

__all__ = ["Spent", "Stopwatch", "goodput", "total"]


class Spent(StrEnum):
    """What a second was spent on.

    START: reading data, building and compiling, in a first attempt; RESTART: the same and restoring, in a later one.
    DATA_WAIT: the loop waited for a batch. CHECKPOINT: it waited for the copy of the state, or for the save before.
    REDONE: any of data wait, forward, backward and optimiser for steps that an earlier attempt had done already.
    OTHER: the rest, such as recording, and writing the model at the end.
    """

    START = "start"
    RESTART = "restart"
    DATA_WAIT = "data_wait"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    EVALUATION = "evaluation"
    CHECKPOINT = "checkpoint"
    REDONE = "redone"
    OTHER = "other"


_OF_A_STEP = (Spent.DATA_WAIT, Spent.FORWARD, Spent.BACKWARD, Spent.OPTIMIZER)
_PROGRESS = (Spent.FORWARD, Spent.BACKWARD, Spent.OPTIMIZER)


class Stopwatch:
    """Runs from when it is made; `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._spent = dict.fromkeys(Spent, 0.0)
        self._class = {spent: spent for spent in Spent}
        self.last = monotonic()

    def lap(self, spent: Spent) -> float:
        """Give the time since the last lap to a class; the present moment."""
        now = self._monotonic()
        self._spent[self._class[spent]] += now - self.last
        self.last = now
        return now

    def redo(self, redoing: bool) -> None:
        """From now on steps are done again, or not any more."""
        for spent in _OF_A_STEP:
            self._class[spent] = Spent.REDONE if redoing else spent

    def spent(self) -> dict[str, float]:
        """Seconds by class so far, those that are not 0."""
        return {str(spent): seconds for spent, seconds in self._spent.items() if seconds}


def total(attempts: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Seconds by class over all attempts of a run."""
    return {
        str(spent): sum(each.get(spent, 0.0) for each in attempts.values())
        for spent in Spent
        if any(spent in each for each in attempts.values())
    }


def goodput(spent: Mapping[str, float]) -> float:
    """The share of the time that made progress, from 0 to 1.

    >>> goodput({"forward": 3.0, "backward": 5.0, "optimizer": 1.0, "redone": 1.0})
    0.9
    """
    seconds = sum(spent.values())
    return sum(spent.get(each, 0.0) for each in _PROGRESS) / seconds if seconds else 0.0
