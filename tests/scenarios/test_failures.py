"""How a training may end other than well, through the program: the exit code of each cause, what is said, what is recorded.

docs/errors.md is the table. What no user can bring about, a bug of ours, is put into the program before it starts.
"""

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project import LINEAR, Project

from velodrome.control.checkup import examine
from velodrome.control.loading import load_recipe
from velodrome.control.pipeline import run
from velodrome.core.errors import VelodromeError, name_of
from velodrome.registry.runs import RunState, show_run
from velodrome.registry.search import list_runs
from velodrome.store.workspace import open_folder

pytestmark = pytest.mark.slow

FORWARD = "        return self.layers("
LEARNER = "        checkpoints=vd.Checkpoints(every=5),\n"


def _edited(project: Project, *changes: tuple[str, str]) -> None:
    text = (project.folder / "recipe.py").read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    project.write("recipe.py", text)


def _step(project: Project, body: str) -> None:
    """Give the recipe a step of its own."""
    step = f"def step(module, inputs, target):\n    output = module(**inputs)\n{body}\n\n\nrecipe = vd."
    _edited(project, ("recipe = vd.", step), (LEARNER, LEARNER + "        step=step,\n"))


def _forward(project: Project, before: str, after: str = FORWARD) -> None:
    _edited(project, (FORWARD, before + after))


def _settings(project: Project, text: str) -> None:
    _edited(project, (LEARNER, LEARNER + f"        {text},\n"))


LOSS = "torch.nn.functional.binary_cross_entropy_with_logits(output, target.float())"
GROWS = """        if self.training:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 4:
"""

MISTAKES: dict[str, tuple[Callable[[Project], None], str, str]] = {
    "a step without a loss": (lambda project: _step(project, "    return None"), "a tensor of one number", "return"),
    "a loss without a gradient": (
        lambda project: _step(project, "    return output.mean().detach()"),
        "the loss has no gradient",
        "without detach",
    ),
    "a loss that leads to no parameter": (
        lambda project: _step(project, "    return (output.detach() * torch.ones(1, requires_grad=True)).mean()"),
        "no parameter that the optimiser moves has a gradient",
        "forward use the parameters",
    ),
    "a step that raises": (
        lambda project: _step(project, "    return output.nothing"),
        "recipe.py line 22, in step: AttributeError",
        "mend that",
    ),
    "a forward that raises": (
        lambda project: _forward(project, "        age = age[:, None, None]\n"),
        "in forward: RuntimeError",
        "mend that",
    ),
    "a forward that raises in the evaluation alone": (
        lambda project: _forward(project, "        if not self.training:\n            raise KeyError('city')\n"),
        "recipe.py line 18, in forward: KeyError",
        "mend that",
    ),
    "an output of another shape": (
        lambda project: _forward(project, GROWS + "                return torch.zeros(3, requires_grad=True)\n"),
        "the network's output has the shape",
        "one row for each input row",
    ),
    "a parameter of another shape": (
        lambda project: _forward(project, GROWS + "                self.city.weight.data = torch.zeros(9, 4)\n"),
        "city.weight (of shape (9, 4) instead of ",
        "in place",
    ),
    "a parameter that is added": (
        lambda project: _forward(project, GROWS + "                self.late = torch.nn.Linear(1, 1)\n"),
        "late.bias (added), late.weight (added)",
        "where the network is built",
    ),
    "a network that is not built": (
        lambda project: _edited(project, ("super().__init__()", "super().__init__()\n        self.missing")),
        "recipe.py line 11, in __init__: AttributeError",
        "mend that",
    ),
    "a lazy layer": (
        lambda project: _edited(project, ("torch.nn.Linear(6, shapes.HIDDEN)", "torch.nn.LazyLinear(shapes.HIDDEN)")),
        "'layers.0.weight' has no shape before the network is called",
        "size of its input",
    ),
    "no epochs": (
        lambda project: _edited(project, ("epochs=3", "epochs=0")),
        "Torch.epochs is at least 1",
        "docs/training.md",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_user_s_training_is_named_with_its_remedy(project: Project, mistake: str) -> None:
    """In this process, as vd.run does it."""
    spoil, problem, remedy = MISTAKES[mistake]
    spoil(project)
    file = project.folder / "recipe.py"
    with open_folder(project.folder) as ws:
        with pytest.raises(VelodromeError) as caught:
            run(ws, load_recipe(file), file=file)
        assert examine(ws).problems == ()
    error = caught.value
    assert problem in error.problem
    assert remedy in (error.remedy or "")
    assert (name_of(error), error.exit_code) == ("RecipeError" if mistake == "no epochs" else "TrainingError", 2)
    if mistake != "no epochs":
        assert _failure(project) == ("TrainingError", error.problem)


def test_a_mistake_ends_the_program_without_a_traceback_which_is_logged_for_who_asks(project: Project) -> None:
    _step(project, "    return output.nothing")
    done = project.call("--log-level", "debug", "run", "recipe.py")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-3].startswith(
        "TrainingError: the code of the recipe fails in step 1 at recipe.py line"
    )
    logged = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (found,) = [line for line in logged if line["event"] == "run.own_code_failed"]
    assert "output.nothing" in found["exception"]
    assert not any(line.startswith("Traceback") for line in done.stderr.splitlines())


def test_parameters_without_a_gradient_are_told_and_the_run_goes_on(project: Project) -> None:
    _edited(project, ("        self.layers =", "        self.idle = torch.nn.Linear(2, 2)\n        self.layers ="))
    done = project.call("run", "recipe.py")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines() if "parameters_without_gradient" in line]
    assert [line["names"] for line in told] == [
        ["idle.weight", "idle.bias"]
    ] * 2  # the run that is judged, and its refit


# ------------------------------------------------------------------------------------------------- a code for each cause


def _data(project: Project) -> None:
    (project.folder / "customers.csv").write_text("customer,age\n1,2\n")


def _out_of_memory(project: Project) -> None:
    _step(project, "    torch.empty(1 << 60)")


def _diverged(project: Project) -> None:
    _step(project, f"    return {LOSS} * float('nan')")


CAUSES: dict[str, tuple[Callable[[Project], None], int, str, str]] = {
    "configuration": (lambda project: _edited(project, ("features=[", "features=['agee', ")), 2, "NotFound", "age"),
    "data": (_data, 3, "SchemaError", "churned"),
    "diverged": (_diverged, 6, "Diverged", "learning rate"),
    "out of memory": (_out_of_memory, 9, "OutOfMemory", "smaller"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_has_its_exit_code(project: Project, cause: str) -> None:
    spoil, code, error, word = CAUSES[cause]
    spoil(project)
    said = project.error("run", "recipe.py")
    assert (said["exit_code"], said["error"]) == (code, error), said
    assert word in f"{said['problem']} {said['received']} {said['remedy']}", said
    if cause in ("diverged", "out of memory"):  # the others end before there is a run
        assert _failure(project) == (error, said["problem"])


def test_preempted_it_has_its_exit_code_and_goes_on(make_project: Callable[..., Project]) -> None:
    project = make_project(rows=2000, epochs=40)
    process = project.start("run", "recipe.py", "--json")
    while process.poll() is None and not project.saved():
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=1200)
    said = json.loads(stderr.splitlines()[-1])
    assert (process.returncode, said["exit_code"], said["error"]) == (10, 10, "Preempted"), stderr
    assert "the same command" in said["remedy"]
    assert _failure(project) == ("Preempted", said["problem"])
    at = int(said["problem"].rpartition("step ")[2].split()[0])
    again = project.json("run", "recipe.py")["run"]
    with open_folder(project.folder) as ws:
        second = show_run(ws, again).attempts[1]
    assert (second.restored_step, second.redone) == (at, 0)


def test_a_store_that_fails_has_its_exit_code(project: Project) -> None:
    """No file beyond a size can be written, as on a full disk: large enough for the run to begin, too small for a checkpoint."""
    _edited(project, ("shapes.HIDDEN)", "20_000)"), ("Linear(shapes.HIDDEN, 1)", "Linear(20_000, 1)"))
    size = 600_000
    full = subprocess.run(
        project.command("run", "recipe.py", "--json"),
        cwd=project.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    said = json.loads(full.stderr.splitlines()[-1])
    assert (full.returncode, said["error"]) == (4, "StorageError"), full.stderr
    assert said["remedy"]
    assert _failure(project) == ("StorageError", said["problem"])


@pytest.mark.parametrize("recipe", ["torch", "scikit-learn"])
def test_a_bug_of_ours_shows_its_traceback(make_project: Callable[..., Project], tmp_path: Path, recipe: str) -> None:
    project = make_project(recipe=LINEAR) if recipe == "scikit-learn" else make_project()
    patched = {"torch": "loop._judged", "scikit-learn": "sklearn_learner.dump"}[recipe]
    module, name = patched.split(".")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(
        f"import velodrome.training.{module} as broken\n\n\ndef fails(*given):\n    raise ZeroDivisionError('ours')\n\n\n"
        f"broken.{name} = fails\n"
    )
    done = subprocess.run(
        project.command("run", "recipe.py"),
        cwd=project.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(hooks)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: ours"
    assert _failure(project) == ("ZeroDivisionError", "ours")


def _failure(project: Project) -> tuple[str, str]:
    """The error and the words that the newest run's record ends with."""
    with open_folder(project.folder) as ws:
        newest, *_ = list_runs(ws)
        shown = show_run(ws, newest.id)
    assert shown.state is RunState.FAILED
    assert shown.failure is not None
    return shown.failure.error, shown.failure.message
