"""The loop: what arrived is looked at, a decision is made for stated reasons, and a challenger is trained, judged, settled.

snapshot → evidence → decision (a Cycle) → run → judgement → refit → version → approval (a Conclusion). Each arrow leaves a
record, and each step looks for its record first: killed anywhere, the same call goes on where it stopped, a decision is
never made twice on the same evidence, and what was decided is carried out before anything newer is looked at.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from velodrome.control.auditing import anchor_if_due
from velodrome.control.cycles import (
    Conclusion,
    Cycle,
    Ending,
    Past,
    conclude,
    open_cycle,
    past_cycles,
    record,
    refuse,
)
from velodrome.control.declaring import Source, declare
from velodrome.control.evidence import Gathered, gather
from velodrome.control.pipeline import Result, execute
from velodrome.core.digest import Digest, digest_json
from velodrome.core.errors import (
    ConfigurationError,
    Conflict,
    DataError,
    NotFound,
    RecipeError,
    StateError,
    TrainingError,
    VelodromeError,
)
from velodrome.core.values import describe
from velodrome.data.snapshots import Snapshot, Taken, take_snapshot
from velodrome.monitoring.decide import Decision, decide
from velodrome.recipe import Recipe
from velodrome.registry.code import capture
from velodrome.registry.versions import CHAMPION, VersionState, resolve, stood_as
from velodrome.store.ledger import digest_record, read_record
from velodrome.store.locks import hold
from velodrome.store.workspace import Workspace

__all__ = ["Cycled", "retrain", "watch"]


class Cycled(msgspec.Struct, frozen=True, kw_only=True):
    """The newest cycle of a model. `found`: nothing new had arrived, and nothing else would be decided about it now."""

    cycle: Cycle
    conclusion: Conclusion | None
    found: bool


def retrain(
    ws: Workspace, recipe: Recipe, source: Source, *, seed: int = 0, now: datetime | None = None, asked: bool = False
) -> Cycled:
    """Look at the data, decide, and do what was decided; or finish what an earlier call began.

    Args:
        now: the moment to decide for, if not the present one: a replay of the past names its own. Without a zone it is UTC.
        asked: train whatever quality, the cool-down and doubts about the data say; not without new rows, nor over budget,
            nor beside a version that waits for a person.

    Raises:
        RunHeld: another process does the same.
        DataError: the data was refused, which is recorded; the champion stays.
        VelodromeError: as `pipeline.run`.
    """
    moment = now or ws.clock.now()
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > ws.clock.now():
        raise ConfigurationError("a decision is made for now or for the past", received=moment.isoformat())
    with hold(ws.lock(f"retrain-{recipe.name}"), ws.holder), ws.writing():
        opened = open_cycle(ws, recipe.name)
        problem = _finish(ws, recipe, source, opened, seed) if opened else None
        newest, found = _decided(ws, recipe, seed, moment, asked=asked)
        if opened and problem and newest.digest == opened.digest:
            raise problem
        conclusion = newest.end
        if newest.cycle.decision.action == "retrain" and conclusion is None:
            conclusion = _train(ws, recipe, source, newest, seed)
        anchor_if_due(ws)
        return Cycled(cycle=newest.cycle, conclusion=conclusion, found=found and not opened)


def watch(
    ws: Workspace, recipe: Recipe, source: Source, *, every: float, seed: int = 0
) -> Iterator[Cycled | VelodromeError]:
    """`retrain` again and again, `every` so many seconds: yields what is new, and each problem once until it is another.

    Raises:
        StateError: the recipe's code is not what it was when this process read it.
        VelodromeError: what waiting does not mend: a wrong configuration, a damaged store.
    """
    code, told = _code(ws, source), ""
    while True:
        if _code(ws, source) != code:
            raise StateError("the recipe's code changed while it was watched", remedy="start the same command again")
        try:
            cycled = retrain(ws, recipe, source, seed=seed)
            if not cycled.found:
                told = ""
                yield cycled
        except (DataError, TrainingError, Conflict) as error:
            if error.problem != told:
                told = error.problem
                yield error
        ws.clock.sleep(every)


def _code(ws: Workspace, source: Source) -> Digest | None:
    """All of it, operation and gates too."""
    return capture(ws, source.file, source.root).code if source.file else None


# ------------------------------------------------------------------------------------------------------------- deciding


def _decided(ws: Workspace, recipe: Recipe, seed: int, now: datetime, *, asked: bool) -> tuple[Past, bool]:
    """The cycle for the data as it is now: the newest one if it says what would be decided now, else a new one."""
    taken, history = _snapshot(ws, recipe), past_cycles(ws, recipe.name)
    found = gather(ws, recipe, taken, history, seed=seed, now=now, asked=asked)
    decision = decide(found.evidence, recipe.operate.retrain, now)
    newest = history[-1] if history else None
    cycle = _cycle(recipe, taken, found, decision, newest.cycle.number + 1 if newest else 1, now)
    if newest and _stands(newest, cycle):
        return newest, True
    return record(ws, cycle, newest, *([found.drift] if found.drift else [])), False


def _cycle(recipe: Recipe, taken: Taken, found: Gathered, decision: Decision, number: int, now: datetime) -> Cycle:
    return Cycle(
        model=recipe.name,
        number=number,
        at=now,
        snapshot=taken.digest,
        base=found.base,
        champion=found.evidence.champion,
        window=found.arrived.name if found.arrived else "nothing",
        rows=found.evidence.rows,
        quarantined=found.evidence.quarantined,
        drift=digest_record(found.drift) if found.drift else None,
        quality=found.quality.digest if found.quality else None,
        evidence=found.evidence,
        decision=decision,
        recipe=digest_json(describe(recipe)),
    )


def _stands(newest: Past, cycle: Cycle) -> bool:
    """Whether the newest cycle was decided on this data and champion, and nothing else would be decided now.

    A decision to train stands until other data comes, since what came of it is known; but what failed or was refused does
    not stand against a person who asks, nor what failed against another recipe.
    """
    before, ended = newest.cycle, newest.end.verdict if newest.end else None
    if before.snapshot != cycle.snapshot:
        return False
    asks = cycle.evidence.asked and cycle.decision.action == "retrain"
    if asks and (not before.evidence.asked or ended in ("failed", "refused")):
        return False
    if ended == "failed" and before.recipe != cycle.recipe:
        return False
    same = before.champion == cycle.champion and before.decision.action == cycle.decision.action
    return same or before.decision.action == "retrain"


def _snapshot(ws: Workspace, recipe: Recipe) -> Taken:
    """The data as it is. That it was refused is recorded, once, and told."""
    try:
        return take_snapshot(ws, recipe.data)
    except DataError as error:
        refuse(ws, recipe.name, type(error).__name__, error.problem)
        raise


# -------------------------------------------------------------------------------------------------------------- training


def _finish(ws: Workspace, recipe: Recipe, source: Source, opened: Past, seed: int) -> VelodromeError | None:
    """Carry out what an earlier call decided, and return why it failed, if it did: what arrived since may do better.

    The recipe may have changed since then, and name columns that the data of then does not have.
    """
    try:
        _train(ws, recipe, source, opened, seed)
    except (DataError, TrainingError) as error:
        return error
    except (NotFound, RecipeError) as error:
        conclude(ws, recipe.name, _failed(opened, error, 0.0))
        return error
    return None


def _train(ws: Workspace, recipe: Recipe, source: Source, opened: Past, seed: int) -> Conclusion:
    """Train the challenger on the cycle's data, whatever arrived since, and settle it.

    Raises:
        DataError, TrainingError: no model can come of it, which concludes the cycle too: the same again would fail again.
    """
    begun, snapshot = ws.clock.monotonic(), read_record(ws.ledger, opened.cycle.snapshot, Snapshot)
    taken = Taken(opened.cycle.snapshot, snapshot, 0, len(snapshot.fragments))
    try:
        result = execute(ws, declare(ws, recipe, source, seed, taken=taken))
    except (DataError, TrainingError) as error:
        conclude(ws, recipe.name, _failed(opened, error, ws.clock.monotonic() - begun))
        raise
    conclusion = Conclusion(
        cycle=opened.digest,
        verdict=_verdict(ws, result, opened),
        version=result.version,
        run=result.run,
        report=result.report_digest,
        challenger=result.report.metrics[result.report.primary],
        verdicts=result.verdicts,
        against=result.against,
        comparison=next((one for one in result.comparisons if one.name == CHAMPION), None),
        seconds=ws.clock.monotonic() - begun,
    )
    return conclude(ws, recipe.name, conclusion)


def _failed(opened: Past, error: VelodromeError, seconds: float) -> Conclusion:
    return Conclusion(cycle=opened.digest, verdict="failed", failure=error.problem, seconds=seconds)


def _verdict(ws: Workspace, result: Result, opened: Past) -> Ending:
    """What became of the version, read off what was recorded since the decision: somebody may have moved it again."""
    if (result.passed and result.champion) or stood_as(
        ws, resolve(ws, result.version), CHAMPION, since=opened.recorded
    ):
        return "promoted"
    if not result.passed or result.state == VersionState.REJECTED:
        return "refused"
    return "waiting" if result.state == VersionState.CANDIDATE else "overtaken"
