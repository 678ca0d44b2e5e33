"""The attempts of a run, as its chain of events tells them: from where each went on, and how it ended."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from velodrome.registry.series import RESTORED
from velodrome.store.ledger import Event

__all__ = ["Attempt", "attempts_of", "describe_attempt"]

_ENDS: dict[str, Literal["finished", "failed"]] = {"run.finished": "finished", "run.failed": "failed"}


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a run.

    Attributes:
        restored_step: the step whose checkpoint it went on from; None: it began from nothing.
        redone: steps that the attempt before had done after that checkpoint, as far as its history tells.
        ended: when it told so.
        end: how; one that told nothing "died" if another began after it, and may be running if none did: None.
    """

    number: int
    started: datetime
    restored_step: int | None = None
    redone: int = 0
    ended: datetime | None = None
    end: Literal["finished", "failed", "rolled back", "died"] | None = None


def attempts_of(events: Sequence[Event]) -> tuple[Attempt, ...]:
    """The tries at a run, in their order, from the events of its chain."""
    found: dict[int, Attempt] = {}
    present = 0
    for event in events:
        if event.type in ("run.started", "run.resumed"):
            if present and found[present].end is None:
                found[present] = msgspec.structs.replace(found[present], end="died")
            present = event.body["attempt"]
            found[present] = Attempt(number=present, started=event.time)
        elif event.type == RESTORED:
            step, redone = event.body["step"], event.body["redone"]
            number = event.body["attempt"]
            found[number] = msgspec.structs.replace(found[number], restored_step=step, redone=redone)
        elif event.type in _ENDS:
            found[present] = msgspec.structs.replace(found[present], ended=event.time, end=_ENDS[event.type])
        elif event.type == "run.diverged" and event.body["then"] == "roll back":
            found[present] = msgspec.structs.replace(found[present], ended=event.time, end="rolled back")
    return tuple(found.values())


def describe_attempt(attempt: Attempt) -> str:
    """An attempt for a person, in a line."""
    origin = (
        f"from step {attempt.restored_step}, {attempt.redone} done again" if attempt.restored_step else "from nothing"
    )
    return f"{attempt.started:%Y-%m-%d %H:%M:%S}, {origin}, {attempt.end or 'running or killed'}"
