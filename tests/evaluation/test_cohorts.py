"""Each cohort is judged as if it were alone, and none is left out in silence."""

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from velodrome.core.errors import DataError, LabelError
from velodrome.evaluation.bootstrap import estimate
from velodrome.evaluation.cohorts import CohortEstimate, cohort_estimates
from velodrome.evaluation.metrics import metric_named, own_metric

AUC = metric_named("roc_auc", "binary")
RNG = np.random.default_rng(4)
TARGET = (RNG.random(400) < 0.4).astype(np.int64)
PREDICTION = RNG.random(400)
CARRIER = RNG.choice(["UA", "AA", "Ü"], size=400)
DAYS = RNG.integers(0, 20, size=400)


@pytest.mark.parametrize("days", [None, DAYS], ids=["rows", "days"])
def test_a_cohort_is_judged_by_its_own_rows(days: NDArray[Any] | None) -> None:
    found = cohort_estimates(AUC, TARGET, PREDICTION, {"carrier": CARRIER}, seed=3, resamples=100, groups=days)
    assert [cohort.value for cohort in found] == ["AA", "UA", "Ü"]
    for cohort in found:
        own = cohort.value == CARRIER
        own_days = None if days is None else days[own]
        alone = estimate(AUC, TARGET[own], PREDICTION[own], seed=3, resamples=100, groups=own_days)
        assert cohort.estimate == alone
        assert (cohort.column, cohort.rows, cohort.skipped) == ("carrier", int(own.sum()), None)
        assert cohort.share == own.mean()


def test_columns_keep_their_order_and_split_all_rows() -> None:
    columns = {"origin": np.where(PREDICTION.round() == TARGET, "JFK", "EWR"), "carrier": CARRIER}
    found = cohort_estimates(AUC, TARGET, PREDICTION, columns, seed=3, resamples=50)
    assert [cohort.column for cohort in found] == ["origin"] * 2 + ["carrier"] * 3
    assert sum(cohort.rows for cohort in found) == 800
    assert sum(cohort.share for cohort in found) == pytest.approx(2.0)


def test_cohorts_that_cannot_be_judged_say_why() -> None:
    target = np.repeat([0, 1, 0, 1], [60, 1, 20, 29])
    carrier = ["one class"] * 60 + ["small"] * 11 + ["fits"] * 39
    found = cohort_estimates(AUC, target, np.linspace(0, 1, 110), {"carrier": carrier}, seed=1, smallest=39)
    assert [(cohort.value, cohort.rows, cohort.skipped, cohort.estimate is None) for cohort in found] == [
        ("fits", 39, None, False),
        ("one class", 60, "roc_auc compares classes, but every label is class 0", True),
        ("small", 11, "fewer than 39 rows", True),
    ]


def test_a_cohort_in_which_an_own_metric_is_undefined_is_skipped() -> None:
    def lift(target: NDArray[Any], prediction: NDArray[Any]) -> float:
        return float("nan") if target.max() == 0 else float(prediction[target == 1].mean())

    carrier = ["none late"] * 60 + ["some late"] * 60
    found = cohort_estimates(
        own_metric(lift, "binary"), [0] * 60 + [0, 1] * 30, [0.5] * 120, {"carrier": carrier}, seed=1, resamples=50
    )
    assert [cohort.skipped for cohort in found] == ["lift is undefined on these rows", None]


def test_fifty_rows_are_the_least_by_default() -> None:
    carrier = ["a"] * 49 + ["b"] * 50
    found = cohort_estimates(
        metric_named("mae", "regression"), np.ones(99), np.zeros(99), {"carrier": carrier}, seed=1, resamples=50
    )
    assert [cohort.skipped for cohort in found] == ["fewer than 50 rows", None]


def test_no_columns_give_no_cohorts() -> None:
    assert cohort_estimates(AUC, TARGET, PREDICTION, {}, seed=1) == ()


@pytest.mark.parametrize(
    "texts", [["a"] * 399, np.arange(400), [["a"]] * 400, ["a"] * 399 + [None]], ids=["short", "int", "matrix", "null"]
)
def test_a_column_is_one_text_for_each_row(texts: Any) -> None:
    with pytest.raises(DataError, match="cohort column 'carrier' must be 400 texts"):
        cohort_estimates(AUC, TARGET, PREDICTION, {"carrier": texts}, seed=1)


def test_a_missing_label_is_an_error_and_no_skipped_cohort() -> None:
    with pytest.raises(LabelError, match="1 of 400 labels are missing"):
        cohort_estimates(AUC, np.where(np.arange(400) == 7, np.nan, TARGET), PREDICTION, {"carrier": CARRIER}, seed=1)


def test_days_are_checked_before_they_are_shared_out() -> None:
    with pytest.raises(DataError, match="400 whole numbers"):
        cohort_estimates(AUC, TARGET, PREDICTION, {"carrier": CARRIER}, seed=1, groups=[1, 2])


def test_cohorts_travel_as_json() -> None:
    found = cohort_estimates(AUC, TARGET, PREDICTION, {"carrier": CARRIER}, seed=3, smallest=130, resamples=50)
    assert {cohort.estimate is None for cohort in found} == {True, False}
    assert msgspec.json.decode(msgspec.json.encode(found), type=tuple[CohortEstimate, ...]) == found
