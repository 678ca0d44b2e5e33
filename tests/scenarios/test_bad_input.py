"""Mistakes of users and damage to files: one named error each, a non-zero exit, and everything earlier intact."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from project import LINEAR, Project, customers

from velodrome.control.checkup import examine
from velodrome.registry.search import RunSummary, list_runs
from velodrome.store.workspace import open_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which a run has been finished."""
    project = Project(tmp_path_factory.mktemp("earlier"))
    customers(300).write_csv(project.folder / "customers.csv")
    project.write("recipe.py", LINEAR)
    assert project.call("run", "recipe.py").returncode in (0, 8)
    return project


def _edit(old: str, new: str) -> Callable[[Project], None]:
    def edit(project: Project) -> None:
        text = (project.folder / "recipe.py").read_text()
        assert old in text
        project.write("recipe.py", text.replace(old, new))

    return edit


def _data(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Project], None]:
    return lambda project: change(customers(300)).write_csv(project.folder / "customers.csv")


def _remove(project: Project) -> None:
    (project.folder / "customers.csv").unlink()


def _labels(value: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(churned=pl.lit(value))


def _without_labels(project: Project) -> None:
    _edit('vd.NotNull("churned"), ', "")(project)
    missing = pl.when(pl.int_range(pl.len()) % 10 == 0).then(None).otherwise("churned")
    customers(300).with_columns(churned=missing).write_csv(project.folder / "customers.csv")


MISTAKES = {
    "no such recipe": (
        lambda project: (project.folder / "recipe.py").rename(project.folder / "recipes.py"),
        "NotFound",
        2,
        "recipes.py",
    ),
    "missing file": (_remove, "SourceError", 3, "customers*.csv"),
    "wrong type": (
        _edit('vd.NotNull("churned")', 'vd.Types({"city": "float64"}, action="stop")'),
        "ContractError",
        3,
        "city",
    ),
    "unknown column": (_edit('"minutes", "city"]', '"minuets", "city"]'), "NotFound", 2, "minutes"),
    "empty split": (_edit("validation=0.2", "validation=0.0001"), "SplitError", 3, "validation"),
    "one class only": (_data(_labels(1)), "LabelError", 3, "distinct"),
    "missing labels": (_without_labels, "LabelError", 3, "churned"),
    "typo in the recipe": (_edit("features=", "feature="), "RecipeError", 2, "features"),
    "lambda in the recipe": (
        _edit("    refit=True,", "    refit=True,\n    prepare=lambda: None,"),
        "RecipeError",
        2,
        "line",
    ),
    "python error in the recipe": (_edit("recipe = vd", "recipe = undefined + vd"), "RecipeError", 2, "undefined"),
    "unknown metric": (_edit('vd.Evaluation("roc_auc"', 'vd.Evaluation("roc_uac"'), "NotFound", 2, "roc_auc"),
    "unknown setting": (
        lambda project: project.write("velodrome.toml", "stor = 'x'"),
        "ConfigurationError",
        2,
        "store",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_named_error(earlier: Project, tmp_path: Path, mistake: str) -> None:
    spoil, error, code, word = MISTAKES[mistake]
    project = Project(Path(shutil.copytree(earlier.folder, tmp_path / "project")))
    runs = _runs(project)
    spoil(project)
    said = project.error("run", "recipe.py")
    assert (said["error"], said["exit_code"]) == (error, code), said
    assert word in f"{said['problem']} {said['received']} {said['remedy']}", said
    kept = _runs(project)
    assert runs
    assert {run: kept[run] for run in runs} == runs
    with open_folder(project.folder) as ws:
        assert examine(ws).problems == ()


def _runs(project: Project) -> dict[str, RunSummary]:
    with open_folder(project.folder) as ws:
        return {run.id: run for run in list_runs(ws)}


def test_a_loss_that_is_not_finite_stops_the_run_by_name(project: Project) -> None:
    said = project.error("run", "recipe.py", "--set", "learner.optimizer.lr=1e30", "--set", "learner.clip=null")
    assert (said["error"], said["exit_code"]) == ("Diverged", 6)
    assert "learning rate" in said["remedy"]
    assert [run["state"] for run in project.json("runs", "list")["runs"]] == ["failed"]


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_blob_damaged_by_hand_is_found_and_never_used(project: Project, damage: str) -> None:
    project.json("run", "recipe.py")
    artifact = project.json("models", "show", "churn@champion")["version"]["artifact"]
    path = project.folder / ".velodrome" / "blobs" / artifact[:2] / artifact
    _damage(path, damage)
    customers(5, seed=2).write_csv(project.folder / "new.csv")
    said = project.error("predict", "churn@champion", "new.csv", "--out", "out.csv")
    assert (said["error"], said["exit_code"]) == ("IntegrityError", 4)
    assert not (project.folder / "out.csv").exists()
    doctor = project.call("doctor")
    assert doctor.returncode == 4
    assert artifact[:12] in doctor.stdout


def test_a_truncated_checkpoint_is_passed_over(make_project: Callable[..., Project]) -> None:
    project = make_project(rows=2000, epochs=20)
    whole = project.json("run", "recipe.py")
    (project.folder / ".velodrome").rename(project.folder / "whole")
    process = project.start("run", "recipe.py")
    while process.poll() is None and project.saved() < 12:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    step, blob = project.newest_checkpoint()
    _damage(project.folder / ".velodrome" / "blobs" / blob[:2] / blob, "truncate")
    resumed = project.json("run", "recipe.py")
    shown = project.json("runs", "show", resumed["run"])
    assert 0 < shown["attempts"][1]["restored_step"] < step
    before = Project(project.folder / "earlier")
    before.folder.mkdir()
    (project.folder / "whole").rename(before.folder / ".velodrome")
    assert shown["outcome"]["weights"] == before.json("runs", "show", whole["run"])["outcome"]["weights"]


def test_an_unknown_model_names_the_nearest(project: Project) -> None:
    project.json("run", "recipe.py")
    said = project.error("models", "show", "chrun@champion")
    assert (said["error"], said["exit_code"]) == ("NotFound", 2)
    assert "churn" in said["remedy"]


def _damage(path: Path, how: str) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 4
    path.write_bytes(data if how == "flip" else data[: len(data) // 2])
