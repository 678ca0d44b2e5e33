"""What a page shows of a recipe: its present champion, every cycle of its loop, drift, versions, and who moved what.

Cost: a few small reads for each cycle and version.
"""

from collections.abc import Iterator
from datetime import datetime

import msgspec

from velodrome.control.cycles import Cycle, Refusal, refusals
from velodrome.core.values import describe
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.report import Report
from velodrome.monitoring.quality import Quality
from velodrome.recipe import Recipe
from velodrome.registry.lineage import Decision
from velodrome.registry.runs import get_run
from velodrome.registry.search import RunSummary, list_runs
from velodrome.registry.versions import CHAMPION, VersionSummary, find_alias, list_versions, resolve
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace
from velodrome.web.cycles import CycleFacts, cycle_facts
from velodrome.web.runs import RunFacts, Setting, run_facts, settings_of

__all__ = ["Champion", "Measured", "RecipePage", "VersionFacts", "recipe_page"]

_RUNS = 20


class VersionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A version with the primary figure of its report, on its own test rows."""

    summary: VersionSummary
    metric: str | None
    figure: Estimate | None


class Champion(msgspec.Struct, frozen=True, kw_only=True):
    """The version in use.

    Attributes:
        since: when it was made champion. window: of the cycle that made it, if one did; at: the moment that was decided for.
        run: the run that was judged, or its own.
    """

    reference: str
    since: datetime
    actor: str
    window: str | None
    at: datetime | None
    run: RunFacts


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A champion on the new rows of a window: figures, cohorts, calibration."""

    version: str
    window: str
    report: Report


class RecipePage(msgspec.Struct, frozen=True, kw_only=True, tag_field="page", tag="recipe"):
    """The page of a recipe.

    Attributes:
        measured: the newest report on a champion in use.
        settings: of the recipe's file, where it was given; else as its newest run recorded them.
        cycles: oldest first. versions, runs: newest first; of the runs the newest twenty.
        moves: of the alias champion, oldest first.
    """

    made: datetime
    name: str
    owner: str
    champion: Champion | None
    measured: Measured | None
    cycles: tuple[CycleFacts, ...]
    refusals: tuple[Refusal, ...]
    versions: tuple[VersionFacts, ...]
    moves: tuple[Decision, ...]
    runs: tuple[RunSummary, ...]
    settings: tuple[Setting, ...]


def recipe_page(ws: Workspace, name: str, recipe: Recipe | None = None) -> RecipePage:
    """The page of the recipe of that name, which may have nothing recorded yet."""
    facts, runs = cycle_facts(ws, name), list_runs(ws, name, limit=_RUNS)
    declared = describe(recipe) if recipe else get_run(ws, runs[0].id).recipe if runs else {}
    return RecipePage(
        made=ws.clock.now(),
        name=name,
        owner=str(declared.get("owner", "")),
        champion=_champion(ws, name, facts),
        measured=next(_measured(ws, facts), None),
        cycles=tuple(facts),
        refusals=tuple(refusals(ws, name)),
        versions=tuple(_versions(ws, name)),
        moves=tuple(_moves(ws, name)),
        runs=tuple(runs),
        settings=settings_of(declared),
    )


def _champion(ws: Workspace, name: str, facts: list[CycleFacts]) -> Champion | None:
    version = find_alias(ws, name, CHAMPION)
    if version is None:
        return None
    moves, run = ws.ledger.events(_alias(name)), get_run(ws, version.run)
    made = _maker(facts, version.reference, [str(event.body["to"]) for event in moves])
    return Champion(
        reference=version.reference,
        since=moves[-1].time,
        actor=moves[-1].actor,
        window=made.window if made else None,
        at=made.at if made else None,
        run=run_facts(ws, run.judge or run.id),
    )


def _maker(facts: list[CycleFacts], version: str, moves: list[str]) -> Cycle | None:
    """The cycle that made a version champion; none where a person did, or where it came back to be it."""
    made = [one.cycle for one in facts if one.promoted(version)]
    return made[-1] if made and moves.count(version) == 1 else None


def _measured(ws: Workspace, facts: list[CycleFacts]) -> Iterator[Measured]:
    """What was measured, newest first."""
    for one in reversed(facts):
        quality = read_record(ws.ledger, one.cycle.quality, Quality) if one.cycle.quality else None
        if quality and quality.report:
            report = read_record(ws.ledger, quality.report, Report)
            yield Measured(version=quality.version, window=quality.window, report=report)


def _versions(ws: Workspace, name: str) -> Iterator[VersionFacts]:
    if ws.ledger.pointer(f"model:{name}") is None:
        return
    for summary in list_versions(ws, name):
        digest = resolve(ws, summary.reference).report
        report = read_record(ws.ledger, digest, Report) if digest else None
        metric = report.primary if report else None
        yield VersionFacts(summary=summary, metric=metric, figure=report.metrics[report.primary] if report else None)


def _moves(ws: Workspace, name: str) -> Iterator[Decision]:
    for event in ws.ledger.events(_alias(name)):
        what, reason = f"{CHAMPION} {event.type.partition('.')[2]}", str(event.body.get("reason", ""))
        yield Decision(what=what, version=str(event.body["to"]), actor=event.actor, time=event.time, reason=reason)


def _alias(name: str) -> str:
    return f"alias:{name}@{CHAMPION}"
