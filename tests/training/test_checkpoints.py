from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from velodrome.core.config import Config
from velodrome.core.errors import StorageError
from velodrome.store.faults import Fault, FaultPlan, FaultyBlobs
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.checkpoints import Checkpointer, checkpoints_of, newest_verified


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path, Config(keep_checkpoints=2)) as opened:
        yield opened


def _save(ws: Workspace, scores: dict[int, float | None], attempt: int = 1) -> None:
    checkpointer = Checkpointer(ws, "r", attempt, flush=list)
    for step, score in scores.items():
        checkpointer.save(step, f"state {step}".encode, score)
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

    checkpointer.save(1, broken)
    with pytest.raises(StorageError, match="no space left"):
        checkpointer.save(2, b"".join)
    checkpointer.close()
    assert _steps(ws) == []


def test_histories_are_durable_before_the_checkpoint_is_recorded(ws: Workspace) -> None:
    seen: list[list[int]] = []
    checkpointer = Checkpointer(ws, "r", 1, flush=lambda: seen.append(_steps(ws)))
    checkpointer.save(1, lambda: b"one")
    checkpointer.save(2, lambda: b"two")
    checkpointer.close()
    assert seen == [[], [1]]
