"""The intervals against naive resampling of indices, against theory, and where there can be none."""

from typing import Any

import msgspec
import numpy as np
import pytest
import sklearn.metrics as reference
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from velodrome.core.errors import DataError, LabelError, RecipeError
from velodrome.evaluation import bootstrap
from velodrome.evaluation.bootstrap import (
    Estimate,
    check_resampling,
    estimate,
    estimates,
    paired_difference,
    resample_weights,
    unit_codes,
)
from velodrome.evaluation.metrics import Metric, metric_named, own_metric

Array = NDArray[Any]
AUC = metric_named("roc_auc", "binary")
MAE = metric_named("mae", "regression")
NAIVE = {
    "roc_auc": reference.roc_auc_score,
    "average_precision": reference.average_precision_score,
    "log_loss": lambda target, prediction: reference.log_loss(target, prediction, labels=[0, 1]),
    "accuracy": lambda target, prediction: reference.accuracy_score(target, prediction > 0.5),
    "f1": lambda target, prediction: reference.f1_score(target, prediction > 0.5),
}


def some_rows(seed: int = 0, rows: int = 80, decimals: int = 1) -> tuple[Array, Array]:
    """Binary labels and predictions that know something about them, with ties."""
    rng = np.random.default_rng(seed)
    target = (rng.random(rows) < 0.4).astype(np.int64)
    return target, expit(rng.normal(size=rows) + target).round(decimals)


def naive_values(name: str, target: Array, prediction: Array, groups: Array | None = None, **draws: Any) -> Array:
    """scikit-learn's metric on the rows that each resample draws, picked by index."""
    values = []
    for weights in resample_weights(unit_codes(len(target), groups), **draws):
        for weight in weights:
            rows = np.repeat(np.arange(len(target)), weight.astype(int))
            values.append(NAIVE[name](target[rows], prediction[rows]))
    return np.array(values)


def bounds(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def width(found: Estimate) -> float:
    low, high = bounds(found)
    return high - low


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("groups", [None, np.arange(80) // 7], ids=["rows", "groups"])
def test_bounds_are_those_of_naive_resampling(name: str, groups: Array | None) -> None:
    target, prediction = some_rows()
    found = estimate(metric_named(name, "binary"), target, prediction, seed=4, resamples=120, groups=groups)
    naive = naive_values(name, target, prediction, seed=4, resamples=120, groups=groups)
    assert found.value == pytest.approx(NAIVE[name](target, prediction))
    assert bounds(found) == pytest.approx(tuple(np.percentile(naive, [2.5, 97.5])), rel=1e-9)
    assert (found.resamples, found.rows, found.level) == (120, 80, 0.95)


def test_an_own_function_has_the_bounds_of_the_same_metric() -> None:
    def own_error(target: Array, prediction: Array) -> float:
        return float(np.abs(prediction - target).mean())

    rng = np.random.default_rng(1)
    target, prediction = rng.normal(size=40), rng.normal(size=40)
    own = estimate(own_metric(own_error, "regression"), target, prediction, seed=9, resamples=100)
    mae = estimate(MAE, target, prediction, seed=9, resamples=100)
    assert msgspec.to_builtins(own) == pytest.approx(msgspec.to_builtins(mae))


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    errors = np.random.default_rng(3).exponential(size=2000)
    found = estimate(MAE, np.zeros(2000), errors, seed=1, resamples=2000, level=0.9)
    half = norm.ppf(0.95) * errors.std() / np.sqrt(2000)
    assert found.low == pytest.approx(errors.mean() - half, abs=0.08 * half)
    assert found.high == pytest.approx(errors.mean() + half, abs=0.08 * half)


def test_the_interval_covers_the_true_value_as_often_as_it_says() -> None:
    """Two normal scores one deviation apart have an AUC of Phi(1 / sqrt 2)."""
    truth, rng, covered = norm.cdf(1 / np.sqrt(2)), np.random.default_rng(11), 0
    for seed in range(250):
        target = (rng.random(150) < 0.4).astype(np.int64)
        found = estimate(AUC, target, expit(rng.normal(size=150) + target), seed=seed, resamples=200)
        low, high = bounds(found)
        covered += low <= truth <= high
    assert 0.90 <= covered / 250 <= 0.985


# Draws ---------------------------------------------------------------------------------------------------------------


def test_a_resample_draws_as_many_rows_as_there_are() -> None:
    weights = np.concatenate(list(resample_weights(np.arange(50), seed=2, resamples=2000)))
    assert weights.shape == (2000, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert (weights == weights.astype(int)).all()
    assert weights.var() == pytest.approx(1 - 1 / 50, abs=0.03)


def test_groups_are_drawn_whole() -> None:
    groups = np.array([7, -3, 7, 7, 100, -3])
    weights = np.concatenate(list(resample_weights(unit_codes(6, groups), seed=2, resamples=500)))
    assert (weights[:, [0, 2]] == weights[:, [2, 3]]).all()
    assert (weights[:, 1] == weights[:, 5]).all()
    assert (weights[:, [0, 1, 4]].sum(axis=1) == 3).all()


def test_groups_of_one_row_are_rows() -> None:
    target, prediction = some_rows()
    by_rows = estimate(AUC, target, prediction, seed=1, resamples=50)
    assert estimate(AUC, target, prediction, seed=1, resamples=50, groups=np.arange(80) + 1000) == by_rows


def test_dependent_rows_have_a_wider_interval_by_groups() -> None:
    day_error = np.random.default_rng(8).exponential(size=30)
    prediction, days = np.repeat(day_error, 40), np.repeat(np.arange(30), 40)
    by_rows = estimate(MAE, np.zeros(1200), prediction, seed=1)
    by_days = estimate(MAE, np.zeros(1200), prediction, seed=1, groups=days)
    # Forty equal rows hold the information of one: the interval is sqrt(40) = 6.3 times as wide.
    assert 5 < width(by_days) / width(by_rows) < 8


def test_the_same_seed_gives_the_same_estimate_and_another_one_does_not() -> None:
    target, prediction = some_rows()
    assert estimate(AUC, target, prediction, seed=5) == estimate(AUC, target, prediction, seed=5)
    assert estimate(AUC, target, prediction, seed=5).low != estimate(AUC, target, prediction, seed=6).low


@pytest.mark.parametrize("seed", [0, 2**64 - 1, -1])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert next(resample_weights(np.arange(9), seed=seed, resamples=1)).sum() == 9


def test_blocks_are_bounded_and_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(resample_weights(np.arange(1000), seed=3, resamples=600))
    assert len(whole) > 1
    assert max(block.size for block in whole) <= 2**18
    monkeypatch.setattr(bootstrap, "_BLOCK", 7)
    single = list(resample_weights(np.arange(1000), seed=3, resamples=600))
    assert len(single) == 600
    assert (np.concatenate(single) == np.concatenate(whole)).all()


def test_several_metrics_are_estimated_as_if_alone() -> None:
    target, prediction = some_rows()
    metrics = [metric_named("log_loss", "binary"), AUC, metric_named("f1", "binary")]
    together = estimates(metrics, target, prediction, seed=3, resamples=100)
    assert list(together) == ["log_loss", "roc_auc", "f1"]
    for metric in metrics:
        alone = estimate(metric, target, prediction, seed=3, resamples=100)
        assert msgspec.to_builtins(together[metric.name]) == pytest.approx(msgspec.to_builtins(alone))


# Differences ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAIVE)
def test_identical_predictions_differ_by_exactly_nothing(name: str) -> None:
    target, prediction = some_rows(decimals=6)
    found = paired_difference(metric_named(name, "binary"), target, prediction, prediction.copy(), seed=3)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", NAIVE)
def test_a_difference_uses_the_same_draws_for_both(name: str) -> None:
    target, a = some_rows(decimals=3)
    b = (a + np.random.default_rng(2).random(80)).round(1) / 2
    found = paired_difference(metric_named(name, "binary"), target, a, b, seed=6, resamples=100)
    draws = {"seed": 6, "resamples": 100}
    naive = naive_values(name, target, a, **draws) - naive_values(name, target, b, **draws)
    assert found.value == pytest.approx(NAIVE[name](target, a) - NAIVE[name](target, b))
    assert bounds(found) == pytest.approx(tuple(np.percentile(naive, [2.5, 97.5])), rel=1e-9, abs=1e-12)


def test_a_difference_is_surer_than_its_parts() -> None:
    target, a = some_rows(rows=500, decimals=6)
    b = expit(np.log(a / (1 - a)) + 0.1 * np.random.default_rng(2).normal(size=500))
    difference, alone = paired_difference(AUC, target, a, b, seed=1), estimate(AUC, target, a, seed=1)
    assert width(difference) < width(alone) / 4


def test_a_difference_by_groups_draws_groups() -> None:
    target, a = some_rows()
    groups = np.arange(80) // 8
    found = paired_difference(AUC, target, a, 1 - a, seed=1, resamples=100, groups=groups)
    assert found != paired_difference(AUC, target, a, 1 - a, seed=1, resamples=100)


# No interval ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positives", "bounded"), [(1, False), (2, False), (5, True)])
def test_few_of_the_rarer_class_give_no_bounds(positives: int, bounded: bool) -> None:
    target = np.arange(100) < positives
    found = estimate(AUC, target, np.linspace(0, 1, 100), seed=1)
    missing = 1 - np.exp(-positives)
    assert found.resamples == pytest.approx(1000 * missing, abs=50)
    assert (found.low is not None) == (found.high is not None) == bounded
    assert found.value == pytest.approx(0.0)


@pytest.mark.parametrize(("units", "bounded"), [(1, False), (4, False), (5, True)])
def test_few_groups_give_no_bounds(units: int, bounded: bool) -> None:
    rng = np.random.default_rng(1)
    found = estimate(MAE, rng.normal(size=60), rng.normal(size=60), seed=1, groups=np.arange(60) % units)
    assert (found.low is not None) == (found.high is not None) == bounded


def test_an_estimate_travels_as_json() -> None:
    target, prediction = some_rows()
    for found in (
        estimate(AUC, target, prediction, seed=1),
        estimate(AUC, np.arange(9) < 1, np.linspace(0, 1, 9), seed=1),
    ):
        assert msgspec.json.decode(msgspec.json.encode(found), type=Estimate) == found
        assert type(found.value) is float
        assert type(found.low) in {float, type(None)}


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, float("nan")])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(RecipeError, match="between 0 and 1"):
        check_resampling(1000, level)


@pytest.mark.parametrize(("level", "needed"), [(0.95, 40), (0.99, 200), (0.5, 4)])
def test_each_tail_needs_a_resample(level: float, needed: int) -> None:
    check_resampling(needed, level)
    with pytest.raises(RecipeError, match=f"at least {needed} resamples"):
        check_resampling(needed - 1, level)
    with pytest.raises(RecipeError, match=f"at least {needed} resamples"):
        estimate(MAE, [1, 2], [1, 2], seed=1, resamples=needed - 1, level=level)
    with pytest.raises(RecipeError, match=f"at least {needed} resamples"):
        paired_difference(MAE, [1, 2], [1, 2], [1, 2], seed=1, resamples=needed - 1, level=level)


@pytest.mark.parametrize("groups", [[0], [0.5, 1.5], ["a", "b"], [[0, 1]]])
def test_groups_are_whole_numbers_one_for_each_row(groups: Any) -> None:
    with pytest.raises(DataError, match="2 whole numbers, one for each row"):
        unit_codes(2, groups)
    with pytest.raises(DataError, match="2 whole numbers, one for each row"):
        estimate(MAE, [1, 2], [1, 2], seed=1, groups=groups)


@pytest.mark.parametrize("metric", [AUC, MAE], ids=lambda metric: metric.name)
def test_rows_that_cannot_be_judged_are_refused(metric: Metric) -> None:
    with pytest.raises(LabelError):
        estimate(metric, [float("nan"), 1.0], [0.1, 0.2], seed=1)
    with pytest.raises(DataError, match="predictions are NaN"):
        paired_difference(metric, [0, 1], [0.1, 0.2], [0.1, float("nan")], seed=1)
