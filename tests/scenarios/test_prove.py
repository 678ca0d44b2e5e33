"""A run proves itself: steps done again from a checkpoint, and all of it from its record alone."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import polars as pl
import pytest
import safetensors.torch
from project import Project

from velodrome.store.ledger import Append, Put, digest_record
from velodrome.store.workspace import open_folder
from velodrome.training.checkpoints import checkpoints_of
from velodrome.training.torch_state import decode_state

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


DIVERGES = """

def step(module, inputs, target):
    loss = torch.nn.functional.binary_cross_entropy_with_logits(module(**inputs), target.float())
    return loss * float("nan") if module.training and float(inputs["age"][0]) > 1.3 else loss
"""


@pytest.mark.parametrize("then", ["skip", "roll back"])
def test_steps_after_a_checkpoint_are_proven_though_some_of_them_diverged(
    make_project: Callable[..., Project], then: str
) -> None:
    """A checkpoint of before does not know yet which batches the run went on without; a proof leaves no trace in its history."""
    project = make_project(epochs=4)
    with (project.folder / "velodrome.toml").open("a") as settings:
        settings.write("keep_checkpoints = 50\n")
    head, recipe = (project.folder / "recipe.py").read_text().split("recipe = vd.Recipe(")
    recipe = recipe.replace("learner=vd.Torch(", f"learner=vd.Torch(step=step, on_divergence={then!r},")
    project.write("recipe.py", head + DIVERGES + "\n\nrecipe = vd.Recipe(" + recipe)
    assert project.call("run", "recipe.py").returncode in (0, 8)
    run = next(each["id"] for each in _runs(project) if each["type"] == "train")
    with open_folder(project.folder) as ws:
        diverged = {event.body["step"] for event in ws.ledger.events(f"run:{run}") if event.type == "run.diverged"}
        told = ws.ledger.events(f"run:{run}")
        first = checkpoints_of(ws, run)[0].step
    assert any(step > first + 1 for step in diverged)
    proof = project.json("runs", "prove", run, "--checkpoint", str(first), "--steps", "100")
    assert proof["differs"] is None
    assert proof["steps"] >= max(diverged) - first
    with open_folder(project.folder) as ws:
        assert ws.ledger.events(f"run:{run}") == told


def test_the_rows_of_a_step_that_failed_are_shown_and_those_before_are_proven(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(epochs=2)
    head, recipe = (project.folder / "recipe.py").read_text().split("recipe = vd.Recipe(")
    project.write(
        "recipe.py", head + DIVERGES + "\n\nrecipe = vd.Recipe(" + recipe.replace("vd.Torch(", "vd.Torch(step=step,")
    )
    error = project.error("run", "recipe.py")
    assert error["exit_code"] == 6
    run, step = _runs(project)[0]["id"], int(error["remedy"].split("--step ")[1])
    rows = project.json("runs", "samples", run, "--step", str(step))["rows"]
    assert [row["row"] for row in rows[:5]] == [int(each) for each in re.findall(r"\d+(?=,)", error["received"])[-5:]]
    assert project.json("runs", "samples", run)["steps"] == step - 1
    assert f"came to step {step}" in project.error("runs", "samples", run, "--step", str(step + 1))["remedy"]


def test_what_would_prove_nothing_is_no_proof(project: Project) -> None:
    run = project.json("run", "recipe.py")["run"]
    assert "1 step or more" in project.error("runs", "prove", run, "--steps", "0")["problem"]
    with open_folder(project.folder) as ws:
        last = checkpoints_of(ws, run)[-1].step
    error = project.error("runs", "prove", run, "--checkpoint", str(last))
    assert "no such checkpoint that a step follows" in error["problem"]
    assert f" {last}" not in error["remedy"]


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


def test_the_rows_of_every_step_are_proven_and_shown_though_the_data_is_gone(project: Project) -> None:
    done = project.json("run", "recipe.py")
    frame = pl.read_csv(project.folder / "customers.csv")
    (project.folder / "customers.csv").unlink()
    proven = project.json("runs", "samples", done["run"])
    steps = project.json("runs", "show", done["run"])["outcome"]["planned_steps"]
    assert (proven["steps"], proven["epochs"]) == (steps, 3)
    trained = sum(proven["uses"].values())
    assert proven["uses"] == {"3": trained}

    seen: Counter[int] = Counter()
    for step in range(1, steps // 3 + 1):
        told = project.json("runs", "samples", done["run"], "--step", str(step))
        assert told["epoch"] == 1
        seen.update(row["customer"] for row in told["rows"])
    assert len(seen) == trained
    assert set(seen.values()) == {1}
    first = told["rows"][0]
    there = frame.row(by_predicate=pl.col("customer") == first["customer"], named=True)
    assert {name: first[name] for name in ("city", "churned")} == {name: there[name] for name in ("city", "churned")}

    assert "none twice in an epoch" in project.call("runs", "samples", done["run"]).stdout
    assert "digest" not in project.call("runs", "show", done["run"]).stdout  # of a step: a name, and no quantity
    assert str(first["customer"]) in project.call("runs", "samples", done["run"], "--step", str(steps // 3)).stdout
    assert f"steps 1 to {steps}" in project.error("runs", "samples", done["run"], "--step", "0")["remedy"]


def test_a_run_that_went_on_from_less_than_its_state_says_so_wherever_it_is_named(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(rows=3000, epochs=20)
    process = project.start("run", "recipe.py")
    while process.poll() is None and project.saved() < 3:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    run = _runs(project)[0]["id"]
    _save_without_optimizer(project, run)

    refused = project.error("run", "recipe.py")
    assert refused["error"] == "TrainingError"
    assert "optimizer/0/exp_avg (missing)" in refused["problem"]
    assert "did you mean" in project.error("run", "recipe.py", "--allow-missing", "optimiser")["remedy"]
    done = project.json("run", "recipe.py", "--allow-missing", "optimizer")
    assert done["run"] == run

    assert project.json("runs", "show", run)["outcome"]["missing"] == ["optimizer"]
    said = "not reproducible"
    for words in (("runs", "show", run), ("models", "trace", done["version"]), ("trace", done["version"])):
        assert said in project.call(*words).stdout, words
    assert "without optimizer" in project.error("runs", "reproduce", run)["received"]
    project.call("report", run, "--html", "run.html")
    assert "without optimizer" in (project.folder / "run.html").read_text()
    assert project.call("doctor").returncode == 0


def _save_without_optimizer(project: Project, run: str) -> None:
    """A checkpoint like the newest one, without the optimiser's state."""
    with open_folder(project.folder) as ws:
        newest = checkpoints_of(ws, run)[-1]
        tensors, facts = decode_state(ws.blobs.read(newest.blob))
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer/")}
        told = {"facts": msgspec.json.encode(facts | {"aliases": {}}).decode()}
        blob = ws.blobs.put(safetensors.torch.save(kept, told))
        record = msgspec.structs.replace(newest, blob=blob.digest, size=blob.size)
        body = {"step": record.step, "checkpoint": digest_record(record)}
        ws.commit(Put(record, run), Append(f"checkpoints:{run}", "checkpoint.saved", body))


def _runs(project: Project) -> Any:
    return project.json("runs", "list")["runs"]


def test_a_trace_of_some_steps_opens_where_traces_are_looked_at(make_project: Callable[..., Project]) -> None:
    """Held to the Trace Event Format, which Perfetto and Chrome read: strict JSON, and of each event what its phase needs."""
    project = make_project(rows=3000)
    project.json("run", "recipe.py", "--profile", "trace.json")
    trace = json.loads((project.folder / "trace.json").read_text(), parse_constant=_refuse)
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} >= {"M", "X"}
    whole = [event for event in events if event["ph"] == "X"]
    for event in whole:
        assert isinstance(event["name"], str)
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        assert "pid" in event
        assert "tid" in event
    assert any("addmm" in event["name"] for event in whole)
    steps = sorted((e for e in whole if e["name"].startswith("ProfilerStep#")), key=lambda e: e["ts"])
    assert [event["name"] for event in steps] == [f"ProfilerStep#{number}" for number in range(10, 30)]
    assert all(one["ts"] + one["dur"] <= other["ts"] + 1 for one, other in pairwise(steps))


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
