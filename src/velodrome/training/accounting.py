"""Where the time of an attempt goes: every second falls into one class, and the classes add up to the wall clock.

A stopwatch is never stopped: each lap gives the time since the lap before to one class, so that nothing is counted twice and
nothing is left out. About once a second what it shows goes into the run's histories, for the sake of attempts that are killed.
Cost: a fifth of a microsecond for a lap.
"""

from collections.abc import Callable

from velodrome.registry.series import PULSE
from velodrome.registry.time_spent import Spent

__all__ = ["Stopwatch"]

_EVERY = 1.0  # seconds between pulses

_OF_A_STEP = (Spent.DATA_WAIT, Spent.FORWARD, Spent.BACKWARD, Spent.OPTIMIZER)


class Stopwatch:
    """Runs from when it is made; `monotonic` gives seconds. A pulse is due from the moment `due`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._spent = dict.fromkeys(Spent, 0.0)
        self._class = {spent: spent for spent in Spent}
        self.last = self.due = monotonic()

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

    def pulse(self) -> dict[str, float]:
        """What is logged now for the case that the attempt is killed; the next pulse is due in a second."""
        self.due = self.last + _EVERY
        return {f"{PULSE}{name}": seconds for name, seconds in self.spent().items()}

    def spent(self) -> dict[str, float]:
        """Seconds by class so far, those that are not 0."""
        return {str(spent): seconds for spent, seconds in self._spent.items() if seconds}
