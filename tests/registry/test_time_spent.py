from datetime import UTC, datetime
from typing import Any

from velodrome.registry.time_spent import TIME, describe_time, time_spent
from velodrome.store.ledger import Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def event(type_: str, **body: Any) -> Event:
    return Event(subject="s", seq=1, type=type_, time=NOW, actor="ann", body=body, previous="")


def test_an_attempt_that_was_killed_counts_as_far_as_its_last_checkpoint_told() -> None:
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
