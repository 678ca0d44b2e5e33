"""The plan of an evaluation, which a recipe declares, and the report that comes of it.

Design: `evaluate` checks the rows once, then asks `bootstrap` for every metric on one set of draws, `cohorts` for the
primary metric in every part, and `calibration` how far the probabilities can be believed. A report holds plain numbers
only, so that a ledger can keep it and a page can show it.
Cost: about 1 s for the five metrics of a binary task and two cohort columns, at 30,000 rows and 1,000 resamples, on
one core.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from velodrome.core.errors import NotFound, RecipeError, nearest
from velodrome.core.values import Record, Value
from velodrome.evaluation.bootstrap import Estimate, check_resampling, estimates
from velodrome.evaluation.calibration import Calibration, calibration
from velodrome.evaluation.cohorts import CohortEstimate, cohort_estimates
from velodrome.evaluation.metrics import (
    FloatArray,
    Labels,
    Metric,
    MetricFunction,
    Task,
    checked_rows,
    metric_named,
    own_metric,
)

__all__ = ["DEFAULT_METRICS", "Evaluation", "Report", "default_metric", "evaluate", "plan_metrics"]

DEFAULT_METRICS: Mapping[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "average_precision", "log_loss", "accuracy", "f1"),
    "multiclass": ("accuracy", "log_loss", "f1", "roc_auc"),
    "regression": ("rmse", "mae"),
}
"""What every report of a task holds. The first is the primary metric unless the plan names another."""


class Evaluation(Value, frozen=True, tag="evaluation"):
    """How a model is judged.

    Args:
        primary: the metric that cohorts and gates look at, by name or as a function of one's own
            (`function(target, prediction) -> float`, see `own_metric`); None means the task's first default.
        cohorts: columns; the primary metric is judged in the rows of each of their values.
        metrics: names or functions to report besides the primary and the task's defaults.
        smaller_is_better: names of those own functions of which less is better; of the others, more is.
        resamples, level: of the bootstrap intervals.
        by: what a resample draws: "rows", or "days" when rows of one day depend on each other.
        smallest_cohort: cohorts with fewer rows are listed, but not judged.
    """

    primary: str | MetricFunction | None = None
    cohorts: Sequence[str] = ()
    metrics: Sequence[str | MetricFunction] = ()
    smaller_is_better: Sequence[str] = ()
    resamples: int = 1000
    level: float = 0.95
    by: Literal["rows", "days"] = "rows"
    smallest_cohort: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_resampling(self.resamples, self.level)
        if self.smallest_cohort < 1:
            raise RecipeError("Evaluation.smallest_cohort is at least 1", received=self.smallest_cohort)


class Report(Record, frozen=True, kw_only=True, tag="report"):
    """What an evaluation found.

    Attributes:
        metrics: estimates by name, the primary one's among them.
        class_counts: rows of class 0, 1, ...; empty for regression.
        seed: of the bootstrap; with the same rows it gives the same report.
        calibration: of the probabilities; None for regression, and in reports from before it was measured.
    """

    task: Task
    primary: str
    metrics: dict[str, Estimate]
    cohorts: tuple[CohortEstimate, ...]
    rows: int
    class_counts: tuple[int, ...]
    by: Literal["rows", "days"]
    seed: int
    calibration: Calibration | None = None


def default_metric(task: Task) -> str:
    return DEFAULT_METRICS[task][0]


def plan_metrics(plan: Evaluation, task: Task) -> dict[str, Metric]:
    """Every metric that the report of `plan` will hold, by name, the primary one first. Needs no rows: call it early.

    Raises:
        NotFound: a name that no metric has.
        RecipeError: a metric that does not fit the task, two functions of one name, or
            `smaller_is_better` with a name of no function.
    """
    found: dict[str, Metric] = {}
    source: dict[str, str | MetricFunction] = {}
    for item in (plan.primary or default_metric(task), *DEFAULT_METRICS[task], *plan.metrics):
        metric = _planned(item, task, plan.smaller_is_better)
        if source.setdefault(metric.name, item) != item:
            raise RecipeError(f"two metric functions are called {metric.name}", remedy="give one another name")
        found.setdefault(metric.name, metric)
    for name in plan.smaller_is_better:
        if not callable(source.get(name)):
            raise RecipeError(
                f"smaller_is_better names {name!r}, which is no metric function of this evaluation",
                remedy="name functions of your own; the direction of the other metrics is known",
            )
    return found


def evaluate(
    plan: Evaluation,
    task: Task,
    target: ArrayLike,
    prediction: ArrayLike,
    cohorts: Mapping[str, ArrayLike],
    *,
    seed: int,
    groups: ArrayLike | None = None,
) -> Report:
    """Judge predictions as the plan says.

    Args:
        target, prediction: as the task asks for; see `metrics`.
        cohorts: a text for each row, for each of the plan's columns at least.
        groups: the day of each row, as a whole number; used when the plan says by="days".

    Raises:
        LabelError, DataError: rows that cannot be judged; see `checked_rows` and `Metric.bind`.
        NotFound: a cohort column that is not in `cohorts`.
        RecipeError: as `plan_metrics`; days without `groups`; an own metric that fails.
    """
    metrics = plan_metrics(plan, task)
    columns = {column: _column(column, cohorts) for column in plan.cohorts}
    labels, predicted = checked_rows(task, target, prediction)
    units = _drawn_units(plan, groups)
    primary, *_ = metrics.values()
    return Report(
        task=task,
        primary=primary.name,
        metrics=estimates(
            list(metrics.values()),
            labels,
            predicted,
            seed=seed,
            resamples=plan.resamples,
            level=plan.level,
            groups=units,
        ),
        cohorts=cohort_estimates(
            primary,
            labels,
            predicted,
            columns,
            seed=seed,
            smallest=plan.smallest_cohort,
            resamples=plan.resamples,
            level=plan.level,
            groups=units,
        ),
        rows=len(labels),
        class_counts=_class_counts(task, labels, predicted),
        by=plan.by,
        seed=seed,
        calibration=calibration(task, labels, predicted, level=plan.level),
    )


def _planned(item: str | MetricFunction, task: Task, smaller_is_better: Sequence[str]) -> Metric:
    if isinstance(item, str):
        return metric_named(item, task)
    return own_metric(item, task, greater_is_better=getattr(item, "__name__", "") not in smaller_is_better)


def _column(column: str, cohorts: Mapping[str, ArrayLike]) -> ArrayLike:
    if column not in cohorts:
        raise NotFound(f"there is no column {column!r} to take cohorts from", remedy=nearest(column, cohorts))
    return cohorts[column]


def _drawn_units(plan: Evaluation, groups: ArrayLike | None) -> ArrayLike | None:
    if plan.by == "rows":
        return None
    if groups is None:
        raise RecipeError(
            'by="days" needs the day of each row', remedy='give the dataset its time column, or write by="rows"'
        )
    return groups


def _class_counts(task: Task, labels: Labels, predicted: FloatArray) -> tuple[int, ...]:
    if task == "regression":
        return ()
    classes = 2 if task == "binary" else predicted.shape[1]
    return tuple(np.bincount(labels.astype(np.int64), minlength=classes).tolist())
