"""What is shown of the loop's cycles: evidence, decision, what came of it, and the drift of the window it looked at.

Cost: a few small reads for each cycle.
"""

from collections.abc import Iterator
from datetime import datetime

import msgspec

from velodrome.control.cycles import Conclusion, Cycle, cycles
from velodrome.monitoring.drift import DriftReport, WindowDrift
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace

__all__ = ["CycleFacts", "Refusal", "cycle_facts", "refusals"]


class CycleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One cycle.

    Attributes:
        why: the decision's reasons in a line.
        drift: the columns of the newest window beside the data that the champion was trained on; None where none was compared.
        since: for each column that drifted, the window from which on it did without a break.
    """

    cycle: Cycle
    conclusion: Conclusion | None
    why: str
    drift: WindowDrift | None
    since: dict[str, str]

    def concerns(self, version: str) -> bool:
        """Whether it judged that version as champion, or made it."""
        return version in (self.cycle.champion, self.conclusion and self.conclusion.version)

    def promoted(self, version: str) -> bool:
        """Whether it made that version champion."""
        end = self.conclusion
        return end is not None and (end.version, end.verdict) == (version, "promoted")


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Data that was refused as a whole. `before`: the number of the first cycle after it, decided or not."""

    time: datetime
    before: int
    error: str
    problem: str


def cycle_facts(ws: Workspace, model: str) -> list[CycleFacts]:
    """Every cycle of a model, oldest first."""
    return [_facts(ws, cycle, conclusion) for cycle, conclusion in cycles(ws, model)]


def refusals(ws: Workspace, model: str) -> Iterator[Refusal]:
    """When data was refused, and between which cycles, oldest first."""
    number = 1
    for event in ws.ledger.events(f"cycle:{model}"):
        if "problem" in event.body:
            error, problem = str(event.body["error"]), str(event.body["problem"])
            yield Refusal(time=event.time, before=number, error=error, problem=problem)
        else:
            number += 1


def _facts(ws: Workspace, cycle: Cycle, conclusion: Conclusion | None) -> CycleFacts:
    report = read_record(ws.ledger, cycle.drift, DriftReport) if cycle.drift else None
    window = report.windows[-1] if report and report.windows else None
    since = {name: report.since(name) or window.window for name in window.drifted} if report and window else {}
    return CycleFacts(
        cycle=cycle,
        conclusion=conclusion,
        why=cycle.decision.why,
        drift=window,
        since=since,
    )
