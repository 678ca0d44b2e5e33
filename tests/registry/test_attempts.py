"""What a run's events say of its attempts."""

from datetime import UTC, datetime
from typing import Any

from velodrome.registry.attempts import attempts_of, describe_attempt
from velodrome.store.ledger import Event

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def event(type_: str, **body: Any) -> Event:
    return Event(subject="run:r", seq=1, type=type_, time=NOW, actor="ann", body=body, previous="")


def test_each_ends_as_it_told_and_one_that_told_nothing_died_if_another_followed() -> None:
    attempts = attempts_of(
        [
            event("run.created"),
            event("run.started", attempt=1),
            event("run.diverged", step=7, then="skip"),
            event("run.resumed", attempt=2),
            event("run.restored", attempt=2, step=40, redone=3),
            event("run.diverged", step=50, then="roll back"),
            event("run.resumed", attempt=3),
            event("run.failed", error="Preempted"),
            event("run.resumed", attempt=4),
        ]
    )
    assert [each.end for each in attempts] == ["died", "rolled back", "failed", None]
    assert [each.ended for each in attempts] == [None, NOW, NOW, None]
    assert [describe_attempt(each) for each in attempts[1::2]] == [
        "2026-01-02 03:04:05, from step 40, 3 done again, rolled back",
        "2026-01-02 03:04:05, from nothing, running or killed",
    ]
