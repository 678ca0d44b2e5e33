"""Metrics by name, each written as a function of row weights.

Design: a metric does its sorting and its per-row losses once, for fixed labels and predictions, and returns a
function from a matrix of weights (resamples, rows) to one number per resample. The plain value is the case of all
weights one, a weighted value is one row of weights, and a bootstrap is many rows: three uses of one implementation.
Ties are counted exactly. A weight of two means exactly what a row that stands there twice means; where a metric is
undefined (a weighted sample with one class only) the number is NaN, which callers must treat.
Cost: one sort, then about 4 ns per weight for the rankings (`roc_auc`, `average_precision`; times the number of
classes when there are more than two) and a matrix product for the others.

Names and meanings are scikit-learn's. Predictions are probabilities of the positive class, float64 (rows,), for a
binary task; probabilities (rows, classes) for a multiclass task; values (rows,) for regression. Labels are codes 0,
1, ..., classes - 1, or real values for regression. Where a metric needs a decision, it is the most probable class,
the lower code when two are equal: in a binary task the positive class needs a probability above one half.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velodrome.core.errors import DataError, LabelError, NotFound, RecipeError, nearest

__all__ = [
    "METRICS",
    "FloatArray",
    "Labels",
    "Metric",
    "MetricFunction",
    "Task",
    "Weighted",
    "checked_rows",
    "metric_named",
    "own_metric",
]

Task: TypeAlias = Literal["binary", "multiclass", "regression"]
FloatArray: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.int64 | np.float64]
MetricFunction: TypeAlias = Callable[..., float]
"""A metric of the user's own: `function(target, prediction) -> float`, or with a third parameter `sample_weight`."""
Weighted: TypeAlias = Callable[[FloatArray], FloatArray]
"""From weights (resamples, rows) to values (resamples,), NaN where undefined; labels and predictions are bound."""

_ANY = (-np.inf, np.inf)
_SHARE = (0.0, 1.0)
_LOSS = (0.0, np.inf)
_PROBABILITY_SLACK = 1e-6  # a softmax in single precision may leave [0, 1] by its rounding
_SUM_SLACK = 1e-3


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric for one task.

    Attributes:
        bounds: the smallest and the greatest value that it can take.
        compares_classes: it says nothing about rows of one class only, and refuses them.
        prepare: sorts once, for labels and predictions that have been checked; see `Weighted`.
    """

    name: str
    task: Task
    greater_is_better: bool
    bounds: tuple[float, float]
    compares_classes: bool
    prepare: Callable[[Labels, FloatArray], Weighted]

    def bind(self, target: ArrayLike, prediction: ArrayLike) -> Weighted:
        """The metric of these rows as a function of their weights.

        Raises:
            LabelError: no rows, a missing label, a label that is no code, or one class where two are needed.
            DataError: a prediction that is not finite, no probability, or of another shape than the task's.
        """
        labels, predicted = checked_rows(self.task, target, prediction)
        if self.compares_classes and (labels == labels[0]).all():
            raise LabelError(
                f"{self.name} compares classes, but every label is class {labels[0]}",
                received=f"{len(labels)} rows of one class",
                remedy="evaluate on rows of both classes, or choose log_loss or accuracy",
            )
        return self.prepare(labels, predicted)

    def __call__(self, target: ArrayLike, prediction: ArrayLike, weight: ArrayLike | None = None) -> float:
        """The metric of these rows; `weight` (rows,), not negative, counts a row as often as it says.

        >>> metric_named("roc_auc", "binary")([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75

        Raises:
            LabelError, DataError: as `bind`; LabelError also where the value is not finite.
        """
        weighted = self.bind(target, prediction)
        value = float(weighted(_one_row_of_weights(weight, np.shape(target)[0]))[0])
        if not np.isfinite(value):
            raise LabelError(
                f"{self.name} is undefined on these rows",
                received=value,
                remedy="evaluate on more rows, or by another metric",
            )
        return value


def metric_named(name: str, task: Task) -> Metric:
    """The metric that scikit-learn calls `name`, for this task.

    Raises:
        NotFound: no task has a metric of that name.
        RecipeError: other tasks have it, this one does not.
    """
    if (name, task) in METRICS:
        return METRICS[name, task]
    if not any(name == known for known, _ in METRICS):
        raise NotFound(f"there is no metric {name!r}", remedy=nearest(name, {known for known, _ in METRICS}))
    fitting = ", ".join(known for known, its_task in METRICS if its_task == task)
    raise RecipeError(f"{name} does not fit a {task} task", received=name, remedy=f"choose one of {fitting}")


def own_metric(function: MetricFunction, task: Task, *, greater_is_better: bool = True) -> Metric:
    """A metric made of the user's own function, called by the function's name.

    With a parameter `sample_weight`, as scikit-learn's metrics have, the function is given the weights; without one it
    is given a row as often as its weight says. It may return NaN where it is undefined. Cost: one call per resample.

    Raises:
        RecipeError: the function has no name of its own, or that of a metric that exists.
    """
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise RecipeError(
            "a metric function needs a name to be recorded under", received=function, remedy="define it with def"
        )
    if any(name == known for known, _ in METRICS):
        raise RecipeError(
            f"{name} is the name of a metric that exists", received=function, remedy="give the function another name"
        )
    call = _with_weight if "sample_weight" in inspect.signature(function).parameters else _on_repeated_rows

    def prepare(target: Labels, prediction: FloatArray) -> Weighted:
        return lambda weights: np.array([_own_value(function, call, target, prediction, row) for row in weights])

    return Metric(name, task, greater_is_better, _ANY, False, prepare)


def checked_rows(task: Task, target: ArrayLike, prediction: ArrayLike) -> tuple[Labels, FloatArray]:
    """Labels (int64 codes, or float64 for regression) and predictions (float64), fit to be judged.

    Raises:
        LabelError: no rows, a missing label, or a label that is no code of the task.
        DataError: a prediction that is not finite, no probability, or of another shape than the task's.
    """
    labels, predicted = _numbers(target, "labels", LabelError), _numbers(prediction, "predictions", DataError)
    if labels.ndim != 1 or len(labels) == 0:
        raise LabelError(
            "judging needs one label for each of one or more rows",
            received=f"labels of shape {labels.shape}",
            remedy="check that the split leaves rows to judge",
        )
    _check_shape(task, labels, predicted)
    if not np.isfinite(labels).all():
        raise LabelError(
            f"{int((~np.isfinite(labels)).sum())} of {len(labels)} labels are missing or infinite",
            remedy="quarantine rows without a label by the contract",
        )
    if not np.isfinite(predicted).all():
        raise DataError(
            f"{int((~np.isfinite(predicted)).sum())} of {predicted.size} predictions are NaN or infinite",
            remedy="look at the model's inputs and at its training loss",
        )
    if task == "regression":
        return labels, predicted
    _check_probabilities(predicted)
    return _codes(labels, 2 if task == "binary" else predicted.shape[1]), predicted


def _numbers(values: ArrayLike, what: str, error_type: type[DataError]) -> FloatArray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise error_type(f"{what} must be numbers", received=values, remedy="encode classes as 0, 1, 2, ...") from error


def _check_shape(task: Task, labels: FloatArray, predicted: FloatArray) -> None:
    wanted = "(rows, classes)" if task == "multiclass" else "(rows,)"
    if predicted.ndim != (2 if task == "multiclass" else 1) or len(predicted) != len(labels):
        raise DataError(
            f"a {task} task needs predictions of shape {wanted}, one row for each of {len(labels)} labels",
            received=f"predictions of shape {predicted.shape}",
        )


def _check_probabilities(predicted: FloatArray) -> None:
    if predicted.min() < -_PROBABILITY_SLACK or predicted.max() > 1 + _PROBABILITY_SLACK:
        raise DataError(
            "predictions of a classifier must be probabilities",
            received=f"values from {predicted.min():.4g} to {predicted.max():.4g}",
            remedy="apply a sigmoid or softmax to scores",
        )
    if predicted.ndim == 2 and np.abs(predicted.sum(axis=1) - 1).max() > _SUM_SLACK:
        raise DataError(
            "the probabilities of a row must add up to one", remedy="apply a softmax, not a sigmoid, to scores"
        )


def _codes(labels: FloatArray, classes: int) -> NDArray[np.int64]:
    wrong = labels[(labels != np.floor(labels)) | (labels < 0) | (labels >= classes)]
    if len(wrong):
        raise LabelError(
            f"labels must be codes from 0 to {classes - 1}", received=f"{len(wrong)} others, such as {wrong[0]:g}"
        )
    return labels.astype(np.int64)


def _one_row_of_weights(weight: ArrayLike | None, rows: int) -> FloatArray:
    if weight is None:
        return np.ones((1, rows))
    weights = _numbers(weight, "weights", DataError)
    if weights.shape != (rows,) or not np.isfinite(weights).all() or weights.min() < 0:
        raise DataError(
            f"weights must be {rows} finite numbers, none negative", received=f"an array of shape {weights.shape}"
        )
    return weights[None, :]


# Rankings ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Rows of both classes in ascending order of a key, and where each positive stands.

    Attributes:
        positive, negative: row numbers.
        own: for each positive, how many positives have a lower key or its own.
        below, through: for each positive, how many negatives have a lower key, and how many a lower one or its own.
    """

    positive: NDArray[np.intp]
    negative: NDArray[np.intp]
    own: NDArray[np.intp]
    below: NDArray[np.intp]
    through: NDArray[np.intp]


def _ranking(is_positive: NDArray[np.bool_], key: FloatArray) -> _Ranking:
    order = np.argsort(key, kind="stable")
    positive, negative = order[is_positive[order]], order[~is_positive[order]]
    of_positive, of_negative = key[positive], key[negative]
    return _Ranking(
        positive=positive,
        negative=negative,
        own=of_positive.searchsorted(of_positive, side="right"),
        below=of_negative.searchsorted(of_positive, side="left"),
        through=of_negative.searchsorted(of_positive, side="right"),
    )


def _cumulated(weights: FloatArray, rows: NDArray[np.intp]) -> FloatArray:
    """Sums of the weights of the first 0, 1, ..., len(rows) rows, (resamples, len(rows) + 1)."""
    sums = np.zeros((len(weights), len(rows) + 1))
    np.cumsum(weights.take(rows, axis=1), axis=1, out=sums[:, 1:])
    return sums


def _auc(is_positive: NDArray[np.bool_], score: FloatArray) -> Weighted:
    """The chance that a positive scores higher than a negative, ties counting half (Hanley & McNeil 1982)."""
    ranking = _ranking(is_positive, score)

    def weighted(weights: FloatArray) -> FloatArray:
        negatives = _cumulated(weights, ranking.negative)
        positives = weights.take(ranking.positive, axis=1)
        beaten = negatives.take(ranking.below, axis=1) + negatives.take(ranking.through, axis=1)
        won = np.einsum("ij,ij->i", positives, beaten) / 2
        return _ratio(won, positives.sum(axis=1) * negatives[:, -1])

    return weighted


def _precision(is_positive: NDArray[np.bool_], score: FloatArray) -> Weighted:
    """Average precision: the mean over positives of the precision at their score, without interpolation."""
    ranking = _ranking(is_positive, -score)

    def weighted(weights: FloatArray) -> FloatArray:
        positives, negatives = _cumulated(weights, ranking.positive), _cumulated(weights, ranking.negative)
        true, false = positives.take(ranking.own, axis=1), negatives.take(ranking.through, axis=1)
        precision = _ratio(true, true + false, undefined=0.0)
        found = np.einsum("ij,ij->i", weights.take(ranking.positive, axis=1), precision)
        return _ratio(found, positives[:, -1])

    return weighted


def _one_against_rest(ranked: Callable[[NDArray[np.bool_], FloatArray], Weighted]) -> Callable[..., Weighted]:
    """For a binary task the ranking itself; for more classes the mean over those that the weighted sample holds."""

    def prepare(target: Labels, prediction: FloatArray) -> Weighted:
        if prediction.ndim == 1:
            return ranked(target == 1, prediction)
        per_class = [ranked(target == code, prediction[:, code]) for code in range(prediction.shape[1])]
        return lambda weights: _macro(np.stack([weighted(weights) for weighted in per_class], axis=1))

    return prepare


def _macro(values: FloatArray) -> FloatArray:
    """Mean over the classes (resamples, classes) in which the metric is defined."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64))


# Means and counts ----------------------------------------------------------------------------------------------------


def _mean_of(loss: Callable[[Labels, FloatArray], FloatArray]) -> Callable[..., Weighted]:
    """A metric that is the weighted mean of a loss per row."""

    def prepare(target: Labels, prediction: FloatArray) -> Weighted:
        losses = loss(target, prediction)
        return lambda weights: _ratio(weights @ losses, weights.sum(axis=1))

    return prepare


def _root_mean_square(target: Labels, prediction: FloatArray) -> Weighted:
    mean = _mean_of(_squared_errors)(target, prediction)
    return lambda weights: np.sqrt(mean(weights))


def _f1(target: Labels, prediction: FloatArray) -> Weighted:
    """2 TP / (2 TP + FP + FN); with more than two classes the mean over those that occur as label or decision."""
    codes = np.array([1]) if prediction.ndim == 1 else np.arange(prediction.shape[1])
    labelled, decided = target[:, None] == codes, _decision(prediction)[:, None] == codes
    both, either = 2.0 * (labelled & decided), 1.0 * labelled + decided
    return lambda weights: _macro(_ratio(weights @ both, weights @ either))


def _log_losses(target: Labels, prediction: FloatArray) -> FloatArray:
    """Minus the log of the true class's probability, which is kept an epsilon of float64 away from 0 and 1."""
    epsilon = np.finfo(np.float64).eps
    kept = np.clip(_of_true_class(target, prediction), epsilon, 1 - epsilon)
    return np.asarray(-np.log(kept), dtype=np.float64)


def _of_true_class(target: Labels, prediction: FloatArray) -> FloatArray:
    chances = prediction if prediction.ndim == 2 else np.column_stack([1 - prediction, prediction])
    return chances[np.arange(len(target)), target.astype(np.intp)]


def _hits(target: Labels, prediction: FloatArray) -> FloatArray:
    return np.asarray(_decision(prediction) == target, dtype=np.float64)


def _decision(prediction: FloatArray) -> NDArray[np.int64]:
    decision = prediction > 0.5 if prediction.ndim == 1 else prediction.argmax(axis=1)
    return np.asarray(decision, dtype=np.int64)


def _absolute_errors(target: Labels, prediction: FloatArray) -> FloatArray:
    return np.asarray(np.abs(prediction - target), dtype=np.float64)


def _squared_errors(target: Labels, prediction: FloatArray) -> FloatArray:
    return np.asarray((prediction - target) ** 2, dtype=np.float64)


def _ratio(above: FloatArray, below: FloatArray, undefined: float = np.nan) -> FloatArray:
    ratio = np.full(above.shape, undefined)
    np.divide(above, below, out=ratio, where=below != 0)
    return ratio


# Functions of the user's own -----------------------------------------------------------------------------------------


def _own_value(
    function: MetricFunction,
    call: Callable[..., float],
    target: Labels,
    prediction: FloatArray,
    weight: FloatArray,
) -> float:
    try:
        return float(call(function, target, prediction, weight))
    except Exception as error:
        raise RecipeError(
            f"the metric {function.__name__} failed: {error}",
            received=f"{int((weight > 0).sum())} rows",
            remedy="let it return float('nan') where it is undefined; resamples may hold one class only",
        ) from error


def _with_weight(function: MetricFunction, target: Labels, prediction: FloatArray, weight: FloatArray) -> float:
    kept = weight > 0
    return function(target[kept], prediction[kept], sample_weight=weight[kept])


def _on_repeated_rows(function: MetricFunction, target: Labels, prediction: FloatArray, weight: FloatArray) -> float:
    times = weight.astype(np.int64)
    if (times != weight).any():
        raise ValueError("without a parameter sample_weight it takes whole weights only")
    rows = np.repeat(np.arange(len(target)), times)
    return function(target[rows], prediction[rows])


def _table(metrics: Sequence[Metric]) -> Mapping[tuple[str, Task], Metric]:
    return MappingProxyType({(metric.name, metric.task): metric for metric in metrics})


_AUC, _PRECISION = _one_against_rest(_auc), _one_against_rest(_precision)

METRICS = _table(
    [  # name, task, greater is better, bounds, compares classes, prepare
        Metric("roc_auc", "binary", True, _SHARE, True, _AUC),
        Metric("average_precision", "binary", True, _SHARE, True, _PRECISION),
        Metric("log_loss", "binary", False, _LOSS, False, _mean_of(_log_losses)),
        Metric("brier_score_loss", "binary", False, _SHARE, False, _mean_of(_squared_errors)),
        Metric("accuracy", "binary", True, _SHARE, False, _mean_of(_hits)),
        Metric("f1", "binary", True, _SHARE, True, _f1),
        Metric("accuracy", "multiclass", True, _SHARE, False, _mean_of(_hits)),
        Metric("log_loss", "multiclass", False, _LOSS, False, _mean_of(_log_losses)),
        Metric("f1", "multiclass", True, _SHARE, True, _f1),
        Metric("roc_auc", "multiclass", True, _SHARE, True, _AUC),
        Metric("average_precision", "multiclass", True, _SHARE, True, _PRECISION),
        Metric("rmse", "regression", False, _LOSS, False, _root_mean_square),
        Metric("mae", "regression", False, _LOSS, False, _mean_of(_absolute_errors)),
    ]
)
"""Every metric by (name, task)."""
