"""The n-th call of every blob and ledger operation is made to fail, for every n, in everything that the loop does.

Each experiment runs a deed on a store that does harm at one call, looks at what is left, and does the deed again on the store
as it is: it must come to what an undisturbed twin comes to. A first run without faults tells how many calls there are.
"""

import functools
import itertools
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from world import World

import velodrome as vd
from velodrome.control import pipeline
from velodrome.control.backups import back_up, check, restore
from velodrome.control.backups import mend as bring_back
from velodrome.control.checkup import examine, mend
from velodrome.control.collecting import collect
from velodrome.control.declaring import declare
from velodrome.control.training import train
from velodrome.core.config import Config, Limits, Retention
from velodrome.core.digest import Digest, digest_bytes
from velodrome.core.errors import VelodromeError
from velodrome.data.snapshots import newest_snapshot, take_snapshot
from velodrome.registry import provenance
from velodrome.registry.runs import RunState, outcome_of
from velodrome.registry.search import list_runs
from velodrome.registry.series import block_problems
from velodrome.registry.versions import VersionState, approve, list_versions, move_state, promote, register, state_of
from velodrome.serving.batch import predict_file
from velodrome.store.backup import BackupPlace
from velodrome.store.faults import Fault, FaultPlan, FaultyBlobs, FaultyLedger, FaultyObjects
from velodrome.store.health import tally
from velodrome.store.ledger import Block, verify_chain
from velodrome.store.named import FolderObjects, Objects
from velodrome.training.track import tracked

CONFIG = Config(gc_grace="0s", retention=Retention(snapshots=Limits(count=1)))
WRITING = {"blobs.put", "blobs.delete", "blobs.collect", "ledger.commit", "ledger.fill", "objects.put"}
CARRYING = {"blobs.put", "blobs.read", "blobs.local", "ledger.commit"}

Deed = Callable[[World], object]


def experiments(calls: list[str]) -> Iterator[Fault]:
    """Every fault that does something of its own: an answer is lost, or a write torn, only where something is written.

    Calls are counted by their names, since those that threads make come in another order each time.
    """
    counts: Counter[str] = Counter()
    for name in calls:
        counts[name] += 1
        yield Fault(kind="fail", of=name, call=counts[name])
        if name in WRITING:
            yield Fault(kind="fail", of=name, call=counts[name], after=True)
            yield Fault(kind="tear", of=name, call=counts[name])
        if name in CARRYING:
            yield Fault(kind="corrupt", of=name, call=counts[name])


def on(world: World, plan: FaultPlan) -> World:
    """The same world on stores that do what the plan says."""
    ledger, blobs = FaultyLedger(world.ws.ledger, plan), FaultyBlobs(world.ws.blobs, plan)
    return world.using(replace(world.ws, ledger=ledger, blobs=blobs))


@pytest.fixture(autouse=True)
def _packages_are_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a small run's time goes into the list of installed packages, which stays the same."""
    monkeypatch.setattr(provenance, "_lock", functools.cache(provenance._lock))


# --------------------------------------------------------------------------------------------------------------- deeds


def recipe(world: World) -> vd.Recipe:
    return world.recipe(evaluation=vd.Evaluation("roc_auc", resamples=40), gates=[vd.AtLeast("roc_auc", 0.5)])


class Network(torch.nn.Module):
    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, wants: torch.Tensor) -> torch.Tensor:
        return self.layer(wants[:, None])[:, 0]  # type: ignore[no-any-return]


def run(world: World, **changes: Any) -> object:
    declared = msgspec.structs.replace(recipe(world), **changes) if changes else recipe(world)
    result = pipeline.run(world.ws, declared, cells=("recipe",))
    outcomes = [outcome_of(world.ws, run) for run in (result.run, result.artifact_run)]
    weights = [(outcome.weights, outcome.history, outcome.steps) for outcome in outcomes if outcome]
    return result.version, result.state, result.champion, result.metrics, weights


def run_with_checkpoints(world: World) -> object:
    """With more of them than are kept."""
    network = vd.Torch(
        network=Network, optimizer=vd.AdamW(lr=0.5), epochs=3, batch=32, checkpoints=vd.Checkpoints(every=1)
    )
    return run(world, features=("wants",), learner=network)


def run_without_refit(world: World) -> object:
    return run(world, refit=False)


def snapshot(world: World) -> object:
    return take_snapshot(world.ws, recipe(world).data).digest


def cycle(world: World) -> object:
    cycled = world.retrain(2, recipe(world))
    assert cycled.conclusion is not None
    return cycled.cycle.number, cycled.conclusion.verdict, cycled.conclusion.version


def registration(world: World) -> object:
    """By hand, as a person does who looks where things stand before each step."""
    ws = world.ws
    (done,) = list_runs(ws)
    outcome = outcome_of(ws, done.id)
    version = register(ws, model="buyers", run=done.id, artifact=outcome and outcome.artifact, report=None)
    if state_of(ws, version) is VersionState.DRAFT:
        move_state(ws, version.reference, VersionState.CANDIDATE, reason="good", actor="ann")
    if state_of(ws, version) is VersionState.CANDIDATE:
        approve(ws, version.reference, reason="good", actor="ann")
    promote(ws, version.reference, reason="good", actor="ann")
    return version.reference, [event.type for event in ws.ledger.events("version:buyers/1")]


def prediction(world: World) -> object:
    out = world.root / "scored.csv"
    out.unlink(missing_ok=True)
    try:
        return predict_file(world.ws, "buyers", world.root / "scoring.parquet", out).rows, out.read_bytes()
    except VelodromeError:
        assert not out.exists()
        raise


def loop_of_ones_own(world: World) -> object:
    """Its history is whole, whichever shipment of it failed."""
    (finished,) = list_runs(world.ws, "loop", state=RunState.FINISHED) or (None,)
    if finished is None:
        with tracked(world.ws, "loop", params={}, cells=("loop",)) as tracking:
            for step in range(1, 40):
                tracking.log(step, loss=1.0 / step)
    (finished,) = list_runs(world.ws, "loop", state=RunState.FINISHED)
    outcome = outcome_of(world.ws, finished.id)
    return outcome and (outcome.history, outcome.steps)


def collection(world: World) -> object:
    """What is left of what was there before; a collection adds an anchor, which has a time."""
    collect(world.ws)
    again = collect(world.ws)
    return before(world) & set(world.ws.blobs.list()), again.went, again.given


def backup(world: World) -> object:
    place = backups(world)
    back_up(world.ws, place, verify=True)
    return before(world) <= place.listing(check(world.ws, place).backup).keys()


def restoration(world: World) -> object:
    """With what the doctor says where a place of blobs has kept half of one."""
    restore(world.ws, backups(world))
    bring_back(world.ws, backups(world))
    return tally(world.ws.ledger), sorted(world.ws.blobs.list())


def before(world: World) -> set[Digest]:
    """The blobs that were there when the world was prepared."""
    return set(map(Digest, (world.root / "before").read_text().split()))


def backups(world: World) -> BackupPlace:
    """Those beside the world, in a place that suffers the same faults."""
    objects: Objects = FolderObjects(world.root / "backups")
    if isinstance(world.ws.blobs, FaultyBlobs):
        objects = FaultyObjects(objects, world.ws.blobs._plan)
    return BackupPlace(objects)


# -------------------------------------------------------------------------------------------------------------- verdict


def history(world: World) -> object:
    """What a deed must have left exactly once, however often it was tried."""
    versions = [(version.reference, version.state, version.aliases) for version in list_versions(world.ws)]
    moves = [(event.type, event.body["to"]) for event in world.ws.ledger.events("alias:buyers@champion")]
    return versions, moves, newest_snapshot(world.ws, "visits")


_NEVER = "the call was never made"
"""No fault of anybody's now and then: a thread ships histories, so the last commits of a training are one more or less."""


def trouble(world: World, deed: Deed, twin: object, fault: Fault) -> Iterator[str]:
    """What is not as it should be after one experiment."""
    plan = FaultPlan(fault)
    try:
        deed(on(world, plan))
    except VelodromeError as error:
        if fault.kind != "corrupt" and "on purpose" not in error.problem:
            yield f"the error does not name the cause: {error.problem}"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        yield f"{type(error).__name__} escapes: {error}"
    if plan.calls.count(fault.of) < fault.call:
        yield _NEVER
    yield from damage(world, fault)
    try:
        again = deed(world), history(world)
    except Exception as error:  # noqa: BLE001 - the same
        yield f"done again: {type(error).__name__}: {error}"
        return
    if again != twin:
        yield f"done again it came to {again}"
    yield from (f"afterwards: {problem.subject}: {problem.finding}" for problem in examine(world.ws).problems)
    if mend(world.ws):
        yield from (f"after mending: {problem.subject}: {problem.finding}" for problem in examine(world.ws).problems)


def damage(world: World, fault: Fault) -> Iterator[str]:
    """What the doctor does not say, or says too much. What it finds is mended as it says: from a backup."""
    try:
        problems = examine(world.ws).problems
    except Exception as error:  # noqa: BLE001 - the same
        yield f"the doctor: {type(error).__name__}: {error}"
        problems = ()
    spoilt = list(restored(world))
    if fault.kind in ("tear", "corrupt"):
        if len(problems) < len(spoilt):
            yield f"the doctor misses some of {spoilt}: {problems}"
    elif problems:
        yield f"the doctor: {problems}"


def restored(world: World) -> Iterator[str]:
    """Flip back the bits that a fault has flipped, and tell where; what was torn stays, as only the next put can mend it."""
    for path in world.ws.blobs.root.glob("??/*"):
        if digest_bytes(path.read_bytes()) != path.name:
            yield f"blob {path.name}"
            whole = flipped(path.read_bytes())
            if digest_bytes(whole) == path.name:
                path.chmod(0o644)
                path.write_bytes(whole)
    with closing(sqlite3.connect(world.ws.ledger.path)) as connection:
        for digest, payload in connection.execute("SELECT digest, payload FROM record").fetchall():
            if digest_bytes(payload) != digest:
                yield f"record {digest}"
                connection.execute("UPDATE record SET payload = ? WHERE digest = ?", (flipped(payload), digest))
        yield from _blocks_restored(connection)
        for subject, seq, body in connection.execute("SELECT subject, seq, body FROM event").fetchall():
            if not _reads(world, subject):
                connection.execute(
                    "UPDATE event SET body = ? WHERE subject = ? AND seq = ?", (flipped(body), subject, seq)
                )
                connection.commit()
                if _reads(world, subject):
                    yield f"event {seq} of {subject}"
                else:
                    connection.execute("UPDATE event SET body = ? WHERE subject = ? AND seq = ?", (body, subject, seq))
        connection.commit()


def _blocks_restored(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute("SELECT * FROM series_block").fetchall():
        if block_problems([Block(*row)]):
            yield f"block {row[:4]}"
            where = "run = ? AND series = ? AND attempt = ? AND first_step = ?"
            connection.execute(f"UPDATE series_block SET data = ? WHERE {where}", (flipped(row[-1]), *row[:4]))


def _reads(world: World, subject: str) -> bool:
    try:
        verify_chain(subject, world.ws.ledger.events(subject))
    except Exception:  # noqa: BLE001 - whatever a flipped bit makes of JSON
        return False
    return True


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


# ---------------------------------------------------------------------------------------------------------------- tests


class Bench:
    """Copies of one prepared world."""

    def __init__(self, folder: Path, prepare: Deed) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        model = World(folder / "0", CONFIG)
        model.deliver(1, rows=120)
        prepare(model)
        (model.root / "before").write_text("\n".join(model.ws.blobs.list()))
        model.ws.close()

    @contextmanager
    def world(self) -> Iterator[World]:
        root = shutil.copytree(self._folder / "0", self._folder / str(next(self._numbers)))
        made = World(root, CONFIG)
        with made.ws:
            yield made
        shutil.rmtree(root)

    def harm(self, deed: Deed, *, every: int) -> list[str]:
        """Make each `every`-th experiment on a deed; what went wrong."""
        plan = FaultPlan()
        with self.world() as world:
            twin = deed(on(world, plan)), history(world)
        found, never = [], 0
        faults = list(itertools.islice(experiments(plan.calls), 0, None, every))
        for fault in faults:
            with self.world() as world:
                problems = list(trouble(world, deed, twin, fault))
            found += [f"{_shown(fault)}: {problem}" for problem in problems if problem != _NEVER]
            never += _NEVER in problems
        if never > len(faults) / 10:
            found.append(f"in {never} of {len(faults)} experiments {_NEVER}")
        return found


def _shown(fault: Fault) -> str:
    return f"{fault.kind}{' after' if fault.after else ''} {fault.of} {fault.call}"


def each(n: int, quick: int | None = None) -> pytest.MarkDecorator:
    """Each n-th experiment, and few of them for the quick tests if these are; FAULTS_EVERY=1 in the environment makes all."""
    n = min(n, int(os.environ.get("FAULTS_EVERY", n)))
    return pytest.mark.parametrize("every", [pytest.param(n, marks=pytest.mark.slow), *([quick] if quick else [])])


@each(1, 11)
def test_a_snapshot(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, nothing).harm(snapshot, every=every)


@each(17)
def test_a_run_with_checkpoints(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, nothing).harm(run_with_checkpoints, every=every)


@each(1)
def test_a_run(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, nothing).harm(run_without_refit, every=every)


@each(23)
def test_a_cycle(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, changed).harm(cycle, every=every)


@each(1, 13)
def test_registering_and_promoting(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, trained).harm(registration, every=every)


@each(1, 13)
def test_prediction(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, champion).harm(prediction, every=every)


@each(2, 13)
def test_a_loop_of_ones_own(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, nothing).harm(loop_of_ones_own, every=every)


@each(7)
def test_a_collection(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, littered).harm(collection, every=every)


@each(11)
def test_a_backup(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, champion).harm(backup, every=every)


@each(11)
def test_a_restoration(tmp_path: Path, every: int) -> None:
    assert not Bench(tmp_path, backed_up).harm(restoration, every=every)


def nothing(world: World) -> None:
    pass


def littered(world: World) -> None:
    """A champion, snapshots that a rule gives up, and blobs that nothing names."""
    champion(world)
    for rows in (30, 40):
        world.deliver(3, rows=rows)
        snapshot(world)
    for number in range(3):
        world.ws.blobs.put(f"left by a killed process {number}".encode())


def backed_up(world: World) -> None:
    """An empty world, beside a backup of another one."""
    other = World(world.root / "other")
    with other.ws:
        other.deliver(1, rows=120)
        champion(other)
        back_up(other.ws, BackupPlace(FolderObjects(world.root / "backups")))


def trained(world: World) -> None:
    train(world.ws, declare(world.ws, recipe(world), world.source, 0))


def champion(world: World) -> None:
    run(world)
    world.deliver(2, rows=50, name="scoring")


def changed(world: World) -> None:
    """A champion, and a month on which it is wrong."""
    run(world)
    world.deliver(2, rows=300, slope=-3.0)
