"""Where the time of a run went, as one bar: what made progress, what had to be, and what a kill cost."""

from collections.abc import Mapping, Sequence

import msgspec

from velodrome.registry.time_spent import Spent, goodput
from velodrome.web.words import duration, percent

__all__ = ["TimeBar", "TimePart", "time_bar"]

_CLASSES = {
    "progress": (Spent.FORWARD, Spent.BACKWARD, Spent.OPTIMIZER),
    "needed": (Spent.DATA_WAIT, Spent.EVALUATION, Spent.CHECKPOINT, Spent.START, Spent.OTHER),
    "lost": (Spent.RESTART, Spent.REDONE),
}

_WORDS = {
    Spent.FORWARD: "forward",
    Spent.BACKWARD: "backward",
    Spent.OPTIMIZER: "optimiser",
    Spent.DATA_WAIT: "waiting for data",
    Spent.EVALUATION: "evaluation",
    Spent.CHECKPOINT: "waiting for checkpoints",
    Spent.START: "starting: reading and building",
    Spent.RESTART: "starting again",
    Spent.REDONE: "steps done again",
    Spent.OTHER: "everything else",
}


class TimePart(msgspec.Struct, frozen=True, kw_only=True):
    """A class of seconds.

    Attributes:
        kind: "progress", "needed" or "lost". shade: its place among those of its kind, from 0.
        begin, width: in percent of the bar.
    """

    name: str
    kind: str
    shade: int
    begin: float
    width: float
    seconds: str
    share: str


class TimeBar(msgspec.Struct, frozen=True, kw_only=True):
    """All seconds of a run beside each other; the table of its parts is its legend."""

    title: str
    finding: str
    parts: tuple[TimePart, ...]


def time_bar(spent: Mapping[str, float]) -> TimeBar | None:
    """The bar of seconds by class, as `registry.time_spent` tells them; None where nothing was told."""
    total = sum(spent.values())
    if total <= 0:
        return None
    parts, begin = list[TimePart](), 0.0
    for kind, classes in _with_strangers(spent).items():
        for shade, name in enumerate(each for each in classes if spent.get(each, 0.0) > 0):
            width = 100 * spent[name] / total
            parts.append(
                TimePart(
                    name=_WORDS[Spent(name)] if name in _WORDS else name,
                    kind=kind,
                    shade=shade,
                    begin=begin,
                    width=width,
                    seconds=duration(spent[name]),
                    share=percent(spent[name] / total),
                )
            )
            begin += width
    return TimeBar(title="Where the time went", finding=_finding(spent, total), parts=tuple(parts))


def _with_strangers(spent: Mapping[str, float]) -> dict[str, Sequence[str]]:
    """The classes by kind; those that another version of the program told are needed for something."""
    known = {name for classes in _CLASSES.values() for name in classes}
    return {**_CLASSES, "needed": (*_CLASSES["needed"], *(name for name in spent if name not in known))}


def _finding(spent: Mapping[str, float], total: float) -> str:
    lost = sum(spent.get(each, 0.0) for each in _CLASSES["lost"])
    cost = f" Interruptions cost {duration(lost)}." if lost else ""
    return f"{duration(total)} over all attempts, of which {percent(goodput(spent))} made progress (goodput).{cost}"
