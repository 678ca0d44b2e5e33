import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any

import pytest

from velodrome.core.clock import ManualClock
from velodrome.registry.time_spent import Spent
from velodrome.training.accounting import Stopwatch
from velodrome.training.guards import leaving_on_request, watched


class Heard:
    """Whoever hears requests outside of the block."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.times += 1


@pytest.fixture
def heard() -> Any:
    heard = Heard()
    before = signal.signal(signal.SIGTERM, heard)
    yield heard
    signal.signal(signal.SIGTERM, before)


def _ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_request_is_heard_in_the_block_and_by_the_one_before_outside_of_it(heard: Heard) -> None:
    answers: list[bool] = []

    def train() -> None:
        with leaving_on_request() as asked:
            answers.append(asked())
            _ask()
            answers.append(asked())
            raise RuntimeError("left")

    with pytest.raises(RuntimeError, match="left"):
        train()
    assert answers == [False, True]
    assert heard.times == 0
    _ask()
    assert heard.times == 1


def test_a_request_that_nobody_heeded_is_handed_on(heard: Heard) -> None:
    with leaving_on_request():
        _ask()
    assert heard.times == 1


def test_elsewhere_than_in_the_main_thread_nobody_asks() -> None:
    answers: list[bool] = []

    def train() -> None:
        with leaving_on_request() as asked:
            answers.append(asked())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [False]


def test_a_step_that_hangs_is_told_once_with_where_it_hangs() -> None:
    clock, told, there = ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), [], threading.Event()
    watch = Stopwatch(clock.monotonic)

    def tell(type_: str, body: dict[str, Any]) -> None:
        told.append((type_, body))
        there.set()

    def hang() -> None:
        clock.advance(timedelta(seconds=0.03))
        assert there.wait(60.0)

    with watched(watch, clock, 0.02, tell):
        hang()
        there.clear()
        watch.lap(Spent.FORWARD)
        hang()
    assert [type_ for type_, _ in told] == ["run.stalled"] * 2
    assert all("in hang" in "".join(body["where"]) for _, body in told)
