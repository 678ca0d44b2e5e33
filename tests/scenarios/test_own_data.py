"""Data of one's own as the data of a recipe, through the program, as a user would: images that lie in no table."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import Project
from sklearn.datasets import load_digits

import velodrome as vd
from velodrome.registry.series import read_histories

pytestmark = pytest.mark.slow

DIGITS = """
import numpy as np


class Digits:
    def __init__(self):
        self._held = np.load("digits.npz")

    def __len__(self):
        return len(self._held["digit"])

    def __getitem__(self, ids):
        return {"image": self._held["image"][ids], "digit": self._held["digit"][ids]}
"""

RECIPE = """
import torch

import velodrome as vd
from digits import Digits


class Network(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        (channels, height, width) = inputs[0]["shape"]
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(8 * (height // 2) * (width // 2), 10),
        )

    def forward(self, image):
        return self.layers(image.float() / 16)


recipe = vd.Recipe(
    "reader",
    data=vd.Dataset("digits", source=vd.Own(Digits)),
    label="digit",
    learner=vd.Torch(
        network=Network, optimizer=vd.AdamW(lr=0.01), epochs=EPOCHS, batch=64, checkpoints=vd.Checkpoints(every=5)
    ),
    evaluation=vd.Evaluation("accuracy", resamples=100),
    gates=[vd.AtLeast("accuracy", 0.8), vd.NotWorse("champion", by=0.2)],
    refit=True,
    operate=vd.Operate(approval=vd.PolicyApproval("passed-gates")),
)
"""


def write_digits(folder: Path, **changes: Any) -> None:
    """Images of bytes, (1, 8, 8), and what they show; `changes` by name."""
    images, digits = load_digits(return_X_y=True)
    held = {"image": images.reshape(-1, 1, 8, 8).astype(np.uint8), "digit": digits}
    np.savez(folder / "digits.npz", **(held | changes))  # type: ignore[arg-type]


@pytest.fixture
def make_reader(tmp_path: Path) -> Callable[..., Project]:
    def make(epochs: int = 4) -> Project:
        project = Project(tmp_path)
        write_digits(tmp_path)
        project.write("digits.py", DIGITS)
        project.write("recipe.py", RECIPE.replace("EPOCHS", str(epochs)))
        return project

    return make


def test_images_of_one_s_own_become_a_champion_that_predicts_arrays(make_reader: Callable[..., Project]) -> None:
    project = make_reader()
    first = project.json("run", "recipe.py")
    assert (first["version"], first["champion"], first["rows"], first["found"]) == ("reader/1", True, 1797, False)
    assert first["report"]["metrics"]["accuracy"]["value"] > 0.85
    assert first["artifact_run"] != first["run"]
    again = project.json("run", "recipe.py")
    assert again["found"]
    assert (again["run"], again["key"], again["snapshot"]) == (first["run"], first["key"], first["snapshot"])
    told = project.call("run", "recipe.py").stdout
    assert 'next: in Python, vd.load("reader@champion").predict({"image": array})' in told
    assert "velodrome predict" not in told  # which takes a file, and no file holds an image

    images, digits = load_digits(return_X_y=True)
    with vd.open(project.folder) as ws:
        model = vd.load("reader@champion", ws=ws)
        predicted = model.predict({"image": images.reshape(-1, 1, 8, 8).astype(np.uint8)})
    assert (predicted["prediction"].to_numpy() == digits).mean() > 0.85
    assert predicted.width == 11

    (project.folder / "new.csv").write_text("image\n7\n")
    said = project.error("predict", "reader@champion", "new.csv", "--out", "scored.csv")
    assert said["error"] == "SchemaError"
    assert "predict({'image': array})" in said["remedy"]
    assert "(rows, 1, 8, 8)" in said["remedy"]

    trace = project.call("models", "trace", "reader@champion").stdout
    for word in ("rows of one's own, content", "digits.py", "seed", "report", "policy:passed-gates"):
        assert word in trace, word
    assert "1797 rows of one's own" in project.call("trace", "reader/1").stdout
    assert project.call("report", "reader", "--html", "reader.html").returncode == 0
    told = project.call("report", "reader").stdout + (project.folder / "reader.html").read_text()
    assert "data of one's own is not watched" in told.lower().replace("&#39;", "'")
    for word in ("velodrome retrain", "in quarantine", "0 files"):  # there are no files to retrain from
        assert word not in told, word
    assert project.call("gc").returncode == 0
    assert project.call("doctor").returncode == 0
    assert project.json("run", "recipe.py")["found"]


def test_a_newcomer_is_compared_with_the_champion_on_the_same_rows(make_reader: Callable[..., Project]) -> None:
    """The champion was refitted on all rows, so its judge stands for it."""
    project = make_reader()
    project.json("run", "recipe.py")
    second = project.json("run", "recipe.py", "--set", "learner.epochs=5")
    assert second["against"] == "reader/1"
    assert second["comparisons"][0]["metric"] == "accuracy"
    assert abs(second["comparisons"][0]["difference"]["value"]) < 0.2
    assert second["version"] == "reader/2"


def test_it_proves_and_reproduces_while_the_data_is_what_it_was(make_reader: Callable[..., Project]) -> None:
    project = make_reader()
    done = project.json("run", "recipe.py")
    (project.folder / "recipe.py").unlink()
    (project.folder / "digits.py").unlink()
    for run in (done["run"], done["artifact_run"]):
        proof = project.json("runs", "prove", run, "--steps", "7")
        assert (proof["differs"], proof["steps"]) == (None, 7)
        again = project.json("runs", "reproduce", run)
        assert (again["differs"], again["environment"]) == ([], {})
        assert again["by"] not in (None, run)
    (row, *rest) = project.json("runs", "samples", done["run"], "--step", "3")["rows"]
    assert len(rest) == 63
    assert row.keys() == {"row", "digit"}  # an image is not shown
    assert row["digit"] == load_digits(return_X_y=True)[1][row["row"]]

    _, digits = load_digits(return_X_y=True)
    digits[700] = (digits[700] + 1) % 10
    write_digits(project.folder, digit=digits)
    for verb in ("prove", "reproduce"):
        said = project.error("runs", verb, done["artifact_run"])
        assert said["error"] == "DataError"
        assert "is not what the run learned from" in said["problem"]
    write_digits(project.folder)
    assert project.json("runs", "prove", done["run"], "--steps", "3")["differs"] is None


def test_one_row_that_changed_is_another_run_and_goes_back_to_the_first(make_reader: Callable[..., Project]) -> None:
    project = make_reader(epochs=2)
    first = project.json("run", "recipe.py")
    _, digits = load_digits(return_X_y=True)
    digits[700] = (digits[700] + 1) % 10
    write_digits(project.folder, digit=digits)
    other = project.json("run", "recipe.py")
    assert not other["found"]
    assert other["snapshot"] != first["snapshot"]
    assert other["key"] != first["key"]
    write_digits(project.folder)
    back = project.json("run", "recipe.py")
    assert (back["found"], back["run"]) == (True, first["run"])


def test_killed_at_any_moment_it_ends_with_the_same_weights(make_reader: Callable[..., Project]) -> None:
    project = make_reader(epochs=20)
    whole = project.json("run", "recipe.py", "--seed", "7")
    weights = _weights(project, whole)
    (project.folder / ".velodrome").rename(project.folder / "whole")
    kills = 0
    for further in (1, 23, 7):
        process = project.start("run", "recipe.py", "--seed", "7", "--json")
        goal = project.saved() + further
        while process.poll() is None and project.saved() < goal:
            time.sleep(0.002)
        kills += process.poll() is None
        process.kill()
        process.communicate()
    resumed = project.json("run", "recipe.py", "--seed", "7")
    attempts = [attempt for run in _runs(project, resumed) for attempt in run["attempts"]]
    assert kills == 3
    assert sum((attempt["restored_step"] or 0) > 0 for attempt in attempts) >= 2
    assert _weights(project, resumed) == weights
    assert resumed["key"] == whole["key"]
    assert project.call("doctor").returncode == 0


def test_what_needs_files_is_refused_by_name(make_reader: Callable[..., Project]) -> None:
    project = make_reader(epochs=1)
    project.write("recipe.py", (project.folder / "recipe.py").read_text().replace('"accuracy", 0.8', '"accuracy", 0.0'))
    project.json("run", "recipe.py")
    for words in (["retrain"], ["drift"], ["data", "replay"]):
        said = project.error(*words, "recipe.py")
        assert said["error"] == "RecipeError", words
        assert "data of one's own has none" in said["problem"]
        assert "digits:Digits" in said["received"]
    assert "of which no row is kept" in project.error("data", "diff", "digits", "digits")["problem"]


def test_a_row_that_fails_is_named_and_nothing_is_recorded(make_reader: Callable[..., Project]) -> None:
    project = make_reader(epochs=1)
    broken = DIGITS.replace(
        'return {"image"', 'if 1234 in ids:\n            raise OSError("torn")\n        return {"image"'
    )
    project.write("digits.py", broken)
    said = project.error("run", "recipe.py")
    assert said["error"] == "SourceError"
    assert "fails at row 1234: OSError: torn" in said["problem"]
    assert project.json("runs", "list")["runs"] == []


SEQUENCES = """
import numpy as np
import torch

import velodrome as vd


class Walks:
    digest = "walks of 1 to 12 steps, seed 3"

    def __init__(self):
        rng = np.random.default_rng(3)
        self._lengths = rng.integers(1, 13, 600)
        self._up = rng.random(600) < 0.5
        drawn = rng.random((600, 12)) < np.where(self._up, 0.8, 0.2)[:, None]
        self._moves = np.where(np.arange(12) < self._lengths[:, None], np.where(drawn, 2, 1), 0)  # 0 is no move

    def __len__(self):
        return 600

    def __getitem__(self, ids):
        return {"moves": self._moves[ids], "up": self._up[ids]}


class Reader(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.embedding = torch.nn.Embedding(3, 8, padding_idx=0)
        self.out = torch.nn.Linear(8, 1)

    def each(self, moves):
        return self.out(self.embedding(moves))[..., 0]

    def forward(self, moves):
        there = (moves > 0).float()
        return (self.each(moves) * there).sum(1)


def every_move_counts(module, inputs, target):
    # Cut to the longest of the batch; each move there is counts once, so short and long walks weigh differently.
    moves = inputs["moves"]
    moves = moves[:, : int((moves > 0).sum(1).max())]
    there = moves > 0
    wanted = target[:, None].float().expand_as(moves)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(module.each(moves), wanted, reduction="none")
    return losses[there].sum(), there.sum()


recipe = vd.Recipe(
    "walks",
    data=vd.Dataset("walks", source=vd.Own(Walks)),
    label="up",
    learner=vd.Torch(network=Reader, step=every_move_counts, optimizer=vd.AdamW(lr=0.05), epochs=6, batch=64),
    evaluation=vd.Evaluation("roc_auc", resamples=100),
)
"""


def test_a_step_of_one_s_own_weighs_rows_as_it_says(tmp_path: Path) -> None:
    """Sum and count: the mean over all that counts, however the batch is cut into micro-batches."""
    torch = pytest.importorskip("torch")
    project = Project(tmp_path)
    project.write("recipe.py", SEQUENCES)
    whole = project.json("run", "recipe.py")
    assert whole["report"]["metrics"]["roc_auc"]["value"] > 0.8
    cut = project.json("run", "recipe.py", "--set", "learner.micro_batch=7")
    assert whole["key"] != cut["key"]
    with vd.open(tmp_path) as ws:
        losses = [_losses(ws, run["run"]) for run in (whole, cut)]
    assert len(losses[0]) == len(losses[1]) > 30
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    assert losses[0][-1] < losses[0][0] < 1.0


def _losses(ws: vd.Workspace, run: str) -> Any:
    return read_histories(ws, run)["loss"].values


def _runs(project: Project, result: dict[str, str]) -> list[Any]:
    return [project.json("runs", "show", run) for run in (result["run"], result["artifact_run"])]


def _weights(project: Project, result: dict[str, str]) -> list[object]:
    return [(run["outcome"]["weights"], run["outcome"]["history"]) for run in _runs(project, result)]
