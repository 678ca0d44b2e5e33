"""Is the model good enough? Gates, the rules that a recipe declares, and the verdicts that they give on a report.

Design: a gate is a value, `judge` a pure function: gates, report and comparisons in, verdicts out, each with a
sentence that says why in numbers. `AtLeast` and `AtMost` look at the estimate itself. `NotWorse` is a non-inferiority
test: the difference to the champion is estimated on the same rows (`compare`), and the pessimistic bound of its
interval must not be worse than the margin `by`. With a two-sided interval of level 0.95 a model that is worse by more
than the margin passes in 2.5 % of cases (ICH E9, section 3.3.2). What cannot be judged does not pass; the one
exception is a champion that does not exist.
Cost: microseconds; `compare` costs what a paired bootstrap costs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import msgspec
from numpy.typing import ArrayLike

from velodrome.core.errors import RecipeError, nearest
from velodrome.core.values import Value
from velodrome.evaluation.bootstrap import Estimate, paired_difference
from velodrome.evaluation.cohorts import CohortEstimate
from velodrome.evaluation.metrics import METRICS, Metric
from velodrome.evaluation.report import Report

__all__ = ["AtLeast", "AtMost", "Comparison", "Gate", "NotWorse", "Verdict", "check_gates", "compare", "judge"]


class AtLeast(Value, frozen=True, tag="at_least"):
    """The metric is `threshold` or more; with `cohort`, in every judged cohort of that column (primary metric only).

    >>> print(AtLeast("roc_auc", 0.65, cohort="carrier"))
    roc_auc at least 0.65 in each carrier
    """

    metric: str
    threshold: float
    cohort: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_threshold(self)

    def __str__(self) -> str:
        return f"{self.metric} at least {self.threshold:.5g}{_in_each(self)}"


class AtMost(Value, frozen=True, tag="at_most"):
    """The metric is `threshold` or less; with `cohort`, in every judged cohort of that column (primary metric only).

    >>> print(AtMost("rmse", 3))
    rmse at most 3
    """

    metric: str
    threshold: float
    cohort: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_threshold(self)

    def __str__(self) -> str:
        return f"{self.metric} at most {self.threshold:.5g}{_in_each(self)}"


class NotWorse(Value, frozen=True, tag="not_worse"):
    """The metric is, with significance, not worse than that of the model called `than` by more than `by`.

    Args:
        than: an alias, "champion" for instance. While it names no model, the gate passes and says so.
        by: the margin, not negative, in the metric's own unit.
        metric: None means the report's primary metric.

    >>> print(NotWorse("champion", by=0.01))
    the primary metric not worse than champion's by more than 0.01
    """

    than: str
    by: float
    metric: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.by < math.inf:
            raise RecipeError(
                "NotWorse.by is a margin of 0 or more", received=self.by, remedy="write by=0.01 for one point"
            )

    def __str__(self) -> str:
        return f"{self.metric or 'the primary metric'} not worse than {self.than}'s by more than {self.by:.5g}"


Gate: TypeAlias = AtLeast | AtMost | NotWorse


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model, the challenger, against the one called `name`, on the same rows.

    Attributes:
        difference: the metric of the challenger minus that of the other.
    """

    name: str
    metric: str
    greater_is_better: bool
    difference: Estimate


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one gate says.

    Attributes:
        gate: the rule in words.
        why: a sentence with the numbers.
        value, threshold: the number and what it was held against; None where there was none.
    """

    gate: str
    passed: bool
    why: str
    value: float | None
    threshold: float | None


def compare(
    name: str,
    metric: Metric,
    target: ArrayLike,
    challenger: ArrayLike,
    champion: ArrayLike,
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Comparison:
    """Two models' predictions of the same rows; `name` is what the second one is called.

    Raises:
        LabelError, DataError, RecipeError: as `paired_difference`.
    """
    difference = paired_difference(
        metric, target, challenger, champion, seed=seed, resamples=resamples, level=level, groups=groups
    )
    return Comparison(name=name, metric=metric.name, greater_is_better=metric.greater_is_better, difference=difference)


def check_gates(gates: Iterable[Gate], *, metrics: Iterable[str], primary: str, cohorts: Iterable[str]) -> None:
    """Refuse gates that could never be judged; before training, with the names from `plan_metrics` and the plan.

    Raises:
        RecipeError: a metric or a cohort column that the report will not hold, or cohorts gated on another metric than
            the primary one.
    """
    known, columns = set(metrics), set(cohorts)
    for gate in gates:
        name = gate.metric or primary
        if name not in known:
            raise RecipeError(
                f"the gate on {name} has no such metric in the report", received=str(gate), remedy=nearest(name, known)
            )
        if isinstance(gate, NotWorse) or gate.cohort is None:
            continue
        if gate.cohort not in columns:
            raise RecipeError(
                f"the evaluation has no cohorts by {gate.cohort}",
                received=str(gate),
                remedy=nearest(gate.cohort, columns),
            )
        if name != primary:
            raise RecipeError(
                f"cohorts are judged by the primary metric, {primary}, only",
                received=str(gate),
                remedy=f"gate cohorts on {primary}, or make {name} the primary metric",
            )


def judge(
    gates: Sequence[Gate],
    report: Report,
    comparisons: Sequence[Comparison] = (),
    incomparable: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Verdict, ...]:
    """A verdict for each gate, in their order.

    Args:
        comparisons: for each `NotWorse` whose model exists, one with its name and metric.
        incomparable: the models that cannot be compared with, and why; no gate on one of them is passed.

    Raises:
        RecipeError: as `check_gates`; or the model of a `NotWorse` was compared by other metrics only.
    """
    columns = {cohort.column for cohort in report.cohorts}
    check_gates(gates, metrics=report.metrics, primary=report.primary, cohorts=columns)
    return tuple(
        _not_worse(gate, report, comparisons, incomparable) if isinstance(gate, NotWorse) else _bounded(gate, report)
        for gate in gates
    )


def _bounded(gate: AtLeast | AtMost, report: Report) -> Verdict:
    """The metric, or its worst value over the cohorts, against the threshold."""
    if gate.cohort is None:
        found = report.metrics[gate.metric]
        return _verdict(gate, found, f"{gate.metric} is {_shown(found)}", "")
    cohorts = [cohort for cohort in report.cohorts if cohort.column == gate.cohort]
    judged = [(cohort.estimate, cohort.value) for cohort in cohorts if cohort.estimate is not None]
    left_out = _left_out(cohorts)
    if not judged:
        why = f"no {gate.cohort} could be judged{left_out}."
        return Verdict(gate=str(gate), passed=False, why=why, value=None, threshold=gate.threshold)
    sign, extreme = (1, "lowest") if isinstance(gate, AtLeast) else (-1, "highest")
    found, value = min(judged, key=lambda pair: sign * pair[0].value)
    where = f"{gate.metric} of {gate.cohort} {value}, the {extreme} of {len(judged)} judged,"
    return _verdict(gate, found, f"{where} is {_shown(found)}", left_out)


def _verdict(gate: AtLeast | AtMost, found: Estimate, finding: str, left_out: str) -> Verdict:
    if isinstance(gate, AtLeast):
        passed = found.value >= gate.threshold
        relation = "at least" if passed else "below"
    else:
        passed = found.value <= gate.threshold
        relation = "at most" if passed else "above"
    why = f"{finding}, {relation} {gate.threshold:.5g}{left_out}."
    return Verdict(gate=str(gate), passed=passed, why=why, value=found.value, threshold=gate.threshold)


def _not_worse(
    gate: NotWorse, report: Report, comparisons: Sequence[Comparison], incomparable: Mapping[str, str]
) -> Verdict:
    name = gate.metric or report.primary
    if gate.than in incomparable:
        why = f"{gate.than} cannot be compared with: {incomparable[gate.than]}; leave this gate out once to replace it."
        return Verdict(gate=str(gate), passed=False, why=why, value=None, threshold=gate.by)
    made = {comparison.metric: comparison for comparison in comparisons if comparison.name == gate.than}
    if not made:
        why = f"there is no {gate.than} to compare with, so {name} cannot be worse."
        return Verdict(gate=str(gate), passed=True, why=why, value=None, threshold=None)
    if name not in made:
        raise RecipeError(f"{gate.than} was not compared by {name}", received=str(gate), remedy=nearest(name, made))
    return _within_margin(gate, made[name])


def _within_margin(gate: NotWorse, comparison: Comparison) -> Verdict:
    """The pessimistic bound of the difference against the margin."""
    found = comparison.difference
    if comparison.greater_is_better:
        side, bound, threshold = "lower", found.low, 0.0 - gate.by
        passed = bound is not None and bound >= threshold
    else:
        side, bound, threshold = "upper", found.high, gate.by
        passed = bound is not None and bound <= threshold
    judgement = f"the {side} bound is {'within' if passed else 'beyond'} the margin of {threshold:.5g}"
    if bound is None:
        judgement = "without an interval nothing can be said with significance"
    why = f"{comparison.metric} minus {comparison.name}'s is {_shown(found)}; {judgement}."
    return Verdict(gate=str(gate), passed=passed, why=why, value=bound, threshold=threshold)


def _check_threshold(gate: AtLeast | AtMost) -> None:
    low, high = next(
        (metric.bounds for (name, _), metric in METRICS.items() if name == gate.metric), (-math.inf, math.inf)
    )
    if not (low <= gate.threshold <= high and math.isfinite(gate.threshold)):
        raise RecipeError(
            f"{type(gate).__name__}.threshold must be a value that {gate.metric} can take",
            received=gate.threshold,
            remedy=f"{gate.metric} lies between {low:g} and {high:g}",
        )


def _in_each(gate: AtLeast | AtMost) -> str:
    return f" in each {gate.cohort}" if gate.cohort else ""


def _shown(found: Estimate) -> str:
    """The number, its interval and its rows, in words."""
    rows = f"on {found.rows} rows"
    if found.low is None or found.high is None:
        return f"{found.value:.5g} ({rows}, too few for an interval)"
    return f"{found.value:.5g} ({100 * found.level:g} % interval {found.low:.5g} to {found.high:.5g}, {rows})"


def _left_out(cohorts: Sequence[CohortEstimate]) -> str:
    skipped = [f"{cohort.value} ({cohort.skipped})" for cohort in cohorts if cohort.estimate is None]
    if not skipped:
        return ""
    more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return f"; not judged: {', '.join(skipped[:5])}{more}"
