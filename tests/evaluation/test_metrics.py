"""Every metric against scikit-learn, with ties and weights, and every way to be refused."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.preprocessing import label_binarize

from velodrome.core.errors import DataError, LabelError, NotFound, RecipeError
from velodrome.evaluation.metrics import METRICS, checked_rows, metric_named, own_metric

Array = NDArray[Any]
Rows = tuple[Array, Array, Array]

EIGHTHS = st.integers(0, 8).map(lambda n: n / 8)  # few different scores, so many ties; exact halves among them
WEIGHTS = st.sampled_from([0.25, 1.0, 2.0, 3.5])


@st.composite
def binary_rows(draw: st.DrawFn) -> Rows:
    rest = draw(st.lists(st.tuples(st.integers(0, 1), EIGHTHS, WEIGHTS), max_size=30))
    rows = [(0, draw(EIGHTHS), draw(WEIGHTS)), (1, draw(EIGHTHS), draw(WEIGHTS)), *rest]
    target, prediction, weight = zip(*rows, strict=True)
    return np.array(target), np.array(prediction), np.array(weight)


@st.composite
def multiclass_rows(draw: st.DrawFn) -> Rows:
    count = draw(st.integers(3, 30))
    codes = st.lists(st.integers(0, 2), min_size=count - 3, max_size=count - 3)
    target = np.array([0, 1, 2, *draw(codes)])
    parts = np.array(draw(st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=count, max_size=count)), dtype=float)
    weight = np.array(draw(st.lists(WEIGHTS, min_size=count, max_size=count)))
    return target, parts / parts.sum(axis=1, keepdims=True), weight


@st.composite
def regression_rows(draw: st.DrawFn) -> Rows:
    number = st.floats(-1e6, 1e6)
    rows = draw(st.lists(st.tuples(number, number, WEIGHTS), min_size=1, max_size=30))
    target, prediction, weight = zip(*rows, strict=True)
    return np.array(target), np.array(prediction), np.array(weight)


def rmse(target: Array, prediction: Array, weight: Array) -> float:
    return float(reference.root_mean_squared_error(target, prediction, sample_weight=weight))


def macro_precision(target: Array, prediction: Array, weight: Array) -> float:
    indicators = label_binarize(target, classes=[0, 1, 2])
    return float(reference.average_precision_score(indicators, prediction, sample_weight=weight))


ORACLES: dict[tuple[str, str], Callable[[Array, Array, Array], float]] = {
    ("roc_auc", "binary"): lambda t, p, w: reference.roc_auc_score(t, p, sample_weight=w),
    ("average_precision", "binary"): lambda t, p, w: reference.average_precision_score(t, p, sample_weight=w),
    ("log_loss", "binary"): lambda t, p, w: reference.log_loss(t, p, sample_weight=w, labels=[0, 1]),
    ("brier_score_loss", "binary"): lambda t, p, w: reference.brier_score_loss(t, p, sample_weight=w),
    ("accuracy", "binary"): lambda t, p, w: reference.accuracy_score(t, p > 0.5, sample_weight=w),
    ("f1", "binary"): lambda t, p, w: reference.f1_score(t, p > 0.5, sample_weight=w),
    ("accuracy", "multiclass"): lambda t, p, w: reference.accuracy_score(t, p.argmax(axis=1), sample_weight=w),
    ("log_loss", "multiclass"): lambda t, p, w: reference.log_loss(t, p, sample_weight=w, labels=[0, 1, 2]),
    ("f1", "multiclass"): lambda t, p, w: reference.f1_score(t, p.argmax(axis=1), sample_weight=w, average="macro"),
    ("roc_auc", "multiclass"): lambda t, p, w: reference.roc_auc_score(t, p, sample_weight=w, multi_class="ovr"),
    ("average_precision", "multiclass"): macro_precision,
    ("rmse", "regression"): rmse,
    ("mae", "regression"): lambda t, p, w: reference.mean_absolute_error(t, p, sample_weight=w),
}
ROWS = {"binary": binary_rows(), "multiclass": multiclass_rows(), "regression": regression_rows()}


@pytest.mark.parametrize(("name", "task"), ORACLES, ids=lambda part: part)
@settings(max_examples=40)
@given(data=st.data())
def test_scikit_learn_agrees(name: Any, task: Any, data: st.DataObject) -> None:
    target, prediction, weight = data.draw(ROWS[task])
    metric = metric_named(name, task)
    assert metric(target, prediction, weight) == pytest.approx(
        ORACLES[name, task](target, prediction, weight), rel=1e-9, abs=1e-12
    )
    plain = metric(target, prediction)
    assert plain == pytest.approx(ORACLES[name, task](target, prediction, np.ones(len(target))), rel=1e-9, abs=1e-12)
    assert type(plain) is float
    low, high = metric.bounds
    assert low - 1e-12 <= plain <= high + 1e-12


def test_losses_and_errors_are_better_when_smaller() -> None:
    smaller = {name for (name, _), metric in METRICS.items() if not metric.greater_is_better}
    assert smaller == {"log_loss", "brier_score_loss", "rmse", "mae"}
    for (name, task), metric in METRICS.items():
        assert metric == metric_named(name, task)
        assert metric.greater_is_better == (name not in smaller)


def test_every_metric_has_an_oracle() -> None:
    assert set(ORACLES) == set(METRICS)


@pytest.mark.parametrize(("name", "task"), METRICS, ids=lambda part: part)
@settings(max_examples=25)
@given(data=st.data())
def test_a_weight_of_two_is_a_row_that_stands_twice(name: Any, task: Any, data: st.DataObject) -> None:
    target, prediction, _ = data.draw(ROWS[task])
    metric = metric_named(name, task)
    times = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(target), max_size=len(target))))
    repeated = np.repeat(np.arange(len(target)), times)
    (by_weight,) = metric.bind(target, prediction)(times[None, :].astype(float))
    if len(repeated) == 0 or (metric.compares_classes and len(set(target[repeated])) < 2):
        return
    assert by_weight == pytest.approx(metric(target[repeated], prediction[repeated]), rel=1e-9, abs=1e-12)


@settings(max_examples=30)
@given(binary_rows())
def test_roc_auc_counts_the_pairs(rows: Rows) -> None:
    target, prediction, weight = rows
    pairs = [
        (weight[i] * weight[j], (prediction[i] > prediction[j]) + 0.5 * (prediction[i] == prediction[j]))
        for i in np.flatnonzero(target == 1)
        for j in np.flatnonzero(target == 0)
    ]
    expected = sum(both * won for both, won in pairs) / sum(both for both, _ in pairs)
    assert metric_named("roc_auc", "binary")(target, prediction, weight) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "f1"])
def test_classes_that_do_not_occur_are_left_out_of_the_mean(name: str) -> None:
    rng = np.random.default_rng(5)
    target, prediction = rng.integers(0, 2, 200), rng.dirichlet([1, 1, 1e-9], 200)
    metric = metric_named(name, "multiclass")
    with_third = np.column_stack([prediction[:, :2] / prediction[:, :2].sum(axis=1, keepdims=True), np.zeros(200)])
    assert metric(target, with_third) == pytest.approx(metric(target, with_third[:, :2]))


def test_an_even_chance_is_decided_for_the_lower_code() -> None:
    assert metric_named("accuracy", "binary")([0], [0.5]) == 1.0
    assert metric_named("accuracy", "multiclass")([0], [[0.5, 0.5]]) == 1.0


def test_a_certain_error_costs_a_finite_log_loss() -> None:
    assert metric_named("log_loss", "binary")([1, 0], [0.0, 0.0]) == pytest.approx(36.04365338911715 / 2)


def test_undefined_samples_are_nan() -> None:
    weighted = metric_named("roc_auc", "binary").bind([0, 1, 1], [0.1, 0.5, 0.9])
    values = weighted(np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]]))
    assert values[0] == 1.0
    assert np.isnan(values[1])


# Names ---------------------------------------------------------------------------------------------------------------


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(NotFound, match="did you mean 'roc_auc'"):
        metric_named("roc_acu", "binary")


def test_a_metric_of_another_task_is_refused_with_those_that_fit() -> None:
    with pytest.raises(RecipeError, match="rmse, mae"):
        metric_named("roc_auc", "regression")


# Functions of the user's own -----------------------------------------------------------------------------------------


def brier(target: Array, prediction: Array) -> float:
    return float(((prediction - target) ** 2).mean())


@settings(max_examples=30)
@given(binary_rows())
def test_an_own_function_is_given_repeated_rows(rows: Rows) -> None:
    target, prediction, _ = rows
    times = np.arange(len(target)) % 3
    metric = own_metric(brier, "binary", greater_is_better=False)
    expected = reference.brier_score_loss(target, prediction, sample_weight=times) if times.any() else 0
    assert (metric.name, metric.greater_is_better) == ("brier", False)
    assert metric(target, prediction, times) == pytest.approx(expected)


@settings(max_examples=30)
@given(binary_rows())
def test_a_function_of_scikit_learn_is_given_weights(rows: Rows) -> None:
    target, prediction, weight = rows
    metric = own_metric(reference.d2_brier_score, "binary")
    expected = reference.d2_brier_score(target, prediction, sample_weight=weight)
    assert metric(target, prediction, weight) == pytest.approx(expected)


def test_rows_without_weight_are_not_shown_to_an_own_function() -> None:
    def seen(target: Array, prediction: Array, sample_weight: Array) -> float:
        return float(len(target) + sample_weight.sum() / 100)

    assert own_metric(seen, "binary")([0, 1, 1], [0.1, 0.5, 0.9], [0, 2, 3]) == 2.05


def test_an_own_function_that_raises_is_named() -> None:
    def broken(target: Array, prediction: Array) -> float:
        raise ZeroDivisionError("no rows of carrier UA")

    with pytest.raises(RecipeError, match="the metric broken failed: no rows of carrier UA") as caught:
        own_metric(broken, "binary")([0, 1], [0.1, 0.9])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_fractions_of_rows_need_a_function_that_takes_weights() -> None:
    with pytest.raises(RecipeError, match="whole weights only"):
        own_metric(brier, "binary")([0, 1], [0.1, 0.9], [0.5, 1])


def test_an_own_function_that_is_undefined_is_refused() -> None:
    def nothing(target: Array, prediction: Array) -> float:
        return float("nan")

    with pytest.raises(LabelError, match="nothing is undefined"):
        own_metric(nothing, "binary")([0, 1], [0.1, 0.9])


@pytest.mark.parametrize("function", [lambda target, prediction: 0.0, functools.partial(brier)])
def test_an_own_function_needs_a_name(function: Callable[..., float]) -> None:
    with pytest.raises(RecipeError, match="needs a name"):
        own_metric(function, "binary")


def test_an_own_function_may_not_hide_a_metric() -> None:
    def roc_auc(target: Array, prediction: Array) -> float:
        return 1.0

    with pytest.raises(RecipeError, match="name of a metric that exists"):
        own_metric(roc_auc, "binary")


# Rows that cannot be judged ------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
REFUSED: dict[str, tuple[Any, Any, Any, type[Exception], str]] = {
    "empty": ("binary", [], [], LabelError, "one or more rows"),
    "empty regression": ("regression", [], [], LabelError, "one or more rows"),
    "labels in a matrix": ("binary", [[0, 1]], [0.5], LabelError, "one or more rows"),
    "NaN label": ("binary", [0.0, NAN, 1.0], [0.1, 0.2, 0.3], LabelError, "1 of 3 labels are missing"),
    "null label": ("binary", [0, None, 1], [0.1, 0.2, 0.3], LabelError, "1 of 3 labels are missing"),
    "infinite label": ("regression", [0.0, INF], [0.1, 0.2], LabelError, "1 of 2 labels are missing or infinite"),
    "text labels": ("binary", ["yes", "no"], [0.1, 0.2], LabelError, "labels must be numbers"),
    "fractional label": ("binary", [0, 0.5, 1], [0.1, 0.2, 0.3], LabelError, "codes from 0 to 1"),
    "third code": ("binary", [0, 1, 2], [0.1, 0.2, 0.3], LabelError, "codes from 0 to 1"),
    "negative code": ("multiclass", [0, -1], [[0.5, 0.5]] * 2, LabelError, "codes from 0 to 1"),
    "huge code": ("multiclass", [0, 1e300], [[0.5, 0.5]] * 2, LabelError, "codes from 0 to 1"),
    "NaN prediction": ("binary", [0, 1], [0.1, NAN], DataError, "1 of 2 predictions are NaN"),
    "infinite prediction": ("regression", [0, 1], [0.1, INF], DataError, "1 of 2 predictions are NaN or infinite"),
    "text prediction": ("regression", [0, 1], ["a", "b"], DataError, "predictions must be numbers"),
    "scores": ("binary", [0, 1], [-3.0, 4.0], DataError, "must be probabilities"),
    "sigmoids": ("multiclass", [0, 1], [[0.9, 0.9]] * 2, DataError, "add up to one"),
    "too few predictions": ("binary", [0, 1], [0.5], DataError, "one row for each of 2 labels"),
    "a column for one class": ("binary", [0, 1], [[0.5], [0.5]], DataError, r"shape \(rows,\)"),
    "one number for each class": ("multiclass", [0, 1], [0.5, 0.5], DataError, r"shape \(rows, classes\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_cannot_be_judged_are_refused(case: str) -> None:
    task, target, prediction, error, problem = REFUSED[case]
    with pytest.raises(error, match=problem) as caught:
        checked_rows(task, target, prediction)
    assert type(caught.value) is error
    for name, its_task in METRICS:
        if its_task == task:
            with pytest.raises(error, match=problem):
                metric_named(name, task)(target, prediction)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "f1"])
@pytest.mark.parametrize("code", [0, 1])
def test_one_class_only_is_refused_where_classes_are_compared(name: str, code: int) -> None:
    with pytest.raises(LabelError, match=f"every label is class {code}"):
        metric_named(name, "binary")([code] * 3, [0.1, 0.2, 0.3])
    with pytest.raises(LabelError, match=f"every label is class {code}"):
        metric_named(name, "multiclass")([code] * 3, [[0.5, 0.2, 0.3]] * 3)


@pytest.mark.parametrize("name", ["log_loss", "accuracy"])
def test_one_class_only_is_judged_where_rows_are(name: str) -> None:
    assert metric_named(name, "binary")([0, 0], [0.5, 0.5]) == pytest.approx(
        {"log_loss": np.log(2), "accuracy": 1}[name]
    )


@pytest.mark.parametrize("weight", [[1.0], [1.0, -1.0], [1.0, NAN], [[1.0, 1.0]]])
def test_weights_are_checked(weight: Any) -> None:
    with pytest.raises(DataError, match="weights must be 2 finite numbers"):
        metric_named("mae", "regression")([1, 2], [1, 2], weight)


def test_no_weight_at_all_is_undefined() -> None:
    with pytest.raises(LabelError, match="mae is undefined"):
        metric_named("mae", "regression")([1, 2], [1, 2], [0, 0])


def test_probabilities_of_single_precision_pass() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prediction = np.array([[1 + 1e-7, -1e-7], [0.3, 0.7]], dtype=np.float32)
        assert metric_named("log_loss", "multiclass")([0, 1], prediction) == pytest.approx(-np.log(0.7) / 2)
