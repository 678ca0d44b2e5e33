"""What watches over a training from outside of its loop: a request to leave, and a step that hangs.

Both are noticed without a cost for the loop: a signal sets a flag that the loop reads after each step, and a thread looks from
time to time at when the stopwatch was last used.
"""

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from velodrome.core.clock import Clock
from velodrome.core.logging import logger
from velodrome.training.accounting import Stopwatch

__all__ = ["leaving_on_request", "watched"]


@contextmanager
def leaving_on_request() -> Iterator[Callable[[], bool]]:
    """Whether somebody asked this process to end (SIGTERM, as schedulers send before they kill), during the block.

    A request that came too late for the block is handed on to whoever heard such requests before it. Signals are heard in
    the main thread alone; elsewhere nobody ever asks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        asked.set()

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked.is_set():
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def watched(
    watch: Stopwatch, clock: Clock, seconds: float, tell: Callable[[str, dict[str, Any]], None]
) -> Iterator[None]:
    """During the block, tell once of each lap that takes longer than `seconds`, with where the training thread is."""
    ended = threading.Event()
    thread = threading.get_ident()

    def look() -> None:
        told = None
        while not ended.wait(min(seconds / 4, 10.0)):
            last = watch.last
            if clock.monotonic() - last > seconds and told != last:
                told = last
                frame = sys._current_frames().get(thread)
                where = traceback.format_stack(frame)[-8:] if frame else []
                logger().warning("run.stalled", seconds=seconds, where="".join(where))
                tell("run.stalled", {"seconds": seconds, "where": where})

    watcher = threading.Thread(target=look, name="stall", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
