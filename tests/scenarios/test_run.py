"""A recipe from data to champion, through the program, as a user would."""

import time
from collections.abc import Callable

import polars as pl
import pytest
from project import Project, customers

pytestmark = pytest.mark.slow


def test_a_recipe_becomes_a_champion_and_the_same_again_does_nothing(project: Project) -> None:
    first = project.json("run", "recipe.py")
    assert (first["version"], first["state"], first["champion"], first["found"]) == ("churn/1", "approved", True, False)
    assert first["report"]["metrics"]["roc_auc"]["value"] > 0.7
    assert first["rows"] + first["quarantined"] == 800
    assert first["quarantined"] > 0
    assert first["artifact_run"] != first["run"]

    again = project.json("run", "recipe.py")
    assert again["found"]
    assert "next: velodrome predict churn@champion IN --out OUT" in project.call("run", "recipe.py").stdout
    assert (again["run"], again["key"], again["version"]) == (first["run"], first["key"], first["version"])
    assert len(project.json("runs", "list")["runs"]) == 2

    project.write("README.md", "Another text.\n")
    assert project.json("run", "recipe.py")["found"]

    project.write("shapes.py", "HIDDEN = 9\n")
    changed = project.json("run", "recipe.py")
    assert not changed["found"]
    assert changed["key"] != first["key"]
    assert changed["version"] == "churn/2"

    trace = project.call("models", "trace", "churn@champion").stdout
    for word in ("snapshot", "code", "environment", "seed", "report", "policy:passed-gates", "customers.csv"):
        assert word in trace, word
    assert project.call("doctor").returncode == 0


def test_a_gate_that_changes_is_judged_without_training_again(project: Project) -> None:
    first = project.json("run", "recipe.py")
    text = (project.folder / "recipe.py").read_text()
    project.write("recipe.py", text.replace('vd.AtLeast("roc_auc", 0.6)', 'vd.AtLeast("roc_auc", 0.999)'))
    refused = project.call("run", "recipe.py")
    assert refused.returncode == 8
    assert "0.999" in refused.stderr
    assert "next:" not in refused.stdout  # the error says what to do, once
    hint = refused.stderr.partition("velodrome report ")[2].split()
    shown = project.call("report", *hint)
    assert shown.returncode == 0, shown.stderr
    assert "0.999" in (project.folder / "report.html").read_text()
    runs = project.json("runs", "list")["runs"]
    assert first["run"] in {run["id"] for run in runs}
    assert len(runs) == 2
    assert project.json("models", "show", "churn@champion")["version"]["number"] == 1


def test_predictions_are_those_of_the_champion(project: Project) -> None:
    project.json("run", "recipe.py")
    customers(50, seed=3).drop("churned").write_csv(project.folder / "new.csv")
    done = project.json("predict", "churn@champion", "new.csv", "--out", "scored.parquet")
    scored = pl.read_parquet(project.folder / "scored.parquet")
    assert (done["rows"], scored.height) == (50, 50)
    assert scored["probability"].is_between(0, 1).all()
    assert set(scored["prediction"].unique()) <= {0, 1}


def test_killed_at_any_moment_it_ends_with_the_same_weights(make_project: Callable[..., Project]) -> None:
    project = make_project(rows=3000, epochs=30)
    whole = project.json("run", "recipe.py", "--seed", "7")
    weights = _weights(project, whole)
    (project.folder / ".velodrome").rename(project.folder / "whole")
    kills = 0
    for further in (1, 23, 7, 40, 12):
        process = project.start("run", "recipe.py", "--seed", "7", "--json")
        goal = project.saved() + further
        while process.poll() is None and project.saved() < goal:
            time.sleep(0.002)
        kills += process.poll() is None
        process.kill()
        process.communicate()
    resumed = project.json("run", "recipe.py", "--seed", "7")
    attempts = [attempt for run in _runs(project, resumed) for attempt in run["attempts"]]
    assert kills == 5
    assert sum((attempt["restored_step"] or 0) > 0 for attempt in attempts) >= 4
    assert _weights(project, resumed) == weights
    assert resumed["key"] == whole["key"]
    assert project.call("doctor").returncode == 0


def test_the_same_run_at_once_is_refused_by_name_while_others_may_look(make_project: Callable[..., Project]) -> None:
    project = make_project(rows=3000, epochs=10_000)  # more than it ever comes to
    process = project.start("run", "recipe.py")
    try:
        while process.poll() is None and project.saved() < 2:
            time.sleep(0.01)
        said = project.error("run", "recipe.py")
        assert (said["error"], said["exit_code"]) == ("RunHeld", 5)
        assert f"process {process.pid}" in said["received"]
        assert [run["state"] for run in project.json("runs", "list")["runs"]] == ["running"]
    finally:
        process.kill()
        process.communicate()


def _runs(project: Project, result: dict[str, str]) -> list[dict[str, object]]:
    return [project.json("runs", "show", run) for run in (result["run"], result["artifact_run"])]


def _weights(project: Project, result: dict[str, str]) -> list[object]:
    return [(run["outcome"]["weights"], run["outcome"]["history"]) for run in _runs(project, result)]  # type: ignore[index]
