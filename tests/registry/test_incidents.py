import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import velodrome
from velodrome.registry.incidents import incidents
from velodrome.store.ledger import Event

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
_TOLD = ("evaluation-halved", "micro-batch-halved", "parameters-not-trained", "parameters-without-gradient", "stalled")


def event(type_: str, body: dict[str, Any], minute: int = 0) -> Event:
    time = BEGUN + timedelta(minutes=minute)
    return Event(subject="run:x", seq=1, type=type_, body=body, actor="a", time=time, previous="", digest="")


def test_they_are_told_in_order_and_what_every_run_has_is_not() -> None:
    run = [
        event("run.started", {"attempt": 1}),
        event("run.micro-batch-halved", {"step": 7, "rows": 16}, 3),
        event("run.finished", {"outcome": "x"}, 9),
    ]
    checkpoints = [
        event("checkpoint.saved", {"step": 5, "checkpoint": "c"}, 1),
        event("checkpoint.damaged", {"step": 5, "checkpoint": "c", "reason": "a bit flipped"}, 2),
    ]
    told = incidents(run, checkpoints)
    assert [each.time for each in told] == [BEGUN + timedelta(minutes=2), BEGUN + timedelta(minutes=3)]
    assert told[0].what == "the checkpoint of step 5 was passed over: a bit flipped"
    assert "in step 7: micro-batches of 16 rows" in told[1].what


@pytest.mark.parametrize(
    ("type_", "body", "words"),
    [
        ("run.diverged", {"step": 3, "loss": "nan", "gradient_norm": "inf", "then": "skip"}, "step 3 was not finite"),
        (
            "run.diverged",
            {"step": 3, "loss": "nan", "gradient_norm": "inf", "then": "skip", "not_finite": [17, 4]},
            "gradient norm inf, NaN or infinity in rows 17, 4): skip",
        ),
        ("run.evaluation-halved", {"rows": 4}, "4 rows at a time"),
        ("run.parameters-not-trained", {"names": ["a", "b"], "count": 2}, "does not move a, b"),
        (
            "run.parameters-without-gradient",
            {"steps": 3, "names": list("abcdefg"), "count": 9},
            "a, b, c, d, e and 4 more",
        ),
        ("run.restored-in-part", {"attempt": 2, "missing": ["ema"]}, "without ema"),
        ("run.stalled", {"seconds": 600.0, "where": []}, "longer than 600 s"),
    ],
)
def test_each_has_its_words(type_: str, body: dict[str, Any], words: str) -> None:
    (told,) = incidents([event(type_, body)], [])
    assert words in told.what


def test_whatever_a_training_tells_has_words() -> None:
    source = "".join(path.read_text() for path in (Path(velodrome.__file__).parent / "training").glob("*.py"))
    told = set(re.findall(r'"(run\.[a-z-]+)",', source))
    known = {f"run.{name}" for name in (*_TOLD, "diverged")}
    assert told <= known
