"""The facts of a run made again from what they stand for: its record, state, outcome, newest report, tags and series.

Facts are an index: where they disagree with the rest of the ledger, the rest is right, and `reindex` mends them. What is no
run, and is found by a search, has no facts.
Cost: each run is read whole, its series too.
"""

import math
from collections.abc import Iterator
from typing import Any

from velodrome.core.errors import IntegrityError, StorageError
from velodrome.registry.facts import facts_of, known_of, record_facts
from velodrome.registry.runs import RunState, get_run, outcome_of, report_of
from velodrome.registry.series import SeriesKind, kind_of, read_histories, series_facts, summarise
from velodrome.registry.tags import TAGGED
from velodrome.store.ledger import Fact
from velodrome.store.query import Query
from velodrome.store.rows import moment_text
from velodrome.store.search import clip
from velodrome.store.workspace import Workspace

__all__ = ["Difference", "expected_facts", "reindex", "wrong_facts"]

Difference = dict[str, tuple[float | str | None, float | str | None]]
"""Key → what the ledger has, and what it should have (None: nothing)."""

_ATTEMPTS = 5
_BACKUP = "restore the ledger from a backup"


def expected_facts(ws: Workspace, run_id: str) -> dict[str, float | str]:
    """What should be known of a run. The histories of a collected run are gone: what is known of them is taken as it is.

    Raises:
        IntegrityError: a record or a block is not what was written.
    """
    facts = {fact.key: fact.value for fact in _facts(ws, run_id)}
    known = {key: clip(value) for key, value in facts.items() if value is not None}
    return {key: value for key, value in known.items() if isinstance(value, str) or not math.isnan(value)}


def wrong_facts(ws: Workspace) -> Iterator[tuple[str, Difference]]:
    """Each subject whose facts are not what they should be. A run that is going on may be among them for a moment.

    Raises:
        IntegrityError: a record or a block is not what was written.
        StorageError: the table of facts does not read.
    """
    found = {each.subject for each in ws.ledger.search(Query())}  # before the runs: a run and its facts come together
    runs = {pointer.subject for pointer in ws.ledger.pointers("run:")}
    for subject in [*sorted(runs), *sorted(found - runs)]:
        if difference := _difference(ws, subject, is_run=subject in runs):
            yield subject, difference


def reindex(ws: Workspace) -> int:
    """Mend all facts; of how many subjects they had to be. What a run writes meanwhile is looked at again. Raises as
    `wrong_facts`."""
    wrong = list(wrong_facts(ws))
    for subject, first in wrong:
        difference = first
        for _ in range(_ATTEMPTS):
            ws.commit(*(Fact(subject, key, expected) for key, (_, expected) in difference.items()))
            difference = _difference(ws, subject, is_run=ws.ledger.pointer(subject) is not None)
            if not difference:
                break
    return len(wrong)


def _difference(ws: Workspace, subject: str, *, is_run: bool) -> Difference:
    expected = expected_facts(ws, subject.removeprefix("run:")) if is_run else {}
    try:
        known: dict[Any, float | str] = {**ws.ledger.facts([subject])[subject]}
    except StorageError:  # a fact that does not read, in whose place another goes
        return {key: (None, value) for key, value in expected.items()}
    if strange := [key for key in known if not isinstance(key, str)]:
        raise IntegrityError(f"a fact of {subject} has no key", received=repr(strange[0]), remedy=_BACKUP)
    keys = sorted(known.keys() | expected.keys())
    return {key: (known.get(key), expected.get(key)) for key in keys if known.get(key) != expected.get(key)}


def _facts(ws: Workspace, run_id: str) -> Iterator[Fact]:
    run, outcome, report = get_run(ws, run_id), outcome_of(ws, run_id), report_of(ws, run_id)
    records = [record_facts(record) for record in (run, outcome, report) if record]
    yield from facts_of(run_id, {key: value for each in records for key, value in each.items()} | _moves(ws, run_id))
    figures = run.type == "track" and outcome is not None
    if _state(ws, run_id).startswith(RunState.COLLECTED):
        groups = ("series", "metrics") if figures else ("series",)
        yield from facts_of(run_id, {group: known_of(ws, run_id, group) for group in groups})
        return
    summaries = {name: summarise(series) for name, series in read_histories(ws, run_id).items()}
    yield from series_facts(run_id, summaries)
    if figures:
        last = {name: each.last for name, each in summaries.items() if kind_of(name) is SeriesKind.VALUE}
        yield from facts_of(run_id, {"metrics": last})


def _moves(ws: Workspace, run_id: str) -> dict[str, Any]:
    """What a run's pointer and its events say."""
    events = ws.ledger.events(f"run:{run_id}")
    state, _, attempts = _state(ws, run_id).partition("/")
    if not attempts.isdecimal():
        raise IntegrityError(f"the state of run:{run_id} does not read", received=_state(ws, run_id), remedy=_BACKUP)
    tags = {name: value for event in events if event.type == TAGGED for name, value in event.body["tags"].items()}
    [record, *_] = ws.ledger.edges(f"run:{run_id}", role="record")
    stored = ws.ledger.get(record.dst)
    started = stored and moment_text(stored.created)
    return {"state": state, "attempts": int(attempts), "started": started, "tags": tags}


def _state(ws: Workspace, run_id: str) -> str:
    pointer = ws.ledger.pointer(f"run:{run_id}")
    return (pointer and pointer.value) or ""
