"""Finding a rate and a batch, as a person and as a program would."""

import shlex

import pytest
from project import LINEAR, Project

pytestmark = pytest.mark.slow


def test_what_is_suggested_is_the_next_command_and_it_works(project: Project) -> None:
    done = project.call("find", "lr", "recipe.py", "--set", "learner.epochs=1", "--html", "rates.html")
    assert done.returncode == 0, done.stderr
    assert "steepest fall" in done.stdout
    command = done.stdout.splitlines()[-1].removeprefix("next: ")
    assert command.startswith("velodrome run recipe.py --set learner.epochs=1 --set learner.optimizer.lr=")
    assert command.rpartition("=")[2] in (project.folder / "rates.html").read_text()
    assert project.json("runs", "list")["runs"] == []
    _, *words = shlex.split(command)
    assert project.json(*words)["steps"] > 0


def test_a_program_is_told_the_curve_and_the_setting(project: Project) -> None:
    found = project.json("find", "lr", "recipe.py", "--from", "1e-5", "--to", "100", "--steps", "50", "--seed", "3")
    assert found["curve"][0]["rate"] == 1e-5
    assert found["setting"] == f"learner.optimizer.lr={found['suggestion']['rate']:g}"
    assert found["seed"] == 3
    assert (
        project.json("find", "lr", "recipe.py", "--from", "1e-5", "--to", "100", "--steps", "50", "--seed", "3")
        == found
    )


def test_a_batch_is_found(project: Project) -> None:
    found = project.json("find", "batch", "recipe.py", "--to", "128", "--steps", "1")
    assert [each["size"] for each in found["trials"]] == [32, 64, 128]
    done = project.call("find", "batch", "recipe.py", "--set", "learner.batch=8", "--seed", "2", "--html", "sizes.html")
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1]
    assert "learner.batch=8" not in shlex.split(command)
    assert command.endswith("--seed 2")
    assert command.removeprefix("next: ") in (project.folder / "sizes.html").read_text()
    assert "RECIPE" not in done.stdout  # what is to be typed can be typed


def test_what_cannot_be_found_is_an_error_with_its_code(project: Project) -> None:
    assert project.error("find", "lr", "recipe.py", "--from", "1", "--to", "0.1")["error"] == "ConfigurationError"
    assert project.error("find", "batch", "recipe.py", "--from", "4096")["exit_code"] == 3
    project.write("linear.py", LINEAR)
    assert project.error("find", "lr", "linear.py")["exit_code"] == 2
    assert project.error("find", "lr", "recipe.py", "--device", "cuda:77")["error"] == "ConfigurationError"
