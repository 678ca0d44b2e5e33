import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from velodrome.core.config import Config
from velodrome.core.errors import StorageError
from velodrome.store.faults import Fault, FaultPlan, FaultyBlobs
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.checkpoints import (
    Checkpointer,
    Interval,
    checkpoints_of,
    damaged_steps,
    newest_verified,
    require_space,
    young_daly,
)
from velodrome.training.learners import AdamW, Checkpoints
from velodrome.training.torch_optimizers import make_stepper
from velodrome.training.torch_state import State, StateCopy, decode_state


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path, Config(keep_checkpoints=2)) as opened:
        yield opened


def holding(state: str) -> Callable[[], Callable[[], bytes]]:
    """A copy that is taken at once and encoded later."""
    return lambda: state.encode


def _save(ws: Workspace, scores: dict[int, float | None], attempt: int = 1) -> None:
    checkpointer = Checkpointer(ws, "r", attempt, flush=list)
    for step, score in scores.items():
        checkpointer.save(step, holding(f"state {step}"), score)
    checkpointer.close()


def _steps(ws: Workspace) -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints_of(ws, "r")]


def test_the_newest_and_the_best_are_kept_and_the_others_bytes_go(ws: Workspace) -> None:
    _save(ws, {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 1.0})
    assert _steps(ws) == [2, 4, 5]
    assert sorted(ws.blobs.list()) == sorted(checkpoint.blob for checkpoint in checkpoints_of(ws, "r"))


def test_another_attempt_goes_on_with_what_is_kept(ws: Workspace) -> None:
    _save(ws, {1: 0.5, 2: None})
    _save(ws, {3: None, 4: 0.7}, attempt=2)
    assert _steps(ws) == [1, 3, 4]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_recorded_and_the_one_before_is_used(ws: Workspace, damage: str) -> None:
    _save(ws, {1: None, 2: None})
    path = ws.blobs.local(checkpoints_of(ws, "r")[-1].blob)
    path.chmod(0o644)
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + b"\x00" if damage == "flip" else data[:3])
    found = newest_verified(ws, "r")
    assert found is not None
    assert (found[0].step, found[1]) == (1, b"state 1")
    assert _steps(ws) == [1]
    assert ws.ledger.events("checkpoints:r")[-1].type == "checkpoint.damaged"


def test_a_store_that_is_away_damages_no_checkpoint(ws: Workspace) -> None:
    _save(ws, {1: None, 2: None})
    away = FaultyBlobs(ws.blobs, FaultPlan(Fault(kind="fail", call=1)))
    with pytest.raises(StorageError, match="on purpose"):
        newest_verified(replace(ws, blobs=away), "r")
    assert _steps(ws) == [1, 2]


def test_without_a_whole_one_there_is_none(ws: Workspace) -> None:
    assert newest_verified(ws, "r") is None


def test_a_save_that_fails_is_raised_by_the_next_call(ws: Workspace) -> None:
    checkpointer = Checkpointer(ws, "r", 1, flush=list)

    def broken() -> bytes:
        raise StorageError("no space left")

    checkpointer.save(1, lambda: broken)
    with pytest.raises(StorageError, match="no space left"):
        _until_due(checkpointer)
    checkpointer.close()
    assert _steps(ws) == []


def _until_due(checkpointer: Checkpointer) -> None:
    while not checkpointer.due(2, 0.0):
        pass


class Slow(FaultyBlobs):
    """A store that takes until it is let."""

    def __init__(self, ws: Workspace) -> None:
        super().__init__(ws.blobs, FaultPlan())
        self.asked, self.let = threading.Semaphore(0), threading.Semaphore(0)

    def put(self, source: Any) -> Any:
        self.asked.release()
        assert self.let.acquire(timeout=60.0)
        return super().put(source)


def test_what_is_saved_is_the_step_whatever_happens_to_the_weights_while_it_is_written(ws: Workspace) -> None:
    """Also by the next save, whose copy goes into the same buffer."""
    torch.manual_seed(0)
    module, slow, expected = torch.nn.Linear(300, 300), Slow(ws), {}
    copy = StateCopy(State(module, make_stepper(AdamW(), module)))
    checkpointer = Checkpointer(replace(ws, blobs=slow), "r", 1, flush=list)
    for step in (1, 2):
        with torch.no_grad():
            module.weight.uniform_()
        expected[step] = module.weight.detach().clone()
        facts = {"memory": {"step": step}, "order": "o"}
        checkpointer.save(step, lambda facts=facts: copy.taken(facts))  # type: ignore[misc]
        with torch.no_grad():
            module.weight.fill_(99.0)
        assert slow.asked.acquire(timeout=60.0)  # it is being written
        threading.Timer(0.05, slow.let.release).start()  # which ends while the next save waits for it
    checkpointer.close()
    for checkpoint in checkpoints_of(ws, "r"):
        tensors, facts = decode_state(ws.blobs.read(checkpoint.blob))
        assert facts["memory"] == {"step": checkpoint.step}
        assert torch.equal(tensors["model/weight"], expected.pop(checkpoint.step))
    assert not expected


def test_a_damaged_one_counts_no_longer_when_the_next_is_kept(ws: Workspace) -> None:
    """A resumed run knows its checkpoints before it has looked at them; what it then finds damaged is none of them."""
    _save(ws, {1: 5.0, 2: 4.0, 3: 1.0})
    checkpointer = Checkpointer(ws, "r", 2, flush=list)
    Path(ws.blobs.local(checkpoints_of(ws, "r")[-1].blob)).unlink()
    found = newest_verified(ws, "r")
    assert found is not None
    assert found[0].step == 2
    assert damaged_steps(ws, "r") == {3}
    checkpointer.save(3, holding("state 3 again"), 1.0)
    checkpointer.close()
    assert _steps(ws) == [2, 3]
    assert damaged_steps(ws, "r") == set()


@pytest.mark.parametrize("left", [0, 1])
def test_damage_is_told_and_that_a_training_starts_anew(ws: Workspace, left: int) -> None:
    _save(ws, {1: None, 2: None})
    for checkpoint in checkpoints_of(ws, "r")[left:]:
        ws.blobs.delete(checkpoint.blob)
    for _ in range(2):  # also when it is asked again
        with capture_logs() as lines:
            newest_verified(ws, "r")
        assert ("checkpoint.none_is_left" in {line["event"] for line in lines}) == (left == 0)


def test_histories_are_durable_before_the_checkpoint_is_recorded(ws: Workspace) -> None:
    seen: list[list[int]] = []
    checkpointer = Checkpointer(ws, "r", 1, flush=lambda: seen.append(_steps(ws)))
    checkpointer.save(1, holding("one"))
    checkpointer.save(2, holding("two"))
    checkpointer.close()
    assert seen == [[], [1]]


def test_the_newest_is_read_back_before_another_is_dropped(ws: Workspace) -> None:
    _save(ws, {1: None, 2: None})

    class Forgetful(type(ws.blobs)):  # type: ignore[misc]
        def local(self, digest: str) -> Path:
            raise StorageError("it does not read")

    ws.blobs.__class__ = Forgetful
    _save(ws, {3: None, 4: None})
    assert _steps(ws) == [1, 2, 3, 4]


def test_an_interval_is_of_steps_seconds_or_the_best_between_failures() -> None:
    assert [step for step in range(1, 9) if Interval(steps=3).reached(step, 1e9, 0.0)] == [3, 6]
    timed = Interval.of(Checkpoints(lose_at_most="60s"), 0)
    assert (timed.reached(1, 59.9, 0.0), timed.reached(1, 60.0, 0.0)) == (False, True)
    best = Interval.of(Checkpoints(failures_every="1h"), 0)
    wanted = young_daly(2.0, 3600.0)
    assert (best.reached(1, wanted - 1, 2.0), best.reached(1, wanted, 2.0)) == (False, True)
    measured = Interval.of(Checkpoints(failures_every="auto"), 7, lambda: 3600.0)
    assert measured == replace(best, steps=7)
    assert Interval.of(Checkpoints(failures_every="auto"), 7, lambda: None) == Interval(steps=7)


@pytest.mark.parametrize(("cost", "failures"), [(1.0, 600.0), (2.0, 3600.0), (30.0, 86400.0)])
def test_young_daly_loses_least(cost: float, failures: float) -> None:
    """Daly's model of the time that a computation takes: no other interval may be better by a thousandth."""

    def takes(interval: float) -> float:
        return failures * (np.exp((interval + cost) / failures) - 1) / interval

    best = takes(young_daly(cost, failures))
    assert best <= 1.001 * min(takes(interval) for interval in np.geomspace(cost, failures, 2000))


def test_a_disk_without_room_is_refused_before_the_start(ws: Workspace) -> None:
    require_space(ws, 1000)
    with pytest.raises(StorageError, match="no room for the checkpoints"):
        require_space(ws, 1 << 60)
