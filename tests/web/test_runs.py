from typing import Any

import msgspec
import pytest

from velodrome.core.errors import NotFound
from velodrome.registry.runs import RunState
from velodrome.store.workspace import Workspace
from velodrome.web.runs import Curve, RunPage, run_page, settings_of


def curves(page: RunPage) -> dict[str, Curve]:
    return {curve.name: curve for curve in page.run.curves}


def test_a_run_shows_its_curves_without_losing_a_spike(year: Any) -> None:
    loss = curves(run_page(year.ws, year.network))["loss"]
    assert (loss.points, loss.missing) == (5000, 0)
    assert (loss.high, loss.high_step) == (9.0, 1234)
    assert loss.low == pytest.approx(0.4, abs=1e-3)
    assert len(loss.steps) < 2500
    assert dict(zip(loss.steps, loss.values, strict=True))[1234] == 9.0


def test_waiting_for_data_is_a_share_of_the_steps(year: Any) -> None:
    page = run_page(year.ws, year.network)
    assert page.run.waited == pytest.approx(0.25)
    share = curves(page)["data_wait_share"]
    assert share.timing
    assert share.median == pytest.approx(0.25)
    assert "data_wait" not in curves(page)


def test_attempts_say_where_they_went_on(year: Any) -> None:
    first, second = run_page(year.ws, year.network).run.attempts
    assert (first.restored_step, second.restored_step, second.redone) == (None, 2500, 500)


def test_points_that_are_no_numbers_are_counted_and_leave_gaps(year: Any) -> None:
    found = curves(run_page(year.ws, year.tracked))
    curve = found[year.hostile]
    assert (curve.points, curve.missing, curve.values.count(None)) == (19, 3, 3)
    assert (curve.first, curve.last, curve.median) == (1.0, 19.0, 10.0)
    assert (found["nothing"].missing, found["nothing"].low, found["nothing"].high_step) == (19, None, None)


def test_a_refit_is_shown_with_the_report_of_its_judge(year: Any) -> None:
    judge, refit = (run_page(year.ws, run).run for run in (year.network, year.refit))
    assert judge.refits == (refit.id,)
    assert refit.judge == judge.id
    assert refit.report == judge.report
    assert judge.report is not None
    assert judge.report.metrics["roc_auc"].value > 0.7


def test_a_run_of_the_loop_shows_what_the_pipeline_decided(year: Any) -> None:
    """Holds the pointer that control/pipeline writes and this page reads."""
    from_loop = {page.version: page for page in (run_page(year.ws, run).run for run in loop_runs(year.ws))}
    passed, refused = from_loop["buyers/1"], from_loop["buyers/2"]
    assert passed.decided
    assert [verdict.passed for verdict in passed.verdicts] == [True, True]
    assert passed.refits
    assert not refused.verdicts[0].passed
    assert passed.data is not None
    assert (passed.data.dataset, passed.data.rows) == ("visits", 400)
    assert [file.name for file in passed.data.files] == ["visits-01.parquet"]
    assert passed.report is not None
    assert passed.report.calibration is not None


def test_a_run_that_failed_says_why_and_one_that_runs_has_no_end(year: Any) -> None:
    failed, running = (run_page(year.ws, run).run for run in (year.failed, year.running))
    assert failed.state is RunState.FAILED
    assert failed.failure is not None
    assert failed.failure.message == year.hostile
    assert (running.state, running.outcome, running.report, running.curves, running.decided) == (
        RunState.RUNNING,
        None,
        None,
        (),
        False,
    )


def test_a_page_is_json_that_leads_back_to_it(year: Any) -> None:
    for run in (year.network, year.tracked, year.failed):
        page = run_page(year.ws, run)
        assert msgspec.json.decode(msgspec.json.encode(page), type=RunPage) == page


def test_an_unknown_run_is_named(ws: Workspace) -> None:
    with pytest.raises(NotFound):
        run_page(ws, "01zzz")


def test_settings_are_flat_texts() -> None:
    found = settings_of({"a": {"b": 1e-3}, "c": [1, "x"], "d": None, "e": "text"})
    assert {each.name: each.value for each in found} == {"a.b": "0.001", "c": '[1,"x"]', "d": "null", "e": "text"}


def loop_runs(ws: Workspace) -> list[str]:
    return [stored.subject.split(":")[1] for stored in ws.ledger.pointers("decision:")]
