"""What is shown of the loop's cycles: evidence, decision, what came of it, and the drift of the window it looked at.

Cost: a few small reads for each cycle.
"""

import msgspec

from velodrome.control.cycles import Conclusion, Cycle, cycles
from velodrome.monitoring.drift import DriftReport, WindowDrift
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace

__all__ = ["CycleFacts", "cycle_facts"]


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


def cycle_facts(ws: Workspace, model: str) -> list[CycleFacts]:
    """Every cycle of a model, oldest first."""
    return [_facts(ws, cycle, conclusion) for cycle, conclusion in cycles(ws, model)]


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
