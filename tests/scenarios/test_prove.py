"""A run proves itself: steps done again from a checkpoint, and all of it from its record alone."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from project import Project

pytestmark = pytest.mark.slow


def test_steps_and_whole_runs_are_the_same_again_though_the_project_is_gone(project: Project) -> None:
    done = project.json("run", "recipe.py", "--set", "learner.optimizer.lr=0.02")
    (project.folder / "recipe.py").unlink()
    (project.folder / "shapes.py").unlink()
    for run in (done["run"], done["artifact_run"]):
        proof = project.json("runs", "prove", run, "--steps", "7")
        assert (proof["differs"], proof["steps"], proof["environment"]) == (None, 7, {})
        again = project.json("runs", "reproduce", run)
        assert (again["differs"], again["environment"]) == ([], {})
        assert again["by"] not in (None, run)
        assert project.json("runs", "reproduce", run)["by"] == again["by"]
    assert project.call("doctor").returncode == 0


def test_steps_that_came_out_differently_are_named(project: Project) -> None:
    """A network that draws from what no seed names."""
    text = (project.folder / "recipe.py").read_text()
    draw = "if self.training:\n            age = age + random.SystemRandom().random()\n        return self.layers("
    project.write("recipe.py", "import random\n" + text.replace("return self.layers(", draw))
    assert project.call("run", "recipe.py", "--json").returncode in (0, 8)
    run = _runs(project)[-1]
    error = project.error("runs", "prove", run["id"])
    assert "came out differently" in error["problem"]
    assert "differ" in project.error("runs", "reproduce", run["id"])["received"]


def test_another_environment_is_named(make_project: Callable[..., Project]) -> None:
    project = make_project()
    done = project.json("run", "recipe.py")
    with (project.folder / "velodrome.toml").open("a") as settings:
        settings.write("threads = 2\n")
    error = project.error("runs", "reproduce", done["run"])
    assert "environment is another" in error["problem"]
    assert "threads" in error["received"]
    assert project.call("runs", "reproduce", done["run"], "--anyway").returncode in (0, 4)


def test_a_run_without_a_record_that_leads_back_is_named(project: Project) -> None:
    assert "no such run" in project.error("runs", "prove", "01NOSUCHRUN")["problem"]
    done = project.json("run", "recipe.py")
    assert "no such checkpoint" in project.error("runs", "prove", done["run"], "--checkpoint", "3")["problem"]


def _runs(project: Project) -> Any:
    return project.json("runs", "list")["runs"]


def test_a_trace_of_some_steps_opens_where_traces_are_looked_at(make_project: Callable[..., Project]) -> None:
    project = make_project(rows=3000)
    project.json("run", "recipe.py", "--profile", "trace.json")
    trace = json.loads((project.folder / "trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert "ProfilerStep#10" in names
    assert any("addmm" in str(name) for name in names)
