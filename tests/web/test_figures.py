from typing import Any

import msgspec
import numpy as np
import pytest

from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.cohorts import CohortEstimate
from velodrome.evaluation.report import Evaluation, Report, evaluate
from velodrome.web.figures import Strips, curve_figures, report_figures
from velodrome.web.runs import run_facts


def report_of(primary: str, task: Any = "binary", cohorts: tuple[CohortEstimate, ...] = ()) -> Report:
    rng = np.random.default_rng(1)
    chance = rng.random(500)
    labels = (rng.random(500) < chance).astype(int) if task == "binary" else chance + rng.normal(size=500)
    found = evaluate(Evaluation(primary, resamples=60), task, labels, chance, {}, seed=0)
    return msgspec.structs.replace(found, cohorts=cohorts)


def cohort(value: str, *, at: float | None, low: float = 0.0, high: float = 1.0, rows: int = 100) -> CohortEstimate:
    estimate = None
    if at is not None:
        estimate = Estimate(value=at, low=low, high=high, level=0.95, resamples=60, rows=rows)
    skipped = None if estimate else "fewer than 50 rows"
    return CohortEstimate(column="city", value=value, rows=rows, share=0.1, estimate=estimate, skipped=skipped)


def test_the_loss_is_drawn_with_both_curves_and_what_happened(year: Any) -> None:
    run = run_facts(year.ws, year.network)
    found = curve_figures(run).loss
    assert found is not None
    chart = found.chart
    assert len(chart.lines) == 2
    assert {label.text for label in chart.labels} == {"training", "validation", "resumed at 2,500, kept at 4,000"}
    assert [dot.title.partition(":")[0] for dot in chart.dots][:2] == [
        "validation loss at step 500",
        "validation loss at step 1,000",
    ]
    assert (chart.x.scale.low, chart.x.scale.high) == (1, 5000)
    assert chart.y.scale.high >= 9.0
    assert "lowest at step 4,000" in found.finding
    assert "highest 9.000 at step 1,234" in found.description
    assert found.table.head == ("step", "training loss", "validation loss")
    assert found.table.rows[0] == ("500", "0.402", "0.675")


@pytest.mark.parametrize(
    ("restored", "kept", "words"),
    [
        ((2500,), 2600, {"resumed at 2,500, kept at 2,600"}),
        ((500,), 4000, {"resumed at 500", "kept at 4,000"}),
        ((500, 900, 2000), 4000, {"resumed 3 times", "kept at 4,000"}),
        ((), 5000, set()),
    ],
)
def test_what_happened_is_marked_at_its_step(year: Any, restored: tuple[int, ...], kept: int, words: set[str]) -> None:
    run = run_facts(year.ws, year.network)
    assert run.outcome is not None
    attempts = tuple(msgspec.structs.replace(run.attempts[0], restored_step=step) for step in restored)
    changed = msgspec.structs.replace(run, attempts=attempts, outcome=msgspec.structs.replace(run.outcome, steps=kept))
    found = curve_figures(changed).loss
    assert found is not None
    assert {label.text for label in found.chart.labels if label.side == "above"} == words
    assert len(found.chart.rules) == len(restored) + (kept < 5000)


def test_the_other_series_have_units(year: Any) -> None:
    found = {each.title: each for each in curve_figures(run_facts(year.ws, year.network)).others}
    assert found.keys() == {"Gradient norm", "Learning rate", "Share of a step that waits for data", "Time of a step"}
    assert found["Time of a step"].chart.y.title == "ms"
    assert found["Time of a step"].finding.startswith("median 400 ms")
    assert found["Time of a step"].table.head == ("step", "time of a step, ms")
    assert found["Time of a step"].table.rows[0] == ("1", "400")
    assert found["Share of a step that waits for data"].chart.y.title == "%"
    assert found["Learning rate"].chart.y.scale.low == 0


@pytest.mark.parametrize(
    ("name", "value", "unit", "shown"),
    [
        ("host.memory_bytes", 5.5e8, "GB", "0.550 GB"),
        ("host.cpu_percent", 40.0, "%", "40 %"),
        ("gpu.0.power_watts", 300.0, "W", "300 W"),
    ],
)
def test_what_the_machine_did_has_its_own_units_and_one_point_is_a_dot(
    year: Any, name: str, value: float, unit: str, shown: str
) -> None:
    run = run_facts(year.ws, year.network)
    facts = dict.fromkeys(("first", "last", "low", "median", "high"), value)
    curve = msgspec.structs.replace(
        run.curves[0], name=name, timing=True, points=1, steps=(7,), values=(value,), low_step=7, high_step=7, **facts
    )
    (found,) = curve_figures(msgspec.structs.replace(run, curves=(curve,))).others
    assert found.chart.y.title == unit
    assert shown in found.finding
    assert len(found.chart.dots) == 1


def test_a_series_without_a_finite_number_is_told_in_words(year: Any) -> None:
    found = {each.title: each for each in curve_figures(run_facts(year.ws, year.tracked)).others}
    assert found["nothing"].finding == "no finite number"
    assert found["nothing"].chart.lines[0].path == ""


def test_of_very_many_series_some_are_only_named(year: Any) -> None:
    run = run_facts(year.ws, year.network)
    many = tuple(msgspec.structs.replace(run.curves[0], name=f"extra {n}") for n in range(30))
    found = curve_figures(msgspec.structs.replace(run, curves=many))
    assert len(found.others) == 24
    assert found.left_out == tuple(f"extra {n}" for n in range(24, 30))


def test_a_run_without_series_has_no_curves(year: Any) -> None:
    found = curve_figures(run_facts(year.ws, year.running))
    assert (found.loss, found.others) == (None, ())


def test_shares_are_on_one_axis_and_every_other_metric_on_its_own() -> None:
    found = report_figures(report_of("f1")).metrics
    shares, *others = found.groups
    assert (shares.axis.scale.low, shares.axis.scale.high) == (0, 1)
    assert shares.strips[0].name == "f1"
    assert shares.strips[0].tone == "accent"
    assert {strip.name for strip in shares.strips} == {"f1", "roc_auc", "average_precision", "accuracy"}
    assert [[strip.name for strip in group.strips] for group in others] == [["log_loss"]]
    for group in found.groups:
        for strip in group.strips:
            assert strip.low is not None
            assert strip.at is not None
            assert strip.high is not None
            assert strip.low <= strip.at <= strip.high


@pytest.mark.parametrize(("primary", "task", "order"), [("roc_auc", "binary", "abc"), ("rmse", "regression", "cba")])
def test_cohorts_stand_weakest_first_and_those_not_judged_last(primary: str, task: str, order: str) -> None:
    cohorts = (
        cohort("skipped", at=None, rows=3),
        *(cohort(v, at=at) for v, at in (("b", 0.5), ("c", 0.9), ("a", 0.1))),
    )
    found = report_figures(report_of(primary, task, cohorts)).cohorts
    assert found is not None
    (group,) = found.groups
    assert [strip.name for strip in group.strips] == [*order, "skipped"]
    assert (group.strips[-1].why, group.strips[-1].at, group.strips[-1].rows) == ("fewer than 50 rows", None, "3")


def test_a_cohort_is_called_worse_only_beyond_its_interval() -> None:
    overall = report_of("roc_auc").metrics["roc_auc"].value
    worse, unsure, better = (
        cohort("worse", at=overall - 0.2, low=overall - 0.3, high=overall - 0.1),
        cohort("unsure", at=overall - 0.2, low=overall - 0.5, high=overall + 0.1),
        cohort("better", at=overall + 0.05, low=overall + 0.01, high=overall + 0.1),
    )
    found = report_figures(report_of("roc_auc", cohorts=(worse, unsure, better))).cohorts
    assert isinstance(found, Strips)
    assert found.finding.startswith("1 of 3 ")
    assert found.finding.endswith(": city worse.")


def test_calibration_is_drawn_with_its_intervals_against_the_diagonal() -> None:
    report = report_of("roc_auc")
    assert report.calibration is not None
    found = report_figures(report).calibration
    assert found is not None
    assert len(found.chart.dots) == len(report.calibration.bins) == len(found.table.rows)
    assert found.chart.x.scale == found.chart.y.scale
    for dot in found.chart.dots:
        assert dot.low is not None
        assert dot.high is not None
        assert dot.low >= dot.y >= dot.high  # measured from the top
    assert found.chart.lines[0].path == "M0,100L100,0"


def test_a_regression_has_no_calibration() -> None:
    assert report_figures(report_of("rmse", "regression")).calibration is None
