"""Writing histories: nothing that reached the spool is lost, whatever is killed, full or away, and nothing is there twice."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from velodrome.core.clock import ManualClock
from velodrome.core.errors import StateError, StorageError
from velodrome.registry import series_writer
from velodrome.registry.series import RESTORED, read_histories, read_series, series_names
from velodrome.registry.series_shipping import unpack_points
from velodrome.registry.series_writer import SeriesWriter, ship_leftovers
from velodrome.store.ledger import Append, Fact, Move, Write
from velodrome.store.spool import Spool, open_spool
from velodrome.store.sqlite import SqliteLedger
from velodrome.store.workspace import Workspace

Logged = list[tuple[int, float]]


class FaultyLedger(SqliteLedger):
    """The real ledger, of which commits fail, before or after they took effect, or hang.

    Attributes:
        faults: what happens to the next commits, in turn. away: whether each fails.
        free: what a commit waits for. asked: whether there was one. others: what somebody else writes just before it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.faults: list[str] = []
        self.away = False
        self.free, self.asked = threading.Event(), threading.Event()
        self.free.set()
        self.others: list[Write] = []

    def commit(self, writes: Sequence[Write], *, actor: str, now: datetime) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        self.asked.set()
        self.free.wait()
        while self.others:
            super().commit([self.others.pop()], actor="other", now=now)
        if fault == "before" or self.away:
            raise StorageError("the disk is full")
        super().commit(writes, actor=actor, now=now)
        if fault == "after":
            raise OSError("the connection broke")


@pytest.fixture
def faulty(ws: Workspace) -> tuple[Workspace, FaultyLedger]:
    ledger = FaultyLedger(ws.store / "ledger.db")
    return replace(ws, ledger=ledger), ledger


def curve(ws: Workspace, run: str, name: str = "loss") -> Logged:
    steps, values = read_series(ws, run, name)
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def spools(ws: Workspace) -> list[Path]:
    folder = ws.store / "spool"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def spooled(ws: Workspace, size: int = 0) -> int:
    """Wait until the one spool is larger than so many bytes, and return its size."""
    found = 0
    while found <= max(size, 8):
        time.sleep(0.001)
        found = spools(ws)[0].stat().st_size if spools(ws) else 0
    return found


def spooled_frames(ws: Workspace, copy: Path) -> list[bytes]:
    """What is whole in the one spool, which its writer has locked."""
    copy.write_bytes(spools(ws)[0].read_bytes())
    spool = open_spool(copy, make=False)
    assert spool is not None
    with spool:
        return spool.read(10**9)[0]


def test_a_thread_ships_without_being_asked(ws: Workspace) -> None:
    writer = SeriesWriter(ws, "r", 1, seconds=0.01)
    writer.log(1, loss=0.5)
    while not ws.ledger.blocks("r"):
        time.sleep(0.001)
    assert curve(ws, "r") == [(1, 0.5)]
    writer.close()


def test_a_clean_close_leaves_no_spool(ws: Workspace) -> None:
    writer = SeriesWriter(ws, "r/with\\odd@name", 1, seconds=3600)
    writer.log(1, loss=0.5)
    spooled(ws)
    assert writer.close().kept == 1
    assert spools(ws) == []
    assert curve(ws, "r/with\\odd@name") == [(1, 0.5)]
    assert ship_leftovers(ws) == ()


def test_a_writer_that_nobody_logged_to_leaves_nothing(ws: Workspace) -> None:
    SeriesWriter(ws, "r", 1).close()
    assert (spools(ws), ws.ledger.blocks("r")) == ([], [])


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
    assert (report.kept, report.waiting, report.lost, report.dropped, report.failures) == (5, 0, 0, 0, 2)
    assert ("disk is full" if fault == "before" else "connection broke") in report.problem


def test_a_ledger_that_is_away_for_long_gets_everything_when_it_is_back(
    faulty: tuple[Workspace, FaultyLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series_writer, "_SHIPMENT", 1000)  # so that it comes in many commits
    monkeypatch.setattr(series_writer, "_MEMORY", 0)  # and none of it from memory
    ws, ledger = faulty
    ledger.away = True
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    for step in range(1, 101):
        writer.log(step, loss=step / 2, lr=0.1)
        if step % 5 == 0:
            assert not writer.flush()
    assert ws.ledger.blocks("r") == []
    ledger.away = False
    assert writer.flush()
    report = writer.close()
    assert curve(ws, "r") == [(step, step / 2) for step in range(1, 101)]
    assert (report.kept, report.waiting, report.lost, report.failures) == (200, 0, 0, 20)


def test_a_ledger_that_hangs_keeps_nobody_waiting(faulty: tuple[Workspace, FaultyLedger]) -> None:
    ws, ledger = faulty
    ledger.free.clear()
    writer = SeriesWriter(ws, "r", 1, seconds=0.01)
    writer.log(1, loss=1.0)
    size = spooled(ws)
    for step in range(2, 6):
        writer.log(step, loss=float(step))
        size = spooled(ws, size)
    ledger.free.set()
    assert writer.close().kept == 5
    assert curve(ws, "r") == [(step, float(step)) for step in range(1, 6)]


def test_the_last_shipment_is_tried_again(faulty: tuple[Workspace, FaultyLedger]) -> None:
    ws, ledger = faulty
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(1, loss=0.5)
    ledger.faults = ["before", "before"]
    report = writer.close()
    report.require_whole()
    assert (report.kept, report.waiting) == (1, 0)


def test_points_that_could_not_be_committed_wait_in_the_spool(faulty: tuple[Workspace, FaultyLedger]) -> None:
    ws, ledger = faulty
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(1, loss=0.5, lr=0.1)
    ledger.away = True
    report = writer.close()
    assert (report.kept, report.waiting, report.lost, report.failures) == (0, 2, 0, 5)
    with pytest.raises(StorageError, match="could not be brought into the ledger"):
        report.require_whole()
    ledger.away = False
    (left,) = ship_leftovers(ws)
    assert (left.run, left.attempt, left.points) == ("r", 1, 2)
    assert curve(ws, "r") == [(1, 0.5)]
    assert spools(ws) == []
    assert ship_leftovers(ws) == ()


def test_the_next_attempt_ships_what_the_one_before_left(faulty: tuple[Workspace, FaultyLedger]) -> None:
    """At once, or when the ledger is back; and never what belongs to others."""
    ws, ledger = faulty
    for run in ("r", "r1"):
        ledger.faults = ["before"] * 5
        writer = SeriesWriter(ws, run, 1, seconds=3600)
        writer.log(1, loss=0.5)
        writer.close()
    ledger.away = True
    writer = SeriesWriter(ws, "r", 2, seconds=3600)
    writer.log(2, loss=0.25)
    assert not writer.flush()
    ledger.away = False
    assert writer.flush()
    assert {block.attempt for block in ws.ledger.blocks("r", "loss")} == {1, 2}
    assert [path.name for path in spools(ws)] == ["r1@1", "r@2"]
    writer.close()
    writer = SeriesWriter(ws, "r1", 2, seconds=3600)
    assert curve(ws, "r1") == [(1, 0.5)]  # before anybody asks how far the attempt before had come
    writer.close()
    assert spools(ws) == []


def test_the_spool_of_a_living_process_is_left_alone(ws: Workspace) -> None:
    with SeriesWriter(ws, "r", 1, seconds=3600) as writer:
        writer.log(1, loss=0.5)
        spooled(ws)
        assert ship_leftovers(ws) == ()
        assert len(spools(ws)) == 1
    assert curve(ws, "r") == [(1, 0.5)]


def test_what_a_collected_run_left_goes_with_it(faulty: tuple[Workspace, FaultyLedger]) -> None:
    ws, ledger = faulty
    ws.commit(Move("run:r", None, "running/1", "run.started"))
    ledger.faults = ["before"] * 5
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(1, loss=0.5)
    writer.close()
    ws.commit(Move("run:r", "running/1", "collected/1", "run.collected"))
    assert [left.points for left in ship_leftovers(ws)] == [0]
    assert (spools(ws), ws.ledger.blocks("r")) == ([], [])


def test_a_run_that_is_collected_while_its_leftover_is_shipped_stays_empty(
    faulty: tuple[Workspace, FaultyLedger],
) -> None:
    ws, ledger = faulty
    ws.commit(Move("run:r", None, "failed/1", "run.failed"))
    ledger.faults = ["before"] * 5
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(1, loss=0.5)
    writer.close()
    ledger.others = [Move("run:r", "failed/1", "collected/1", "run.collected")]
    assert [left.points for left in ship_leftovers(ws)] == [0]
    assert (spools(ws), ws.ledger.blocks("r"), ws.ledger.facts(["run:r"])) == ([], [], {"run:r": {}})


def test_a_file_that_is_no_spool_keeps_the_others_from_nothing(faulty: tuple[Workspace, FaultyLedger]) -> None:
    ws, ledger = faulty
    ledger.faults = ["before"] * 5
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(1, loss=0.5)
    writer.close()
    for name in ("a@1", "b"):
        (ws.store / "spool" / name).write_bytes(b"something else")
    assert [left.run for left in ship_leftovers(ws)] == ["r"]
    assert [path.name for path in spools(ws)] == ["a@1", "b"]


def test_a_disk_that_refuses_costs_nothing_while_the_ledger_takes(ws: Workspace) -> None:
    (ws.store / "spool").write_bytes(b"in the way")
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(1, loss=1.0)
    assert writer.flush()
    writer.log(2, loss=2.0)
    assert writer.flush()
    report = writer.close()
    assert (report.kept, report.lost, report.waiting) == (2, 0, 0)
    assert "spool" in report.problem
    assert curve(ws, "r") == [(1, 1.0), (2, 2.0)]


def test_with_disk_and_ledger_gone_the_newest_are_kept_and_the_rest_is_told(
    faulty: tuple[Workspace, FaultyLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series_writer, "_MEMORY", 100)
    ws, ledger = faulty
    (ws.store / "spool").write_bytes(b"in the way")
    ledger.away = True
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    for step in range(1, 11):
        writer.log(step, loss=float(step))
        assert not writer.flush()
    (ws.store / "spool").unlink()
    writer.log(11, loss=11.0)
    assert not writer.flush()
    assert spooled(ws)
    ledger.away = False
    report = writer.close()
    steps = [step for step, _ in curve(ws, "r")]
    assert steps == list(range(12 - len(steps), 12))
    assert (report.kept, report.lost, report.waiting) == (len(steps), 11 - len(steps), 0)
    assert 1 < len(steps) < 11


def test_a_disk_that_comes_back_while_memory_is_shipped_gets_nothing_twice(
    faulty: tuple[Workspace, FaultyLedger],
) -> None:
    ws, ledger = faulty
    (ws.store / "spool").write_bytes(b"in the way")
    ledger.free.clear()
    writer = SeriesWriter(ws, "r", 1, seconds=0.01)
    writer.log(1, loss=1.0)
    ledger.asked.wait()
    (ws.store / "spool").unlink()
    writer.log(2, loss=2.0)
    time.sleep(0.2)
    ledger.free.set()
    report = writer.close()
    assert curve(ws, "r") == [(1, 1.0), (2, 2.0)]
    assert (report.kept, report.waiting, report.lost, report.failures) == (2, 0, 0, 0)
    assert spools(ws) == []


def test_what_the_ledger_does_not_take_is_flushed_to_the_disk(
    faulty: tuple[Workspace, FaultyLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(Spool, "sync", lambda spool: flushed.append(spool.size))
    ws, ledger = faulty
    assert isinstance(ws.clock, ManualClock)
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(1, loss=1.0)
    assert writer.flush()
    ledger.away = True
    writer.log(2, loss=1.0)
    assert not writer.flush()
    assert flushed == []
    ws.clock.advance(timedelta(seconds=6))
    assert not writer.flush()
    assert not writer.flush()
    assert len(flushed) == 1
    ledger.away = False
    writer.close()


def test_what_is_no_number_or_out_of_order_is_dropped_and_told(ws: Workspace) -> None:
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(2, loss=1.0, lr="high")  # type: ignore[arg-type]
    writer.flush()
    writer.log(2, loss=5.0)
    writer.log(1, loss=5.0)
    writer.log(2.5, loss=5.0)  # type: ignore[arg-type]
    writer.log(2**70, loss=5.0)
    writer.log(3, loss=0.5)
    report = writer.close()
    assert curve(ws, "r") == [(2, 1.0), (3, 0.5)]
    assert (report.kept, report.dropped) == (2, 5)
    assert "too large" in report.problem or "too big" in report.problem


def test_a_step_that_comes_again_is_dropped_whenever_it_comes(ws: Workspace) -> None:
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    for step, value in ((1, 1.0), (3, 3.0), (3, 4.0), (2, 2.0), (4, 5.0)):
        writer.log(step, loss=value)
        assert writer.flush()
    assert (writer.close().kept, writer.close().dropped) == (3, 2)
    assert curve(ws, "r") == [(1, 1.0), (3, 3.0), (4, 5.0)]


class Rude:
    """A value that is no number, and says so in its own way."""

    def __float__(self) -> float:
        raise RuntimeError("do not ask")


@pytest.mark.parametrize(
    "value", [None, "1,5", [1.0], Rude(), 10**400, torch.ones(2)], ids=lambda value: type(value).__name__
)
def test_one_bad_value_costs_nothing_but_itself(ws: Workspace, value: float) -> None:
    with SeriesWriter(ws, "r", 1, seconds=3600) as writer:
        for step in range(1, 10):
            writer.log(step, loss=value if step == 5 else step / 2, lr=1.0)
        writer.log(10)
    report = writer.close()
    assert curve(ws, "r") == [(step, step / 2) for step in range(1, 10) if step != 5]
    assert (len(curve(ws, "r", "lr")), report.dropped, report.kept) == (9, 1, 17)


def test_whatever_is_a_number_is_taken(ws: Workspace) -> None:
    with SeriesWriter(ws, "r", 1) as writer:
        for step, value in enumerate([1, True, np.float32(0.5), np.int8(3), torch.tensor(0.25), 2.0], start=1):
            writer.log(step, loss=value)  # type: ignore[arg-type]
        writer.log(np.int64(7), loss=0.0)  # type: ignore[arg-type]
        writer.log(torch.tensor(8), loss="0.5")  # type: ignore[arg-type]
        writer.log(9, loss=1.0)
    whole = [(1, 1.0), (2, 1.0), (3, 0.5), (4, 3.0), (5, 0.25), (6, 2.0), (7, 0.0), (8, 0.5), (9, 1.0)]
    assert curve(ws, "r") == whole


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "ü" * 201])
def test_a_name_that_a_ledger_cannot_keep_costs_only_its_points(ws: Workspace, name: str) -> None:
    with SeriesWriter(ws, "r", 1, seconds=3600) as writer:
        writer.log(1, **{name: 1.0, "loss": 2.0})
        writer.log(2, **{name: 1.0, "ü" * 200: 3.0})
    assert series_names(ws, "r") == ("loss", "ü" * 200)
    report = writer.close()
    assert (report.dropped, report.kept) == (2, 2)
    assert report.problem.isprintable()


def test_series_that_come_in_changing_company_keep_their_order(ws: Workspace) -> None:
    with SeriesWriter(ws, "r", 1, seconds=3600) as writer:
        for step in range(1, 5001):
            writer.log(step, **{"loss": step / 3} | ({"accuracy": 0.5} if step % 7 == 0 else {}))
    assert curve(ws, "r") == [(step, step / 3) for step in range(1, 5001)]
    assert [step for step, _ in curve(ws, "r", "accuracy")] == list(range(7, 5001, 7))
    assert writer.close().dropped == 0


def test_facts_are_settled_at_the_end_and_with_a_leftover(faulty: tuple[Workspace, FaultyLedger]) -> None:
    """Whatever somebody else made of them meanwhile."""
    ws, ledger = faulty
    wrong, right = Fact("run:r", "series.loss.max", 9.0), {"last": 1.0, "max": 2.0, "min": 1.0, "count": 2.0}
    for end in ("clean", "killed"):
        ws.commit(wrong)
        writer = SeriesWriter(ws, "r", 1 if end == "clean" else 2, seconds=3600)
        writer.log(1, loss=2.0)
        writer.log(2, loss=1.0)
        assert writer.flush()
        ws.commit(wrong)
        ledger.away = end == "killed"
        writer.close()
        ledger.away = False
        assert len(ship_leftovers(ws)) == (end == "killed")
        assert ws.ledger.facts(["run:r"])["run:r"] == {f"series.loss.{key}": value for key, value in right.items()}
    assert spools(ws) == []


def test_a_closed_writer_says_so_and_closes_again(ws: Workspace) -> None:
    writer = SeriesWriter(ws, "r", 1)
    writer.log(1, loss=0.5)
    assert writer.close() == writer.close()
    with pytest.raises(StateError, match="closed"):
        writer.log(2, loss=0.4)


LOGGING = """if True:
    import os, sys
    from pathlib import Path
    from velodrome.registry.series_writer import SeriesWriter
    from velodrome.store.workspace import open_folder
    attempt, first, seconds = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    writer = SeriesWriter(open_folder(Path(sys.argv[1])), "r", attempt, seconds=seconds)
    for step in range(first, first + 10**9):
        writer.log(step, loss=step / 7, lr=1.0)
        if step % 3 == 0:
            writer.log(step, validation_loss=-float(step))
        if step % 1000 == first % 1000:
            print(step, flush=True)
            sys.stdin.readline()
"""


@contextmanager
def logging(ws: Workspace, attempt: int, first: int, seconds: float) -> Iterator[Callable[[], None]]:
    """Log a thousand steps whenever it is asked, in a process of its own, which is killed at the end of the block."""
    command = [sys.executable, "-c", LOGGING, str(ws.root), str(attempt), str(first), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline()

        def log_more() -> None:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline()

        try:
            yield log_more
        finally:
            os.kill(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_spooled(ws: Workspace, tmp_path: Path) -> None:
    with logging(ws, 1, 1, seconds=3600) as log_more:
        spooled(ws)
        for _ in range(3):
            log_more()
        while len(frames := spooled_frames(ws, tmp_path / "copy")) < 2:
            time.sleep(0.001)
    last = max(int(points.steps[-1]) for frame in frames for points in unpack_points(frame) if "loss" in points.names)
    assert ws.ledger.blocks("r") == []
    (left,) = ship_leftovers(ws)
    loss = curve(ws, "r")
    assert len(loss) >= last > 1
    assert loss == [(step, step / 7) for step in range(1, len(loss) + 1)]
    assert curve(ws, "r", "validation_loss") == [(step, -float(step)) for step in range(3, len(loss) + 1, 3)]
    assert left.points == sum(len(series.steps) for series in read_histories(ws, "r").values())
    assert spools(ws) == []


@pytest.mark.slow
def test_kills_while_everything_is_on_its_way_leave_no_gap_and_nothing_twice(ws: Workspace) -> None:
    first = 1
    for attempt in range(1, 4):
        with logging(ws, attempt, first, seconds=0.001) as log_more:
            for _ in range(3):
                log_more()
            while not any(block.attempt == attempt for block in ws.ledger.blocks("r", "loss")):
                time.sleep(0.001)
        ship_leftovers(ws)
        blocks = [block for block in ws.ledger.blocks("r", "loss") if block.attempt == attempt]
        last = blocks[-1].last_step
        assert sum(block.count for block in blocks) == last - first + 1
        first = last + 1
        ws.commit(Append("run:r", RESTORED, {"attempt": attempt + 1, "step": last, "redone": 0}))
    assert curve(ws, "r") == [(step, step / 7) for step in range(1, first)]


@pytest.mark.parametrize("acts", ["before", "after"])
def test_a_leftover_that_the_ledger_does_not_take_stays(faulty: tuple[Workspace, FaultyLedger], acts: str) -> None:
    ws, ledger = faulty
    ledger.faults = [*["before"] * 5, acts]
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    writer.log(1, loss=0.5)
    writer.close()
    with pytest.raises((StorageError, OSError)):
        ship_leftovers(ws)
    assert len(spools(ws)) == 1
    ship_leftovers(ws)
    assert curve(ws, "r") == [(1, 0.5)]
    assert spools(ws) == []


def test_a_torn_spool_is_shipped_as_far_as_it_is_whole(faulty: tuple[Workspace, FaultyLedger]) -> None:
    ws, ledger = faulty
    ledger.away = True
    writer = SeriesWriter(ws, "r", 1, seconds=3600)
    for step in range(1, 6):
        writer.log(step, loss=float(step))
        writer.flush()
    writer.close()
    ledger.away = False
    (path,) = spools(ws)
    whole = path.read_bytes()
    for number, cut in enumerate(range(8, len(whole), 7)):
        torn = path.with_name(f"r{number}@1")
        torn.write_bytes(whole[:cut])
        with_spool = open_spool(torn, make=False)
        assert with_spool is not None
        frames = len(with_spool.read(10**6)[0])
        with_spool.close()
        ship_leftovers(ws, f"r{number}")
        assert not torn.exists()
        expected = [(step, float(step)) for step in range(1, frames + 1)]
        assert (curve(ws, f"r{number}") if frames else []) == expected
    assert frames == 4
