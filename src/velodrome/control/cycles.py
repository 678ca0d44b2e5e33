"""What the loop leaves behind: a Cycle for each decision, and a Conclusion for each decision to train.

`cycle:<model>` points at the newest Cycle, `concluded:<cycle>` at what came of it. Cost: two small reads for each cycle.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from velodrome.core.digest import Digest
from velodrome.core.values import Record
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.gates import Comparison, Verdict
from velodrome.monitoring.decide import Decision, Evidence
from velodrome.store.ledger import Append, Event, Link, Move, Put, digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = [
    "Conclusion",
    "Cycle",
    "Ending",
    "Past",
    "Refusal",
    "conclude",
    "cycles",
    "open_cycle",
    "past_cycles",
    "record",
    "refusals",
    "refuse",
]

Ending: TypeAlias = Literal["promoted", "refused", "waiting", "overtaken", "failed"]

_REFUSED = "cycle.data-refused"


class Cycle(Record, frozen=True, kw_only=True, tag="cycle"):
    """One look at what arrived, and the decision.

    Attributes:
        number: from 1, without gaps within a model.
        at: the moment that the decision was made for.
        snapshot, base: the data as it was, and the snapshot beyond which it was looked at; None: all of it was.
        window: name of what arrived since the snapshot before. rows, quarantined: of it.
        recipe: digest of all that the recipe says.
        drift, quality: the DriftReport and Quality records; None where there was no champion, or nothing to judge.
    """

    model: str
    number: int
    at: datetime
    snapshot: Digest
    base: Digest | None
    champion: str | None
    window: str
    rows: int
    quarantined: int
    drift: Digest | None
    quality: Digest | None
    evidence: Evidence
    decision: Decision
    recipe: Digest


class Conclusion(Record, frozen=True, kw_only=True, tag="conclusion"):
    """What came of a decision to train.

    Attributes:
        verdict: "waiting": it passed its gates and a person is asked; "overtaken": a newer champion came meanwhile;
            "failed": the data or the training did not allow a model, `failure` says why, and the rest is empty.
        run: the run that was judged. report: its Report. challenger: the primary metric there.
        against: the champion that it was compared with. comparison: challenger minus champion on the same rows.
        seconds: of training, judging and refitting, in the call that came to the end.
    """

    cycle: Digest
    verdict: Ending
    version: str | None = None
    run: str | None = None
    report: Digest | None = None
    challenger: Estimate | None = None
    verdicts: tuple[Verdict, ...] = ()
    against: str | None = None
    comparison: Comparison | None = None
    failure: str | None = None
    seconds: float


class Past(msgspec.Struct, frozen=True):
    """A cycle with its name, when it was recorded, and what came of it. A name is never computed anew: records gain fields."""

    digest: Digest
    cycle: Cycle
    recorded: datetime
    end: Conclusion | None


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Data that was refused as a whole. `before`: the number of the first cycle after it, decided or not."""

    time: datetime
    before: int
    error: str
    problem: str


def refusals(ws: Workspace, model: str) -> Iterator[Refusal]:
    """When data was refused, and between which cycles, oldest first."""
    number = 1
    for event in _events(ws, model):
        if event.type == _REFUSED:
            error, problem = str(event.body["error"]), str(event.body["problem"])
            yield Refusal(time=event.time, before=number, error=error, problem=problem)
        else:
            number += 1


def cycles(ws: Workspace, model: str) -> list[tuple[Cycle, Conclusion | None]]:
    """Every cycle of a model with what came of it, oldest first."""
    return [(past.cycle, past.end) for past in past_cycles(ws, model)]


def past_cycles(ws: Workspace, model: str) -> list[Past]:
    """The same with their names."""
    return [_past(ws, event) for event in _events(ws, model) if event.type != _REFUSED]


def open_cycle(ws: Workspace, model: str) -> Past | None:
    """The cycle whose decision to train was not carried out yet."""
    moves = [event for event in _events(ws, model) if event.type != _REFUSED]
    newest = _past(ws, moves[-1]) if moves else None
    return newest if newest and newest.cycle.decision.action == "retrain" and newest.end is None else None


def record(ws: Workspace, cycle: Cycle, before: Past | None, *records: Record) -> Past:
    """Record a cycle after the one before it, with records that it names.

    Raises:
        PointerMoved: another process recorded one at the same moment.
    """
    digest = digest_record(cycle)
    links = {"snapshot": cycle.snapshot, "base": cycle.base, "drift": cycle.drift, "quality": cycle.quality}
    if cycle.champion:
        links["champion"] = Digest(f"version:{cycle.champion}")
    body = {"action": cycle.decision.action}
    ws.commit(
        *(Put(one, cycle.model) for one in (*records, cycle)),
        *(Link(digest, end, role) for role, end in links.items() if end),
        Move(_subject(cycle.model), before.digest if before else None, digest, "cycle.decided", body),
    )
    return _past(ws, _events(ws, cycle.model)[-1])


def conclude(ws: Workspace, model: str, conclusion: Conclusion) -> Conclusion:
    """Record what came of a cycle.

    Raises:
        PointerMoved: that was recorded before.
    """
    digest, ends = digest_record(conclusion), {"cycle": conclusion.cycle, "report": conclusion.report}
    ends["run"] = Digest(f"run:{conclusion.run}") if conclusion.run else None
    ends["version"] = Digest(f"version:{conclusion.version}") if conclusion.version else None
    ws.commit(
        Put(conclusion, model),
        *(Link(digest, end, role) for role, end in ends.items() if end),
        Move(f"concluded:{conclusion.cycle}", None, digest, "cycle.concluded", {"verdict": conclusion.verdict}),
    )
    return conclusion


def refuse(ws: Workspace, model: str, error: str, problem: str) -> None:
    """Record that data was refused before a cycle could begin; the same again is not recorded again."""
    body, events = {"error": error, "problem": problem}, _events(ws, model)
    if not events or (events[-1].type, events[-1].body) != (_REFUSED, body):
        ws.commit(Append(_subject(model), _REFUSED, body))


def _past(ws: Workspace, decided: Event) -> Past:
    digest = Digest(str(decided.body["to"]))
    end = ws.ledger.pointer(f"concluded:{digest}")
    conclusion = read_record(ws.ledger, end.value, Conclusion) if end and end.value else None
    return Past(digest, read_record(ws.ledger, digest, Cycle), decided.time, conclusion)


def _events(ws: Workspace, model: str) -> list[Event]:
    return ws.ledger.events(_subject(model))


def _subject(model: str) -> str:
    return f"cycle:{model}"
