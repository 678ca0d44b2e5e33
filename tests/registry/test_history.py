"""Who was champion when, as told by the alias's chain and by a brute-force oracle, after many moved it at once."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from velodrome.control.auditing import verify
from velodrome.core.clock import ManualClock
from velodrome.core.digest import digest_bytes
from velodrome.core.errors import NotFound, PointerMoved
from velodrome.registry.history import alias_history, standing_at
from velodrome.registry.runs import Run, begin_attempt, fail, show_run, start
from velodrome.registry.versions import (
    Version,
    VersionState,
    archive,
    list_versions,
    move_state,
    promote,
    register,
    rollback,
)
from velodrome.store.blobs import FolderBlobs
from velodrome.store.ledger import Event, Ledger, verify_chain
from velodrome.store.postgres import PostgresLedger
from velodrome.store.sqlite import SqliteLedger
from velodrome.store.workspace import Workspace

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
WHY: dict[str, Any] = {"reason": "because", "actor": "ann"}


def approved(ws: Workspace) -> Version:
    version = register(ws, model="late", run=ws.new_id(), artifact=digest_bytes(b"artifact"), report=None)
    for state in (VersionState.CANDIDATE, VersionState.APPROVED):
        move_state(ws, version.reference, state, **WHY)
    return version


def at(ws: Workspace, moment: datetime) -> Workspace:
    return replace(ws, clock=ManualClock(moment))


def oracle(events: Sequence[Event], moment: datetime) -> str | None:
    """Who was champion: every move was made when its maker's clock, noted in the reason, said, but not before the last."""
    times = accumulate((datetime.fromisoformat(event.body["reason"]) for event in events), max)
    stood = [event.body["to"] for event, time in zip(events, times, strict=True) if time <= moment]
    return stood[-1] if stood else None


def assert_right(ws: Workspace, questions: int) -> None:
    """Ask who was champion at random moments, and at those next to the moves."""
    events = ws.ledger.events("alias:late@champion")
    random = Random(0)
    first, last = events[0].time - timedelta(hours=1), events[-1].time + timedelta(hours=1)
    moments = [first + random.random() * (last - first) for _ in range(questions // 2)]
    steps = [timedelta(microseconds=micro) for micro in (-1, 0, 1)]
    moments += [random.choice(events).time + random.choice(steps) for _ in range(questions - len(moments))]
    for moment in moments:
        found = standing_at(ws, "late", moment)
        assert (found.reference if found else None) == oracle(events, moment), moment


# ---------------------------------------------------------------------------------------------------------- by themselves


def test_a_history_tells_who_stood_from_when_to_when_and_why(ws: Workspace) -> None:
    for _ in range(2):
        approved(ws)
    promote(at(ws, NOON), "late/1", reason="first", actor="ann")
    promote(at(ws, NOON + timedelta(hours=1)), "late/2", reason="better", actor="policy:gates")
    rollback(at(ws, NOON + timedelta(hours=2)), "late", reason="worse", actor="bob")
    told = [
        (one.version, one.since.hour, one.until and one.until.hour, one.how, one.actor, one.reason)
        for one in alias_history(ws, "late")
    ]
    assert told == [
        ("late/1", 12, 13, "promoted", "ann", "first"),
        ("late/2", 13, 14, "promoted", "policy:gates", "better"),
        ("late/1", 14, None, "rolled-back", "bob", "worse"),
    ]


def test_a_version_stands_from_the_moment_of_its_promotion(ws: Workspace) -> None:
    approved(ws)
    promote(at(ws, NOON), "late/1", **WHY)
    promote(at(ws, NOON), "late/1", alias="challenger", **WHY)
    instant = timedelta(microseconds=1)
    assert standing_at(ws, "late", NOON - instant) is None
    champion = standing_at(ws, "late", NOON)
    assert champion is not None
    assert champion.reference == "late/1"
    assert standing_at(ws, "late", NOON.replace(tzinfo=None)) == champion
    assert standing_at(ws, "late", NOON, alias="challenger") == champion


def test_it_stood_there_although_it_was_archived_since(ws: Workspace) -> None:
    for _ in range(2):
        approved(ws)
    promote(at(ws, NOON), "late/1", **WHY)
    promote(at(ws, NOON + timedelta(hours=1)), "late/2", **WHY)
    archive(ws, "late/1", **WHY)
    champion = standing_at(ws, "late", NOON)
    assert champion is not None
    assert champion.reference == "late/1"


def test_of_moves_at_one_moment_the_last_counts(ws: Workspace) -> None:
    for _ in range(2):
        approved(ws)
    for reference in ("late/1", "late/2"):
        promote(at(ws, NOON), reference, **WHY)
    champion = standing_at(ws, "late", NOON)
    assert champion is not None
    assert champion.reference == "late/2"


def test_a_model_may_have_had_no_champion(ws: Workspace) -> None:
    approved(ws)
    assert alias_history(ws, "late") == ()
    assert standing_at(ws, "late", NOON) is None


def test_a_model_or_an_alias_that_is_not_there_is_told_the_nearest(ws: Workspace) -> None:
    approved(ws)
    promote(ws, "late/1", **WHY)
    with pytest.raises(NotFound, match="did you mean 'late'"):
        alias_history(ws, "lates")
    with pytest.raises(NotFound, match="did you mean 'champion'"):
        standing_at(ws, "late", NOON, alias="champ")


def test_the_newest_failure_of_a_run_is_the_last_though_the_clock_was_set_back(
    ws: Workspace, make_run: Callable[..., Run]
) -> None:
    run = start(ws, make_run())
    for hours, message in ((2, "first"), (1, "second"), (3, "third"), (0, "last")):
        late = at(ws, NOON + timedelta(hours=hours))
        begin_attempt(late, run.id)
        fail(late, run.id, "ValueError", message)
        failure = show_run(ws, run.id).failure
        assert failure is not None
        assert failure.message == message


# -------------------------------------------------------------------------------------------------------- many at once


def move_at_random(ws: Workspace, moves: int, random: Random) -> None:
    """Promote random versions by a clock that jumps back and forth, and note what it said."""
    versions = list_versions(ws, "late")
    references = [version.reference for version in versions if version.state is VersionState.APPROVED]
    for _ in range(moves):
        moment = NOON + timedelta(seconds=random.uniform(-5000, 5000))
        while True:
            try:
                promote(at(ws, moment), random.choice(references), reason=moment.isoformat(), actor="ann")
                break
            except PointerMoved:
                time.sleep(random.random() / 20)


def test_who_was_champion_when_eight_threads_with_wrong_clocks_moved_the_alias(ws: Workspace) -> None:
    for _ in range(4):
        approved(ws)
    threads = [threading.Thread(target=move_at_random, args=(ws, 6, Random(number))) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_right(ws, 1000)


CROWD = """
import os, sys, time, traceback
from pathlib import Path
from random import Random

sys.path.insert(0, sys.argv[1])
from test_history import approved, move_at_random, workspace

for me in range(int(sys.argv[4])):
    if os.fork() == 0:
        code = 1
        try:
            with workspace(Path(sys.argv[3]), sys.argv[2]) as ws:
                approved(ws)
                move_at_random(ws, 2, Random(me))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
sys.exit(sum(os.wait()[1] != 0 for _ in range(int(sys.argv[4]))))
"""


def workspace(root: Path, address: str) -> Workspace:
    ledger: Ledger = PostgresLedger(address) if "://" in address else SqliteLedger(Path(address))
    return Workspace(root=root, store=root, ledger=ledger, blobs=FolderBlobs(root / "blobs"), actor="ann")


@pytest.mark.slow
def test_64_processes_register_and_move_one_alias_at_once(address: str, tmp_path: Path) -> None:
    """Numbers without gaps, one line of history, and a right answer to who was champion at any moment."""
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", CROWD, here, address, str(tmp_path), "64"], check=True)
    with workspace(tmp_path, address) as ws:
        assert sorted(version.number for version in list_versions(ws, "late")) == list(range(1, 65))
        for subject in ("model:late", "alias:late@champion"):
            events = ws.ledger.events(subject)
            verify_chain(subject, events)
            assert [event.body["from"] for event in events] == [None, *(event.body["to"] for event in events[:-1])]
            assert all(event.time <= later.time for event, later in pairwise(events))
        assert [event.body["to"] for event in ws.ledger.events("model:late")] == [str(n) for n in range(1, 65)]
        assert_right(ws, 1000)
        assert verify(ws).damages == ()
