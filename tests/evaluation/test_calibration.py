"""Calibration against scikit-learn's curve, Wilson's formula and simulation, and where there is little to go by."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from velodrome.core.digest import canonical
from velodrome.core.errors import DataError, LabelError
from velodrome.evaluation.calibration import Calibration, CalibrationBin, calibration
from velodrome.evaluation.report import Evaluation, Report, evaluate

Array = NDArray[Any]


def rows_of(rows: int, seed: int = 0, decimals: int = 15) -> tuple[Array, Array]:
    """Labels, and the very probabilities that they were drawn with."""
    rng = np.random.default_rng(seed)
    chances = rng.beta(2, 6, rows).round(decimals)
    return (rng.random(rows) < chances).astype(np.int64), chances


def measured(target: Any, prediction: Any, **more: Any) -> Calibration:
    found = calibration("binary", target, prediction, **more)
    assert found is not None
    return found


def column(found: Calibration, name: str) -> Array:
    return np.array([getattr(part, name) for part in found.bins])


@pytest.mark.parametrize("decimals", [15, 2, 1])
@pytest.mark.parametrize("rows", [2, 7, 10, 37, 100, 1000, 2345])  # of 10 k + 1, scikit-learn's quantiles are rounded
def test_scikit_learn_agrees(rows: int, decimals: int) -> None:
    target, prediction = rows_of(rows, seed=rows, decimals=decimals)
    found = measured(target, prediction)
    observed, predicted = calibration_curve(target, prediction, n_bins=10, strategy="quantile")
    assert column(found, "observed") == pytest.approx(observed)
    assert column(found, "predicted") == pytest.approx(predicted)


def test_the_error_is_the_weighted_mean_distance() -> None:
    target, prediction = rows_of(500, decimals=1)
    found = measured(target, prediction)
    distances = [abs(part.observed - part.predicted) * part.rows / 500 for part in found.bins]
    assert found.error == pytest.approx(sum(distances))
    assert len(found.bins) < 10  # eleven values at the most, several of them in one bin


def wilson(successes: int, rows: int, z: float) -> tuple[float, float]:
    """The two shares p at which (successes / rows - p)² = z² p (1 - p) / rows: roots of a quadratic equation."""
    share = successes / rows
    a, b, c = 1 + z * z / rows, -(2 * share + z * z / rows), share * share
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize(("level", "z"), [(0.95, 1.959963984540054), (0.9, 1.6448536269514722)])
@pytest.mark.parametrize(("successes", "rows"), [(0, 1), (1, 1), (0, 40), (3, 40), (40, 40), (2500, 10_000)])
def test_the_intervals_are_wilsons(successes: int, rows: int, level: float, z: float) -> None:
    target = np.arange(rows) < successes
    (only,) = measured(target, np.full(rows, 0.3), level=level).bins
    assert (only.low, only.high) == pytest.approx(wilson(successes, rows, z), abs=1e-12)
    assert 0 <= only.low <= only.observed + 1e-12
    assert only.observed - 1e-12 <= only.high <= 1


def test_an_interval_holds_the_true_share_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for successes in rng.binomial(60, 0.1, 2000):
        (only,) = measured(np.arange(60) < successes, np.full(60, 0.5)).bins
        hits += only.low <= 0.1 <= only.high
    assert 0.93 < hits / 2000 < 0.98


@st.composite
def some_rows(draw: st.DrawFn) -> tuple[Array, Array]:
    pairs = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=60))
    target, twentieths = zip(*pairs, strict=True)
    return np.array(target), np.array(twentieths) / 20


@given(some_rows(), st.randoms())
def test_every_row_is_in_one_bin_and_ties_stay_together(rows: tuple[Array, Array], random: Any) -> None:
    target, prediction = rows
    found = measured(target, prediction)
    sizes = column(found, "rows")
    assert sizes.min() > 0
    assert sizes.sum() == len(target)
    assert len(sizes) <= min(10, len(set(prediction)))
    assert sizes @ column(found, "observed") == pytest.approx(target.sum())
    assert sizes @ column(found, "predicted") == pytest.approx(prediction.sum())
    ends = np.cumsum(sizes)[:-1]
    assert (np.sort(prediction)[ends - 1] < np.sort(prediction)[ends]).all()
    assert 0 <= found.error <= 1
    order = list(range(len(target)))
    random.shuffle(order)
    assert measured(target[order], prediction[order]).error == pytest.approx(found.error)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200, unique=True))
def test_without_ties_the_bins_are_of_one_size(prediction: list[float]) -> None:
    sizes = column(measured([0] * len(prediction), prediction), "rows")
    assert len(sizes) == min(10, len(prediction))
    assert sizes.max() - sizes.min() <= 1


# Few rows, one class, one value --------------------------------------------------------------------------------------


def test_equal_predictions_are_one_bin() -> None:
    found = measured([0, 1, 0, 0], [0.25] * 4)
    assert found.bins == (
        CalibrationBin(predicted=0.25, observed=0.25, low=found.bins[0].low, high=found.bins[0].high, rows=4),
    )
    assert found.error == 0.0


def test_one_row_is_enough() -> None:
    found = measured([1], [0.75])
    assert found.error == 0.25
    assert [part.rows for part in found.bins] == [1]


@pytest.mark.parametrize("only", [0, 1])
def test_rows_of_one_class_are_judged(only: int) -> None:
    _, prediction = rows_of(95)
    found = measured(np.full(95, only), prediction)
    assert set(column(found, "observed")) == {float(only)}
    assert found.error == pytest.approx(abs(only - prediction.mean()))


def test_certain_predictions_leave_nothing_to_chance() -> None:
    found = measured([0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0])
    assert (found.error, found.chance) == (0.0, 0.0)


def test_the_rounding_of_a_softmax_does_not_matter() -> None:
    found = measured([0, 1], [-1e-7, 1 + 1e-7])
    assert (found.error, found.chance) == (0.0, 0.0)


# The bias ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [100, 1000])
def test_a_perfect_model_shows_the_error_of_chance(rows: int) -> None:
    found = [measured(*rows_of(rows, seed)) for seed in range(300)]
    mean = np.mean([each.error for each in found])
    assert mean == pytest.approx(np.mean([each.chance for each in found]), rel=0.05)
    assert mean > 0.02  # and is not the nothing that it should be


def test_a_model_that_is_too_sure_is_found_out() -> None:
    target, chances = rows_of(5000)
    found = measured(target, chances**0.5)
    assert found.error == pytest.approx((chances**0.5 - chances).mean(), abs=0.02)
    assert found.error > 10 * found.chance
    assert (column(found, "high") < column(found, "predicted")).all()


# More classes, and none ----------------------------------------------------------------------------------------------


def test_of_several_classes_the_chosen_one_is_judged() -> None:
    rng = np.random.default_rng(3)
    target, prediction = rng.integers(0, 3, 400), rng.dirichlet([1, 1, 1], 400)
    hit, confidence = prediction.argmax(axis=1) == target, prediction.max(axis=1)
    assert calibration("multiclass", target, prediction) == measured(hit, confidence)


def test_a_regression_states_no_probabilities() -> None:
    assert calibration("regression", [1.5, -2.0], [1.0, 7.0]) is None


@pytest.mark.parametrize(
    ("target", "prediction", "error"),
    [
        ([], [], LabelError),
        ([0, 2], [0.1, 0.2], LabelError),
        ([0, 1], [0.1, 1.2], DataError),
        ([0], [[0.1]], DataError),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(target: Any, prediction: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        calibration("binary", target, prediction)


# In a report ---------------------------------------------------------------------------------------------------------


def test_a_report_holds_it_at_the_level_of_the_plan() -> None:
    target, prediction = rows_of(200)
    report = evaluate(Evaluation(resamples=50, level=0.9), "binary", target, prediction, {}, seed=1)
    assert report.calibration == measured(target, prediction, level=0.9)
    assert msgspec.json.decode(canonical(report), type=Report) == report
    assert evaluate(Evaluation(resamples=50), "regression", prediction, prediction, {}, seed=1).calibration is None


def test_a_report_from_before_reads() -> None:
    report = evaluate(Evaluation(resamples=50), "binary", *rows_of(200), {}, seed=1)
    before = msgspec.json.decode(canonical(report))
    del before["calibration"]
    assert msgspec.convert(before, Report) == msgspec.structs.replace(report, calibration=None)
