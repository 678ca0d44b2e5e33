"""Finders on a real project in this process: what they say, and that nothing of it is recorded."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from project import LINEAR, RECIPE, customers

from velodrome.control.declaring import Source, source_of
from velodrome.control.finding import find_batch, find_lr
from velodrome.control.loading import load_recipe, override
from velodrome.control.pipeline import run
from velodrome.core.errors import ConfigurationError, DataError, OutOfMemory, RecipeError, TrainingError
from velodrome.recipe import Recipe
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training import torch_trials

pytestmark = pytest.mark.slow

NETWORK = RECIPE.replace("import shapes\n", "").replace("shapes.HIDDEN", "8").replace("EPOCHS", "2")


@dataclass
class Finding:
    """A project, and its recipe with other settings."""

    ws: Workspace
    recipe: Recipe
    source: Source

    def lr(self, settings: dict[str, Any] | None = None, **asked: Any) -> Any:
        return find_lr(self.ws, override(self.recipe, settings or {}), self.source, **asked)

    def batch(self, settings: dict[str, Any] | None = None, **asked: Any) -> Any:
        return find_batch(self.ws, override(self.recipe, settings or {}), self.source, **asked)


def make(folder: Path, text: str = NETWORK, data: pl.DataFrame | None = None) -> Iterator[Finding]:
    (customers(2000) if data is None else data).write_csv(folder / "customers.csv")
    file = folder / "recipe.py"
    file.write_text(text)
    with open_folder(folder) as ws:
        yield Finding(ws, load_recipe(file), source_of(ws, file, ()))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Finding]:
    yield from make(tmp_path)


def recorded(ws: Workspace) -> tuple[Any, ...]:
    """Everything that the ledger holds."""
    events = {subject: ws.ledger.events(subject) for subject in ws.ledger.subjects()}
    return list(ws.ledger.scan()), events, ws.ledger.pointers("")


def test_a_rate_is_found_twice_the_same(project: Finding) -> None:
    found = project.lr()
    assert project.lr() == found
    assert project.lr(seed=1).curve != found.curve
    assert found.setting == f"learner.optimizer.lr={found.suggestion.rate:g}"
    assert (found.present, found.curve[0].rate) == (0.01, 1e-6)
    assert 1e-3 < found.suggestion.rate < 1


def test_beside_a_run_nothing_at_all_is_recorded(project: Finding) -> None:
    run(project.ws, project.recipe, file=project.source.file)
    before = recorded(project.ws)
    project.lr()
    project.batch(most=64, steps=1)
    assert recorded(project.ws) == before


def test_before_a_run_only_what_it_would_find_is_recorded(project: Finding) -> None:
    project.lr()
    project.batch(most=64, steps=1)
    assert {stored.kind for stored in project.ws.ledger.scan()} <= {"snapshot", "fragment", "profile", "environment"}
    assert not project.ws.ledger.pointers("run:")


def test_the_run_afterwards_is_the_run_that_it_would_have_been(project: Finding, tmp_path: Path) -> None:
    project.lr()
    project.batch(most=64, steps=1)
    (tmp_path / "alone").mkdir()
    weights = []
    for each in (project, *make(tmp_path / "alone")):
        done = run(each.ws, each.recipe, file=each.source.file)
        weights.append((done.key, done.metrics))
        assert done.steps > 0
    assert weights[0] == weights[1]


def test_a_loss_that_is_not_finite_ends_the_test_quietly(tmp_path: Path) -> None:
    """A network that divides by zero once its weights have grown."""
    text = NETWORK.replace(
        "        return self.layers(",
        "        age = age / (self.layers[0].weight.abs().max() < 2)\n        return self.layers(",
    )
    for project in make(tmp_path, text):
        found = project.lr()
        assert found.ended == "exploded"
        assert len(found.curve) < 100
        assert (found.curve[-1].loss, found.curve[-1].smoothed) == (None, None)


def test_micro_batches_give_the_same_curve_but_for_rounding_where_nothing_is_drawn(tmp_path: Path) -> None:
    for project in make(tmp_path, NETWORK.replace("Dropout(0.2)", "Dropout(0.0)")):
        whole, parts = project.lr(steps=20).curve, project.lr({"learner.micro_batch": 16}, steps=20).curve
        losses = zip(whole[:10], parts[:10], strict=True)
        assert all(one.loss == pytest.approx(other.loss, rel=1e-3) for one, other in losses)


def test_sizes_double_up_to_what_there_is(project: Finding) -> None:
    found = project.batch(start=100, steps=2)
    assert [each.size for each in found.trials] == [100, 200, 400, 800]
    assert all(each.fits and each.rows_per_second > 0 and each.memory is not None for each in found.trials)
    assert (found.field, found.ended, found.present, found.suggestion.largest) == ("batch", "rows", 64, 800)
    assert found.setting == f"learner.batch={found.suggestion.enough}"
    assert project.batch(start=100, most=250, steps=1).ended == "asked"


def test_a_recipe_with_micro_batches_keeps_its_batch(project: Finding) -> None:
    found = project.batch({"learner.batch": 256, "learner.micro_batch": 8}, start=16, steps=1)
    assert [each.size for each in found.trials] == [16, 32, 64, 128, 256]
    assert (found.field, found.ended, found.present) == ("micro_batch", "batch", 8)
    assert found.setting.startswith("learner.micro_batch=")


HUNGRY = NETWORK.replace(
    "        return self.layers(",
    "        if len(age) > 100:\n            raise RuntimeError('CUDA out of memory')\n        return self.layers(",
)


def test_the_first_size_that_does_not_fit_is_the_last(tmp_path: Path) -> None:
    """A network that says what torch says when memory runs out: sizes are not halved quietly, as a run would do."""
    for project in make(tmp_path, HUNGRY):
        found = project.batch(steps=1)
        assert [(each.size, each.fits) for each in found.trials] == [(32, True), (64, True), (128, False)]
        assert (found.ended, found.suggestion.largest) == ("memory", 64)
        with pytest.raises(OutOfMemory, match="not even 128 rows"):
            project.batch(start=128)


WIDE = NETWORK.replace(
    "        return self.layers(", "        self.kept = age.new_ones(len(age), 250_000)\n        return self.layers("
)


def test_on_a_cpu_memory_is_measured_and_what_may_not_fit_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte for each row, of 300 that may be taken."""
    monkeypatch.setattr(torch_trials, "free_memory", lambda: 600 * 10**6)
    for project in make(tmp_path, WIDE):
        gc.collect()  # or what other tests have left goes meanwhile, and seems to be given back
        found = project.batch(steps=1, start=64)
        taken = {each.size: each.memory for each in found.trials}
        assert taken[64] > 60 * 10**6
        assert max(taken) < 512
        assert (found.budget, found.ended) == (300 * 10**6, "memory")
        assert found.suggestion.largest == max(each.size for each in found.trials if each.fits)


def test_what_cannot_be_asked_is_named(project: Finding, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="rates of a range test grow"):
        project.lr(low=1.0, high=0.1)
    with pytest.raises(ConfigurationError, match="at least 20 steps"):
        project.lr(steps=5)
    with pytest.raises(ConfigurationError, match="sizes grow"):
        project.batch(start=64, most=32)
    with pytest.raises(DataError, match="fewer rows"):
        project.batch(start=100_000)
    with pytest.raises(RecipeError):
        project.lr({"learner.batch": 0})
    (tmp_path / "linear").mkdir()
    for other in make(tmp_path / "linear", LINEAR):
        for ask in (other.lr, other.batch):
            with pytest.raises(ConfigurationError, match="only a recipe whose learner"):
                ask()


def test_few_rows_are_named(tmp_path: Path) -> None:
    for project in make(tmp_path, data=customers(90)):
        with pytest.raises(DataError, match="at least 64 training rows"):
            project.lr()


def test_labels_that_nothing_tells_of_are_named(tmp_path: Path) -> None:
    """Labels of a coin, and a network whose loss is at its lowest from the start: its last layer begins with zeros."""
    text = NETWORK.replace(
        "    def forward",
        "        torch.nn.init.zeros_(self.layers[3].weight)\n        torch.nn.init.zeros_(self.layers[3].bias)\n\n    def forward",
    )
    data = customers(2000).with_columns(churned=pl.Series([number % 2 for number in range(2000)]))
    for project in make(tmp_path, text, data):
        with pytest.raises(TrainingError, match="falls at none of the rates"):
            project.lr()
