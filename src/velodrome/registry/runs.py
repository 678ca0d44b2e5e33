"""Runs: one training each, named by everything it depends on, with its attempts and its end.

A run's record never changes. Its state is the pointer `run:<id>`, whose value is the state and the number of the attempt, such
as "running/2": two processes that begin an attempt at once cannot get the same number. The pointer `key:<run key>` leads from
what a run depends on to the newest run of it. `run:<id>` is also where its edges begin: record, outcome, artifact, report,
failure; the record points on to what the run was made from.
Each transition writes the facts by which runs are searched in its own commit.
Cost: a commit for each transition; reading a run costs four small queries.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Literal, TypeVar

import msgspec

from velodrome.core.digest import Digest
from velodrome.core.errors import IntegrityError, NotFound, StateError, VelodromeError, name_of, nearest
from velodrome.core.values import Record
from velodrome.evaluation.report import Report
from velodrome.registry.attempts import Attempt, attempts_of, describe_attempt
from velodrome.registry.facts import facts_of, known_of, record_facts
from velodrome.registry.incidents import IN_PART, Incident, incidents
from velodrome.registry.series import (
    RESTORED,
    STEP_DIGEST,
    SeriesKind,
    merge_blocks,
    restored_steps,
    series_facts,
    summarise,
)
from velodrome.registry.time_spent import describe_time, time_spent
from velodrome.store.ledger import Append, Drop, Expect, Fact, Link, Move, Put, Write, digest_record, read_record
from velodrome.store.rows import moment_text
from velodrome.store.tombstones import require_kept, tombstone
from velodrome.store.trees import read_tree
from velodrome.store.workspace import Workspace

__all__ = [
    "Failure",
    "Outcome",
    "Run",
    "RunDetails",
    "RunState",
    "begin_attempt",
    "code_of",
    "collect",
    "fail",
    "find_by_key",
    "finish",
    "get_run",
    "missing_of",
    "not_reproducible",
    "outcome_of",
    "record_failure",
    "record_report",
    "report_of",
    "require_whole",
    "restored_in_part",
    "resumed",
    "show_run",
    "start",
]

_R = TypeVar("_R", bound=Record)


class RunState(StrEnum):
    """What a run is doing. Each move is an event of the run's chain:

    (nothing) → CREATED     run.created    `start`: the record and what it was made from are kept
    CREATED → RUNNING       run.started    `begin_attempt`: the first
    RUNNING → RUNNING       run.resumed    `begin_attempt`: the attempt before was killed
    FAILED → RUNNING        run.resumed    `begin_attempt`: the cause was mended, or was none of the run's
    RUNNING → FINISHED      run.finished   `finish`
    RUNNING → FAILED        run.failed     `fail`
    FINISHED → COLLECTED    run.collected  `collect`: its bytes and histories go; the last move
    FAILED → COLLECTED      run.collected  the same
    """

    CREATED = "created"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    COLLECTED = "collected"


class Run(Record, frozen=True, kw_only=True, tag="run"):
    """What a run is made from.

    Attributes:
        key: digest of all that its result depends on.
        type: a training that is judged, its refit on all rows, or a tracked loop of the user's own.
        code: tree of all its code.
        recipe: the whole recipe, or the parameters of a tracked loop, as plain JSON.
        judge: for a refit, the id of the run whose figures stand for it.
        entry: path, in the code, of the recipe's file or script; empty for a notebook.
        reproduces: id of the run that it does again.
    """

    id: str
    name: str
    key: Digest
    type: Literal["train", "refit", "track", "reproduction"]
    snapshot: Digest | None
    code: Digest
    environment: Digest
    provenance: Digest
    recipe: dict[str, Any]
    seed: int
    owner: str = ""
    judge: str | None = None
    entry: str = ""
    reproduces: str | None = None


class Outcome(Record, frozen=True, kw_only=True, tag="outcome"):
    """What a run came to.

    Attributes:
        artifact: the model; None for a tracked loop that saved none.
        steps: those whose weights the artifact has; planned_steps: the length of the schedule.
        rows: trained on; None where nobody counted.
        seconds: of the attempt that finished.
        history: digest of its value series. weights: digest of the weights' bits.
        samples: where the sample ledger ends: what each step learned from, and what came of it.
        missing: what a checkpoint that it went on from lacked, as was allowed; with any, the run cannot be reproduced.
    """

    run: str
    artifact: Digest | None = None
    steps: int
    planned_steps: int
    rows: int | None = None
    seconds: float
    history: Digest
    weights: Digest | None = None
    samples: str | None = None
    missing: tuple[str, ...] = ()


class Failure(Record, frozen=True, kw_only=True, tag="failure"):
    """Why an attempt failed: the error's type and its words, which are kept out of the event."""

    run: str
    attempt: int
    error: str
    message: str


class RunDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a run on one page. `last` holds the last value of each series, `failure` why it failed, if it did,
    `time` seconds by what they were spent on."""

    run: Run
    state: RunState
    attempts: tuple[Attempt, ...]
    outcome: Outcome | None
    report: Report | None
    failure: Failure | None
    last: dict[str, float]
    tags: dict[str, float | str]
    time: dict[str, float]
    incidents: tuple[Incident, ...]

    def lines(self) -> list[tuple[str, object]]:
        """(label, value) pairs for a person."""
        inputs = ("name", "type", "key", "snapshot", "code", "environment", "seed", "owner", "judge")
        rows = [(label, getattr(self.run, label)) for label in inputs]
        rows += [(f"attempt {attempt.number}", describe_attempt(attempt)) for attempt in self.attempts]
        rows += [(f"{each.time:%Y-%m-%d %H:%M:%S}", each.what) for each in self.incidents]
        if self.failure and self.state is RunState.FAILED:
            rows.append(("failure", f"{self.failure.error}: {self.failure.message}"))
        if self.outcome:
            rows += [(label, getattr(self.outcome, label)) for label in ("artifact", "steps", "rows", "seconds")]
            rows.append(("not reproducible", not_reproducible(self.outcome)))
        if self.time:
            rows.append(("time", describe_time(self.time)))
        if self.report:
            rows += [(name, estimate.value) for name, estimate in self.report.metrics.items()]
        rows += [(f"last {name}", value) for name, value in self.last.items() if name != STEP_DIGEST]
        rows += [(f"tag {name}", value) for name, value in self.tags.items()]
        return [(label, value) for label, value in rows if value not in (None, "")]


def start(ws: Workspace, run: Run) -> Run:
    """Record a run that has not begun; from now on `find_by_key` finds it, and an older run of its key no more.

    Raises:
        Gone: its snapshot, or the run that judges it, was collected.
        PointerMoved: another process recorded a run of that key, or collected what it rests on, at the same moment.
    """
    digest, subject, key, now = digest_record(run), _subject(run.id), f"key:{run.key}", ws.clock.now()
    inputs = {role: getattr(run, role) for role in ("snapshot", "code", "environment", "provenance")}
    inputs |= {role: _subject(other) for role in ("judge", "reproduces") if (other := getattr(run, role))}
    writes: list[Write] = [
        *_kept_inputs(ws, run),
        Put(run, run.name),
        Link(subject, digest, "record"),
        *(Link(digest, source, role) for role, source in inputs.items() if source),
        Move(subject, None, f"{RunState.CREATED}/0", "run.created", {"record": digest}),
        Move(key, _value(ws, key), run.id, "key.taken"),
        *_state_facts(run.id, RunState.CREATED, 0),
        *facts_of(run.id, record_facts(run) | {"started": moment_text(now)}),
    ]
    ws.ledger.commit(writes, actor=ws.actor, now=now)
    return run


def begin_attempt(ws: Workspace, run_id: str) -> int:
    """Begin the first or another attempt and return its number, from 1. The caller holds the run's lock.

    Raises:
        StateError: the run is finished. Gone: it was collected, or what it rests on.
        PointerMoved: another process began an attempt, or collected something of that, at the same moment.
    """
    whole = require_whole(ws, run_id)
    state, attempt = _state(ws, run_id)
    _require(run_id, state, RunState.CREATED, RunState.RUNNING, RunState.FAILED)
    type_ = "run.resumed" if attempt else "run.started"
    _move(ws, run_id, (state, attempt), (RunState.RUNNING, attempt + 1), type_, {"attempt": attempt + 1}, *whole)
    return attempt + 1


def resumed(ws: Workspace, run_id: str, *, attempt: int, step: int) -> int:
    """Record that the attempt restored the state after `step`, and how many steps are therefore done again: that many."""
    blocks = ws.ledger.blocks(run_id)
    done = max((block.last_step for block in blocks), default=step)
    body = {"attempt": attempt, "step": step, "redone": max(0, done - step)}
    histories = merge_blocks(blocks, restored_steps(ws.ledger.events(_subject(run_id))) | {attempt: step})
    known = {name: summarise(series) for name, series in histories.items()}
    ws.commit(Append(_subject(run_id), RESTORED, body), *series_facts(run_id, known))
    return body["redone"]


def restored_in_part(ws: Workspace, run_id: str, *, attempt: int, missing: Iterable[str]) -> None:
    """Record that the attempt went on from a checkpoint that lacks these items."""
    ws.commit(Append(_subject(run_id), IN_PART, {"attempt": attempt, "missing": list(missing)}))


def missing_of(ws: Workspace, run_id: str) -> tuple[str, ...]:
    """What the checkpoints lacked that any attempt of a run went on from, by name."""
    events = ws.ledger.events(_subject(run_id))
    return tuple(sorted({item for event in events if event.type == IN_PART for item in event.body["missing"]}))


def not_reproducible(outcome: Outcome) -> str | None:
    """Why a run cannot be reproduced, in words; None: nothing is known that would stand against it."""
    return f"it went on from a checkpoint without {', '.join(outcome.missing)}" if outcome.missing else None


def finish(ws: Workspace, run_id: str, outcome: Outcome, *, metrics: Mapping[str, float] | None = None) -> None:
    """Record the end of the present attempt, and with it of the run.

    Args:
        metrics: the figures of a run that nobody judges, by which it is searched.

    Raises:
        StateError: the run is not running.
    """
    state, attempt = _state(ws, run_id)
    _require(run_id, state, RunState.RUNNING)
    digest, subject = digest_record(outcome), _subject(run_id)
    writes: list[Write] = [Put(outcome, run_id), Link(subject, digest, "outcome")]
    if outcome.artifact:
        writes.append(Link(subject, outcome.artifact, "artifact"))
    writes += facts_of(run_id, record_facts(outcome) | {"metrics": metrics or {}})
    _move(ws, run_id, (state, attempt), (RunState.FINISHED, attempt), "run.finished", {"outcome": digest}, *writes)


def fail(ws: Workspace, run_id: str, error: str, message: str) -> None:
    """Record that the present attempt failed with an error of that type; another attempt may be begun.

    Raises:
        StateError: the run is not running.
    """
    state, attempt = _state(ws, run_id)
    _require(run_id, state, RunState.RUNNING)
    failure = Failure(run=run_id, attempt=attempt, error=error, message=message)
    digest = digest_record(failure)
    writes = (Put(failure, run_id), Link(_subject(run_id), digest, "failure"))
    body = {"error": error, "failure": digest}
    _move(ws, run_id, (state, attempt), (RunState.FAILED, attempt), "run.failed", body, *writes)


def collect(ws: Workspace, run_id: str, reason: str, *writes: Write) -> None:
    """Record, together with other writes, that a run is given up: its histories go now, its bytes when nobody may be reading
    them any more.

    Raises:
        StateError: it is neither finished nor failed. PointerMoved: somebody moved it at the same moment.
    """
    state, attempt = _state(ws, run_id)
    _require(run_id, state, RunState.FINISHED, RunState.FAILED)
    to = (RunState.COLLECTED, attempt)
    _move(ws, run_id, (state, attempt), to, "run.collected", {"reason": reason}, Drop(run_id), *writes)


def require_whole(ws: Workspace, run_id: str) -> list[Expect]:
    """The writes with which a commit rests on a run: it fails if that, its snapshot or its judge is collected meanwhile.

    Raises:
        Gone: one of them was collected.
    """
    records = [read_record(ws.ledger, edge.dst, Run) for edge in ws.ledger.edges(_subject(run_id), role="record")]
    inputs = [write for run in records for write in _kept_inputs(ws, run)]
    return [require_kept(ws.ledger, _subject(run_id), f"the run {run_id}"), *inputs]


def code_of(ws: Workspace, run: Run) -> dict[str, Digest]:
    """The files of a run's code, with their digests; of a collected run nobody knows them any more."""
    if _state(ws, run.id)[0] is RunState.COLLECTED:
        return {}
    return {path: leaf.digest for path, leaf in read_tree(ws.blobs, run.code).items()}


def record_failure(ws: Workspace, run_id: str, error: Exception) -> None:
    """As `fail`, for an error that is on its way to the user: where it cannot be recorded, the error says so beside its cause."""
    problem = error.problem if isinstance(error, VelodromeError) else str(error)
    try:
        fail(ws, run_id, name_of(error), problem)
    except VelodromeError as second:
        error.add_note(f"and it could not be recorded: {second.problem}")


def find_by_key(ws: Workspace, key: Digest) -> Run | None:
    """The newest run of that key, in whatever state it is."""
    run_id = _value(ws, f"key:{key}")
    return get_run(ws, run_id) if run_id else None


def get_run(ws: Workspace, reference: str) -> Run:
    """The run of that id, or whose id begins so.

    Raises:
        NotFound: no run, or several.
    """
    found = [pointer.subject for pointer in ws.ledger.pointers(_subject(reference))] if reference else []
    if len(found) > 1 and _subject(reference) not in found:
        ids = [subject.removeprefix("run:") for subject in found]
        raise NotFound(f"{len(ids)} runs begin so", received=reference, remedy=f"give more of it: {', '.join(ids[:5])}")
    if not found:
        known = [pointer.subject.removeprefix("run:") for pointer in ws.ledger.pointers("run:")]
        raise NotFound("there is no such run", received=reference, remedy=nearest(reference, known))
    edges = ws.ledger.edges(found[0], role="record")
    if not edges:
        raise IntegrityError(
            f"nothing leads from {found[0]!r} to its record", remedy="run `velodrome doctor`; restore a backup"
        )
    return read_record(ws.ledger, edges[0].dst, Run)


def outcome_of(ws: Workspace, run_id: str) -> Outcome | None:
    """What a finished run came to."""
    return _newest(ws, run_id, "outcome", Outcome)


def report_of(ws: Workspace, run_id: str) -> Report | None:
    """The newest report on a run; for a refit that is none: its judge's stands for it."""
    return _newest(ws, run_id, "report", Report)


def record_report(ws: Workspace, run_id: str, report: Report, *writes: Write, name: str = "") -> Digest:
    """Keep a report on a run, together with other writes; from now on its figures are those that the run is searched by."""
    digest, before = digest_record(report), dict.fromkeys(known_of(ws, run_id, "metrics"))
    facts = (*facts_of(run_id, {"metrics": before}), *facts_of(run_id, record_facts(report)))
    ws.commit(Put(report, name), Link(_subject(run_id), digest, "report"), *facts, *writes)
    return digest


def show_run(ws: Workspace, reference: str) -> RunDetails:
    """Everything about the run of that id, or whose id begins so.

    Raises:
        NotFound: no run, or several.
    """
    run = get_run(ws, reference)
    events, checkpoints = (ws.ledger.events(subject) for subject in (_subject(run.id), f"checkpoints:{run.id}"))
    blocks = ws.ledger.blocks(run.id)
    values = {n: series for n, series in merge_blocks(blocks, restored_steps(events)).items() if len(series.values)}
    return RunDetails(
        run=run,
        state=_state(ws, run.id)[0],
        attempts=attempts_of(events),
        outcome=outcome_of(ws, run.id),
        report=report_of(ws, run.id),
        failure=_newest(ws, run.id, "failure", Failure),
        last={name: float(series.values[-1]) for name, series in values.items() if series.kind is SeriesKind.VALUE},
        tags=known_of(ws, run.id, "tags"),
        time=time_spent(events, checkpoints, blocks),
        incidents=incidents(events, checkpoints),
    )


def _subject(run_id: str) -> str:
    return f"run:{run_id}"


def _value(ws: Workspace, subject: str) -> str | None:
    pointer = ws.ledger.pointer(subject)
    return pointer.value if pointer else None


def _kept_inputs(ws: Workspace, run: Run) -> list[Expect]:
    subjects = {
        **({tombstone(run.snapshot): f"the snapshot {run.snapshot[:12]}"} if run.snapshot else {}),
        **({_subject(run.judge): f"the run {run.judge}"} if run.judge else {}),
    }
    return [require_kept(ws.ledger, subject, what) for subject, what in subjects.items()]


def _state(ws: Workspace, run_id: str) -> tuple[RunState, int]:
    value = _value(ws, _subject(run_id))
    if value is None:
        raise NotFound("there is no such run", received=run_id, remedy="is this the right workspace?")
    state, _, attempt = value.partition("/")
    try:
        return RunState(state), int(attempt)
    except ValueError as error:
        raise IntegrityError(
            f"the state of run {run_id} does not read", received=value, remedy="run `velodrome doctor`"
        ) from error


def _require(run_id: str, state: RunState, *allowed: RunState) -> None:
    if state not in allowed:
        remedy = "train anew with --fresh" if state is RunState.FINISHED else "begin an attempt first"
        raise StateError(f"the run {run_id} is {state}, not {' or '.join(allowed)}", remedy=remedy)


def _move(
    ws: Workspace,
    run_id: str,
    present: tuple[RunState, int],
    to: tuple[RunState, int],
    type_: str,
    body: dict[str, Any],
    *writes: Write,
) -> None:
    before, after = (f"{state}/{attempt}" for state, attempt in (present, to))
    ws.commit(*writes, Move(_subject(run_id), before, after, type_, body), *_state_facts(run_id, *to))


def _state_facts(run_id: str, state: RunState, attempts: int) -> list[Fact]:
    return list(facts_of(run_id, {"state": str(state), "attempts": attempts}))


def _newest(ws: Workspace, run_id: str, role: str, type_: type[_R]) -> _R | None:
    """The record that was linked to a run in that role; the one put last, where there are several, whatever clocks said."""
    linked = [edge.dst for edge in ws.ledger.edges(_subject(run_id), role=role)]
    newest = max(ws.ledger.rows("record", "digest", linked), default=None)  # rows begin with their position
    return read_record(ws.ledger, newest[1], type_) if newest else None
