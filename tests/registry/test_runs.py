import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import ConfigurationError, NotFound, PointerMoved, StateError
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.report import Report
from velodrome.registry.comparison import compare
from velodrome.registry.runs import (
    Outcome,
    Run,
    RunState,
    begin_attempt,
    fail,
    find_by_key,
    finish,
    get_run,
    outcome_of,
    record_report,
    report_of,
    resumed,
    show_run,
    start,
)
from velodrome.registry.series import history_digest
from velodrome.registry.series_writer import SeriesWriter
from velodrome.store.ledger import digest_record, verify_chain
from velodrome.store.workspace import Workspace

MakeRun = Callable[..., Run]


def outcome(ws: Workspace, run: Run, **fields: Any) -> Outcome:
    facts: dict[str, Any] = {"steps": 10, "planned_steps": 12, "seconds": 1.5, "history": history_digest(ws, run.id)}
    return Outcome(run=run.id, **facts | fields)


def report(value: float) -> Report:
    estimate = Estimate(value=value, low=None, high=None, level=0.95, resamples=0, rows=100)
    return Report(
        task="binary",
        primary="roc_auc",
        metrics={"roc_auc": estimate},
        cohorts=(),
        rows=100,
        class_counts=(50, 50),
        by="rows",
        seed=0,
    )


def judge(ws: Workspace, run: Run, value: float) -> None:
    record_report(ws, run.id, report(value))


def done(ws: Workspace, run: Run, **fields: Any) -> Run:
    start(ws, run)
    begin_attempt(ws, run.id)
    finish(ws, run.id, outcome(ws, run, **fields))
    return run


def test_a_run_is_recorded_with_what_it_was_made_from(ws: Workspace, make_run: MakeRun) -> None:
    first = start(ws, make_run())
    run = start(ws, make_run(type="refit", judge=first.id, key=digest_bytes(b"other")))
    edges = {edge.role: edge.dst for edge in ws.ledger.edges(digest_record(run))}
    assert edges == {
        "snapshot": run.snapshot,
        "code": run.code,
        "environment": run.environment,
        "provenance": run.provenance,
        "judge": f"run:{first.id}",
    }
    assert get_run(ws, run.id) == run
    assert outcome_of(ws, run.id) is None
    assert show_run(ws, run.id).state is RunState.CREATED


def test_a_run_goes_from_created_to_finished_and_no_further(ws: Workspace, make_run: MakeRun) -> None:
    run = start(ws, make_run())
    with pytest.raises(StateError, match="is created, not running"):
        finish(ws, run.id, outcome(ws, run))
    assert begin_attempt(ws, run.id) == 1
    artifact = digest_bytes(b"artifact")
    finish(ws, run.id, outcome(ws, run, artifact=artifact))
    assert outcome_of(ws, run.id) == outcome(ws, run, artifact=artifact)
    assert [edge.dst for edge in ws.ledger.edges(f"run:{run.id}", role="artifact")] == [artifact]
    for again in (
        lambda: begin_attempt(ws, run.id),
        lambda: finish(ws, run.id, outcome(ws, run)),
        lambda: fail(ws, run.id, "Diverged", "late"),
    ):
        with pytest.raises(StateError, match="is finished"):
            again()
    events = ws.ledger.events(f"run:{run.id}")
    assert [event.type for event in events] == ["run.created", "run.started", "run.finished"]
    verify_chain(f"run:{run.id}", events)


def test_a_run_that_was_killed_or_failed_is_tried_again(ws: Workspace, make_run: MakeRun) -> None:
    run = start(ws, make_run())
    assert begin_attempt(ws, run.id) == 1
    with SeriesWriter(ws, run.id, 1) as writer:
        for step in range(1, 8):
            writer.log(step, loss=1 / step, step_time=0.1)
    assert begin_attempt(ws, run.id) == 2  # the first was killed
    resumed(ws, run.id, attempt=2, step=5)
    fail(ws, run.id, "Diverged", "a loss that is not finite: row 'Ann Smith'")
    shown = show_run(ws, run.id)
    assert shown.failure is not None
    assert (shown.failure.attempt, shown.failure.error) == (2, "Diverged")
    assert "Ann Smith" in dict(shown.lines())["failure"]  # type: ignore[operator]
    assert "Ann" not in str([event.body for event in ws.ledger.events(f"run:{run.id}")])
    assert begin_attempt(ws, run.id) == 3
    finish(ws, run.id, outcome(ws, run))
    attempts = show_run(ws, run.id).attempts
    assert [(a.number, a.restored_step, a.redone, a.end) for a in attempts] == [
        (1, None, 0, "died"),
        (2, 5, 2, "failed"),
        (3, None, 0, "finished"),
    ]
    assert show_run(ws, run.id).last == {"loss": 1 / 5}


def test_the_key_finds_the_newest_run(ws: Workspace, make_run: MakeRun) -> None:
    run = make_run()
    assert find_by_key(ws, run.key) is None
    done(ws, run)
    assert find_by_key(ws, run.key) == run
    fresh = start(ws, make_run())
    assert fresh.key == run.key
    assert find_by_key(ws, run.key) == fresh
    assert get_run(ws, run.id) == run


def test_a_start_that_fails_leaves_nothing(ws: Workspace, make_run: MakeRun) -> None:
    run = start(ws, make_run())
    double = msgspec.structs.replace(run, key=digest_bytes(b"other"), seed=9)
    with pytest.raises(PointerMoved):
        start(ws, double)
    assert ws.ledger.get(digest_record(double)) is None
    assert find_by_key(ws, double.key) is None


ATTEMPT = """if True:
    import sys
    from pathlib import Path
    from velodrome.core.errors import PointerMoved
    from velodrome.registry.runs import begin_attempt
    from velodrome.store.workspace import open_folder
    with open_folder(Path(sys.argv[1])) as ws:
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(10):
            try:
                print(begin_attempt(ws, sys.argv[2]))
            except PointerMoved:
                print("moved")
"""


@pytest.mark.slow
def test_processes_that_begin_attempts_at_once_never_get_the_same_number(ws: Workspace, make_run: MakeRun) -> None:
    run = start(ws, make_run())
    command = [sys.executable, "-c", ATTEMPT, str(ws.root), run.id]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [line for process in processes for line in process.communicate()[0].split()]
    numbers = [int(answer) for answer in answers if answer != "moved"]
    assert len(answers) == 20
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_a_run_is_found_by_its_beginning(ws: Workspace, make_run: MakeRun) -> None:
    one, two = start(ws, make_run()), start(ws, make_run(seed=1))
    common = next(length for length in range(26) if one.id[length] != two.id[length])
    assert get_run(ws, one.id[: common + 1]) == one
    with pytest.raises(NotFound, match="2 runs begin so"):
        get_run(ws, one.id[:common])
    for missing in ("", "zzz", one.id + "0"):
        with pytest.raises(NotFound, match="no such run"):
            get_run(ws, missing)


def test_the_newest_report_counts(ws: Workspace, make_run: MakeRun) -> None:
    run = done(ws, make_run())
    judge(ws, run, 0.9)
    start(ws, make_run(seed=5))  # time passes
    judge(ws, run, 0.8)
    assert report_of(ws, run.id) == report(0.8)


def test_a_comparison_says_what_differs_and_the_figures(ws: Workspace, make_run: MakeRun) -> None:
    one = done(ws, make_run(seed=1))
    recipe = {"learner": {"epochs": 7, "clip": 1.0}, "features": ["a"]}
    two = done(ws, make_run(seed=2, recipe=recipe, files={"recipe.py": b"pass", "network.py": b"wide"}))
    judge(ws, one, 0.7)
    found = compare(ws, [one.id, two.id])
    assert found.runs == (one.id, two.id)
    assert found.differences == {
        "recipe.learner.epochs": (6, 7),
        "recipe.learner.clip": (None, 1.0),
        "recipe.features": ('["a","b"]', '["a"]'),
        "seed": (1, 2),
        "code.network.py": (None, digest_bytes(b"wide")[:12]),
    }
    assert found.metrics == {"roc_auc": (0.7, None)}
    assert ("roc_auc", 0.7, None) in found.lines()


def test_runs_that_do_not_differ_have_no_lines(ws: Workspace, make_run: MakeRun) -> None:
    one, two = start(ws, make_run()), start(ws, make_run())
    assert compare(ws, [one.id, two.id]).lines() == []
    with pytest.raises(ConfigurationError, match="two or more"):
        compare(ws, [one.id])


def test_a_finished_run_is_shown_on_one_page(ws: Workspace, make_run: MakeRun) -> None:
    run = done(ws, make_run(), artifact=digest_bytes(b"artifact"), rows=100)
    judge(ws, run, 0.7)
    shown = show_run(ws, run.id)
    lines = dict(shown.lines())
    assert lines["key"] == run.key
    assert lines["roc_auc"] == 0.7
    assert lines["rows"] == 100
    assert "owner" not in lines
    assert "from nothing, finished" in str(lines["attempt 1"])
    assert msgspec.json.decode(msgspec.json.encode(shown), type=type(shown)) == shown
