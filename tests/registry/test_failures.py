"""The mean time between failures, from attempts that are recorded as the engine records them."""

from collections.abc import Callable

import pytest

from velodrome.registry.failures import mean_time_between_failures
from velodrome.registry.runs import Run, begin_attempt, fail, start
from velodrome.registry.time_spent import TIME
from velodrome.store.ledger import Append
from velodrome.store.workspace import Workspace


def _attempt(ws: Workspace, run: Run, seconds: float, *, dies: bool) -> None:
    """An attempt of so many seconds, known from its newest checkpoint; it dies, or fails by name and tells its time at its end."""
    attempt = begin_attempt(ws, run.id)
    body = {"attempt": attempt, "seconds": {"forward": seconds}}
    if dies:
        ws.commit(Append(f"checkpoints:{run.id}", "checkpoint.saved", body | {"checkpoint": "x"}))
    else:
        ws.commit(Append(f"run:{run.id}", TIME, body))
        fail(ws, run.id, "Preempted", "asked to leave")


def test_it_is_the_time_of_all_attempts_for_each_that_died(ws: Workspace, make_run: Callable[..., Run]) -> None:
    assert mean_time_between_failures(ws) is None
    first, second = start(ws, make_run(seed=1)), start(ws, make_run(seed=2))
    _attempt(ws, first, 1000.0, dies=False)
    _attempt(ws, first, 500.0, dies=True)
    assert mean_time_between_failures(ws) is None  # the last attempt may still be running
    _attempt(ws, first, 300.0, dies=False)
    assert mean_time_between_failures(ws) == 1800.0
    _attempt(ws, second, 200.0, dies=True)
    _attempt(ws, second, 400.0, dies=True)
    _attempt(ws, second, 600.0, dies=False)
    assert mean_time_between_failures(ws) == pytest.approx((1800 + 1200) / 3)


def test_what_died_before_its_first_checkpoint_counts_a_minute(ws: Workspace, make_run: Callable[..., Run]) -> None:
    run = start(ws, make_run())
    begin_attempt(ws, run.id)
    begin_attempt(ws, run.id)
    assert mean_time_between_failures(ws) == 60.0
