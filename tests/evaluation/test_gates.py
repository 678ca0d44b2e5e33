"""Gates decide from numbers alone, say why in a sentence, and do not pass what they cannot judge."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import LabelError, RecipeError
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.cohorts import CohortEstimate
from velodrome.evaluation.gates import (
    AtLeast,
    AtMost,
    Comparison,
    Gate,
    NotWorse,
    Verdict,
    check_gates,
    compare,
    judge,
)
from velodrome.evaluation.metrics import metric_named
from velodrome.evaluation.report import Report


def around(value: float, half: float | None = 0.02) -> Estimate:
    low, high = (None, None) if half is None else (value - half, value + half)
    return Estimate(value=value, low=low, high=high, level=0.95, resamples=1000, rows=5000)


def carrier(value: str, found: float | None, skipped: str | None = None) -> CohortEstimate:
    own = None if found is None else around(found)
    return CohortEstimate(column="carrier", value=value, rows=500, share=0.1, estimate=own, skipped=skipped)


def report(cohorts: Sequence[CohortEstimate] = ()) -> Report:
    metrics = {"roc_auc": around(0.7), "log_loss": around(0.5), "cost": around(3.0)}
    return Report(
        task="binary",
        primary="roc_auc",
        metrics=metrics,
        cohorts=tuple(cohorts),
        rows=5000,
        class_counts=(4000, 1000),
        by="rows",
        seed=1,
    )


CARRIERS = [carrier("AA", 0.72), carrier("UA", 0.61), carrier("HA", None, "fewer than 50 rows")]


def only(gate: Gate, cohorts: Sequence[CohortEstimate] = (), comparisons: Sequence[Comparison] = ()) -> Verdict:
    (verdict,) = judge([gate], report(cohorts), comparisons)
    return verdict


# A threshold ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "passed", "relation"),
    [
        (AtLeast("roc_auc", 0.65), True, "at least 0.65."),
        (AtLeast("roc_auc", 0.7), True, "at least 0.7."),
        (AtLeast("roc_auc", 0.71), False, "below 0.71."),
        (AtMost("roc_auc", 0.71), True, "at most 0.71."),
        (AtMost("roc_auc", 0.7), True, "at most 0.7."),
        (AtMost("roc_auc", 0.65), False, "above 0.65."),
    ],
)
def test_a_threshold_is_held_against_the_estimate(gate: Gate, passed: bool, relation: str) -> None:
    verdict = only(gate)
    assert (verdict.passed, verdict.value) == (passed, 0.7)
    assert verdict.why == f"roc_auc is 0.7 (95 % interval 0.68 to 0.72, on 5000 rows), {relation}"


def test_an_own_metric_has_a_gate_like_any_other() -> None:
    verdict = only(AtMost("cost", 2.5))
    assert verdict == Verdict(
        gate="cost at most 2.5",
        passed=False,
        why="cost is 3 (95 % interval 2.98 to 3.02, on 5000 rows), above 2.5.",
        value=3.0,
        threshold=2.5,
    )


@given(st.floats(0, 1), st.floats(0, 1))
def test_at_least_and_at_most_cover_everything_and_meet_in_equality(value: float, threshold: float) -> None:
    found = msgspec.structs.replace(report(), metrics={"roc_auc": around(value)})
    least, most = judge([AtLeast("roc_auc", threshold), AtMost("roc_auc", threshold)], found)
    assert least.passed or most.passed
    assert (least.passed and most.passed) == (value == threshold)


# Cohorts -------------------------------------------------------------------------------------------------------------


def test_the_worst_cohort_decides() -> None:
    verdict = only(AtLeast("roc_auc", 0.65, cohort="carrier"), CARRIERS)
    assert (verdict.passed, verdict.value, verdict.threshold) == (False, 0.61, 0.65)
    assert verdict.gate == "roc_auc at least 0.65 in each carrier"
    assert verdict.why == (
        "roc_auc of carrier UA, the lowest of 2 judged, is 0.61 (95 % interval 0.59 to 0.63, on 5000 rows), below 0.65; "
        "not judged: HA (fewer than 50 rows)."
    )
    assert only(AtLeast("roc_auc", 0.6, cohort="carrier"), CARRIERS).passed
    most = only(AtMost("roc_auc", 0.7, cohort="carrier"), CARRIERS)
    assert (most.passed, most.value) == (False, 0.72)
    assert "carrier AA, the highest of 2 judged" in most.why


def test_cohorts_of_which_none_was_judged_do_not_pass() -> None:
    few = [carrier(f"C{number}", None, "fewer than 50 rows") for number in range(7)]
    verdict = only(AtLeast("roc_auc", 0.1, cohort="carrier"), few)
    assert (verdict.passed, verdict.value) == (False, None)
    assert verdict.why.startswith("no carrier could be judged; not judged: C0 (fewer than 50 rows), C1")
    assert verdict.why.endswith("C4 (fewer than 50 rows) and 2 more.")


# Not worse -----------------------------------------------------------------------------------------------------------


def against(difference: Estimate, metric: str = "roc_auc", greater_is_better: bool = True) -> list[Comparison]:
    return [Comparison(name="champion", metric=metric, greater_is_better=greater_is_better, difference=difference)]


def test_without_a_champion_nothing_is_worse() -> None:
    elsewhere = [msgspec.structs.replace(against(around(-0.5))[0], name="staging")]
    for comparisons in ([], elsewhere):
        verdict = only(NotWorse("champion", by=0.01), comparisons=comparisons)
        assert verdict == Verdict(
            gate="the primary metric not worse than champion's by more than 0.01",
            passed=True,
            why="there is no champion to compare with, so roc_auc cannot be worse.",
            value=None,
            threshold=None,
        )


@pytest.mark.parametrize(
    ("value", "half", "passed"),
    [
        (0.02, 0.01, True),  # better
        (0.0, 0.009, True),  # as good, and sure enough
        (0.0, 0.011, False),  # as good, but not sure enough
        (-0.005, 0.004, True),  # significantly worse, within the margin
        (-0.02, 0.001, False),  # worse by more than the margin
    ],
)
@pytest.mark.parametrize("greater_is_better", [True, False])
def test_the_pessimistic_bound_decides(value: float, half: float, passed: bool, greater_is_better: bool) -> None:
    sign = 1 if greater_is_better else -1
    name = "roc_auc" if greater_is_better else "log_loss"
    comparisons = against(around(sign * value, half), name, greater_is_better)
    verdict = only(NotWorse("champion", by=0.01, metric=name), comparisons=comparisons)
    assert verdict.passed == passed
    assert verdict.value == pytest.approx(sign * (value - half))
    assert verdict.threshold == pytest.approx(-sign * 0.01)
    assert f"{name} minus champion's is" in verdict.why
    assert f"the {'lower' if greater_is_better else 'upper'} bound is {'within' if passed else 'beyond'}" in verdict.why


def test_without_an_interval_nothing_is_shown_to_be_as_good() -> None:
    verdict = only(NotWorse("champion", by=0.01), comparisons=against(around(0.3, half=None)))
    assert (verdict.passed, verdict.value) == (False, None)
    assert verdict.why == (
        "roc_auc minus champion's is 0.3 (on 5000 rows, too few for an interval); "
        "without an interval nothing can be said with significance."
    )


def test_each_gate_takes_the_comparison_by_its_metric() -> None:
    comparisons = [*against(around(0.0)), *against(around(-0.2), "log_loss", greater_is_better=False)]
    gates = [NotWorse("champion", by=0.01), NotWorse("champion", by=0.01, metric="log_loss")]
    assert [verdict.passed for verdict in judge(gates, report(), comparisons)] == [False, True]


def test_a_champion_compared_by_another_metric_is_a_mistake() -> None:
    with pytest.raises(RecipeError, match="champion was not compared by roc_auc"):
        only(NotWorse("champion", by=0.01), comparisons=against(around(0.0), "log_loss"))


@pytest.mark.parametrize(("name", "greater_is_better"), [("roc_auc", True), ("log_loss", False)])
def test_predictions_decide_in_both_directions(name: str, greater_is_better: bool) -> None:
    rng = np.random.default_rng(2)
    target = (rng.random(2000) < 0.4).astype(np.int64)
    good = np.clip(0.4 + 0.2 * (target - 0.4) + 0.2 * rng.normal(size=2000), 0.01, 0.99)
    poor = np.clip(good + 0.2 * rng.normal(size=2000), 0.01, 0.99)
    metric, gate = metric_named(name, "binary"), NotWorse("champion", by=0.01, metric=name)
    up = compare("champion", metric, target, good, poor, seed=1, resamples=200)
    down = compare("champion", metric, target, poor, good, seed=1, resamples=200)
    same = compare("champion", metric, target, good, good, seed=1, resamples=200)
    assert up.greater_is_better == greater_is_better
    assert (up.difference.value > 0) == greater_is_better
    assert [only(gate, comparisons=[one]).passed for one in (up, down, same)] == [True, False, True]
    no_margin = NotWorse("champion", by=0, metric=name)
    assert only(no_margin, comparisons=[same]).why.endswith("bound is within the margin of 0.")


def test_models_are_compared_on_rows_that_can_be_judged() -> None:
    with pytest.raises(LabelError, match="every label is class 1"):
        compare("champion", metric_named("roc_auc", "binary"), [1, 1], [0.1, 0.2], [0.2, 0.1], seed=1)


# Gates as values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: AtLeast("roc_auc", 65), "roc_auc lies between 0 and 1"),
        (lambda: AtLeast("roc_auc", float("nan")), "must be a value that roc_auc can take"),
        (lambda: AtMost("rmse", -1.0), "rmse lies between 0 and inf"),
        (lambda: AtMost("rmse", float("inf")), "must be a value that rmse can take"),
        (lambda: AtMost("cost", float("inf")), "must be a value that cost can take"),
        (lambda: AtLeast("roc_auc", "high"), "AtLeast.threshold takes float"),
        (lambda: AtLeast("roc_auc"), "(?i)missing required argument 'threshold'"),
        (lambda: AtLeast("roc_auc", 0.6, cohorts="carrier"), "did you mean 'cohort'"),
        (lambda: NotWorse("champion", by=-0.01), r"margin of 0 or more\n.*-0.01"),
        (lambda: NotWorse("champion", by=float("nan")), r"margin of 0 or more\n.*nan"),
        (lambda: NotWorse("champion"), "(?i)missing required argument 'by'"),
    ],
)
def test_a_gate_that_cannot_be_meant_is_refused_where_it_stands(make: Any, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        make()


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        (AtLeast("roc_acu", 0.6), r"gate on roc_acu(.|\n)*did you mean 'roc_auc'"),
        (NotWorse("champion", by=0.01, metric="log_los"), r"gate on log_los (.|\n)*did you mean 'log_loss'"),
        (AtLeast("roc_auc", 0.6, cohort="carier"), r"no cohorts by carier(.|\n)*did you mean 'carrier'"),
        (AtMost("log_loss", 0.6, cohort="carrier"), "by the primary metric, roc_auc, only"),
    ],
)
def test_a_gate_that_could_never_be_judged_is_refused(gate: Gate, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        only(gate, CARRIERS)
    with pytest.raises(RecipeError, match=problem):
        check_gates([gate], metrics=["roc_auc", "log_loss"], primary="roc_auc", cohorts=["carrier"])


def test_gates_and_what_they_say_travel_as_json() -> None:
    gates: list[Gate] = [
        AtLeast("roc_auc", 0.65, cohort="carrier"),
        AtMost("log_loss", 1),
        NotWorse("champion", by=0.01),
    ]
    assert msgspec.json.decode(msgspec.json.encode(gates), type=list[Gate]) == gates
    comparisons = against(around(0.1))
    assert msgspec.json.decode(msgspec.json.encode(comparisons), type=list[Comparison]) == comparisons
    verdicts = judge(gates, report(CARRIERS), comparisons)
    assert [verdict.passed for verdict in verdicts] == [False, True, True]
    assert msgspec.json.decode(msgspec.json.encode(verdicts), type=tuple[Verdict, ...]) == verdicts


def test_no_gates_give_no_verdicts() -> None:
    assert judge([], report()) == ()
