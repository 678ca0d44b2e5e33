from datetime import UTC, datetime
from typing import Any

import numpy as np

from velodrome.registry.series import encode_block
from velodrome.registry.time_spent import TIME, describe_time, time_spent
from velodrome.store.ledger import Block, Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def event(type_: str, **body: Any) -> Event:
    return Event(subject="s", seq=1, type=type_, time=NOW, actor="ann", body=body, previous="")


def test_an_attempt_without_histories_counts_as_far_as_its_last_checkpoint_told() -> None:
    checkpoints = [
        event("checkpoint.saved", attempt=1, seconds={"forward": 1.0}),
        event("checkpoint.saved", attempt=1, seconds={"forward": 3.0, "start": 1.0}),
        event("checkpoint.saved", attempt=2, seconds={"forward": 0.5}),
        event("checkpoint.dropped"),
    ]
    run = [
        event("run.started", attempt=1),
        event("run.stalled", seconds=600.0, where=["step"]),
        event(TIME, attempt=2, seconds={"forward": 2.0, "redone": 4.0}),
    ]
    spent = time_spent(run, checkpoints)
    assert spent == {"forward": 5.0, "redone": 4.0, "start": 1.0}
    assert describe_time(spent) == "10.0 s: 50 % forward, 40 % redone, 10 % start; goodput 50 %"
    assert time_spent([], []) == {}


def test_what_an_attempt_logged_counts_where_it_told_nothing_later() -> None:
    def pulse(attempt: int, name: str, steps: list[int], seconds: list[float]) -> Block:
        return encode_block("r", f"spent.{name}", attempt, np.array(steps), np.array(seconds))

    blocks = [
        pulse(1, "forward", [1, 90], [0.1, 2.0]),
        pulse(1, "forward", [200], [5.0]),
        pulse(1, "start", [1, 90, 200], [1.0, 1.0, 1.0]),
        pulse(2, "forward", [150], [0.5]),
        pulse(3, "redone", [210], [0.2]),
        encode_block("r", "loss", 3, np.array([210]), np.array([9.0])),
    ]
    checkpoints = [event("checkpoint.saved", attempt=1, seconds={"forward": 3.0, "start": 1.0})]
    run = [event(TIME, attempt=2, seconds={"forward": 2.0, "restart": 1.0})]
    assert time_spent(run, checkpoints, blocks) == {"forward": 7.0, "start": 1.0, "restart": 1.0, "redone": 0.2}
