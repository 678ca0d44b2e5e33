"""What befell a run beside its beginning and its end, in words, from its events."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from velodrome.store.ledger import Event

__all__ = ["IN_PART", "Incident", "incidents"]

IN_PART = "run.restored-in-part"
"""Type of the event that a run went on from a checkpoint that was not whole."""

_MOST = 5


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a person may want to know of: when, and what."""

    time: datetime
    what: str


def incidents(run: Iterable[Event], checkpoints: Iterable[Event]) -> tuple[Incident, ...]:
    """Oldest first.

    Args:
        run, checkpoints: the run's own events, and those of its checkpoints.
    """
    found = [
        Incident(time=event.time, what=_WORDS[event.type](event.body))
        for event in (*run, *checkpoints)
        if event.type in _WORDS
    ]
    return tuple(sorted(found, key=lambda incident: incident.time))


def _names(body: dict[str, Any]) -> str:
    names = body["names"]
    return ", ".join(names[:_MOST]) + (f" and {body['count'] - _MOST} more" if body["count"] > _MOST else "")


def _rows(ids: Sequence[int]) -> str:
    """Those that brought it about; older programs did not tell."""
    shown = ", ".join(map(str, ids[:_MOST]))
    return f", NaN or infinity in rows {shown}{', ...' if len(ids) > _MOST else ''}" if ids else ""


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "checkpoint.damaged": lambda body: f"the checkpoint of step {body['step']} was passed over: {body['reason']}",
    "run.diverged": lambda body: (
        f"step {body['step']} was not finite (loss {body['loss']}, gradient norm {body['gradient_norm']}"
        f"{_rows(body.get('not_finite', ()))}): {body['then']}"
    ),
    "run.evaluation-halved": lambda body: f"memory ran out: evaluated {body['rows']} rows at a time from then on",
    "run.micro-batch-halved": lambda body: (
        f"memory ran out in step {body['step']}: micro-batches of {body['rows']} rows from then on, so dropout drew otherwise"
    ),
    "run.parameters-not-trained": lambda body: f"the optimiser does not move {_names(body)}",
    "run.parameters-without-gradient": lambda body: f"no loss led to {_names(body)} in the first {body['steps']} steps",
    IN_PART: lambda body: f"attempt {body['attempt']} went on from a checkpoint without {', '.join(body['missing'])}",
    "run.stalled": lambda body: f"a step took longer than {body['seconds']:g} s",
}
