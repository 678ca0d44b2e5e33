import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from world import World

import velodrome as vd
from velodrome.control.checkup import examine
from velodrome.control.collecting import Collected, Share, collect
from velodrome.control.needed import survey
from velodrome.control.retiring import plan, retire
from velodrome.core.clock import ManualClock
from velodrome.core.config import Config, Limits, Retention
from velodrome.core.digest import Digest, decode, digest_json
from velodrome.core.errors import Conflict, Gone, IntegrityError, MissingBlob, StateError
from velodrome.data.fields import Field
from velodrome.data.layout import materialise
from velodrome.data.snapshots import Taken, find_snapshot, quarantine, scan, take_snapshot
from velodrome.registry.anchors import Anchor
from velodrome.registry.comparison import compare
from velodrome.registry.environment import describe_environment
from velodrome.registry.provenance import collect_provenance
from velodrome.registry.runs import (
    Outcome,
    Run,
    RunState,
    begin_attempt,
    code_of,
    fail,
    find_by_key,
    finish,
    show_run,
    start,
)
from velodrome.registry.series import history_digest, series_names
from velodrome.registry.series_writer import SeriesWriter
from velodrome.registry.versions import Version, VersionState, approve, move_state, promote, register, reject, state_of
from velodrome.serving.batch import load_model
from velodrome.store.ledger import Put, digest_record
from velodrome.store.locks import hold
from velodrome.store.trees import put_tree, read_tree
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.checkpoints import Checkpointer, checkpoints_of

pytestmark = pytest.mark.slow  # together more than two seconds

EVERYTHING = Retention(runs=Limits(count=0), snapshots=Limits(count=0), checkpoints=Limits(count=0))
WORD = {"reason": "I know better", "actor": "ann"}


class Place:
    """A workspace in which things are made that look as if somebody had trained."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ws = open_folder(root, Config(gc_grace="0s", retention=EVERYTHING))
        self.number = 0
        self.environment = describe_environment((), device="cpu", capability="", threads=1)
        self.provenance = collect_provenance(self.ws, root)
        self.ws.commit(Put(self.environment), Put(self.provenance))

    def ruled(self, **rules: Limits) -> Workspace:
        return replace(self.ws, config=Config(gc_grace="0s", retention=Retention(**rules)))

    def snapshot(self, rows: int = 3, name: str = "data") -> Taken:
        pl.DataFrame({"key": range(rows), "value": [1.0] * rows}).write_csv(self.root / f"{name}.csv")
        contract = vd.Contract([vd.Between("value", 0, 2)])
        return take_snapshot(self.ws, vd.Dataset(name, source=vd.Files(f"{name}.csv"), contract=contract))

    def begun(self, *, snapshot: Digest | None = None, judge: str | None = None, name: str = "recipe") -> Run:
        self.number += 1
        run = Run(
            id=self.ws.new_id(),
            name=name,
            key=digest_json([str(self.root), self.number]),
            type="refit" if judge else "train",
            snapshot=snapshot,
            code=put_tree(self.ws.blobs, {"recipe.py": b"%d" % self.number}),
            environment=digest_record(self.environment),
            provenance=digest_record(self.provenance),
            recipe={},
            seed=0,
            judge=judge,
        )
        return start(self.ws, run)

    def failed(self, **facts: Any) -> Run:
        run = self.begun(**facts)
        begin_attempt(self.ws, run.id)
        fail(self.ws, run.id, "Error", "it did")
        return run

    def finished(self, checkpoints: int = 2, **facts: Any) -> Run:
        run = self.begun(**facts)
        self.finish(run, checkpoints)
        return run

    def finish(self, run: Run, checkpoints: int = 2) -> None:
        attempt = begin_attempt(self.ws, run.id)
        checkpointer = Checkpointer(self.ws, run.id, attempt, flush=list)
        for step in range(checkpoints):
            checkpointer.save(step, state(f"{run.id} {step}"))
        checkpointer.close()
        with SeriesWriter(self.ws, run.id, attempt) as writer:
            writer.log(1, loss=0.5)
        history = history_digest(self.ws, run.id)
        outcome = Outcome(
            run=run.id, artifact=self.artifact(run), steps=1, planned_steps=1, seconds=1.0, history=history
        )
        finish(self.ws, run.id, outcome)

    def artifact(self, run: Run) -> Digest:
        return put_tree(self.ws.blobs, {"weights": f"weights of {run.id}".encode(), "notes": b"shared by all"})

    def version(self, run: Run, *states: VersionState) -> Version:
        version = register(self.ws, model="model", run=run.id, artifact=self.artifact(run), report=None)
        for state in states:
            move_state(self.ws, version.reference, state, **WORD)
        return version

    def blobs(self) -> set[str]:
        """Those that are there, but for the anchors' lists."""
        anchors = [decode(stored.payload, Anchor) for stored in self.ws.ledger.records(Anchor.kind())]
        return set(self.ws.blobs.list()) - {
            one for anchor in anchors for lists in anchor.lists.values() for one in lists
        }


def state(text: str) -> Callable[[], Callable[[], bytes]]:
    """What a checkpointer saves."""
    return lambda: text.encode


def given(collected: Collected) -> list[tuple[str, str]]:
    return [(each.kind, each.node.removeprefix("run:")) for each in collected.given]


def healthy(ws: Workspace) -> bool:
    """Nothing is wrong, also after a collection, and nothing is left to do by another."""
    problems = [*examine(ws).problems]
    collect(ws)
    again = collect(ws)
    return ([*problems, *examine(ws).problems], again.given, again.went, again.leftovers) == ([], (), Share(0, 0), 0)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    with made.ws:
        yield made


# ----------------------------------------------------------------------------------------------------------- what stays


def test_without_rules_only_what_nothing_names_goes(place: Place) -> None:
    ws = place.ruled()
    place.version(place.finished(snapshot=place.snapshot().digest), VersionState.REJECTED)
    before, lost = place.blobs(), place.ws.blobs.put(b"lost")
    collected = collect(ws)
    assert (collected.given, collected.went, collected.waiting) == ((), Share(1, lost.size), Share(0, 0))
    assert place.blobs() == before
    assert healthy(ws)


@pytest.mark.parametrize(
    "states",
    [
        [],
        [VersionState.CANDIDATE],
        [VersionState.CANDIDATE, VersionState.APPROVED],
    ],
    ids=len,
)
def test_what_may_still_be_promoted_stays(place: Place, states: list[VersionState]) -> None:
    judge = place.finished(snapshot=place.snapshot(3).digest)
    place.version(place.finished(snapshot=judge.snapshot, judge=judge.id), *states)
    place.snapshot(4)
    before = place.blobs()
    assert collect(place.ws).given == ()
    assert place.blobs() == before


def test_what_stood_behind_an_alias_stays_when_it_is_put_away(place: Place) -> None:
    champion = place.version(place.finished(), VersionState.CANDIDATE, VersionState.APPROVED)
    promote(place.ws, champion.reference, **WORD)
    following = place.version(place.finished(), VersionState.CANDIDATE, VersionState.APPROVED)
    promote(place.ws, following.reference, **WORD)
    move_state(place.ws, champion.reference, VersionState.ARCHIVED, **WORD)
    before = place.blobs()
    assert collect(place.ws).given == ()
    assert place.blobs() == before


def test_a_run_that_was_killed_keeps_what_it_needs_to_go_on(place: Place) -> None:
    run = place.begun(snapshot=place.snapshot(3).digest)
    begin_attempt(place.ws, run.id)
    place.snapshot(4)
    assert collect(place.ws).given == ()
    place.finish(run)


def test_the_newest_snapshot_of_each_dataset_stays(place: Place) -> None:
    old, new, other = place.snapshot(3), place.snapshot(4), place.snapshot(3, "other")
    assert given(collect(place.ws)) == [("snapshot", old.digest)]
    assert scan(place.ws, new.snapshot).collect().height == 4
    assert scan(place.ws, other.snapshot).collect().height == 3
    assert healthy(place.ws)


def test_a_judge_stays_as_long_as_its_refit(place: Place) -> None:
    judge = place.finished()
    refit = place.finished(judge=judge.id)
    assert collect(place.ruled(runs=Limits(count=1))).given == ()
    assert given(collect(place.ws)) == [("run", judge.id), ("run", refit.id)]


# ------------------------------------------------------------------------------------------------------------ what goes


def test_a_run_goes_with_all_that_only_it_has(place: Place) -> None:
    run = place.finished()
    version = place.version(run, VersionState.REJECTED)
    collected = collect(place.ruled(runs=Limits(age="0s")))
    assert given(collected) == [("run", run.id)]
    assert place.blobs() == set()
    assert series_names(place.ws, run.id) == ()
    assert show_run(place.ws, run.id).state is RunState.COLLECTED
    assert state_of(place.ws, version) is VersionState.ARCHIVED
    assert find_by_key(place.ws, run.key) is None
    assert code_of(place.ws, run) == {}
    for subject in (f"run:{run.id}", f"version:{version.reference}", f"key:{run.key}"):
        event = place.ws.ledger.events(subject)[-1]
        assert (event.actor, event.body["reason"]) == ("policy:retention", 'retention.runs.age = "0s"')
    assert healthy(place.ws)


def test_whoever_wants_what_was_collected_is_told_when_and_by_which_rule(place: Place) -> None:
    old = place.snapshot(3)
    new = place.snapshot(4)
    run, stays = place.failed(snapshot=old.digest), place.finished()
    finished = place.finished(snapshot=old.digest)
    version = place.version(finished, VersionState.REJECTED)
    unregistered = place.finished()
    collect(place.ruled(runs=Limits(age="0s"), snapshots=Limits(count=1)))
    attempts: list[Callable[[], object]] = [
        lambda: load_model(place.ws, version.reference),
        lambda: begin_attempt(place.ws, run.id),
        lambda: register(place.ws, model="m", run=unregistered.id, artifact=place.artifact(unregistered), report=None),
        lambda: place.begun(judge=finished.id),
        lambda: place.begun(snapshot=old.digest),
        lambda: scan(place.ws, old.snapshot),
        lambda: quarantine(place.ws, old.snapshot),
    ]
    for attempt in attempts:
        with pytest.raises(Gone, match=r"was collected on 20\d\d-\d\d-\d\d") as caught:
            attempt()
        assert str(caught.value.received).startswith("by the rule retention.")
    assert find_snapshot(place.ws, old.digest[:12]) == old.snapshot
    assert compare(place.ws, [run.id, stays.id]).runs == (run.id, stays.id)
    assert new.snapshot.rows == 4


def test_a_rejected_version_comes_back_only_with_all_that_it_rests_on(place: Place) -> None:
    old = place.snapshot(3)
    version = place.version(place.finished(snapshot=old.digest), VersionState.REJECTED)
    place.snapshot(4)
    collect(place.ruled(snapshots=Limits(count=1)))
    with pytest.raises(Gone, match="the snapshot"):
        move_state(place.ws, version.reference, VersionState.CANDIDATE, **WORD)
    assert place.snapshot(3).digest == old.digest
    move_state(place.ws, version.reference, VersionState.CANDIDATE, **WORD)


def test_a_collected_snapshot_that_is_taken_again_is_back(place: Place) -> None:
    old = place.snapshot(3)
    rows = scan(place.ws, old.snapshot).collect()
    place.snapshot(4)
    assert given(collect(place.ws)) == [("snapshot", old.digest)]
    again = place.snapshot(3)
    assert (again.digest, again.new_fragments) == (old.digest, 1)
    assert scan(place.ws, again.snapshot).collect().equals(rows)
    assert healthy(place.ws)


def test_checkpoints_go_by_their_own_rule_but_not_those_of_a_version(place: Place) -> None:
    run, kept = place.finished(checkpoints=3), place.finished(checkpoints=3)
    place.version(kept)
    collected = collect(place.ruled(checkpoints=Limits(count=1)))
    assert [each.kind for each in collected.given] == ["checkpoint", "checkpoint"]
    assert [checkpoint.step for checkpoint in checkpoints_of(place.ws, run.id)] == [2]
    assert [checkpoint.step for checkpoint in checkpoints_of(place.ws, kept.id)] == [0, 1, 2]
    assert place.ws.ledger.events(f"checkpoints:{run.id}")[-1].body["reason"] == "retention.checkpoints.count = 1"
    assert healthy(place.ws)


def test_size_counts_what_runs_share_once(place: Place) -> None:
    runs = [place.finished(checkpoints=0) for _ in range(3)]
    sizes = {entry.digest: entry.size for entry in place.ws.blobs.entries()}
    notes = len(b"shared by all")
    one = sum(sizes[leaf.digest] for leaf in read_tree(place.ws.blobs, place.artifact(runs[0])).values()) - notes
    own = one + sizes[place.artifact(runs[0])] + sizes[runs[0].code] + 1
    shared = notes + sizes[place.provenance.lock]
    exact = collect(place.ruled(runs=Limits(size=f"{2 * own + shared}B")), dry_run=True)
    assert given(exact) == [("run", runs[0].id)]
    less = collect(place.ruled(runs=Limits(size=f"{2 * own + shared - 1}B")), dry_run=True)
    assert given(less) == [("run", runs[0].id), ("run", runs[1].id)]


def test_layouts_go_with_their_snapshot(place: Place) -> None:
    old = place.snapshot(3)
    new = place.snapshot(4)
    rows = ({"x": np.zeros(2, np.float32)}, np.zeros(2))
    for number, snapshot in enumerate((old.digest, new.digest, "")):
        materialise(place.ws, digest_json(number), [Field("x", "float32")], lambda: rows, snapshot)
    collected = collect(place.ws)
    left = {path.name for path in (place.ws.cache / "layouts").iterdir()}
    assert (left, collected.leftovers) == ({digest_json(1), digest_json(2)}, 1)


def test_what_killed_processes_left_goes(place: Place) -> None:
    collect(place.ws)
    long_ago = (place.ws.clock.now() - timedelta(days=1)).timestamp()
    for name in ("store", "cache", "cache/layouts", "holds", "blobs/incoming"):
        folder = place.ws.store / name if name != "store" else place.ws.store
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".dead").write_text("x")
        os.utime(folder / ".dead", (long_ago, long_ago))
        (folder / ".alive").write_text("x")
    (place.ws.holds / place.ws.new_id()).touch()
    assert collect(place.ws, dry_run=True).leftovers == 5
    assert collect(place.ws).leftovers == 6
    assert len([*place.ws.store.rglob(".alive")]) == 5
    assert [*place.ws.store.rglob(".dead"), *place.ws.holds.glob("[!.]*")] == []


# ----------------------------------------------------------------------------------------------------------- what waits


def later(ws: Workspace, hours: float, grace: str = "1h") -> Workspace:
    """The same so many hours later, and with a grace."""
    clock = ManualClock(ws.clock.now() + timedelta(hours=hours))
    return replace(ws, clock=clock, config=msgspec.structs.replace(ws.config, gc_grace=grace))


def replaced(config: Config, **rules: Limits) -> Config:
    return msgspec.structs.replace(config, retention=Retention(**rules))


def age(ws: Workspace, hours: float) -> None:
    """Let all blobs be put so many hours earlier."""
    for path in (ws.store / "blobs").glob("??/*"):
        moment = path.stat().st_mtime - hours * 3600
        os.utime(path, (moment, moment))


def test_for_a_while_nothing_goes_at_all(place: Place) -> None:
    """First the run is too young; then its bytes could be found too lately; then they may have been put too lately."""
    run, lost = place.finished(checkpoints=0), place.ws.blobs.put(b"lost")
    before = place.blobs()
    assert collect(later(place.ws, 0.5)).given == ()
    assert given(collect(later(place.ws, 2))) == [("run", run.id)]
    age(place.ws, 2)
    collected = collect(later(place.ws, 2.5))
    assert (collected.went, collected.waiting.blobs) == (Share(1, lost.size), len(before) - 1)
    place.ws.blobs.keep(run.code)
    collected = collect(later(place.ws, 4))
    assert (collected.went.blobs, collected.waiting.blobs) == (len(before) - 2, 1)
    assert collect(later(place.ws, 4)).went.blobs == 0


def test_what_a_run_rested_on_that_has_just_ended_stays_for_a_while(place: Place) -> None:
    """Somebody on another machine may be judging it."""
    old = place.snapshot(3)
    run = place.begun(snapshot=old.digest)
    place.snapshot(4)
    place.ws = later(place.ws, 2)
    place.finish(run, checkpoints=0)
    soon = later(place.ws, 0.5)
    assert collect(replace(soon, config=replaced(soon.config, snapshots=Limits(count=0)))).given == ()
    late = later(place.ws, 2)
    assert given(collect(replace(late, config=replaced(late.config, snapshots=Limits(count=0))))) == [
        ("snapshot", old.digest)
    ]


def test_a_run_is_as_young_as_the_last_decision_about_it(place: Place) -> None:
    run = place.finished(checkpoints=0)
    place.ws = later(place.ws, 2)
    place.version(run, VersionState.REJECTED)
    assert collect(later(place.ws, 0.5)).given == ()
    assert given(collect(later(place.ws, 2))) == [("run", run.id)]


def test_who_holds_keeps_what_was_there_when_the_hold_began(place: Place) -> None:
    young = place.ws.blobs.put(b"young")
    run = place.finished()
    place.ws.clock.sleep(0.002)  # the beginning of a hold is cut to the millisecond
    with place.ws.writing():
        held, failed = place.ws.blobs.put(b"held"), place.failed()
        collected = collect(place.ws)
        assert given(collected) == [("run", run.id)]
        assert young.digest not in place.blobs()
        assert place.ws.blobs.has(held.digest)
        assert place.ws.blobs.has(run.code)
        assert collected.waiting.blobs > 0
    assert given(collect(place.ws)) == [("run", failed.id)]
    assert not place.ws.blobs.has(held.digest)
    assert not place.ws.blobs.has(run.code)


def test_a_dry_run_changes_nothing_and_tells_what_would_go(place: Place) -> None:
    place.version(place.finished(), VersionState.REJECTED)
    old = place.snapshot(3)
    place.snapshot(4)
    tables, files = list(place.ws.ledger.dump()), {path: path.stat().st_mtime_ns for path in place.ws.store.rglob("*")}
    would = collect(place.ws, dry_run=True)
    assert list(place.ws.ledger.dump()) == tables
    changed = {path for path in place.ws.store.rglob("*") if files.get(path) != path.stat().st_mtime_ns}
    assert {path.name for path in changed} <= {
        "locks",
        "collection.lock",
        "ledger.db-shm",
        "ledger.db-wal",
        ".velodrome",
    }
    did = collect(place.ws)
    assert msgspec.structs.replace(would, dry_run=False) == did
    assert (("snapshot", old.digest) in given(did), did.went.blobs > 0) == (True, True)


def test_a_person_is_told_in_words(place: Place) -> None:
    place.finished()
    place.finished()
    lines = dict(collect(place.ws).lines())
    assert lines["runs"] == "2, by retention.runs.count = 0"
    assert str(lines["blobs"]).endswith("B")


def test_the_loop_goes_on_as_if_nothing_had_been_collected(tmp_path: Path) -> None:
    """Month after month, with everything that may go gone in between, and a twin from whom nothing ever goes."""
    config = Config(gc_grace="0s", retention=EVERYTHING)
    worlds = [World(tmp_path / "collected", config), World(tmp_path / "twin")]
    endings = []
    for world in worlds:
        with world.ws:
            ends = []
            for month, slope in ((1, 3.0), (2, -3.0), (3, 3.0), (4, 3.0)):
                world.deliver(month, slope=slope, rows=200)
                cycled = world.retrain(month, asked=True)
                assert cycled.conclusion is not None
                ends.append((cycled.conclusion.verdict, cycled.conclusion.challenger, cycled.cycle.evidence.rows))
                if world is worlds[0]:
                    assert collect(world.ws).given or month == 1
                    assert examine(world.ws).problems == ()
            endings.append(ends)
    assert endings[0] == endings[1]
    assert {verdict for verdict, *_ in endings[0]} == {"promoted", "refused"}


# ---------------------------------------------------------------------------------------------------------------- races


@contextmanager
def executing(place: Place, run: Run) -> Iterator[None]:
    with hold(place.ws.lock(f"run-{run.key}"), "somebody"):
        yield


def test_a_run_whose_lock_is_held_stays_and_is_told(place: Place) -> None:
    judge = place.finished(checkpoints=1)
    refit = place.finished(checkpoints=1, judge=judge.id)
    with executing(place, judge):
        collected = collect(place.ws)
    assert (given(collected), [each.node for each in collected.held]) == ([], [f"run:{judge.id}", f"run:{refit.id}"])
    assert dict(collected.lines())["in use"].startswith("run ")


class Race:
    """Things of each sort, and what somebody does with them while a collection has planned to give them up."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.old = place.snapshot(3)
        self.version = place.version(place.finished(snapshot=self.old.digest), VersionState.REJECTED)
        self.unregistered = place.finished()
        self.failed = place.failed()
        self.refit = place.failed(judge=place.finished().id)
        place.snapshot(4)

    def judged_again(self) -> str:
        move_state(self.place.ws, self.version.reference, VersionState.CANDIDATE, **WORD)
        approve(self.place.ws, self.version.reference, **WORD)
        promote(self.place.ws, self.version.reference, **WORD)
        return f"run:{self.version.run}"

    def registered(self) -> str:
        self.place.version(self.unregistered)
        return f"run:{self.unregistered.id}"

    def resumed(self) -> str:
        self.place.finish(self.failed, checkpoints=0)
        return f"run:{self.failed.id}"

    def failed_again(self) -> str:
        begin_attempt(self.place.ws, self.failed.id)
        fail(self.place.ws, self.failed.id, "Error", "again")
        return f"run:{self.failed.id}"

    def refit_resumed(self) -> str:
        begin_attempt(self.place.ws, self.refit.id)
        fail(self.place.ws, self.refit.id, "Error", "again")
        return f"run:{self.refit.judge}"

    def taken_again(self) -> str:
        self.place.snapshot(3)
        return self.old.digest


@pytest.mark.parametrize(
    "deed", ["judged_again", "registered", "resumed", "failed_again", "refit_resumed", "taken_again"]
)
def test_who_comes_before_the_collector_keeps_the_thing(place: Place, deed: str) -> None:
    race = Race(place)
    standing = survey(place.ws.ledger)
    wanted = plan(place.ws, standing, place.ws.clock.now())
    node = getattr(race, deed)()
    given_up = {each.node for each in retire(place.ws, standing, wanted)}
    assert node in {each.node for each in wanted} - given_up
    assert healthy(place.ruled())


@pytest.mark.parametrize("deed", ["judged_again", "registered", "resumed", "failed_again", "refit_resumed"])
def test_who_comes_after_the_collector_is_refused(place: Place, deed: str) -> None:
    race = Race(place)
    collect(place.ws)
    with pytest.raises(Gone) if deed != "judged_again" else pytest.raises((Gone, StateError)):
        getattr(race, deed)()
    assert healthy(place.ws)


def test_a_snapshot_that_somebody_began_to_train_on_stands_again(place: Place) -> None:
    """The run is recorded after the plan and before the snapshot is recorded as collected."""
    old = place.snapshot(3)
    place.snapshot(4)
    standing = survey(place.ws.ledger)
    wanted = plan(place.ws, standing, place.ws.clock.now())
    run = place.begun(snapshot=old.digest)
    assert [each.node for each in retire(place.ws, standing, wanted)] == [old.digest]
    before = place.blobs()
    assert collect(place.ws).given == ()
    assert place.blobs() == before
    begin_attempt(place.ws, run.id)
    assert scan(place.ws, old.snapshot).collect().height == 3


def test_a_judge_that_was_collected_while_its_refit_began_keeps_its_bytes(place: Place) -> None:
    judge = place.finished()
    standing = survey(place.ws.ledger)
    wanted = plan(place.ws, standing, place.ws.clock.now())
    refit = place.begun(judge=judge.id)
    assert len(list(retire(place.ws, standing, wanted))) == len(wanted)
    before = place.blobs()
    collect(place.ws)
    assert place.blobs() == before
    with pytest.raises(Gone, match=f"the run {judge.id}"):
        begin_attempt(place.ws, refit.id)
    assert examine(place.ws).problems == ()


def test_one_collection_at_a_time(place: Place) -> None:
    with hold(place.ws.lock("collection"), "another"), pytest.raises(Conflict, match="being collected") as caught:
        collect(place.ws)
    assert caught.value.received == "another"


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_ledger_without_a_record_collects_nothing_of_anothers(place: Place, tmp_path: Path) -> None:
    place.finished()
    before = place.blobs()
    other = tmp_path / "other"
    other.mkdir()
    with open_folder(other, Config(blobs=str(place.ws.store / "blobs"), gc_grace="0s")) as ws:
        ws = replace(ws, clock=ManualClock(datetime.now(UTC) + timedelta(days=2)))  # noqa: PLW2901
        for dry_run in (True, False):
            with pytest.raises(StateError, match="no record at all"):
                collect(ws, dry_run=dry_run)
    assert place.blobs() == before


def test_nothing_is_collected_from_a_damaged_ledger(place: Place) -> None:
    place.finished()
    before = set(place.ws.blobs.list())
    with closing(sqlite3.connect(place.ws.store / "ledger.db")) as connection:
        connection.execute("UPDATE record SET payload = replace(payload, 'recipe', 'receip') WHERE kind = 'run'")
        connection.commit()
    with pytest.raises(IntegrityError, match="was changed after it was written"):
        collect(place.ws)
    assert set(place.ws.blobs.list()) == before


def test_nothing_is_collected_while_a_tree_that_is_needed_is_missing(place: Place) -> None:
    run = place.finished()
    place.version(run)
    lost = place.ws.blobs.put(b"lost")
    place.ws.blobs.delete(place.artifact(run))
    (place.ws.store / "blobs" / "x").parent.mkdir(exist_ok=True)
    place.ws.blobs.delete(run.code)
    with pytest.raises(MissingBlob):
        collect(place.ws)
    assert place.ws.blobs.has(lost.digest)


# ---------------------------------------------------------------------------------------------------------------- kills


class Stopped(BaseException):
    """Nothing that collects may catch this."""


class Stopping:
    """Lets so many calls that change something pass, and stops before, or after, the next."""

    def __init__(self, inner: Any, left: list[int], *, after: bool) -> None:
        self._inner, self._left, self._after = inner, left, after

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)
        return self._counted(act) if name in ("commit", "put", "delete", "collect", "sweep") else act

    def _counted(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self._left[0] == 0 and not self._after:
                raise Stopped
            result = act(*arguments, **options)
            self._left[0] -= 1
            if self._left[0] < 0:
                raise Stopped
            return result

        return counted


def prepared(root: Path) -> None:
    """A workspace in which everything is there that may go."""
    place = Place(root)
    with place.ws:
        champion = place.version(
            place.finished(snapshot=place.snapshot(2).digest), VersionState.CANDIDATE, VersionState.APPROVED
        )
        promote(place.ws, champion.reference, **WORD)
        judge = place.finished(snapshot=place.snapshot(3).digest)
        reject(place.ws, place.version(place.finished(judge=judge.id)).reference, **WORD)
        place.failed()
        place.version(place.finished(checkpoints=3))
        place.snapshot(4)
        place.ws.blobs.put(b"lost")


def story(ws: Workspace) -> tuple[Any, ...]:
    """What a collection leaves, but for its anchors."""
    with ws:
        pointers = {pointer.subject: pointer.value for pointer in ws.ledger.pointers("") if pointer.subject != "audit"}
        anchors = [decode(stored.payload, Anchor) for stored in ws.ledger.records(Anchor.kind())]
        lists = {digest for anchor in anchors for each in anchor.lists.values() for digest in each}
        blocks = {
            subject: ws.ledger.blocks(subject.removeprefix("run:"))
            for subject in pointers
            if subject.startswith("run:")
        }
        ended = [
            (event.type, event.body)
            for subject in ws.ledger.subjects("checkpoints:")
            for event in ws.ledger.events(subject)
        ]
        return pointers, set(ws.blobs.list()) - lists, blocks, ended


@pytest.mark.parametrize("after", [False, True])
def test_a_collection_that_is_stopped_anywhere_is_finished_by_the_next(tmp_path: Path, after: bool) -> None:
    config = Config(gc_grace="0s", retention=EVERYTHING)
    prepared(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "twin")
    with open_folder(tmp_path / "twin", config) as ws:
        whole = collect(ws)
        assert (len(whole.given), whole.went.blobs > 10) == (4, True)
        twin = story(ws)
    for moment in range(1000):
        shutil.copytree(tmp_path / "first", tmp_path / "other")
        with open_folder(tmp_path / "other", config) as ws:
            left = [moment]
            stopping = replace(
                ws, ledger=Stopping(ws.ledger, left, after=after), blobs=Stopping(ws.blobs, left, after=after)
            )
            try:
                collect(stopping)
                break
            except Stopped:
                assert examine(ws).problems == (), moment
            collect(ws)
            assert healthy(ws), moment
            assert story(ws) == twin, moment
        shutil.rmtree(tmp_path / "other")
    assert moment > 20
