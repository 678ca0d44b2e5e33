"""The loop through the program: what arrives is looked at, and a kill at any moment costs nothing but time."""

import random
import shutil
import signal
import subprocess
from collections.abc import Callable

import polars as pl
import pytest
from project import LINEAR, RECIPE, Project, customers

pytestmark = pytest.mark.slow

OPERATE = 'operate=vd.Operate(approval=vd.PolicyApproval("passed-gates")'
POLICY = 'vd.Retrain(min_rows=100, fall=0.02, cool_down="0s", min_volume=0.0)'


def with_policy(recipe: str) -> str:
    assert OPERATE in recipe
    return recipe.replace(OPERATE, f"{OPERATE}, retrain={POLICY}").replace('"customers*.csv"', '"customers-*.csv"')


def deliver(project: Project, part: int, rows: int = 2000, *, turned: bool = False) -> None:
    """Another file of customers; in a world that turned around, those who would have left stay."""
    frame = customers(rows, seed=part)
    if turned:
        frame = frame.with_columns(churned=1 - pl.col("churned"))
    frame.write_csv(project.folder / f"customers-{part}.csv")


@pytest.fixture
def linear(make_project: Callable[..., Project]) -> Project:
    project = make_project(recipe=with_policy(LINEAR))
    deliver(project, 1, 800)
    project.json("run", "recipe.py")
    return project


def test_a_year_in_short(linear: Project) -> None:
    assert "nothing arrived" in linear.call("drift", "recipe.py").stdout

    deliver(linear, 2, 800)
    quiet = linear.json("retrain", "recipe.py")
    assert (quiet["cycle"]["decision"]["action"], quiet["conclusion"]) == ("wait", None)
    assert linear.json("retrain", "recipe.py")["found"]

    deliver(linear, 3, 6000, turned=True)
    turned = linear.json("retrain", "recipe.py")
    assert turned["conclusion"]["verdict"] == "promoted"
    assert turned["conclusion"]["comparison"]["difference"]["low"] > 0
    assert linear.json("models", "show", "churn@champion")["version"]["number"] == 2

    customers(800, seed=4).with_columns(minutes=pl.col("minutes") * 10, city=pl.lit("Dresden")).write_csv(
        linear.folder / "customers-4.csv"
    )
    drifted = linear.json("drift", "recipe.py")["windows"][-1]["columns"]
    assert {column["column"] for column in drifted if column["drifted"]} >= {"minutes", "city"}
    told = linear.call("drift", "recipe.py").stdout
    assert "customers-4" in told
    assert "Dresden" in told


def test_data_that_is_refused_keeps_the_champion(linear: Project) -> None:
    customers(800, seed=2).rename({"age": "years"}).write_csv(linear.folder / "customers-2.csv")
    said = linear.error("retrain", "recipe.py")
    assert (said["error"], said["exit_code"]) == ("SchemaError", 3)
    assert linear.json("models", "show", "churn@champion")["version"]["number"] == 1


def test_watching_goes_on_until_it_is_told_to_stop(linear: Project) -> None:
    process = linear.start("retrain", "recipe.py", "--watch", "--every", "1s")
    try:
        deliver(linear, 2, 800)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("decision:"):
                break
        assert "wait" in line
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in said
    assert "--force" in linear.error("retrain", "recipe.py", "--watch", "--force")["problem"]


def test_killed_at_random_moments_it_ends_with_the_same_champion(make_project: Callable[..., Project]) -> None:
    project = make_project(epochs=6, recipe=with_policy(RECIPE))
    deliver(project, 1, 800)
    project.json("run", "recipe.py")
    shutil.copytree(project.folder / ".velodrome", project.folder / "begun")
    deliver(project, 2, 6000, turned=True)
    whole = _retrained(project)
    shutil.rmtree(project.folder / ".velodrome")
    (project.folder / "begun").rename(project.folder / ".velodrome")
    moments, kills = random.Random(2), 0
    for _ in range(8):
        process = project.start("retrain", "recipe.py")
        try:
            process.communicate(timeout=moments.uniform(1.5, 5.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    assert kills
    assert _retrained(project) == whole
    assert project.call("doctor").returncode == 0


def _retrained(project: Project) -> list[object]:
    """What the same command says in the end, less what differs between two times: ids and seconds."""
    end = project.json("retrain", "recipe.py")
    shown = project.json("models", "show", "churn@champion")["version"]
    runs = project.json("runs", "list")["runs"]
    outcome = project.json("runs", "show", shown["run"])["outcome"]
    return [
        end["conclusion"]["verdict"],
        end["conclusion"]["comparison"],
        shown["number"],
        outcome["weights"],
        sorted((run["type"], run["state"]) for run in runs),
        len(project.json("models", "list")),
    ]
