import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velodrome.core.digest import Digest
from velodrome.core.errors import IntegrityError, NotFound, StateError, StorageError
from velodrome.registry.series import (
    RESTORED,
    SeriesKind,
    SeriesWriter,
    history_digest,
    read_histories,
    read_series,
    series_names,
)
from velodrome.store.ledger import Append, Write
from velodrome.store.sqlite import SqliteLedger
from velodrome.store.workspace import Workspace

Logged = list[tuple[int, float]]


class FaultyLedger(SqliteLedger):
    """The real ledger, of which some commits fail before or after they took effect."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.faults: list[str] = []

    def commit(self, writes: Sequence[Write], *, actor: str, now: datetime) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "before":
            raise StorageError("the disk is full")
        super().commit(writes, actor=actor, now=now)
        if fault == "after":
            raise OSError("the connection broke")


@pytest.fixture
def faulty(ws: Workspace) -> tuple[Workspace, FaultyLedger]:
    ledger = FaultyLedger(ws.store / "ledger.db")
    return replace(ws, ledger=ledger), ledger


def attempt(ws: Workspace, run: str, number: int, points: Logged, *, restored: int | None = None) -> None:
    if restored is not None:
        ws.commit(Append(f"run:{run}", RESTORED, {"attempt": number, "step": restored, "redone": 0}))
    with SeriesWriter(ws, run, number) as writer:
        for step, value in points:
            writer.log(step, loss=value)


def curve(ws: Workspace, run: str, name: str = "loss") -> Logged:
    steps, values = read_series(ws, run, name)
    assert (steps.dtype, values.dtype) == (np.int64, np.float64)
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def test_what_was_logged_is_read_bit_by_bit(ws: Workspace) -> None:
    values = [0.1, -0.0, 1e-310, float("inf"), 5]
    with SeriesWriter(ws, "r", 1) as writer:
        for step, value in enumerate(values, start=1):
            writer.log(step, loss=value, step=step)
            if step % 2:
                writer.log(step, validation_loss=value)
    assert series_names(ws, "r") == ("loss", "step", "validation_loss")
    assert np.array([value for _, value in curve(ws, "r")]).tobytes() == np.array(values, dtype=float).tobytes()
    assert [step for step, _ in curve(ws, "r", "validation_loss")] == [1, 3, 5]


def test_a_thread_ships_without_being_asked(ws: Workspace) -> None:
    writer = SeriesWriter(ws, "r", 1, seconds=0.01)
    writer.log(1, loss=0.5)
    waiting = threading.Event()
    for _ in range(1000):
        if ws.ledger.blocks("r"):
            break
        waiting.wait(0.01)
    assert curve(ws, "r") == [(1, 0.5)]
    writer.close()


def test_what_was_flushed_survives_a_kill(ws: Workspace) -> None:
    program = """if True:
        import os, sys
        from pathlib import Path
        from velodrome.registry.series import SeriesWriter
        from velodrome.store.workspace import open_folder
        writer = SeriesWriter(open_folder(Path(sys.argv[1])), "r", 1, seconds=3600)
        writer.log(1, loss=0.5)
        assert writer.flush()
        writer.log(2, loss=0.4)
        os.kill(os.getpid(), 9)
    """
    assert subprocess.run([sys.executable, "-c", program, str(ws.root)], check=False).returncode == -9
    assert curve(ws, "r") == [(1, 0.5)]


def test_many_threads_log_at_once_and_nothing_is_lost(ws: Workspace) -> None:
    writer = SeriesWriter(ws, "r", 1, seconds=0.001)

    def log(name: str) -> None:
        for step in range(1, 1001):
            writer.log(step, **{name: step / 7})

    threads = [threading.Thread(target=log, args=(f"s{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close().kept == 4000
    for number in range(4):
        assert curve(ws, "r", f"s{number}") == [(step, step / 7) for step in range(1, 1001)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_resumed_history_is_the_uninterrupted_one(ws: Workspace, data: st.DataObject) -> None:
    """Against a model: the training always logs f(step), is killed anywhere, and goes on from an earlier checkpoint."""
    length = data.draw(st.integers(1, 30))
    whole, killed = ws.new_id(), ws.new_id()
    attempt(ws, whole, 1, [(step, step**0.5) for step in range(1, length + 1)])
    checkpoint = 0
    for number in range(1, data.draw(st.integers(2, 5))):
        reached = data.draw(st.integers(checkpoint, length))
        points = [(step, step**0.5) for step in range(checkpoint + 1, reached + 1)]
        attempt(ws, killed, number, points, restored=checkpoint or None)
        checkpoint = data.draw(st.integers(checkpoint, reached))
    rest = [(step, step**0.5) for step in range(checkpoint + 1, length + 1)]
    attempt(ws, killed, 9, rest, restored=checkpoint or None)
    assert curve(ws, killed) == curve(ws, whole)
    assert history_digest(ws, killed) == history_digest(ws, whole)


def test_what_came_after_a_restored_step_is_not_part_of_the_history(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)])
    attempt(ws, "r", 2, [(3, 33.0)], restored=2)
    assert curve(ws, "r") == [(1, 1.0), (2, 2.0), (3, 33.0)]
    attempt(ws, "r", 3, [], restored=1)
    assert curve(ws, "r") == [(1, 1.0)]


def test_an_attempt_that_did_nothing_takes_nothing_back(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(1, 1.0), (2, 2.0), (3, 3.0)])
    attempt(ws, "r", 2, [])
    assert curve(ws, "r") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    attempt(ws, "r", 3, [(1, 11.0)])
    assert curve(ws, "r") == [(1, 11.0)]


def test_the_digest_covers_values_and_not_timings_or_blocks(ws: Workspace) -> None:
    def record(run: str, values: list[float], times: float, block: int) -> Digest:
        with SeriesWriter(ws, run, 1, seconds=3600) as writer:
            for step, value in enumerate(values, start=1):
                writer.log(step, loss=value, step_time=times, data_wait=times, fit_seconds=times)
                if step % block == 0:
                    writer.flush()
        return history_digest(ws, run)

    base = record("a", [1.0, 2.0, 3.0], 0.1, 1)
    assert record("b", [1.0, 2.0, 3.0], 0.2, 2) == base
    assert record("c", [1.0, 2.0, np.nextafter(3.0, 4.0)], 0.1, 1) != base
    assert record("d", [1.0, 2.0], 0.1, 1) != base
    kinds = {name: series.kind for name, series in read_histories(ws, "a").items()}
    assert kinds.pop("loss") is SeriesKind.VALUE
    assert set(kinds.values()) == {SeriesKind.TIMING}


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_failing_ledger_costs_no_point_and_no_training(faulty: tuple[Workspace, FaultyLedger], fault: str) -> None:
    ws, ledger = faulty
    ledger.faults = [fault, fault]
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    for step in range(1, 6):
        writer.log(step, loss=step / 2)
        assert writer.flush() is (step > 2)
    report = writer.close()
    assert curve(ws, "r") == [(step, step / 2) for step in range(1, 6)]
    assert (report.kept, report.lost, report.dropped, report.failures) == (5, 0, 0, 2)
    assert ("disk is full" if fault == "before" else "connection broke") in report.problem


def test_points_that_could_not_be_committed_are_counted_at_the_end(faulty: tuple[Workspace, FaultyLedger]) -> None:
    ws, ledger = faulty
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(1, loss=0.5, lr=0.1)
    ledger.faults = ["before"]
    report = writer.close()
    assert (report.kept, report.lost, report.failures) == (0, 2, 1)


def test_what_is_no_number_or_out_of_order_is_dropped_and_told(ws: Workspace) -> None:
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(2, loss=1.0, lr="high")  # type: ignore[arg-type]
    writer.flush()
    writer.log(2, loss=5.0)
    writer.log(1, loss=5.0)
    writer.log(2.5, loss=5.0)  # type: ignore[arg-type]
    writer.log(3, loss=0.5)
    report = writer.close()
    assert curve(ws, "r") == [(2, 1.0), (3, 0.5)]
    assert (report.kept, report.dropped) == (2, 4)
    assert "loss at step 2.5" in report.problem


def test_a_closed_writer_says_so_and_closes_again(ws: Workspace) -> None:
    writer = SeriesWriter(ws, "r", 1)
    writer.log(1, loss=0.5)
    assert writer.close() == writer.close()
    with pytest.raises(StateError, match="closed"):
        writer.log(2, loss=0.4)


def test_a_series_that_is_not_there_is_named_with_the_nearest(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(1, 0.5)])
    with pytest.raises(NotFound, match="did you mean 'loss'"):
        read_series(ws, "r", "los")


def test_a_block_that_is_damaged_is_refused(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(1, 0.5), (2, 0.4)])
    (block,) = ws.ledger.blocks("r")
    for data in (block.data[:-1], b"xxxx" + block.data[4:], b""):
        ws.commit(msgspec.structs.replace(block, data=data))
        with pytest.raises(IntegrityError, match="does not read"):
            read_series(ws, "r", "loss")


def test_a_curve_always_rises_in_steps(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(0, 9.0), (1, 1.0)])
    attempt(ws, "r", 2, [(0, 8.0), (2, 2.0)])
    steps, values = read_series(ws, "r", "loss")
    assert all(earlier < later for earlier, later in pairwise(steps.tolist()))
    assert values.tolist() == [8.0, 2.0]
