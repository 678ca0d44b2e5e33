"""Where the time of a run went, as its attempts told it: seconds by class, and goodput.

An attempt tells at its end, in the event `run.time`; one that was killed has told with its newest checkpoint, and what came
after that is done again by the next attempt, or lost. Goodput is the share that made progress: forward, backward and
optimiser of steps that nobody had done before.
"""

from collections.abc import Mapping
from enum import StrEnum

from velodrome.core.units import show_duration
from velodrome.store.ledger import Event

__all__ = ["TIME", "Spent", "describe_time", "goodput", "time_spent"]

TIME = "run.time"
"""Type of the event with which an attempt tells where its time went."""


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


_PROGRESS = (Spent.FORWARD, Spent.BACKWARD, Spent.OPTIMIZER)


def time_spent(run: list[Event], checkpoints: list[Event]) -> dict[str, float]:
    """Seconds by class over all attempts of a run, the largest first.

    Args:
        run, checkpoints: the run's own events, and those of its checkpoints.
    """
    attempts: dict[int, Mapping[str, float]] = {}
    told = [event.body for event in checkpoints if "seconds" in event.body]
    for body in (*told, *(event.body for event in run if event.type == TIME)):
        attempts[body["attempt"]] = body["seconds"]
    classes = {name for seconds in attempts.values() for name in seconds}
    total = {name: sum(seconds.get(name, 0.0) for seconds in attempts.values()) for name in classes}
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def goodput(spent: Mapping[str, float]) -> float:
    """The share of the time that made progress, from 0 to 1.

    >>> goodput({"forward": 3.0, "backward": 5.0, "optimizer": 1.0, "redone": 1.0})
    0.9
    """
    seconds = sum(spent.values())
    return sum(spent.get(each, 0.0) for each in _PROGRESS) / seconds if seconds else 0.0


def describe_time(spent: Mapping[str, float]) -> str:
    """The classes for a person, those above a hundredth.

    >>> describe_time({"forward": 60.0, "backward": 30.0, "start": 10.0})
    '1 min 40 s: 60 % forward, 30 % backward, 10 % start; goodput 90 %'
    """
    seconds = sum(spent.values())
    parts = [f"{100 * each / seconds:.0f} % {name}" for name, each in spent.items() if each >= seconds / 100]
    return f"{show_duration(seconds)}: {', '.join(parts)}; goodput {100 * goodput(spent):.0f} %"
