"""The loop: what arrived is looked at, a decision is made for stated reasons, and a challenger is trained, judged, settled.

snapshot → evidence → decision (a Cycle) → run → judgement → refit → version → approval (a Conclusion). Each arrow leaves a
record, and each step looks for its record first: killed anywhere, the same call goes on where it stopped, a decision is
never made twice on the same evidence, and what was decided is carried out before anything newer is looked at.
`cycle:<model>` points at the newest Cycle, `concluded:<cycle>` at what came of it.
"""

from collections.abc import Iterator
from datetime import datetime
from statistics import median
from typing import Literal, TypeAlias

import msgspec

from velodrome.control.declaring import Source, declare
from velodrome.control.pipeline import Result, execute
from velodrome.core.digest import Digest
from velodrome.core.errors import Conflict, DataError, StateError, TrainingError, VelodromeError
from velodrome.core.units import parse_duration
from velodrome.core.values import Record
from velodrome.data.snapshots import Snapshot, take_snapshot
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.gates import Comparison, Verdict
from velodrome.evaluation.report import Evaluation
from velodrome.monitoring.decide import Decision, Evidence, decide
from velodrome.monitoring.drift import DriftReport, detect_drift
from velodrome.monitoring.quality import Quality, measure_quality
from velodrome.monitoring.windows import Window, new_window
from velodrome.recipe import Recipe
from velodrome.registry.code import capture
from velodrome.registry.runs import get_run, outcome_of
from velodrome.registry.versions import CHAMPION, Version, VersionState, find_alias, list_versions
from velodrome.store.ledger import Append, Link, Move, Put, digest_record, read_record
from velodrome.store.locks import hold
from velodrome.store.workspace import Workspace

__all__ = ["Conclusion", "Cycle", "Cycled", "Ending", "cycles", "retrain", "watch"]

Ending: TypeAlias = Literal["promoted", "refused", "waiting", "overtaken", "failed"]

_REFUSED = "cycle.data-refused"
_ABOUT_DATA = ("rows", "quarantine", "volume", "labels")


class Cycle(Record, frozen=True, kw_only=True, tag="cycle"):
    """One look at what arrived, and the decision.

    Attributes:
        number: from 1, without gaps within a model.
        at: the moment that the decision was made for.
        snapshot, base: the data as it was, and the snapshot beyond which it was looked at; None: all of it was.
        window: name of what arrived. rows, quarantined: of it.
        drift, quality: the DriftReport and Quality records; None where there was no champion, or nothing to judge.
    """

    model: str
    number: int
    at: datetime
    snapshot: Digest
    base: Digest | None
    champion: str | None
    window: str
    rows: int
    quarantined: int
    drift: Digest | None
    quality: Digest | None
    evidence: Evidence
    decision: Decision


class Conclusion(Record, frozen=True, kw_only=True, tag="conclusion"):
    """What came of a decision to train.

    Attributes:
        verdict: "waiting": it passed its gates and a person is asked; "overtaken": a newer champion came meanwhile;
            "failed": the data or the training did not allow a model, `failure` says why, and the rest is empty.
        run: the run that was judged. report: its Report. challenger: the primary metric there.
        against: the champion that it was compared with. comparison: challenger minus champion on the same rows.
        seconds: of training, judging and refitting, in the call that came to the end.
    """

    cycle: Digest
    verdict: Ending
    version: str | None = None
    run: str | None = None
    report: Digest | None = None
    challenger: Estimate | None = None
    verdicts: tuple[Verdict, ...] = ()
    against: str | None = None
    comparison: Comparison | None = None
    failure: str | None = None
    seconds: float


class Cycled(msgspec.Struct, frozen=True, kw_only=True):
    """The newest cycle of a model. `found`: nothing new had arrived, and nothing else would be decided about it now."""

    cycle: Cycle
    conclusion: Conclusion | None
    found: bool


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a cycle begins with."""

    recipe: Recipe
    snapshot: Snapshot
    base: Digest | None
    champion: Version | None
    window: Window | None
    history: list[tuple[Cycle, Conclusion | None]]
    seed: int


def retrain(
    ws: Workspace, recipe: Recipe, source: Source, *, seed: int = 0, now: datetime | None = None, asked: bool = False
) -> Cycled:
    """Look at the data, decide, and do what was decided; or finish what an earlier call began.

    Args:
        now: the moment to decide for, if not the present one: a replay of the past names its own.
        asked: train whatever quality and the cool-down say; not on unsound data, nor over budget, nor beside a version that
            waits for a person.

    Raises:
        RunHeld: another process does the same.
        DataError: the data was refused, which is recorded; the champion stays.
        VelodromeError: as `pipeline.run`.
    """
    with hold(ws.lock(f"retrain-{recipe.name}"), ws.holder):
        opened = _open_cycle(ws, recipe.name)
        if opened:
            _conclude(ws, recipe, source, opened, seed)
        cycle, found = _decided(ws, recipe, seed, now or ws.clock.now(), asked=asked)
        conclusion = _conclusion(ws, cycle)
        if cycle.decision.action == "retrain" and conclusion is None:
            conclusion = _conclude(ws, recipe, source, cycle, seed)
        return Cycled(cycle=cycle, conclusion=conclusion, found=found and not opened)


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
            told = ""
            if not cycled.found:
                yield cycled
        except (DataError, TrainingError, Conflict) as error:
            if error.problem != told:
                told = error.problem
                yield error
        ws.clock.sleep(every)


def _code(ws: Workspace, source: Source) -> Digest | None:
    return capture(ws, source.file, source.root).key if source.file else None


def cycles(ws: Workspace, model: str) -> list[tuple[Cycle, Conclusion | None]]:
    """Every cycle of a model with what came of it, oldest first."""
    moves = [event for event in ws.ledger.events(f"cycle:{model}") if event.type != _REFUSED]
    found = [read_record(ws.ledger, str(event.body["to"]), Cycle) for event in moves]
    return [(cycle, _conclusion(ws, cycle)) for cycle in found]


# ------------------------------------------------------------------------------------------------------------- deciding


def _decided(ws: Workspace, recipe: Recipe, seed: int, now: datetime, *, asked: bool) -> tuple[Cycle, bool]:
    """The cycle for the data as it is now: the newest one if it says what would be decided now, else a new one."""
    look = _look(ws, recipe, _snapshot(ws, recipe), seed)
    newest = look.history[-1][0] if look.history else None
    drift, quality = _drift(ws, look), _quality(ws, look)
    evidence = _evidence(ws, look, drift, quality, now, asked=asked)
    decision = decide(evidence, recipe.operate.retrain, now)
    if newest and _same(newest, look, decision):
        return newest, True
    window = look.window
    cycle = Cycle(
        model=recipe.name,
        number=newest.number + 1 if newest else 1,
        at=now,
        snapshot=digest_record(look.snapshot),
        base=look.base,
        champion=evidence.champion,
        window=window.name if window else "nothing",
        rows=evidence.rows,
        quarantined=evidence.quarantined,
        drift=digest_record(drift) if drift else None,
        quality=digest_record(quality) if quality else None,
        evidence=evidence,
        decision=decision,
    )
    _record(ws, cycle, drift, newest)
    return cycle, False


def _record(ws: Workspace, cycle: Cycle, drift: DriftReport | None, newest: Cycle | None) -> None:
    digest = digest_record(cycle)
    links = {"snapshot": cycle.snapshot, "base": cycle.base, "drift": cycle.drift, "quality": cycle.quality}
    if cycle.champion:
        links["champion"] = Digest(f"version:{cycle.champion}")
    ws.commit(
        *([Put(drift, cycle.model)] if drift else []),
        Put(cycle, cycle.model),
        *(Link(digest, end, role) for role, end in links.items() if end),
        Move(
            f"cycle:{cycle.model}",
            digest_record(newest) if newest else None,
            digest,
            "cycle.decided",
            {"action": cycle.decision.action},
        ),
    )


def _same(newest: Cycle, look: _Look, decision: Decision) -> bool:
    """Whether the newest cycle was decided on this data and champion, and nothing else would be decided now.

    A decision to train stands until other data comes, or a person asks: what came of it is known.
    """
    if newest.snapshot != digest_record(look.snapshot) or _asked_anew(newest, decision):
        return False
    champion = look.champion.reference if look.champion else None
    stands = newest.champion == champion and newest.decision.action == decision.action
    return stands or newest.decision.action == "retrain"


def _asked_anew(newest: Cycle, decision: Decision) -> bool:
    """Whether a person asks now, and nobody did when the newest cycle was decided."""
    return not newest.evidence.asked and any(
        one.check == "person" and one.says == "retrain" for one in decision.reasons
    )


def _snapshot(ws: Workspace, recipe: Recipe) -> Snapshot:
    """The data as it is. That it was refused is recorded, once, and told."""
    try:
        return take_snapshot(ws, recipe.data).snapshot
    except DataError as error:
        subject, body = f"cycle:{recipe.name}", {"error": type(error).__name__, "problem": error.problem}
        events = ws.ledger.events(subject)
        if not events or (events[-1].type, events[-1].body) != (_REFUSED, body):
            ws.commit(Append(subject, _REFUSED, body))
        raise


def _look(ws: Workspace, recipe: Recipe, snapshot: Snapshot, seed: int) -> _Look:
    """Which rows are new: those that the champion was not trained on and no cycle has judged before."""
    champion, history = find_alias(ws, recipe.name, CHAMPION), cycles(ws, recipe.name)
    base = _base(history[-1][0] if history else None, digest_record(snapshot))
    window = new_window(ws, snapshot, [_read(ws, one) for one in (base, _trained_on(ws, champion)) if one])
    return _Look(
        recipe=recipe, snapshot=snapshot, base=base, champion=champion, window=window, history=history, seed=seed
    )


def _base(newest: Cycle | None, snapshot: Digest) -> Digest | None:
    """The newest snapshot that was fit to be judged: rows that were too few, or in doubt, are looked at with the next ones."""
    if newest is None:
        return None
    doubted = any(one.check in _ABOUT_DATA and one.says == "wait" for one in newest.decision.reasons)
    return newest.base if doubted or newest.snapshot == snapshot else newest.snapshot


def _drift(ws: Workspace, look: _Look) -> DriftReport | None:
    reference = _trained_on(ws, look.champion)
    if reference is None or look.window is None or not look.window.rows:
        return None
    columns = [*look.recipe.features, look.recipe.label]
    return detect_drift(ws, _read(ws, reference), look.snapshot, columns, look.recipe.operate.retrain.drift)


def _quality(ws: Workspace, look: _Look) -> Quality | None:
    if look.champion is None or look.window is None or not look.window.rows:
        return None
    return measure_quality(
        ws,
        look.champion,
        look.snapshot,
        look.window,
        label=look.recipe.label,
        plan=look.recipe.evaluation or Evaluation(),
        seed=look.seed,
    )


def _evidence(
    ws: Workspace, look: _Look, drift: DriftReport | None, quality: Quality | None, now: datetime, *, asked: bool
) -> Evidence:
    champion, window, policy = look.champion, look.window, look.recipe.operate.retrain
    trainings = [(cycle, end) for cycle, end in look.history if cycle.decision.action == "retrain"]
    period = parse_duration(policy.period)
    return Evidence(
        champion=champion.reference if champion else None,
        pending=_pending(ws, look.recipe.name, champion),
        asked=asked,
        rows=window.rows if window else 0,
        quarantined=window.quarantined if window else 0,
        labelled=quality.labelled if quality else 0,
        rows_per_file=float(median(window.rows_per_file)) if window else None,
        usual_rows_per_file=_usual(look),
        unmeasured=quality.unmeasured if quality else None,
        metric=quality.primary if quality else None,
        now=quality.now if quality else None,
        promised=quality.promised if quality else None,
        fall=quality.fall if quality else None,
        calibration=quality.calibration if quality else None,
        calibration_promised=quality.calibration_promised if quality else None,
        compared=sum(column.skipped is None for column in drift.windows[-1].columns) if drift and drift.windows else 0,
        drifted=drift.drifted if drift else (),
        trained=_trained(ws, look),
        last_retrained=max((cycle.at for cycle, _ in trainings), default=None),
        spent=sum(end.seconds for cycle, end in trainings if end and now - cycle.at <= period),
        expected=_expected(ws, champion, [end for _, end in trainings if end]),
    )


def _usual(look: _Look) -> float | None:
    """Median rows of the files that were there before; None where there are too few to tell."""
    new = {use.fragment for use in look.window.uses} if look.window else set()
    before = [use.rows for use in look.snapshot.fragments if use.fragment not in new and use.rows]
    return float(median(before)) if len(before) > 1 else None


def _pending(ws: Workspace, model: str, champion: Version | None) -> str | None:
    """The newest version that waits for a person, if it is newer than the champion."""
    if champion is None:
        return None
    waiting = (one for one in list_versions(ws, model) if one.state is VersionState.CANDIDATE)
    return next((one.reference for one in waiting if one.number > champion.number), None)


def _trained(ws: Workspace, look: _Look) -> datetime | None:
    """When the champion was trained: for one that a cycle decided on, the moment that the cycle was decided for."""
    if look.champion is None:
        return None
    reference = look.champion.reference
    decided = [cycle.at for cycle, end in look.history if end and end.version == reference]
    versions = list_versions(ws, look.champion.model)
    return decided[-1] if decided else next(one.created for one in versions if one.reference == reference)


def _expected(ws: Workspace, champion: Version | None, ends: list[Conclusion]) -> float:
    """Seconds that another training will take: what the last one took."""
    if ends:
        return ends[-1].seconds
    outcomes = [outcome_of(ws, run) for run in _runs(ws, champion)]
    return sum(outcome.seconds for outcome in outcomes if outcome)


def _runs(ws: Workspace, version: Version | None) -> Iterator[str]:
    if version is not None:
        yield version.run
        judge = get_run(ws, version.run).judge
        if judge:
            yield judge


def _trained_on(ws: Workspace, version: Version | None) -> Digest | None:
    return get_run(ws, version.run).snapshot if version else None


def _read(ws: Workspace, snapshot: Digest) -> Snapshot:
    return read_record(ws.ledger, snapshot, Snapshot)


# -------------------------------------------------------------------------------------------------------------- training


def _conclude(ws: Workspace, recipe: Recipe, source: Source, cycle: Cycle, seed: int) -> Conclusion:
    """Train the challenger on the cycle's data, whatever arrived since, and settle it.

    Raises:
        DataError, TrainingError: no model can come of it, which concludes the cycle too: the same again would fail again.
    """
    digest, begun = digest_record(cycle), ws.clock.monotonic()
    try:
        result = execute(ws, declare(ws, recipe, source, seed, snapshot=_read(ws, cycle.snapshot)))
    except (DataError, TrainingError) as error:
        seconds = ws.clock.monotonic() - begun
        _end(ws, recipe, Conclusion(cycle=digest, verdict="failed", failure=error.problem, seconds=seconds))
        raise
    conclusion = Conclusion(
        cycle=digest,
        verdict=_verdict(result),
        version=result.version,
        run=result.run,
        report=digest_record(result.report),
        challenger=result.report.metrics[result.report.primary],
        verdicts=result.verdicts,
        against=result.against,
        comparison=next((one for one in result.comparisons if one.name == CHAMPION), None),
        seconds=ws.clock.monotonic() - begun,
    )
    return _end(ws, recipe, conclusion)


def _end(ws: Workspace, recipe: Recipe, conclusion: Conclusion) -> Conclusion:
    end, ends = digest_record(conclusion), {"version": f"version:{conclusion.version}", "report": conclusion.report}
    links = [Link(end, dst, role) for role, dst in ends.items() if dst and conclusion.version]
    ws.commit(
        Put(conclusion, recipe.name),
        Link(end, conclusion.cycle, "cycle"),
        *links,
        Move(f"concluded:{conclusion.cycle}", None, end, "cycle.concluded", {"verdict": conclusion.verdict}),
    )
    return conclusion


def _verdict(result: Result) -> Ending:
    if not result.passed:
        return "refused"
    if result.champion:
        return "promoted"
    return "waiting" if result.state == VersionState.CANDIDATE else "overtaken"


# --------------------------------------------------------------------------------------------------------------- reading


def _open_cycle(ws: Workspace, model: str) -> Cycle | None:
    """The cycle whose decision to train was not carried out yet."""
    pointer = ws.ledger.pointer(f"cycle:{model}")
    newest = read_record(ws.ledger, pointer.value, Cycle) if pointer and pointer.value else None
    waits = newest is not None and newest.decision.action == "retrain" and _conclusion(ws, newest) is None
    return newest if waits else None


def _conclusion(ws: Workspace, cycle: Cycle) -> Conclusion | None:
    pointer = ws.ledger.pointer(f"concluded:{digest_record(cycle)}")
    return read_record(ws.ledger, pointer.value, Conclusion) if pointer and pointer.value else None
