"""Is it time to train again? `decide` is a pure function from evidence and policy to a decision with its reasons.

Each check looks at one thing and says "retrain", "wait", or only notes what it saw. One "wait" is enough to wait; without a
"retrain" nothing is done either. Drift only ever notes: with many rows everything is significant, and a model may do well on
inputs that moved. What asks for training is a quality that fell, measured on labels, or the age of the model, or a person; and a
person who asks knows what doubts about the data and the cool-down cannot know, so these only note then.
"""

import math
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from velodrome.core.errors import RecipeError
from velodrome.core.units import parse_duration
from velodrome.core.values import Value
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.drift import Drift

__all__ = ["Decision", "Evidence", "Reason", "Retrain", "decide"]


class Retrain(Value, frozen=True, kw_only=True, tag="retrain"):
    """When a model is trained again.

    A version that waits for a person keeps everything waiting, however far quality falls: approve or reject it.

    Args:
        fall: by how much the primary metric must have fallen below what the champion's own test report promised, in the
            metric's units; the interval of the fall must lie above 0 as well.
        max_age: train again when the champion is this old, fall or not; None: never for its age.
        min_rows: newly labelled rows below which nothing is judged.
        max_quarantined: share of the new rows in quarantine above which the data is not sound.
        min_volume: rows of a new file, as a share of what files had before (medians), below which it is not complete.
        cool_down: time between two trainings.
        budget, period: seconds of training, as a duration, that may be spent in each period.
        drift: from when on a column counts as drifted.
    """

    fall: float = 0.01
    max_age: str | None = None
    min_rows: int = 1000
    max_quarantined: float = 0.2
    min_volume: float = 0.6
    cool_down: str = "7d"
    budget: str = "2h"
    period: str = "30d"
    drift: Drift = Drift()

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in (self.max_age, self.cool_down, self.budget, self.period):
            if text is not None:
                parse_duration(text)
        for name in ("max_quarantined", "min_volume"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"Retrain.{name} is a share, from 0 to 1", received=getattr(self, name))
        if not 0 <= self.fall < math.inf:
            raise RecipeError(
                "Retrain.fall is 0 or more, in the metric's units", received=self.fall, remedy="write fall=0.01"
            )
        if self.min_rows < 1:
            raise RecipeError("Retrain.min_rows is 1 or more", received=self.min_rows)


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known when it is decided.

    Attributes:
        champion: None while there is none; then nothing is known of quality and drift.
        pending: a version that passed its gates and waits for a person.
        asked: a person asks for it now.
        rows, quarantined: new rows that were accepted, and that were not.
        labelled: new rows with a label that the champion has not seen.
        rows_per_file, usual_rows_per_file: medians of the new files and of those before; None where there are too few.
        unmeasured: why quality could not be measured, where it could not.
        now, promised: the primary metric on the labelled rows, and in the champion's test report.
        fall: how much worse it is than promised; positive is worse, whatever the metric's direction.
        calibration, calibration_promised: expected calibration errors there; see `evaluation.calibration`.
        compared, drifted: columns whose distribution was compared, and those that moved.
        trained: when the champion was trained. last_retrained: when it was last decided to train.
        spent, expected: seconds of training in the period so far, and what another one will cost.
    """

    champion: str | None
    pending: str | None = None
    asked: bool = False
    rows: int
    quarantined: int
    labelled: int = 0
    rows_per_file: float | None = None
    usual_rows_per_file: float | None = None
    unmeasured: str | None = None
    metric: str | None = None
    now: Estimate | None = None
    promised: Estimate | None = None
    fall: Estimate | None = None
    calibration: float | None = None
    calibration_promised: float | None = None
    compared: int = 0
    drifted: tuple[str, ...] = ()
    trained: datetime | None = None
    last_retrained: datetime | None = None
    spent: float = 0.0
    expected: float = 0.0


class Reason(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one check found.

    Attributes:
        check: what was looked at. says: what follows from it alone.
        why: a sentence with the numbers.
        value, threshold: the number and what it was held against; None where there was none.
    """

    check: Literal[
        "champion",
        "rows",
        "quarantine",
        "volume",
        "labels",
        "quality",
        "calibration",
        "drift",
        "age",
        "person",
        "cool-down",
        "budget",
    ]
    says: Literal["retrain", "wait", "note"]
    why: str
    value: float | None = None
    threshold: float | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be done, and what every check found."""

    action: Literal["retrain", "wait"]
    reasons: tuple[Reason, ...]

    @property
    def why(self) -> str:
        """The reasons that decided, in one line: those that said so, or for want of any what was noted of quality."""
        decided = [reason.why for reason in self.reasons if reason.says == self.action]
        noted = [reason.why for reason in self.reasons if reason.check == "quality"]
        return "; ".join(decided or noted or [reason.why for reason in self.reasons])


def decide(evidence: Evidence, policy: Retrain, now: datetime) -> Decision:
    """Whether to train again at `now`."""
    checks = (_champion, _rows, _quarantine, _volume, _labels, _quality, _calibration, _drift)
    found = [reason for check in checks if (reason := check(evidence, policy))]
    found += [reason for timed in (_age, _person, _cool_down) if (reason := timed(evidence, policy, now))]
    found.append(_budget(evidence, policy))
    said = {reason.says for reason in found}
    return Decision(action="retrain" if "retrain" in said and "wait" not in said else "wait", reasons=tuple(found))


def _champion(evidence: Evidence, _: Retrain) -> Reason | None:
    if evidence.champion is not None:
        return None
    return Reason(check="champion", says="retrain", why="there is no champion yet")


def _rows(evidence: Evidence, _: Retrain) -> Reason | None:
    if evidence.rows:
        return None
    kept = f", {evidence.quarantined:,} in quarantine" if evidence.quarantined else ""
    return Reason(check="rows", says="wait", why=f"no new rows arrived{kept}", value=0.0)


def _quarantine(evidence: Evidence, policy: Retrain) -> Reason | None:
    total = evidence.rows + evidence.quarantined
    if not total:
        return None
    share = evidence.quarantined / total
    bad = share > policy.max_quarantined and not evidence.asked
    why = f"{share:.1%} of {total:,} new rows broke the contract, {policy.max_quarantined:.0%} may"
    return Reason(
        check="quarantine", says="wait" if bad else "note", why=why, value=share, threshold=policy.max_quarantined
    )


def _volume(evidence: Evidence, policy: Retrain) -> Reason | None:
    if evidence.rows_per_file is None or not evidence.usual_rows_per_file:
        return None
    share = evidence.rows_per_file / evidence.usual_rows_per_file
    bad = share < policy.min_volume and not evidence.asked
    why = f"a new file has {evidence.rows_per_file:,.0f} rows, usual are {evidence.usual_rows_per_file:,.0f}"
    return Reason(check="volume", says="wait" if bad else "note", why=why, value=share, threshold=policy.min_volume)


def _labels(evidence: Evidence, policy: Retrain) -> Reason | None:
    if evidence.champion is None or not evidence.rows:
        return None
    says: Literal["wait", "note"] = "note" if evidence.asked else "wait"
    if evidence.unmeasured:
        return Reason(check="labels", says=says, why=f"quality cannot be measured: {evidence.unmeasured}")
    if evidence.labelled < policy.min_rows:
        why = f"{evidence.labelled:,} new rows have a label and were not seen by {evidence.champion}, {policy.min_rows:,} are needed"
        return Reason(
            check="labels", says=says, why=why, value=float(evidence.labelled), threshold=float(policy.min_rows)
        )
    return None


def _quality(evidence: Evidence, policy: Retrain) -> Reason | None:
    if evidence.now is None:
        return None
    shown = f"{evidence.metric} is {_interval(evidence.now)}"
    if evidence.fall is None or evidence.promised is None:
        why = f"{shown}; {evidence.champion}'s test report has no such figure, or an interval of another level"
        return Reason(check="quality", says="note", why=why)
    fall, low = evidence.fall.value, evidence.fall.low
    fell = fall >= policy.fall and low is not None and low > 0
    why = f"{shown}, promised were {_interval(evidence.promised)}: {_fallen(evidence.fall, policy, fell=fell)}"
    return Reason(check="quality", says="retrain" if fell else "note", why=why, value=fall, threshold=policy.fall)


def _fallen(fall: Estimate, policy: Retrain, *, fell: bool) -> str:
    if fell:
        return f"worse by {_interval(fall)}"
    if fall.value < policy.fall:
        return f"no fall of {policy.fall:g}"
    return f"a fall of {_interval(fall)} may be chance"


def _calibration(evidence: Evidence, _: Retrain) -> Reason | None:
    now, promised = evidence.calibration, evidence.calibration_promised
    if now is None or promised is None:
        return None
    why = f"predicted probabilities are off by {now:.3f}, promised were {promised:.3f}"
    return Reason(check="calibration", says="note", why=why, value=now, threshold=promised)


def _drift(evidence: Evidence, _: Retrain) -> Reason | None:
    if not evidence.compared:
        return None
    count = len(evidence.drifted)
    named = f": {', '.join(evidence.drifted[:5])}{', ...' if count > 5 else ''}" if count else ""
    why = f"{count} of {evidence.compared} columns drifted{named}"
    return Reason(check="drift", says="note", why=why, value=float(count))


def _age(evidence: Evidence, policy: Retrain, now: datetime) -> Reason | None:
    if policy.max_age is None or evidence.trained is None:
        return None
    days, limit = _days(now - evidence.trained), _days(parse_duration(policy.max_age))
    old = days >= limit
    return Reason(
        check="age",
        says="retrain" if old else "note",
        why=f"{evidence.champion} is {days:.1f} days old, {limit:g} at the most",
        value=days,
        threshold=limit,
    )


def _person(evidence: Evidence, _: Retrain, __: datetime) -> Reason | None:
    if evidence.pending:
        return Reason(check="person", says="wait", why=f"{evidence.pending} passed its gates and waits for a person")
    if evidence.asked:
        return Reason(check="person", says="retrain", why="a person asked for it")
    return None


def _cool_down(evidence: Evidence, policy: Retrain, now: datetime) -> Reason | None:
    if evidence.last_retrained is None or evidence.asked:
        return None
    days, limit = _days(now - evidence.last_retrained), _days(parse_duration(policy.cool_down))
    early = days < limit
    return Reason(
        check="cool-down",
        says="wait" if early else "note",
        why=f"the last training was {days:.1f} days ago, {limit:g} must pass",
        value=days,
        threshold=limit,
    )


def _budget(evidence: Evidence, policy: Retrain) -> Reason:
    limit, total = parse_duration(policy.budget).total_seconds(), evidence.spent + evidence.expected
    return Reason(
        check="budget",
        says="wait" if total > limit else "note",
        why=f"{evidence.spent:.0f} s of training spent in {policy.period}, {evidence.expected:.0f} s more expected, "
        f"{limit:.0f} s allowed",
        value=total,
        threshold=limit,
    )


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.4f}"
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def _days(duration: timedelta) -> float:
    return duration / timedelta(days=1)
