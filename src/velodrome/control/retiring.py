"""What the rules of retention give up, and how that is recorded: a commit for each thing, before any of its bytes goes.

A thing goes only if it is safe to lose (`needed.safe`) and has been as it is since before a moment at which everybody who is
at work now had begun. Each commit says what it found, so that it fails if somebody has named the thing anew since then; the
run's lock keeps away whoever is in the midst of it. What fails is left for the next time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from velodrome.control.needed import Standing, safe
from velodrome.core.config import Limits
from velodrome.core.digest import decode
from velodrome.core.errors import PointerMoved, RunHeld
from velodrome.data.snapshots import Snapshot
from velodrome.registry.retention import Item, due
from velodrome.registry.runs import Run, collect
from velodrome.registry.versions import VersionState
from velodrome.store.collection import leads, reach
from velodrome.store.ledger import Append, Expect, Move, Write
from velodrome.store.locks import hold
from velodrome.store.tombstones import bury, lift
from velodrome.store.workspace import Workspace

__all__ = ["Given", "let_stand", "plan", "retire"]

_ACTOR = "policy:retention"
_RELEASED = "key.released"


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A thing that a rule gives up.

    Attributes:
        node: what the ledger knows it by. of: the recipe, dataset or run that it is counted with.
        rule: the limit that it is beyond.
    """

    kind: Literal["run", "snapshot", "checkpoint"]
    node: str
    of: str
    rule: str


@dataclass(frozen=True, slots=True)
class _Look:
    """What there is to judge."""

    ws: Workspace
    standing: Standing
    runs: Mapping[str, Run]
    sizes: Mapping[str, int]
    now: datetime

    def value(self, subject: str) -> str | None:
        pointer = self.standing.graph.pointers.get(subject)
        return pointer.value if pointer else None

    def takes(self, node: str, *others: str) -> frozenset[str]:
        """The blobs that a node leads to, but for those of others; nothing where no limit asks."""
        if not self.sizes:
            return frozenset()
        lead = leads(self.standing.graph, self.ws.blobs, self.sizes, lenient=True)
        return frozenset(reach([node], lead, self.standing.gone | set(others)) & self.sizes.keys())


def plan(ws: Workspace, standing: Standing, since: datetime) -> tuple[Given, ...]:
    """What the rules give up.

    Args:
        since: what changed later than this stays.
    """
    rules = ws.config.retention
    look = _look(ws, standing, asked=any(limits.size for limits in (rules.runs, rules.snapshots, rules.checkpoints)))
    kept = safe(standing)
    runs = _given(look, "run", list(_run_items(look)), rules.runs, kept, since)
    snapshots = _given(look, "snapshot", list(_snapshot_items(look)), rules.snapshots, kept, since)
    checkpoints = list(_checkpoint_items(look, {given.node for given in runs}))
    return (*runs, *snapshots, *_given(look, "checkpoint", checkpoints, rules.checkpoints, kept, since))


def retire(ws: Workspace, standing: Standing, given: Sequence[Given]) -> Iterator[Given]:
    """Record things as given up; those of which it was, as nobody uses them or has moved them since the look."""
    look, policy = _look(ws, standing, asked=False), ws.acting_as(_ACTOR)
    acts = {"run": _retire_run, "snapshot": _retire_snapshot, "checkpoint": _retire_checkpoint}
    for thing in given:
        try:
            acts[thing.kind](policy, look, thing)
        except (PointerMoved, RunHeld):
            continue
        yield thing


def let_stand(ws: Workspace, standing: Standing) -> None:
    """Take back what was recorded of a snapshot while somebody began to rest on it."""
    for digest in safe(standing) & standing.collected.keys() & standing.graph.records.keys():
        if standing.graph.records[digest].kind == Snapshot.kind():
            ws.acting_as(_ACTOR).commit(lift(ws.ledger, digest, "snapshot.let-stand"))


def _look(ws: Workspace, standing: Standing, *, asked: bool) -> _Look:
    runs = [decode(stored.payload, Run) for stored in ws.ledger.records(Run.kind())]
    sizes: dict[str, int] = {entry.digest: entry.size for entry in ws.blobs.entries()} if asked else {}
    return _Look(ws, standing, {run.id: run for run in runs}, sizes, ws.clock.now())


def _given(
    look: _Look,
    kind: Literal["run", "snapshot", "checkpoint"],
    items: list[Item],
    limits: Limits,
    kept: set[str],
    since: datetime,
) -> tuple[Given, ...]:
    young = {item.name for item in items if item.time > since}
    beyond = due(items, limits, f"retention.{kind}s", now=look.now, sizes=look.sizes, safe=kept | young)
    groups = {item.name: item.group for item in items}
    return tuple(Given(kind=kind, node=node, of=groups[node], rule=rule) for node, rule in beyond.items())


def _run_items(look: _Look) -> Iterator[Item]:
    for run in look.runs.values():
        node = f"run:{run.id}"
        if node in look.standing.graph.pointers and node not in look.standing.collected:
            judge = frozenset([f"run:{run.judge}"] if run.judge else [])
            yield Item(
                name=node,
                group=run.name,
                time=look.standing.graph.pointers[node].moved,
                blobs=look.takes(node, *judge, *([run.snapshot] if run.snapshot else [])),
                needs=judge,
            )


def _snapshot_items(look: _Look) -> Iterator[Item]:
    graph = look.standing.graph
    for digest, record in graph.records.items():
        if record.kind == Snapshot.kind() and digest not in look.standing.collected:
            time = _superseded(look, digest, f"dataset:{record.name}") or record.created
            yield Item(name=digest, group=record.name, time=time, blobs=look.takes(digest))


def _superseded(look: _Look, digest: str, subject: str) -> datetime | None:
    """When another snapshot last took the place of this one as the newest; now, if none has."""
    time = None
    for event in look.standing.graph.events.get(subject, ()):
        if event.body.get("from") == digest:
            time = event.time
    return look.now if look.value(subject) == digest else time


def _checkpoint_items(look: _Look, going: set[str]) -> Iterator[Item]:
    graph = look.standing.graph
    for subject, events in graph.events.items():
        kind, _, run = subject.partition(":")
        if kind == "checkpoints" and not {f"run:{run}"} & (going | look.standing.collected.keys()):
            ended = {event.body["checkpoint"] for event in events if event.type != "checkpoint.saved"}
            saved = {event.body["checkpoint"]: event.time for event in events if event.type == "checkpoint.saved"}
            for digest, time in saved.items():
                if digest not in ended:
                    yield Item(name=digest, group=run, time=time, blobs=look.takes(digest))


def _retire_run(ws: Workspace, look: _Look, given: Given) -> None:
    run = look.runs[given.node.removeprefix("run:")]
    registered = f"registered:{run.id}"
    reference = look.value(registered)
    writes: list[Write] = [Expect(given.node, look.value(given.node)), Expect(registered, reference)]
    if look.value(f"key:{run.key}") == run.id:
        writes.append(Move(f"key:{run.key}", run.id, None, _RELEASED, {"reason": given.rule}))
    if reference and look.value(f"version:{reference}") == VersionState.REJECTED:
        states = (VersionState.REJECTED, VersionState.ARCHIVED)
        writes.append(Move(f"version:{reference}", *states, "version.archived", {"reason": given.rule}))
    with _locked(ws, look, run):
        collect(ws, run.id, given.rule, *writes)


def _retire_snapshot(ws: Workspace, look: _Look, given: Given) -> None:
    newest = f"dataset:{given.of}"
    ws.commit(Expect(newest, look.value(newest)), bury(given.node, "snapshot.collected", given.rule))


def _retire_checkpoint(ws: Workspace, look: _Look, given: Given) -> None:
    run, subject = look.runs[given.of], f"checkpoints:{given.of}"
    saved = next(one for one in look.standing.graph.events[subject] if one.body["checkpoint"] == given.node)
    body = {"step": saved.body["step"], "checkpoint": given.node, "reason": given.rule}
    with _locked(ws, look, run):
        ws.commit(Expect(f"run:{run.id}", look.value(f"run:{run.id}")), Append(subject, "checkpoint.collected", body))


@contextmanager
def _locked(ws: Workspace, look: _Look, run: Run) -> Iterator[None]:
    """The run's lock; a refit happens under its judge's."""
    judge = look.runs.get(run.judge) if run.judge else None
    with hold(ws.lock(f"run-{judge.key if judge else run.key}"), ws.holder):
        yield
