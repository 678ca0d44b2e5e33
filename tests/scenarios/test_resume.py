"""A run that was ended in the middle meets a checkpoint that is not its own, or a recipe that is not what it was."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from trial import SMALL, ending, lay_out

from velodrome.control import pipeline
from velodrome.control.loading import load_recipe, override
from velodrome.core.errors import IntegrityError, StorageError, TrainingError
from velodrome.registry.runs import show_run
from velodrome.registry.search import list_runs
from velodrome.store.faults import FaultPlan, FaultyBlobs
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.checkpoints import Checkpoint, Checkpointer, checkpoints_of, pass_over
from velodrome.training.torch_state import decode_state

pytestmark = pytest.mark.slow

Tensors, Facts = dict[str, torch.Tensor], dict[str, Any]


def _run(ws: Workspace, **changes: Any) -> pipeline.Result:
    recipe = override(load_recipe(ws.root / "recipe.py"), {f"learner.{name}": value for name, value in changes.items()})
    return pipeline.run(ws, recipe, file=ws.root / "recipe.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the training comes to."""
    root = lay_out(tmp_path_factory.mktemp("whole"), **SMALL)
    with open_folder(root) as ws:
        _run(ws)
    return ending(root).items


class Ending(FaultyBlobs):
    """A store whose disk is gone at the eighth checkpoint."""

    def __init__(self, ws: Workspace) -> None:
        super().__init__(ws.blobs, FaultPlan())
        self._saves = 0

    def put(self, source: Any) -> Any:
        self._saves += isinstance(source, memoryview)
        if self._saves == 8:
            raise StorageError("the disk is gone", remedy="bring it back")
        return super().put(source)


@pytest.fixture(scope="module")
def ended_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the run came to its seventh checkpoint."""
    root = lay_out(tmp_path_factory.mktemp("ended"), **SMALL)
    with open_folder(root) as ws, pytest.raises(StorageError, match="the disk is gone"):
        _run(replace(ws, blobs=Ending(ws)))
    return root


@pytest.fixture
def ws(ended_before: Path, tmp_path: Path) -> Iterator[Workspace]:
    root = Path(shutil.copytree(ended_before, tmp_path / "project"))
    with open_folder(root) as opened:
        yield opened


def _checkpoints(ws: Workspace) -> list[Checkpoint]:
    return checkpoints_of(ws, list_runs(ws)[-1].id)


def _craft(ws: Workspace, change: Callable[[Tensors, Facts], None]) -> Checkpoint:
    """Put a checkpoint in the place of the newest; it is the newest then, and its blob is whole."""
    newest = _checkpoints(ws)[-1]
    tensors, facts = decode_state(ws.blobs.read(newest.blob))
    change(tensors, facts)
    told = msgspec.json.encode({"aliases": {}, **facts}).decode()
    data = safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"facts": told}
    )
    checkpointer = Checkpointer(ws, newest.run, newest.attempt, flush=list)
    checkpointer.save(newest.step, lambda: lambda: data)
    checkpointer.close()
    crafted = _checkpoints(ws)[-1]
    assert crafted != newest
    return crafted


def _without(name: str) -> Callable[[Tensors, Facts], None]:
    def change(tensors: Tensors, facts: Facts) -> None:
        (facts if name in facts else tensors).pop(name)

    return change


def _with(name: str, value: Callable[[Any], Any]) -> Callable[[Tensors, Facts], None]:
    def change(tensors: Tensors, facts: Facts) -> None:
        if name in ("format", "order"):
            facts[name] = value(facts.get(name))
        elif name.startswith("memory."):
            facts["memory"][name.removeprefix("memory.")] = value(None)
        else:
            tensors[name] = value(tensors.get(name))

    return change


def _forgetful(tensors: Tensors, facts: Facts) -> None:
    del facts["memory"]["waited"]


WEIGHT = "model/layers.0.weight"
CRAFTED: dict[str, tuple[Callable[[Tensors, Facts], None], str]] = {
    **{
        f"without {name}": (_without(name), f"{name} (missing)")
        for name in (
            *(WEIGHT, "model/layers.2.running_mean", "optimizer/0/exp_avg", "optimizer/0/step", "ema/0"),
            *("rng/torch", "rng/numpy", "rng/python", "memory", "order"),
        )
    },
    **{
        f"with {name}": (_with(name, lambda old: torch.zeros(3)), f"{name} (unknown here)")
        for name in ("model/another.weight", "optimizer/99/exp_avg", "ema/99", "rng/another")
    },
    **{
        f"wider {name}": (_with(name, lambda old: torch.cat([old, old])), f"{name} (")
        for name in (WEIGHT, "optimizer/0/exp_avg", "ema/0", "rng/numpy")
    },
    "another network": (_with(WEIGHT, lambda old: old[:, :3]), f"{WEIGHT} ((16, 3) for (16, 6))"),
    "another precision": (_with(WEIGHT, torch.Tensor.half), f"{WEIGHT} (torch.float16 for torch.float32)"),
    "another order": (_with("order", lambda old: "0" * 64), "order (of other rows, batches or seed)"),
    "another format": (_with("format", lambda old: 3), "in a format that this version does not read"),
    "memory with more": (_with("memory.mood", lambda old: "good"), "memory (mood)"),
    "memory with less": (_forgetful, "memory (waited)"),
    "memory of another type": (_with("memory.waited", lambda old: "long"), "memory ("),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_checkpoint_that_is_not_of_this_training_is_refused_by_name_and_nothing_is_lost(
    ws: Workspace, whole: dict[str, str], name: str
) -> None:
    change, words = CRAFTED[name]
    crafted = _craft(ws, change)
    before = _checkpoints(ws)
    with pytest.raises(TrainingError) as caught:
        _run(ws)
    assert words in str(caught.value)
    assert "--fresh" in str(caught.value.remedy)
    assert _checkpoints(ws) == before
    run = show_run(ws, crafted.run)
    assert (run.state, run.failure and run.failure.error) == ("failed", "TrainingError")
    if name in ("without memory", "another precision", "another format"):  # the others would come to the same
        pass_over(ws, crafted, "it was crafted")
        _run(ws)
        assert ending(ws.root).items == whole


def test_bytes_that_are_no_state_are_refused_by_name(ws: Workspace) -> None:
    checkpointer = Checkpointer(ws, list_runs(ws)[-1].id, 1, flush=list)
    checkpointer.save(999, lambda: lambda: b"something else")
    checkpointer.close()
    with pytest.raises(IntegrityError, match="a checkpoint does not read") as caught:
        _run(ws)
    assert "--fresh" in str(caught.value.remedy)


def test_what_may_be_missing_is_said_and_recorded(ws: Workspace) -> None:
    crafted = _craft(ws, _without("optimizer/0/exp_avg"))
    recipe = load_recipe(ws.root / "recipe.py")
    pipeline.run(ws, recipe, file=ws.root / "recipe.py", allow_missing=("optimizer",))
    (told,) = [e.body for e in ws.ledger.events(f"run:{crafted.run}") if e.type == "run.restored-in-part"]
    assert told == {"attempt": 2, "missing": ["optimizer"]}


@pytest.mark.parametrize("change", [{"precision": "float32"}, {"ema": None}, {"batch": 60}])
def test_a_recipe_that_changed_is_another_run_and_the_one_before_goes_on_later(
    ws: Workspace, whole: dict[str, str], change: dict[str, Any]
) -> None:
    before = _checkpoints(ws)
    other = _run(ws, **change)
    assert other.run != before[-1].run
    assert [attempt.restored_step for attempt in show_run(ws, other.run).attempts] == [None]
    assert checkpoints_of(ws, before[-1].run) == before
    first = _run(ws)
    assert first.run == before[-1].run
    assert [attempt.restored_step for attempt in show_run(ws, first.run).attempts] == [None, before[-1].step]
    outcome = show_run(ws, first.run).outcome
    assert outcome is not None
    assert {name: str(getattr(outcome, name)) for name in ("weights", "history", "samples")}.items() <= whole.items()
