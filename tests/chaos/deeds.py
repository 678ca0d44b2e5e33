"""What the processes of a storm do, over and over until it is done, and what they say that the verbs have promised them.

A deed finds what it has done before, as a script does that is run again after a kill. It acknowledges a thing when the verb
that makes it durable has returned: from then on the thing must be there, whatever happens to anybody.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from world import World

import velodrome as vd
from velodrome.control import pipeline
from velodrome.control.backups import back_up, restore
from velodrome.control.collecting import collect
from velodrome.core.errors import Conflict
from velodrome.data.snapshots import scan, take_snapshot
from velodrome.registry import provenance
from velodrome.registry.runs import RunState
from velodrome.registry.search import list_runs
from velodrome.registry.versions import Version, VersionState, approve, move_state, promote, register, state_of
from velodrome.store.backup import BackupPlace, open_backups
from velodrome.store.keys import read_key
from velodrome.store.ledger import Append
from velodrome.store.trees import put_tree
from velodrome.store.workspace import Workspace
from velodrome.training.track import tracked

__all__ = ["DATASETS", "DEEDS", "Deed", "Hand", "backups", "deliver"]

STEPS = 24
ITEMS = 3
DATASETS = {"early": "visits-0[1-3]", "late": "visits-0[3-5]", "all": "visits-*"}

_T = TypeVar("_T")
_PATIENCE = 300.0

provenance._lock = functools.cache(provenance._lock)  # type: ignore[attr-defined]  # half of what a small run takes
torch.set_num_threads(1)


@dataclass(frozen=True)
class Hand:
    """A process at work.

    Attributes:
        say: tells the storm what a verb has returned, in a way that a kill does not take back.
        over: whether those have ended who have something to do.
    """

    ws: Workspace
    number: int
    say: Callable[..., None]
    over: Callable[[], bool] = lambda: True

    def insist(self, action: Callable[[], _T]) -> _T:
        """Do it again while others are first."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return action()
            except Conflict:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)


def deliver(root: Path) -> None:
    """Five months of data."""
    for month in range(1, 6):
        World.frame(month, rows=60).write_parquet(root / f"visits-{month:02}.parquet")


def dataset(name: str) -> vd.Dataset:
    contract = vd.Contract([vd.NotNull(["buys", "when"]), vd.Unique("visit")])
    return vd.Dataset(name, source=vd.Files(f"{DATASETS[name]}.parquet"), key="visit", time="when", contract=contract)


def snapshots(hand: Hand) -> None:
    """Datasets that share files, each process beginning with another."""
    names = list(DATASETS)
    for turn in range(len(names)):
        name = names[(hand.number + turn) % len(names)]
        taken = hand.insist(lambda name=name: take_snapshot(hand.ws, dataset(name)))  # type: ignore[misc]
        hand.say("taken", dataset=name, digest=taken.digest, rows=taken.snapshot.rows)


def run(hand: Hand) -> None:
    """From data to a champion."""
    recipe = vd.Recipe(
        "buyers",
        data=dataset("all"),
        label="buys",
        features=["wants", "city"],
        prepare=[vd.Impute(), vd.Scale(), vd.Encode()],
        learner=vd.Sklearn(LogisticRegression()),
        split=vd.TimeSplit(validation="20d", test="30d"),
        evaluation=vd.Evaluation("roc_auc", resamples=40),
        gates=[vd.AtLeast("roc_auc", 0.5)],
        refit=True,
        operate=vd.Operate(approval=vd.PolicyApproval("passed-gates")),
    )
    result = hand.insist(lambda: pipeline.run(hand.ws, recipe, cells=("recipe",)))
    hand.say("registered", version=result.version, run=result.artifact_run)
    hand.say("promoted", version=result.version, alias="champion")


def train(hand: Hand) -> None:
    """A loop of one's own with checkpoints; the history of its losses tells whether it came back to the same weights."""
    if not list_runs(hand.ws, "loop", state=RunState.FINISHED):
        hand.insist(lambda: _loop(hand))


def _loop(hand: Hand) -> None:
    with tracked(hand.ws, "loop", params={"steps": STEPS}, cells=("loop",)) as tracking:
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        begun = tracking.restore(module, optimizer)
        hand.say("restored", step=begun)
        saved = 0
        for step in range(begun + 1, STEPS + 1):
            tracking.log(step, loss=_step(module, optimizer, step))
            if step % 3 == 0:
                tracking.checkpoint(module, optimizer)  # which waits for the one before
                if saved:
                    hand.say("checkpointed", step=saved)
                saved = step
    hand.say("finished", run=tracking.id)


def _step(module: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> float:
    rows = torch.from_numpy(np.random.default_rng(step).normal(size=(16, 4)).astype(np.float32))
    optimizer.zero_grad()
    loss = (module(rows)[:, 0] - rows.sum(1)).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def registrations(hand: Hand) -> None:
    """Models of this process's own, registered under a name that all share, and made champion one after the other."""
    for number in range(ITEMS):
        found = _made(hand, f"item-{hand.number}-{number}")
        version = register(hand.ws, model="items", run=found.id, artifact=found.artifact, report=None)
        hand.say("registered", version=version.reference, run=found.id)
        _promoted(hand, version)


@dataclass(frozen=True)
class _Made:
    id: str
    artifact: Any


def _made(hand: Hand, name: str) -> _Made:
    """The finished run of that name."""
    finished = list_runs(hand.ws, name, state=RunState.FINISHED)
    if finished:
        return _Made(finished[0].id, _artifact(hand, name))
    with tracked(hand.ws, name, params={}, cells=("item",)) as tracking:
        tracking.log(1, loss=1.0)
        tracking.artifact = _artifact(hand, name)
    hand.say("finished", run=tracking.id)
    return _Made(tracking.id, tracking.artifact)


def _artifact(hand: Hand, name: str) -> Any:
    return put_tree(hand.ws.blobs, {"weights": name.encode() * 500, "shared": b"the same in all" * 500})


def _promoted(hand: Hand, version: Version) -> None:
    """As a person does who looks where things stand before each step."""
    ws, reference = hand.ws, version.reference
    if state_of(ws, version) is VersionState.DRAFT:
        move_state(ws, reference, VersionState.CANDIDATE, reason="good", actor="gates")
    if state_of(ws, version) is VersionState.CANDIDATE:
        approve(ws, reference, reason="good", actor="ann")
    hand.insist(lambda: promote(ws, reference, reason="its turn", actor="ann"))
    hand.say("promoted", version=reference, alias="champion")


def notes(hand: Hand) -> None:
    """Events on one chain for all, in a ledger that an older velodrome wrote: whoever opens it first migrates it."""
    mine = f"process {hand.number}"
    done = sum(event.body.get("by") == mine for event in hand.ws.ledger.events("notes"))
    for number in range(done, 5):
        hand.ws.commit(Append("notes", "note", {"by": mine, "number": number}))
        hand.say("noted", by=mine, number=number)


def curves(hand: Hand) -> None:
    """Histories that are longer than a block."""
    name = f"curve-{hand.number}"
    if list_runs(hand.ws, name, state=RunState.FINISHED):
        return
    with tracked(hand.ws, name, params={}, cells=("curve",)) as tracking:
        for step in range(1, 1501):
            tracking.log(step, loss=1.0 / step, accuracy=step / 1500)
            if step % 250 == 0 and tracking._recorder.flush():
                hand.say("logged", run=tracking.id, series="loss", step=step)
    hand.say("finished", run=tracking.id)


def collector(hand: Hand) -> None:
    """Removes what nothing needs, at once, again and again while others write."""
    while True:
        over = hand.over()
        collected = hand.insist(lambda: collect(hand.ws))
        hand.say("collected", blobs=collected.went.blobs)
        if over:
            return
        time.sleep(0.05)


def backer(hand: Hand) -> None:
    """Backups of whatever is there, into one place. What others were told before one began must be in it."""
    place = backups(hand.ws)
    for _ in range(2):
        hand.say("begun")
        made = hand.insist(lambda: back_up(hand.ws, place))
        hand.say("backed up", backup=made.backup.id)


def restorer(hand: Hand) -> None:
    """Fills the empty project from the backup that lies beside it."""
    restored = hand.insist(lambda: restore(hand.ws, backups(hand.ws)))
    hand.say("restored all", backup=restored.backup.id)


def backups(ws: Workspace) -> BackupPlace:
    """Those of a project, encrypted as its blobs are."""
    key = read_key(ws.config.encryption_key, ws.root) if ws.config.encryption_key else None
    return open_backups(str(ws.root / "backups"), key=key, new=True)


def changes(hand: Hand) -> None:
    """A dataset that changes and changes back, while rules give up all of its snapshots but the newest."""
    for turn in range(6):
        months = [(1, 2), (2, 3), (1, 2, 3), (3, 4, 5)][(hand.number + turn) % 4]
        files = vd.Files(tuple(f"visits-{month:02}.parquet" for month in months))
        with hand.ws.writing():
            taken = hand.insist(lambda files=files: take_snapshot(hand.ws, vd.Dataset("flux", source=files)))  # type: ignore[misc]
            assert scan(hand.ws, taken.snapshot).collect().height == taken.snapshot.rows


@dataclass(frozen=True)
class Deed:
    """What a process does.

    Attributes:
        moments, calls: about how many it takes undisturbed, of which one is chosen for harm; fixed, so that a seed means the
            same on every machine.
        beside: it goes on as long as others do.
    """

    act: Callable[[Hand], None]
    moments: int
    calls: int
    beside: bool = False


DEEDS = {
    "snapshots": Deed(snapshots, 185, 80),
    "run": Deed(run, 500, 190),
    "train": Deed(train, 300, 65),
    "registrations": Deed(registrations, 570, 185),
    "notes": Deed(notes, 32, 6),
    "curves": Deed(curves, 150, 40),
    "changes": Deed(changes, 450, 220),
    "collector": Deed(collector, 800, 250, beside=True),
    "backer": Deed(backer, 500, 50),
    "restorer": Deed(restorer, 400, 35),
}
