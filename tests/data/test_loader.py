import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.data import loader
from velodrome.data.loader import Threads, prefetched

DEADLINE_SECONDS = 300.0  # never reached where nothing is wrong


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end waits for threads that have not hung, however slow the machine is."""
    monkeypatch.setattr(loader, "_FAREWELL_SECONDS", DEADLINE_SECONDS)


def running() -> int:
    return sum(thread.name == "velodrome-loader" for thread in threading.enumerate())


def wait_until_ended() -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while running() and time.monotonic() < until:
        time.sleep(0.001)
    assert running() == 0


@given(pieces=st.lists(st.integers(), max_size=30), workers=st.integers(1, 4))
def test_results_come_in_the_order_of_the_pieces(pieces: list[int], workers: int) -> None:
    def slow_if_odd(piece: int) -> int:
        time.sleep(0.0002 * (piece % 2))
        return 2 * piece

    assert list(prefetched(slow_if_odd, pieces, workers)) == [2 * piece for piece in pieces]


def test_no_more_than_twice_as_many_pieces_as_workers_are_taken_ahead() -> None:
    taken = []

    def pieces() -> Iterator[int]:
        for number in count():
            taken.append(number)
            yield number

    results = prefetched(lambda piece: piece, pieces(), workers=3)
    for wanted in range(10):
        assert next(results) == wanted
        assert len(taken) == wanted + 6
    results.close()


def test_pieces_are_worked_on_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=DEADLINE_SECONDS)
    assert len(list(prefetched(lambda _: meeting.wait(), range(4), workers=2))) == 4


def test_an_error_is_raised_where_its_result_would_have_been_taken() -> None:
    def inverse(piece: int) -> float:
        return 1 / (3 - piece)

    results = prefetched(inverse, range(10), workers=4)
    assert list(islice(results, 3)) == [1 / 3, 1 / 2, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert running() == 0


def test_an_early_end_leaves_no_thread() -> None:
    results = prefetched(lambda piece: piece, count(), workers=3)
    next(results)
    assert running() == 3
    results.close()
    assert running() == 0


@pytest.mark.slow
def test_dropping_it_leaves_no_thread() -> None:
    results = prefetched(lambda piece: piece, count(), workers=2)
    next(results)
    del results
    gc.collect()
    wait_until_ended()


def test_what_was_not_begun_is_never_made() -> None:
    release, made = threading.Event(), []

    def make(piece: int) -> int:
        release.wait(DEADLINE_SECONDS)
        made.append(piece)
        return piece

    threads = Threads(1, "velodrome-loader")
    futures = [threads.submit(lambda piece=piece: make(piece)) for piece in range(5)]  # type: ignore[misc]
    while not futures[0].running():
        time.sleep(0.001)
    futures[-1].add_done_callback(lambda _: release.set())  # dropped, as all before it
    threads.close()
    assert made == [0]
    assert all(future.cancelled() for future in futures[1:])


def test_an_interrupt_reaches_who_waits_for_a_result() -> None:
    def interrupts(piece: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    results = prefetched(interrupts, range(1), workers=1)
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert running() == 0


@pytest.mark.slow
def test_a_process_exits_while_its_workers_work_and_one_hangs() -> None:
    program = """if True:
        import threading
        from itertools import count
        import numpy as np
        from velodrome.data.loader import prefetched
        rows, ids = np.zeros((1000, 100)), np.arange(1000)
        busy = prefetched(lambda piece: rows.take(ids, axis=0), count(), 2)
        stuck = prefetched(lambda piece: threading.Event().wait() if piece else piece, count(), 1)
        next(busy), next(stuck)
        print("left")
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")
