"""The plan, and the report that comes of it."""

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from velodrome.core.digest import canonical
from velodrome.core.errors import DataError, LabelError, NotFound, RecipeError
from velodrome.evaluation.bootstrap import estimate
from velodrome.evaluation.cohorts import cohort_estimates
from velodrome.evaluation.metrics import METRICS, metric_named
from velodrome.evaluation.report import DEFAULT_METRICS, Evaluation, Report, default_metric, evaluate, plan_metrics

Array = NDArray[Any]
RNG = np.random.default_rng(6)
TARGET = (RNG.random(300) < 0.4).astype(np.int64)
PREDICTION = RNG.random(300)
COHORTS = {"carrier": RNG.choice(["UA", "AA"], size=300), "origin": RNG.choice(["JFK", "EWR"], size=300)}
DAYS = RNG.integers(0, 15, size=300)


def cost(target: Array, prediction: Array) -> float:
    return float(np.where(prediction > 0.2, 1.0, 5.0 * target).mean())


def profit(target: Array, prediction: Array) -> float:
    return -cost(target, prediction)


# The plan ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "first"), [("binary", "roc_auc"), ("multiclass", "accuracy"), ("regression", "rmse")])
def test_a_plan_without_words_reports_the_defaults(task: Any, first: str) -> None:
    assert default_metric(task) == first
    assert tuple(plan_metrics(Evaluation(), task)) == DEFAULT_METRICS[task]
    assert all((name, task) in METRICS for name in DEFAULT_METRICS[task])


def test_the_primary_metric_comes_first_and_none_comes_twice() -> None:
    plan = Evaluation("f1", metrics=["roc_auc", cost, "f1", cost], smaller_is_better=["cost"])
    found = plan_metrics(plan, "binary")
    assert list(found) == ["f1", "roc_auc", "average_precision", "log_loss", "accuracy", "cost"]
    assert not found["cost"].greater_is_better


def test_the_primary_metric_may_be_a_function_of_which_more_is_better() -> None:
    found = plan_metrics(Evaluation(profit), "regression")
    assert list(found) == ["profit", "rmse", "mae"]
    assert found["profit"].greater_is_better


def test_a_plan_names_what_it_does_not_know() -> None:
    with pytest.raises(NotFound, match="did you mean 'roc_auc'"):
        plan_metrics(Evaluation("roc_auk"), "binary")
    with pytest.raises(RecipeError, match="does not fit a binary task"):
        plan_metrics(Evaluation(metrics=["rmse"]), "binary")
    with pytest.raises(RecipeError, match="smaller_is_better names 'costs'"):
        plan_metrics(Evaluation(metrics=[cost], smaller_is_better=["costs"]), "binary")
    with pytest.raises(RecipeError, match="smaller_is_better names 'roc_auc'"):
        plan_metrics(Evaluation(smaller_is_better=["roc_auc"]), "binary")


def test_two_functions_of_one_name_are_refused() -> None:
    def other() -> Any:
        def cost(target: Array, prediction: Array) -> float:
            return 0.0

        return cost

    with pytest.raises(RecipeError, match="two metric functions are called cost"):
        plan_metrics(Evaluation(metrics=[cost, other()]), "binary")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"primary": 3}, "Evaluation.primary takes str or"),
        ({"metrics": [lambda target, prediction: 0.0]}, "is a lambda"),
        ({"cohorts": "carrier"}, "Evaluation.cohorts takes"),
        ({"cohort": ["carrier"]}, "did you mean 'cohorts'"),
        ({"by": "weeks"}, "one of 'rows', 'days'"),
        ({"level": 95.0}, "between 0 and 1"),
        ({"resamples": 39}, "at least 40 resamples"),
        ({"smallest_cohort": 0}, "at least 1"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused_where_it_stands(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Evaluation(**fields)


# The report ----------------------------------------------------------------------------------------------------------


def test_a_report_holds_what_its_parts_say() -> None:
    plan = Evaluation("log_loss", cohorts=["carrier"], resamples=60, level=0.9, smallest_cohort=10)
    report = evaluate(plan, "binary", TARGET, PREDICTION, COHORTS, seed=8)
    metric, draws = metric_named("log_loss", "binary"), {"seed": 8, "resamples": 60, "level": 0.9}
    assert (report.task, report.primary, report.rows, report.by, report.seed) == ("binary", "log_loss", 300, "rows", 8)
    assert report.class_counts == (300 - TARGET.sum(), TARGET.sum())
    assert set(report.metrics) == set(DEFAULT_METRICS["binary"])
    assert report.metrics["log_loss"].low == pytest.approx(estimate(metric, TARGET, PREDICTION, **draws).low)
    carriers = {"carrier": COHORTS["carrier"]}
    assert report.cohorts == cohort_estimates(metric, TARGET, PREDICTION, carriers, smallest=10, **draws)


def test_days_are_drawn_only_where_the_plan_says_so() -> None:
    by_rows = evaluate(Evaluation(resamples=50), "binary", TARGET, PREDICTION, {}, seed=8, groups=DAYS)
    plan = Evaluation(resamples=50, by="days", cohorts=["origin"])
    by_days = evaluate(plan, "binary", TARGET, PREDICTION, COHORTS, seed=8, groups=DAYS)
    auc = metric_named("roc_auc", "binary")
    assert by_rows.metrics["roc_auc"].low == pytest.approx(estimate(auc, TARGET, PREDICTION, seed=8, resamples=50).low)
    assert by_days.metrics["roc_auc"].low == pytest.approx(
        estimate(auc, TARGET, PREDICTION, seed=8, resamples=50, groups=DAYS).low
    )
    own = COHORTS["origin"] == "EWR"
    alone = estimate(auc, TARGET[own], PREDICTION[own], seed=8, resamples=50, groups=DAYS[own])
    assert by_days.cohorts[0].estimate == alone


def test_a_report_of_three_classes() -> None:
    target = RNG.integers(0, 2, 300)
    prediction = RNG.dirichlet([1, 1, 1], 300)
    report = evaluate(Evaluation(resamples=50), "multiclass", target, prediction, {}, seed=8)
    assert report.class_counts == (300 - target.sum(), target.sum(), 0)
    assert list(report.metrics) == list(DEFAULT_METRICS["multiclass"])


def test_a_report_of_a_regression_has_no_classes() -> None:
    plan = Evaluation(metrics=[cost], resamples=50)
    report = evaluate(plan, "regression", PREDICTION, PREDICTION + 1.0, {}, seed=8)
    assert report.class_counts == ()
    assert report.metrics["rmse"].value == pytest.approx(1.0)
    assert report.metrics["cost"].value == pytest.approx(1.0)


def test_a_report_travels_as_canonical_json() -> None:
    plan = Evaluation(cohorts=["carrier", "origin"], resamples=50, smallest_cohort=150)
    report = evaluate(plan, "binary", TARGET, PREDICTION, COHORTS, seed=2**64 - 1)
    assert {cohort.skipped for cohort in report.cohorts} == {None, "fewer than 150 rows"}
    assert Report.kind() == "report"
    data = canonical(report)
    assert msgspec.json.decode(data, type=Report) == report
    assert canonical(evaluate(plan, "binary", TARGET, PREDICTION, COHORTS, seed=2**64 - 1)) == data


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_cohort_column_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(NotFound, match=r"no column 'carier'(.|\n)*did you mean 'carrier'"):
        evaluate(Evaluation(cohorts=["carier"]), "binary", TARGET, PREDICTION, COHORTS, seed=1)


def test_days_that_nobody_gave_are_missed() -> None:
    with pytest.raises(RecipeError, match="needs the day of each row"):
        evaluate(Evaluation(by="days"), "binary", TARGET, PREDICTION, {}, seed=1)


@pytest.mark.parametrize(
    ("target", "prediction", "error", "problem"),
    [
        ([], [], LabelError, "one or more rows"),
        ([0, 0, 0], [0.1, 0.2, 0.3], LabelError, "every label is class 0"),
        ([0, 1, float("nan")], [0.1, 0.2, 0.3], LabelError, "1 of 3 labels are missing"),
        ([0, 1, 1], [0.1, 0.2, float("nan")], DataError, "1 of 3 predictions are NaN"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(target: Any, prediction: Any, error: Any, problem: str) -> None:
    with pytest.raises(error, match=problem):
        evaluate(Evaluation(), "binary", target, prediction, {}, seed=1)
