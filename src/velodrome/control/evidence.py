"""Gathering what a decision rests on: what arrived, how the champion does on it, what moved, what was spent.

What arrived since the cycle before is judged for its soundness; quality is measured on all that no cycle has found fit so far, so
that rows too few, or in doubt, are looked at again with the next ones. Cost: a read of the cycles, and of the new rows once.
"""

from collections.abc import Iterator
from datetime import datetime
from statistics import median

import msgspec

from velodrome.control.cycles import Conclusion, Cycle, Past
from velodrome.core.digest import Digest
from velodrome.core.units import parse_duration
from velodrome.data.snapshots import Snapshot, Taken
from velodrome.evaluation.report import Evaluation
from velodrome.monitoring.decide import Evidence
from velodrome.monitoring.drift import DriftReport, detect_drift
from velodrome.monitoring.quality import Measured, measure_quality
from velodrome.monitoring.windows import Window, new_window
from velodrome.recipe import Recipe
from velodrome.registry.runs import get_run, outcome_of
from velodrome.registry.versions import CHAMPION, Version, VersionState, find_alias, list_versions
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace

__all__ = ["Gathered", "gather"]

_ABOUT_DATA = ("rows", "quarantine", "volume", "labels")


class Gathered(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence, with the records that it was read off.

    Attributes:
        base: the snapshot beyond which quality was measured. arrived: what came since the newest cycle on other data.
    """

    evidence: Evidence
    base: Digest | None
    arrived: Window | None
    drift: DriftReport | None
    quality: Measured | None


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to look at."""

    recipe: Recipe
    taken: Taken
    champion: Version | None
    history: list[Past]
    base: Digest | None
    arrived: Window | None
    unjudged: Window | None
    seed: int


def gather(
    ws: Workspace, recipe: Recipe, taken: Taken, history: list[Past], *, seed: int, now: datetime, asked: bool
) -> Gathered:
    """The evidence for a decision at `now`.

    Raises:
        StateError: an older velodrome took a snapshot, without sketches.
    """
    look = _look(ws, recipe, taken, history, seed)
    drift, quality = _drift(ws, look), _quality(ws, look)
    evidence = _evidence(ws, look, drift, quality, now, asked)
    return Gathered(evidence=evidence, base=look.base, arrived=look.arrived, drift=drift, quality=quality)


def _look(ws: Workspace, recipe: Recipe, taken: Taken, history: list[Past], seed: int) -> _Look:
    champion = find_alias(ws, recipe.name, CHAMPION)
    base = _base(history[-1].cycle if history else None, taken.digest)
    before = next((past.cycle.snapshot for past in reversed(history) if past.cycle.snapshot != taken.digest), None)
    trained_on = _trained_on(ws, champion)
    arrived, unjudged = (
        new_window(ws, taken.snapshot, [read_record(ws.ledger, one, Snapshot) for one in known if one])
        for known in ((before, trained_on), (base, trained_on))
    )
    return _Look(
        recipe=recipe,
        taken=taken,
        champion=champion,
        history=history,
        base=base,
        arrived=arrived,
        unjudged=unjudged,
        seed=seed,
    )


def _base(newest: Cycle | None, snapshot: Digest) -> Digest | None:
    """The newest snapshot that was fit to be judged."""
    if newest is None:
        return None
    doubted = any(one.check in _ABOUT_DATA and one.says == "wait" for one in newest.decision.reasons)
    return newest.base if doubted or newest.snapshot == snapshot else newest.snapshot


def _drift(ws: Workspace, look: _Look) -> DriftReport | None:
    reference = _trained_on(ws, look.champion)
    if reference is None or look.unjudged is None or not look.unjudged.rows:
        return None
    columns = [*look.recipe.features, look.recipe.label]
    return detect_drift(ws, reference, look.taken.digest, columns, look.recipe.operate.retrain.drift)


def _quality(ws: Workspace, look: _Look) -> Measured | None:
    if look.champion is None or look.unjudged is None or not look.unjudged.rows:
        return None
    return measure_quality(
        ws,
        look.champion,
        look.taken,
        look.unjudged,
        base=look.base,
        label=look.recipe.label,
        plan=look.recipe.evaluation or Evaluation(),
        seed=look.seed,
    )


def _evidence(
    ws: Workspace, look: _Look, drift: DriftReport | None, measured: Measured | None, now: datetime, asked: bool
) -> Evidence:
    champion, arrived, quality = look.champion, look.arrived, measured.quality if measured else None
    trainings = [past for past in look.history if past.cycle.decision.action == "retrain" and past.cycle.at <= now]
    period = parse_duration(look.recipe.operate.retrain.period)
    return Evidence(
        champion=champion.reference if champion else None,
        pending=_pending(ws, look.recipe.name, champion),
        asked=asked,
        rows=arrived.rows if arrived else 0,
        quarantined=arrived.quarantined if arrived else 0,
        labelled=quality.labelled if quality else 0,
        rows_per_file=_median([rows for rows in arrived.rows_per_file if rows]) if arrived else None,
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
        last_retrained=max((past.cycle.at for past in trainings), default=None),
        spent=sum(past.end.seconds for past in trainings if past.end and now - past.cycle.at <= period),
        expected=_expected(ws, champion, [past.end for past in trainings if past.end]),
    )


def _usual(look: _Look) -> float | None:
    """Median rows of the files that were there before; None where there are too few to tell."""
    new = {use.fragment for use in look.arrived.uses} if look.arrived else set()
    before = [use.rows for use in look.taken.snapshot.fragments if use.fragment not in new and use.rows]
    return _median(before) if len(before) > 1 else None


def _median(rows: list[int]) -> float | None:
    return float(median(rows)) if rows else None


def _pending(ws: Workspace, model: str, champion: Version | None) -> str | None:
    """The newest version that waits for a person, if it is newer than the champion."""
    newest = champion.number if champion else 0
    waiting = (one for one in list_versions(ws) if one.model == model and one.state is VersionState.CANDIDATE)
    return next((one.reference for one in waiting if one.number > newest), None)


def _trained(ws: Workspace, look: _Look) -> datetime | None:
    """When the champion was trained: for one that a cycle decided on, the moment that the cycle was decided for."""
    if look.champion is None:
        return None
    reference = look.champion.reference
    decided = [past.cycle.at for past in look.history if past.end and past.end.version == reference]
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
