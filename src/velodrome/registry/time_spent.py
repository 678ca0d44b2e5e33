"""Where the time of a run went, as its attempts told it: seconds by class, and goodput.

An attempt tells at its end, in the event `run.time`, with each checkpoint, and about once a second in series of the run, so of
one that was killed the last second is missing, or the evaluation or step in which it died. Goodput is the share that made
progress: forward, backward and optimiser of steps that nobody had done before.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum

from velodrome.core.units import show_duration
from velodrome.registry.series import PULSE, decode_block
from velodrome.store.ledger import Block, Event

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


def time_spent(run: Iterable[Event], checkpoints: Iterable[Event], blocks: Iterable[Block] = ()) -> dict[str, float]:
    """Seconds by class over all attempts of a run, the largest first.

    Args:
        run, checkpoints: the run's own events, and those of its checkpoints.
        blocks: of its series, for attempts that were killed.

    Raises:
        IntegrityError: a block is not what was written.
    """
    attempts = _told_while_running(blocks)
    told = (
        *(event for event in checkpoints if "seconds" in event.body),
        *(event for event in run if event.type == TIME),
    )
    for body in (event.body for event in told):
        attempts[body["attempt"]] = max(attempts[body["attempt"]], body["seconds"], key=lambda each: sum(each.values()))
    classes = {name for seconds in attempts.values() for name in seconds}
    total = {name: sum(seconds.get(name, 0.0) for seconds in attempts.values()) for name in classes}
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _told_while_running(blocks: Iterable[Block]) -> defaultdict[int, dict[str, float]]:
    """Attempt → seconds by class, as it last logged them."""
    attempts: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for block in blocks:  # those of a series in the order of their steps
        if block.series.startswith(PULSE) and block.count:
            attempts[block.attempt][block.series.removeprefix(PULSE)] = float(decode_block(block)[2][-1])
    return attempts


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
