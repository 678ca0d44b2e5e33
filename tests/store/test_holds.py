import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from velodrome.core.clock import ManualClock, SystemClock
from velodrome.core.errors import StorageError
from velodrome.core.ids import IdFactory
from velodrome.store.holds import ended_holds, oldest_hold, writing
from velodrome.store.workspace import open_folder

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
CLOCK = ManualClock(NOON)


def test_a_hold_counts_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    assert oldest_hold(tmp_path / "holds", CLOCK) is None
    with writing(tmp_path / "holds", NOON - timedelta(milliseconds=1.5)):
        assert oldest_hold(tmp_path / "holds", CLOCK) == NOON - timedelta(milliseconds=2)
    assert oldest_hold(tmp_path / "holds", CLOCK) is None
    assert list((tmp_path / "holds").iterdir()) == []


def test_of_several_the_oldest_counts(tmp_path: Path) -> None:
    with writing(tmp_path, NOON), writing(tmp_path, NOON - timedelta(hours=1)), writing(tmp_path, NOON):
        assert oldest_hold(tmp_path, CLOCK) == NOON - timedelta(hours=1)


def test_a_hold_ends_with_the_block_however_that_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing(tmp_path, NOON):
        raise KeyboardInterrupt
    assert oldest_hold(tmp_path, CLOCK) is None


@pytest.mark.slow
def test_a_killed_process_holds_no_more(tmp_path: Path) -> None:
    program = (
        "import sys, time; from velodrome.store.workspace import open_folder\n"
        "with open_folder(__import__('pathlib').Path(sys.argv[1])).writing(): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with open_folder(tmp_path) as ws:
        assert oldest_hold(ws.holds, SystemClock()) is not None
        assert ended_holds(ws.holds) == []
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
        assert oldest_hold(ws.holds, SystemClock()) is None
        assert len(ended_holds(ws.holds)) == 1


def test_a_hold_in_the_future_says_that_the_clock_was_set_back(tmp_path: Path) -> None:
    with writing(tmp_path, NOON - timedelta(hours=1)), writing(tmp_path, NOON + timedelta(hours=1)):
        assert oldest_hold(tmp_path, CLOCK) == datetime.min.replace(tzinfo=UTC)


def test_nobody_sees_a_hold_that_is_not_locked(tmp_path: Path) -> None:
    done = threading.Event()

    def hold() -> None:
        for _ in range(300):
            with writing(tmp_path, NOON):
                pass
        done.set()

    thread = threading.Thread(target=hold)
    thread.start()
    seen: list[Path] = []
    while not done.is_set():
        seen += [path for path in ended_holds(tmp_path) if path.exists()]
    thread.join()
    assert seen == []


def test_other_files_are_no_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f".{IdFactory().new(NOON)}").touch()
    assert oldest_hold(tmp_path, CLOCK) is None
    assert ended_holds(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "holds").write_text("a file")
    with pytest.raises(StorageError, match="holds"), writing(tmp_path / "holds", NOON):
        pass
