"""What can happen in a storm: who does what at once, what is there before, and what must be true after it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import msgspec
from deeds import DATASETS, DEEDS, Hand, backups, deliver
from older import program_of
from places import Place

from velodrome.control.backups import back_up, check
from velodrome.control.checkup import examine
from velodrome.control.collecting import collect
from velodrome.core.config import Limits, Retention
from velodrome.core.errors import VelodromeError
from velodrome.data.snapshots import Snapshot, newest_snapshot, scan
from velodrome.registry.runs import RunState, outcome_of
from velodrome.registry.search import list_runs
from velodrome.registry.series import read_series
from velodrome.registry.versions import list_versions, resolve, stood_as
from velodrome.store import schema
from velodrome.store.ledger import Move, Put, read_record, verify_chain
from velodrome.store.trees import read_tree
from velodrome.store.workspace import Workspace
from velodrome.testing.ledger import Sample

__all__ = ["SCENARIOS", "Ack", "Scenario", "dangling", "left", "lost", "wrong"]

Ack = dict[str, Any]

KEEP_ALL = Retention()
KEEP_NEWEST = Retention(runs=Limits(count=1), snapshots=Limits(count=1), checkpoints=Limits(count=1))


@dataclass(frozen=True)
class Scenario:
    """Processes that do their deeds at once.

    Attributes:
        deeds: one for each process.
        prepare: makes what is there before, without any harm.
        outcome: what must be the same as after an undisturbed twin, as plain JSON.
        retention: what a collection gives up.
    """

    name: str
    deeds: tuple[str, ...]
    prepare: Callable[[Place], None]
    outcome: Callable[[Workspace], object]
    retention: Retention = KEEP_ALL


# ------------------------------------------------------------------------------------------------------- what was before


def nothing(place: Place) -> None:
    place.open().close()


def files(place: Place) -> None:
    deliver(place.root)
    nothing(place)


def old_ledger(place: Place) -> None:
    """A ledger of an older version, with something in it: made by the steps that led to that version."""
    with program_of(schema.VERSION - 1), place.open() as ws:
        ws.commit(*(Put(Sample(number=number)) for number in range(50)), Move("before", None, "1", "moved"))


# ---------------------------------------------------------------------------------------------------- what comes of it


def backed_up(place: Place) -> None:
    """An empty project, and the backup of another one, of a kind of its own."""
    deliver(place.root)
    other = replace(place, config=msgspec.structs.replace(place.config, store=".other", ledger="", blobs=""))
    with other.open() as ws:
        hand = Hand(ws, 0, lambda _, **__: None)
        for deed in ("snapshots", "registrations", "curves"):
            DEEDS[deed].act(hand)
        back_up(ws, backups(ws))
    nothing(place)


def datasets(ws: Workspace) -> object:
    found = {name: newest_snapshot(ws, name) for name in DATASETS}
    return {name: snapshot and [snapshot.rows, snapshot.profile] for name, snapshot in found.items()}


def models(ws: Workspace) -> object:
    """Versions as they stand, and what they were trained to."""
    versions = sorted(list_versions(ws), key=lambda version: version.reference)
    outcomes = [outcome_of(ws, version.run) for version in versions]
    weights = [outcome and [outcome.weights, outcome.history, outcome.steps] for outcome in outcomes]
    return [[version.reference, version.state, list(version.aliases)] for version in versions], weights


def histories(ws: Workspace) -> object:
    finished = {run.name: outcome_of(ws, run.id) for run in list_runs(ws, state=RunState.FINISHED)}
    return {name: outcome and [outcome.history, outcome.steps] for name, outcome in sorted(finished.items())}


def newest(ws: Workspace) -> object:
    """Whether the newest snapshot can be read; which one that is, the processes decide."""
    snapshot = newest_snapshot(ws, "flux")
    return snapshot is not None and scan(ws, snapshot).collect().height == snapshot.rows


def everything(ws: Workspace) -> object:
    return datasets(ws), how_many(ws), histories(ws)


def how_many(ws: Workspace) -> object:
    names = {run.name for run in list_runs(ws, state=RunState.FINISHED)}
    return sorted(names), sorted(version.number for version in list_versions(ws))


def noted(ws: Workspace) -> object:
    notes = sorted((event.body["by"], event.body["number"]) for event in ws.ledger.events("notes"))
    return notes, len(ws.ledger.records("sample"))


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("snapshots", ("snapshots",) * 3, files, datasets),
        Scenario("run", ("run",) * 2, files, models),
        Scenario("train", ("train",), nothing, histories),
        Scenario("migration", ("notes",) * 3, old_ledger, noted),
        Scenario("curves", ("curves",) * 2, nothing, histories),
        Scenario("collection beside snapshots", ("snapshots", "snapshots", "collector"), files, datasets),
        Scenario("collection beside registrations", ("registrations", "registrations", "collector"), nothing, how_many),
        Scenario("collection beside training", ("train", "run", "collector"), files, models),
        Scenario("retention beside changes", ("changes", "changes", "collector"), files, newest, KEEP_NEWEST),
        Scenario("retention beside runs", ("train", "run", "registrations", "collector"), files, models, KEEP_NEWEST),
        Scenario("backup", ("registrations", "snapshots", "backer", "collector"), files, datasets),
        Scenario("restore", ("restorer",), backed_up, everything),
        Scenario("registrations", ("registrations",) * 3, nothing, how_many),
    )
}


# --------------------------------------------------------------------------------------------------------------- verdict


def lost(ws: Workspace, acks: list[Ack]) -> Iterator[str]:
    """What was acknowledged and is not there, or does not verify."""
    for ack in acks:
        if ack["what"] in _KEPT:
            try:
                kept = _KEPT[ack["what"]](ws, ack)
            except VelodromeError as error:
                yield f"{ack}: {error.problem}"
            else:
                if not kept:
                    yield f"{ack}"
    yield from _steps_lost(acks)


def _steps_lost(acks: list[Ack]) -> Iterator[str]:
    """A training goes on at least from the newest checkpoint that was acknowledged before."""
    saved = 0
    for ack in acks:
        if ack["what"] == "checkpointed":
            saved = max(saved, ack["step"])
        if ack["what"] == "restored" and ack["step"] < saved:
            yield f"a training began at step {ack['step']}, with a checkpoint of step {saved}"


def left(ws: Workspace) -> Iterator[str]:
    """What collections find again and again, which is nothing. Buckets and file systems know times to a second or two, so
    that what a killed process has just left may have to wait so long."""
    for _ in range(25):
        if not (found := collect(ws).lines()):
            return
        time.sleep(0.2)
    yield f"another collection found {found}"


def dangling(ws: Workspace) -> Iterator[str]:
    """What the doctor finds."""
    yield from (f"{problem.subject}: {problem.finding}" for problem in examine(ws).problems)


def wrong(ws: Workspace) -> Iterator[str]:
    """Numbers with gaps, histories that are not one line."""
    for pointer in ws.ledger.pointers("model:"):
        numbers = sorted(version.number for version in list_versions(ws, pointer.subject.removeprefix("model:")))
        if numbers != list(range(1, int(pointer.value or 0) + 1)):
            yield f"{pointer.subject}: {numbers}"
    for pointer in ws.ledger.pointers("alias:"):
        events = ws.ledger.events(pointer.subject)
        verify_chain(pointer.subject, events)
        if any(event.body["to"] != later.body["from"] for event, later in pairwise(events)):
            yield f"{pointer.subject} is no line"


def _taken(ws: Workspace, ack: Ack) -> bool:
    snapshot = read_record(ws.ledger, ack["digest"], Snapshot)
    return bool(scan(ws, snapshot).collect().height == ack["rows"])


def _registered(ws: Workspace, ack: Ack) -> bool:
    version = resolve(ws, ack["version"])
    leaves = read_tree(ws.blobs, version.artifact)
    return version.run == ack["run"] and all(ws.blobs.read(leaf.digest) for leaf in leaves.values())


def _promoted(ws: Workspace, ack: Ack) -> bool:
    return stood_as(ws, resolve(ws, ack["version"]), ack["alias"])


def _finished(ws: Workspace, ack: Ack) -> bool:
    return outcome_of(ws, ack["run"]) is not None


def _logged(ws: Workspace, ack: Ack) -> bool:
    return ack["step"] in read_series(ws, ack["run"], ack["series"])[0]


def _backed_up(ws: Workspace, ack: Ack) -> bool:
    return check(ws, backups(ws), ack["backup"]).backup.id == str(ack["backup"])


def _noted(ws: Workspace, ack: Ack) -> bool:
    return any(event.body == {"by": ack["by"], "number": ack["number"]} for event in ws.ledger.events("notes"))


_KEPT: dict[str, Callable[[Workspace, Ack], bool]] = {
    "taken": _taken,
    "registered": _registered,
    "promoted": _promoted,
    "finished": _finished,
    "logged": _logged,
    "backed up": _backed_up,
    "noted": _noted,
}
