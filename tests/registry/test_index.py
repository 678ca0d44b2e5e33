import sqlite3
from collections.abc import Callable

import pytest

from velodrome.core.errors import IntegrityError, StorageError
from velodrome.registry.index import expected_facts, reindex, wrong_facts
from velodrome.registry.runs import Outcome, Run, begin_attempt, collect, finish, resumed, start
from velodrome.registry.search import search_runs
from velodrome.registry.series import history_digest
from velodrome.registry.series_writer import SeriesWriter
from velodrome.registry.tags import tag
from velodrome.store.ledger import Fact
from velodrome.store.workspace import Workspace

MakeRun = Callable[..., Run]


@pytest.fixture
def run(ws: Workspace, make_run: MakeRun) -> Run:
    """A tracked loop that was killed, went on, was tagged and finished."""
    made = start(ws, make_run(type="track", seed=7))
    log(ws, made, range(1, 8))
    attempt = begin_attempt(ws, made.id)
    resumed(ws, made.id, attempt=attempt, step=5)
    log(ws, made, range(6, 11))
    for team in ("x", "y"):
        tag(ws, made.id, {"team": team, "old": None if team == "y" else 1})
    outcome = Outcome(run=made.id, steps=10, planned_steps=10, seconds=1.5, history=history_digest(ws, made.id))
    finish(ws, made.id, outcome, metrics={"loss": 0.1})
    return made


def log(ws: Workspace, run: Run, steps: range) -> None:
    pointer = ws.ledger.pointer(f"run:{run.id}")
    assert pointer is not None
    assert pointer.value is not None
    attempt = int(pointer.value.partition("/")[2]) or begin_attempt(ws, run.id)
    with SeriesWriter(ws, run.id, attempt) as writer:
        for step in steps:
            writer.log(step, loss=1 / step, step_time=0.5)


def test_facts_are_made_again_as_they_were(ws: Workspace, run: Run) -> None:
    subject = f"run:{run.id}"
    facts = ws.ledger.facts([subject])[subject]
    assert facts["series.loss.count"] == 10
    assert (facts["metrics.loss"], facts["tags.team"], facts["attempts"]) == (0.1, "y", 2)
    assert expected_facts(ws, run.id) == facts
    assert list(wrong_facts(ws)) == []
    assert reindex(ws) == 0
    ws.commit(*(Fact(subject, key, None) for key in facts))
    assert reindex(ws) == 1
    assert ws.ledger.facts([subject])[subject] == facts


def test_facts_that_disagree_are_named_and_mended(ws: Workspace, run: Run, make_run: MakeRun) -> None:
    start(ws, make_run(seed=8))
    ws.commit(Fact(f"run:{run.id}", "state", "failed"), Fact(f"run:{run.id}", "metrics.new", 1.0))
    assert dict(wrong_facts(ws)) == {f"run:{run.id}": {"metrics.new": (1.0, None), "state": ("failed", "finished")}}
    assert reindex(ws) == 1
    assert list(wrong_facts(ws)) == []


def test_two_parameters_with_one_dotted_name_are_known_as_one(ws: Workspace, make_run: MakeRun) -> None:
    start(ws, make_run(recipe={"a.b": 1, "a": {"b": 2}}))
    assert list(wrong_facts(ws)) == []


def test_facts_of_what_is_no_run_go(ws: Workspace, run: Run) -> None:
    ws.commit(Fact("run:nobody", "id", "nobody"), Fact("elsewhere", "id", "run"))
    with pytest.raises(IntegrityError, match="are missing, by which it is listed"):
        search_runs(ws)
    assert [subject for subject, _ in wrong_facts(ws)] == ["elsewhere", "run:nobody"]
    assert reindex(ws) == 2
    assert list(wrong_facts(ws)) == []
    assert [found.id for found in search_runs(ws).runs] == [run.id]


@pytest.mark.parametrize("value", ["5", "'x'", "x'ff'", "CAST(x'ff' AS TEXT)"])
@pytest.mark.parametrize("column", ["number", "text"])
def test_facts_that_do_not_read_are_made_anew(ws: Workspace, run: Run, column: str, value: str) -> None:
    with sqlite3.connect(ws.store / "ledger.db") as ledger:
        ledger.execute(f"UPDATE fact SET {column} = {value} WHERE key = 'state'")
    ledger.close()
    with pytest.raises(StorageError, match="doctor"):
        search_runs(ws)
    assert [subject for subject, _ in wrong_facts(ws)] == [f"run:{run.id}"]
    assert reindex(ws) == 1
    assert [found.state for found in search_runs(ws).runs] == ["finished"]


def test_what_is_known_of_a_collected_run_stays(ws: Workspace, run: Run) -> None:
    collect(ws, run.id, "its age")
    facts = ws.ledger.facts([f"run:{run.id}"])[f"run:{run.id}"]
    assert (facts["state"], facts["series.loss.last"], facts["metrics.loss"]) == ("collected", 0.1, 0.1)
    assert list(wrong_facts(ws)) == []
