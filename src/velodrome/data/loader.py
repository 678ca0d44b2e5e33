"""Work done ahead in threads and handed out in its order: what `workers=n` means.

Whoever takes the results also hands out the work, in order and never more than twice as many pieces as there are workers:
no thread waits for room, so leaving early cannot deadlock. Each result is what the same call in the taking thread would
have been, and an error is raised where its result would have been taken.
Threads, not processes: a gather and most of numpy let other threads run meanwhile, and a process would have to copy each
batch over. Python code of one's own does hold the interpreter's lock; threads hide what such code waits for, not what it
computes. Cost: some 10 µs for each piece of work.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar

__all__ = ["Threads", "prefetched"]

_S = TypeVar("_S")
_T = TypeVar("_T")
_Queue: TypeAlias = "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]"

_FAREWELL_SECONDS = 1.0
"""How long an end waits for each thread. What hangs is left behind: a thread cannot be killed, but it is a daemon, so the
process can still exit."""


class Threads:
    """Daemon threads that make calls for others, in the order in which they were submitted.

    They end with `close`, when this object is dropped, and at the exit of the process: in the middle of a call of a compiled
    library, a daemon thread that outlives the interpreter can abort the process.
    """

    def __init__(self, count: int, name: str) -> None:
        self._calls: _Queue = SimpleQueue()
        threads = [threading.Thread(target=_serve, args=(self._calls,), name=name, daemon=True) for _ in range(count)]
        self._end = weakref.finalize(self, _end, self._calls, threads)
        for thread in threads:
            thread.start()

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """The result of the call, once a thread has made it."""
        future: Future[_T] = Future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """Drop what no thread has begun, and end the threads; one that still hangs after a second is left behind."""
        self._end()

    def abandon(self) -> None:
        """Let the one thread end if it ever can; nothing waits for it."""
        self._end.detach()
        self._calls.put(None)


def prefetched(make: Callable[[_S], _T], pieces: Iterable[_S], workers: int) -> Generator[_T, None, None]:
    """`make(piece)` of each piece, in order, made by `workers` threads up to 2 * workers pieces ahead.

    Closing it, or dropping it, ends the threads.
    """
    threads = Threads(workers, "velodrome-loader")
    pending: deque[Future[_T]] = deque()
    try:
        for piece in pieces:
            pending.append(threads.submit(lambda piece=piece: make(piece)))  # type: ignore[misc]
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.close()


def _serve(calls: _Queue) -> None:
    while (given := calls.get()) is not None:
        future, call = given
        if future.set_running_or_notify_cancel():
            _settle(future, call)
        del given, future, call  # an idle thread keeps nothing alive


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
        future.set_exception(error)
    else:
        future.set_result(result)


def _end(calls: _Queue, threads: list[threading.Thread]) -> None:
    while not calls.empty():
        try:
            given = calls.get_nowait()
        except Empty:
            break
        if given is not None:
            given[0].cancel()
    for _ in threads:
        calls.put(None)
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(_FAREWELL_SECONDS)
