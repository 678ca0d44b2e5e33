"""Whatever a version rests on that ever stood behind an alias stays, whatever happens around it and whatever the rules say.

What it rests on is told by the tests themselves, from what they have put, not by what the ledger leads to.
"""

import itertools
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import velodrome as vd
from velodrome.control import collecting, needed
from velodrome.control.checkup import examine
from velodrome.control.collecting import collect
from velodrome.core.config import Config, Limits, Retention
from velodrome.core.digest import Digest, decode, digest_json
from velodrome.core.errors import VelodromeError
from velodrome.core.values import Record
from velodrome.data.profile import Profile
from velodrome.data.snapshots import Taken, fragments_of, newest_snapshot, scan, take_snapshot
from velodrome.models.manifest import Manifest
from velodrome.registry.anchors import Anchor
from velodrome.registry.environment import describe_environment
from velodrome.registry.provenance import Hardware, Provenance, Repository
from velodrome.registry.runs import Outcome, Run, RunState, begin_attempt, fail, finish, show_run, start
from velodrome.registry.series import history_digest
from velodrome.registry.versions import Version, VersionState, move_state, promote, register, rollback
from velodrome.store.ledger import Put, digest_record, read_record
from velodrome.store.tombstones import tombstone
from velodrome.store.trees import put_tree, read_tree
from velodrome.store.workspace import Workspace, open_folder
from velodrome.testing.ledger import Sample
from velodrome.training.checkpoints import Checkpoint, Checkpointer, checkpoints_of

T = TypeVar("T")

CONFIG = Config(gc_grace="0s", keep_checkpoints=2)


WORD = {"reason": "I know better", "actor": "ann"}
ENDS = (RunState.CREATED, RunState.RUNNING, RunState.FAILED, RunState.FINISHED, RunState.FINISHED)
DEEDS: dict[str, Callable[[Workspace, str], object]] = {
    "consider": lambda ws, of: move_state(ws, of, VersionState.CANDIDATE, **WORD),
    "approve": lambda ws, of: move_state(ws, of, VersionState.APPROVED, **WORD),
    "reject": lambda ws, of: move_state(ws, of, VersionState.REJECTED, **WORD),
    "archive": lambda ws, of: move_state(ws, of, VersionState.ARCHIVED, **WORD),
    "promote": lambda ws, of: promote(ws, of, **WORD),
    "promote as other": lambda ws, of: promote(ws, of, alias="other", **WORD),
    "roll back": lambda ws, of: rollback(ws, "model", **WORD),
}
FATES = (
    (),
    ("consider",),
    ("reject",),
    ("consider", "approve"),
    ("consider", "approve", "promote"),
    ("consider", "approve", "promote", "roll back", "archive"),
    ("consider", "approve", "promote as other"),
)


def test_every_kind_of_record_is_known() -> None:
    assert collecting  # which imports all that there is
    kinds = {cls.kind() for cls in _records(Record) if cls.__module__.startswith("velodrome.")}
    assert needed.KINDS.trees.keys() == kinds - {Manifest.kind(), Sample.kind()}  # a file, and the suite's own
    assert needed.KINDS.parts < needed.KINDS.trees.keys()


def _records(cls: type[Record]) -> set[type[Record]]:
    return {cls}.difference([Record]).union(*(_records(sub) for sub in cls.__subclasses__()))


class Loops:
    """Whoever may: takes snapshots, trains, registers, promotes, collects, in any order.

    What the present state does not allow is refused by name, and nothing comes of it.
    """

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng = root, rng
        self.ws = open_folder(root, CONFIG)
        self.numbers = itertools.count(1)
        self.taken: list[Taken] = []
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Digest] = {}
        self.versions: list[Version] = []
        self.rests: dict[str, set[str]] = {}  # snapshot or run → the blobs that it rests on by itself
        self.stood: dict[str, set[str]] = {}  # version that stood behind an alias → all blobs that it rested on then

        environment = describe_environment((), device="cpu", capability="", threads=1)
        self.ws.commit(Put(environment))
        self.environment = digest_record(environment)

    def go_round(self, times: int) -> None:
        """Do something at random, so many times, and in the end give up all that may be given up."""
        deeds = {self.snapshot: 3, self.run: 10, self.resume: 2, self.decide: 5, self.collect: 3}
        for _ in range(times):
            self.rng.choices(list(deeds), list(deeds.values()))[0]()
        self.collect(Retention(runs=Limits(count=0), snapshots=Limits(count=0), checkpoints=Limits(count=0)))

    # ---------------------------------------------------------------------------------------------------------- deeds

    def snapshot(self) -> None:
        name, most = self.rng.choice("xy"), self.rng.choice([2, 3])
        files = self.rng.sample([1, 2, 3], self.rng.randint(1, 3))
        for file in files:
            frame = pl.DataFrame({"key": [file, file, 9], "value": [file * 1.0, 2.0, 3.0]})
            frame.write_csv(self.root / f"{file}.csv")
        contract = vd.Contract([vd.Between("value", 0, most), vd.Unique("key")])
        taken = take_snapshot(
            self.ws, vd.Dataset(name, source=vd.Files([f"{file}.csv" for file in sorted(files)]), contract=contract)
        )
        of = taken.snapshot
        blobs = [of.contract, read_record(self.ws.ledger, of.profile, Profile).sketches]
        blobs += [use.excluded for use in of.fragments]
        blobs += [blob for fragment in fragments_of(self.ws, of) for blob in fragment.blobs.values()]
        self.rests[taken.digest] = {blob for blob in blobs if blob}
        self.taken.append(taken)

    def run(self) -> None:
        """A training that comes to some end, is perhaps registered, and perhaps promoted."""
        with suppress(VelodromeError):
            run = start(self.ws, self.inputs(self.one_of(self.taken), self.one_of(list(self.runs.values()))))
            self.runs[run.id] = run
            end = self.rng.choice(ENDS)
            if end is not RunState.CREATED:
                self.attempt(run.id, end, saves=self.rng.randint(0, 4))
            self.register(run.id)

    def resume(self) -> None:
        with suppress(VelodromeError):
            if run := self.one_of(list(self.runs)):
                self.attempt(run, self.rng.choice([RunState.FAILED, RunState.FINISHED]), saves=1)
                self.register(run)

    def decide(self) -> None:
        with suppress(VelodromeError):
            if version := self.one_of(self.versions):
                for deed in self.rng.choice([*FATES, *((deed,) for deed in sorted(DEEDS))]):
                    self.do(deed, version)

    def collect(self, rules: Retention | None = None) -> None:
        rules = rules or Retention(runs=self.limits(), snapshots=self.limits(), checkpoints=self.limits())
        ws = replace(self.ws, config=msgspec.structs.replace(CONFIG, retention=rules))
        expected, collected, again = collect(ws, dry_run=True), collect(ws), collect(ws)
        assert (collected.given, collected.went) == (expected.given, expected.went)
        assert (collected.held, collected.waiting.blobs) == ((), 0)
        assert (again.given, again.went.blobs, again.leftovers) == ((), 0, 0)
        assert examine(self.ws).problems == ()
        here = set(self.ws.blobs.list())
        assert {reference for reference, blobs in self.stood.items() if blobs - here - self.dropped()} == set()
        assert here == self.expected()
        for name in "xy":
            if newest := newest_snapshot(self.ws, name):
                assert scan(self.ws, newest).collect().height == newest.rows

    # --------------------------------------------------------------------------------------------------------- pieces

    def one_of(self, things: Sequence[T]) -> T | None:
        """One of the newest things, or none."""
        return self.rng.choice([None, *things[-4:]])

    def limits(self) -> Limits:
        return Limits(count=self.rng.choice([None, 0, 1, 2]), age=self.rng.choice([None, None, "0s"]))

    def register(self, run: str) -> None:
        version = register(self.ws, model="model", run=run, artifact=self.artifacts.get(run), report=None)
        self.versions.append(version)
        for deed in self.rng.choice(FATES):
            self.do(deed, version)

    def do(self, deed: str, version: Version) -> None:
        DEEDS[deed](self.ws, version.reference)
        if deed.startswith("promote"):
            self.stood[version.reference] = self.resting(version)

    def resting(self, version: Version) -> set[str]:
        """The blobs that a version rests on: its run's, its judge's, their snapshots' and their checkpoints'."""
        run = self.runs[version.run]
        found = set[str]()
        for each in [run, *([self.runs[run.judge]] if run.judge else [])]:
            found |= self.rests[each.id] | self.rests.get(each.snapshot or "", set())
            found |= {checkpoint.blob for checkpoint in checkpoints_of(self.ws, each.id)}
        return found

    def dropped(self) -> set[str]:
        """The blobs of checkpoints that their own runs have replaced by newer ones."""
        events = [event for run in self.runs for event in self.ws.ledger.events(f"checkpoints:{run}")]
        names = [event.body["checkpoint"] for event in events if event.type == "checkpoint.dropped"]
        return {read_record(self.ws.ledger, name, Checkpoint).blob for name in names}

    def expected(self) -> set[str]:
        """The blobs that should be there: of what was not collected, and of the anchors."""
        found = set[str]()
        for run in self.runs:
            if show_run(self.ws, run).state != RunState.COLLECTED:
                found |= self.rests[run] | {checkpoint.blob for checkpoint in checkpoints_of(self.ws, run)}
        for taken in self.taken:
            collected = self.ws.ledger.pointer(tombstone(taken.digest))
            found |= self.rests[taken.digest] if collected is None or collected.value is None else set()
        for stored in self.ws.ledger.records(Anchor.kind()):
            found |= {digest for lists in decode(stored.payload, Anchor).lists.values() for digest in lists}
        return found

    def unique(self) -> bytes:
        return b"%d" % next(self.numbers)

    def inputs(self, taken: Taken | None, judge: Run | None) -> Run:
        lock, diff = self.ws.blobs.put(b"lock").digest, self.ws.blobs.put(b"diff " + self.unique()).digest
        repository = Repository(commit="c", branch="b", dirty=True, diff=diff, diff_cut=False)
        hardware = Hardware(cpu="c", cores=1, threads=1, memory=1, platform="p")
        provenance = Provenance(
            repository=repository, repository_missing="", lock=lock, hardware=hardware, host="h", command=()
        )
        self.ws.commit(Put(provenance))
        run = Run(
            id=self.ws.new_id(),
            name="recipe",
            key=digest_json(next(self.numbers) % 3),
            type="refit" if judge else "train",
            snapshot=taken.digest if taken else None,
            code=put_tree(self.ws.blobs, {"recipe.py": b"pass", "own.py": self.unique()}),
            environment=self.environment,
            provenance=digest_record(provenance),
            recipe={},
            seed=0,
            judge=judge.id if judge else None,
        )
        self.rests[run.id] = {lock, diff, *self.tree(run.code)}
        return run

    def attempt(self, run: str, end: RunState, saves: int) -> None:
        number = begin_attempt(self.ws, run)
        checkpointer = Checkpointer(self.ws, run, number, flush=list)
        for step in range(saves):
            checkpointer.save(step, state(f"{run} {number} {step}"))
        checkpointer.close()
        if end is RunState.FAILED:
            fail(self.ws, run, "Error", "it did")
        if end is RunState.FINISHED:
            files = {"weights": self.unique() if saves else b"as always", "manifest.json": b"{}"}
            artifact = self.artifacts[run] = put_tree(self.ws.blobs, files)
            self.rests[run] |= {*self.tree(artifact)}
            history = history_digest(self.ws, run)
            finish(
                self.ws,
                run,
                Outcome(run=run, artifact=artifact, steps=1, planned_steps=1, seconds=1.0, history=history),
            )

    def tree(self, digest: Digest) -> Iterator[str]:
        yield digest
        yield from (leaf.digest for leaf in read_tree(self.ws.blobs, digest).values())


def state(text: str) -> Callable[[], Callable[[], bytes]]:
    """What a checkpointer saves."""
    return lambda: text.encode


@pytest.mark.slow
@settings(max_examples=6, phases=(Phase.reuse, Phase.generate))  # a shorter story is another story
@given(st.integers(0, 1 << 32))
def test_what_ever_stood_behind_an_alias_keeps_all_that_it_rests_on(seed: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        loops = Loops(Path(root), random.Random(seed))
        with loops.ws:
            loops.go_round(50)
