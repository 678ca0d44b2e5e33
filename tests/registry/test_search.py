import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event as sql

from velodrome.core.errors import ConfigurationError, IntegrityError
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.report import Report
from velodrome.registry.facts import known_of
from velodrome.registry.index import expected_facts
from velodrome.registry.runs import Outcome, Run, RunState, begin_attempt, fail, finish, record_report, start
from velodrome.registry.search import list_runs, runs_frame, search_runs
from velodrome.registry.series import history_digest
from velodrome.registry.tags import tag
from velodrome.store.ledger import Fact
from velodrome.store.workspace import Workspace

MakeRun = Callable[..., Run]


def report(**figures: float) -> Report:
    metrics = {
        name: Estimate(value=value, low=None, high=None, level=0.95, resamples=0, rows=100)
        for name, value in figures.items()
    }
    primary = next(iter(figures))
    others: dict[str, Any] = {"cohorts": (), "rows": 100, "class_counts": (50, 50), "by": "rows", "seed": 0}
    return Report(task="binary", primary=primary, metrics=metrics, **others)


def done(ws: Workspace, run: Run, *, metrics: dict[str, float] | None = None, **fields: Any) -> Run:
    start(ws, run)
    begin_attempt(ws, run.id)
    facts: dict[str, Any] = {"steps": 10, "planned_steps": 12, "seconds": 1.5, "history": history_digest(ws, run.id)}
    finish(ws, run.id, Outcome(run=run.id, **facts | fields), metrics=metrics)
    return run


def judged(ws: Workspace, run: Run, **figures: float) -> Run:
    record_report(ws, done(ws, run).id, report(**figures))
    return run


def ids(runs: Iterable[Any]) -> list[str]:
    return [run.id for run in runs]


def test_runs_are_listed_newest_first_by_name_state_and_number(ws: Workspace, make_run: MakeRun) -> None:
    first = judged(ws, make_run(seed=1), roc_auc=0.7051)
    second = start(ws, make_run(seed=2))
    third = start(ws, make_run(seed=3, name="other"))
    assert ids(list_runs(ws)) == [third.id, second.id, first.id]
    assert ids(list_runs(ws, "late")) == [second.id, first.id]
    assert ids(list_runs(ws, limit=1)) == [third.id]
    assert ids(list_runs(ws, state=RunState.FINISHED, limit=1)) == [first.id]
    assert list_runs(ws, "nobody") == []
    assert list_runs(ws, "late")[1].metric == "roc_auc 0.7051"
    assert list_runs(ws, "late")[0].metric is None


def test_runs_are_found_by_what_is_known_of_them(ws: Workspace, make_run: MakeRun) -> None:
    good = judged(ws, make_run(seed=1, recipe={"lr": 0.01, "refit": True, "features": ["a", "b"]}), roc_auc=0.8, f1=0.5)
    bad = judged(ws, make_run(seed=2, recipe={"lr": 0.1, "refit": False}), roc_auc=0.6)
    failed = start(ws, make_run(seed=3, recipe={"lr": 1, "deep": {"lr": "auto"}}, owner="ann"))
    begin_attempt(ws, failed.id)
    fail(ws, failed.id, "Diverged", "a loss that is not finite")
    tag(ws, bad.id, {"team": "x", "rank": 2})
    found: dict[str, list[Run]] = {
        "metrics.roc_auc > 0.7": [good],
        "metrics.roc_auc > 0.5 order by metrics.roc_auc": [bad, good],
        "metrics.roc_auc > 0.5 order by metrics.roc_auc desc": [good, bad],
        "order by metrics.f1": [good, failed, bad],
        "params.lr <= 0.1 and tags.team = 'x'": [bad],
        "params.refit = true": [good],
        "params.features contains '\"b\"'": [good],
        "params.deep.lr = 'auto'": [failed],
        "state = 'failed' and owner = 'ann' and attempts = 1": [failed],
        "tags.rank in (1, 2)": [bad],
        "tags.team is null": [failed, good],
        "not tags.team = 'x'": [failed, good],
        "tags.team != 'y'": [bad],
        f"id = '{good.id}'": [good],
        "primary = 'roc_auc' and steps = 10 and seconds < 2 and type = 'train'": [bad, good],
        "started > '2026-01-01' and not started >= '2026-01-02T03:04:07'": [good],
        "seed = 3 or seed = 1": [failed, good],
    }
    for text, runs in found.items():
        assert ids(search_runs(ws, text).runs) == ids(runs), text
    assert ids(search_runs(ws, "metrics.roc_auc > 0.5", name="other").runs) == []


def test_facts_say_what_the_records_say(ws: Workspace, make_run: MakeRun) -> None:
    big = 2**60 + 1
    runs = [
        judged(ws, make_run(seed=0, owner="ann"), roc_auc=0.8),
        done(ws, make_run(seed=big, type="track", recipe={"nul": "a\0b", "k" * 600: 1, "n\0": 2, "long": "x" * 5000})),
        start(ws, make_run(seed=2)),
        done(ws, make_run(seed=3), steps=0, rows=0, seconds=0.0),
    ]
    for run in runs:
        assert ws.ledger.facts([f"run:{run.id}"]) == {f"run:{run.id}": expected_facts(ws, run.id)}
    known = ws.ledger.facts([f"run:{runs[1].id}"])[f"run:{runs[1].id}"]
    assert known["seed"] == str(big)
    assert known_of(ws, runs[1].id, "params") == {"nul": "a\N{REPLACEMENT CHARACTER}b", "long": "x" * 1024}
    assert runs_frame(ws, name="late")["seed"].to_list() == [3, 2, big, 0]


def test_the_figures_of_the_newest_report_count(ws: Workspace, make_run: MakeRun) -> None:
    run = judged(ws, make_run(), roc_auc=0.7, f1=0.5)
    record_report(ws, run.id, report(accuracy=0.9))
    [line] = list_runs(ws)
    assert (line.metric, line.metrics) == ("accuracy 0.9000", {"accuracy": 0.9})


def test_pages_follow_each_other_whatever_comes_meanwhile(ws: Workspace, make_run: MakeRun) -> None:
    runs = [judged(ws, make_run(seed=number), roc_auc=0.5 + number % 3 / 10) for number in range(10)]
    text = "metrics.roc_auc >= 0.5 order by metrics.roc_auc desc"
    whole = ids(search_runs(ws, text).runs)
    assert sorted(whole) == sorted(ids(runs))
    seen, cursor = [], None
    for size in (3, 4, 2, 1):
        page = search_runs(ws, text, limit=size, after=cursor)
        seen += ids(page.runs)
        cursor = page.next
        judged(ws, make_run(seed=100 + size), roc_auc=0.99)
    assert seen == whole
    assert cursor is None
    newest = search_runs(ws, limit=4)
    rest = search_runs(ws, limit=100, after=newest.next)
    assert ids((*newest.runs, *rest.runs)) == ids(list_runs(ws))
    assert rest.next is None


def test_a_cursor_is_for_its_query_and_for_a_url(ws: Workspace, make_run: MakeRun) -> None:
    for number in range(3):
        judged(ws, make_run(seed=number, owner="ü"), roc_auc=math.nextafter(0.5, number))
    cursor = search_runs(ws, "order by metrics.roc_auc, owner", limit=1).next
    assert cursor is not None
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert len(search_runs(ws, "ORDER BY metrics.roc_auc asc, owner", after=cursor).runs) == 2
    for text, name in (("order by metrics.roc_auc", None), ("order by metrics.roc_auc, owner", "late"), ("", None)):
        with pytest.raises(ConfigurationError, match="belongs to another query"):
            search_runs(ws, text, name=name, after=cursor)
    for broken in ("x", "é", "AAAA", cursor[:-3], cursor + "!", "====", f" {cursor}"):
        with pytest.raises(ConfigurationError, match=r"no cursor|another query"):
            search_runs(ws, "order by metrics.roc_auc, owner", after=broken)


def test_what_nobody_has_is_refused_unless_nobody_has_anything(ws: Workspace, make_run: MakeRun) -> None:
    assert search_runs(ws, "metrics.roc_auc > 0.5").runs == ()
    assert runs_frame(ws, "metrics.roc_auc > 0.5").height == 0
    judged(ws, make_run(), roc_auc=0.7)
    with pytest.raises(ConfigurationError, match=r"no run has 'metrics.roc_acu'") as caught:
        search_runs(ws, "metrics.roc_acu > 0.5")
    assert "did you mean 'metrics.roc_auc'?" in str(caught.value)
    for limit in (0, -1, 10**20):
        for read in (search_runs, runs_frame):
            with pytest.raises(ConfigurationError, match="a limit is a number of runs"):
                read(ws, limit=limit)


def test_the_frame_has_a_column_for_all_that_is_known(ws: Workspace, make_run: MakeRun) -> None:
    empty = runs_frame(ws)
    assert empty.height == 0
    first = judged(ws, make_run(seed=1), roc_auc=0.7)
    second = start(ws, make_run(seed=2, recipe={"learner": {"epochs": "many"}, "depth": 3}, owner="ann"))
    tag(ws, second.id, {"team": "x"})
    ws.commit(Fact(f"run:{first.id}", "series.loss.last", 0.25), Fact(f"run:{first.id}", "series.loss.max", 9.0))
    frame = runs_frame(ws)
    assert frame.columns[: len(empty.columns)] == empty.columns
    assert frame.select(empty.columns).schema == empty.schema
    expected: dict[str, list[Any]] = {
        "id": [second.id, first.id],
        "state": ["created", "finished"],
        "attempts": [0, 1],
        "owner": ["ann", None],
        "steps": [None, 10],
        "metrics.roc_auc": [None, 0.7],
        "params.learner.epochs": ["many", "6"],
        "params.depth": [3.0, None],
        "params.features": [None, '["a","b"]'],
        "tags.team": ["x", None],
        "started": [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=seconds) for seconds in (2, 1)],
    }
    assert frame.select(list(expected)).to_dict(as_series=False) == expected
    assert not [column for column in frame.columns if column.startswith("series.")]
    text = "(series.loss.last < 1 or seed = 2) and tags.new is null order by series.loss.last"
    asked = runs_frame(ws, text, limit=1)
    assert asked.select("id", "series.loss.last", "tags.new").rows() == [(first.id, 0.25, None)]
    assert runs_frame(ws, name="other").height == 0


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), 2**63, 2**64 - 1, -(2**70)])
def test_a_frame_has_any_seed(ws: Workspace, make_run: MakeRun, seed: int) -> None:
    start(ws, make_run(seed=7))
    start(ws, make_run(seed=seed))
    assert [int(each) for each in runs_frame(ws)["seed"]] == [seed, 7]


def test_a_list_takes_as_many_queries_however_many_runs(ws: Workspace, make_run: MakeRun) -> None:
    def queries(read: Callable[[], object]) -> int:
        told: list[str] = []
        listen = lambda *args: told.append(args[2])  # noqa: E731
        sql.listen(ws.ledger._engine, "before_cursor_execute", listen)  # type: ignore[attr-defined]
        read()
        sql.remove(ws.ledger._engine, "before_cursor_execute", listen)  # type: ignore[attr-defined]
        return len(told)

    reads: list[Callable[[], object]] = [
        lambda: list_runs(ws),
        lambda: runs_frame(ws),
        lambda: search_runs(ws, "seed >= 0 order by seed", limit=100),
    ]
    judged(ws, make_run(seed=1), roc_auc=0.7)
    few = [queries(read) for read in reads]
    for number in range(30):
        judged(ws, make_run(seed=number), roc_auc=0.7)
    assert [queries(read) for read in reads] == few
    assert max(few) <= 3


def test_a_run_whose_facts_are_missing_is_named(ws: Workspace, make_run: MakeRun) -> None:
    run = start(ws, make_run())
    ws.commit(Fact(f"run:{run.id}", "state", None))
    with pytest.raises(IntegrityError, match=run.id):
        list_runs(ws)
