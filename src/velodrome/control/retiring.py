"""What the rules of retention give up, and how that is recorded: a commit for each thing, before any of its bytes goes.

A thing goes only if it is safe to lose (`needed.safe`) and has been as it is since before a moment at which everybody who is
at work now had begun. Each commit says what it found, so that it fails if somebody has named the thing anew since then; the
run's lock keeps away whoever is in the midst of it. What fails is left for the next time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from velodrome.control.needed import EVER, Standing, safe
from velodrome.core.config import Limits, Retention
from velodrome.core.digest import decode
from velodrome.core.errors import PointerMoved, RunHeld
from velodrome.data.snapshots import Snapshot
from velodrome.registry.retention import Item, due
from velodrome.registry.runs import Run, collect, get_run
from velodrome.registry.versions import VersionState
from velodrome.store.collection import Graph, leads, reach
from velodrome.store.ledger import Append, Expect, Move, Write
from velodrome.store.locks import hold
from velodrome.store.tombstones import bury, lift
from velodrome.store.workspace import Workspace

__all__ = ["Given", "let_stand", "plan", "retire"]

_ACTOR = "policy:retention"

_Kind: TypeAlias = Literal["run", "snapshot", "checkpoint"]


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A thing that a rule gives up.

    Attributes:
        node: what the ledger knows it by. of: the recipe, dataset or run that it is counted with.
        rule: the limit that it is beyond.
    """

    kind: _Kind
    node: str
    of: str
    rule: str


@dataclass(frozen=True, slots=True)
class _Look:
    """What there is to judge.

    Attributes:
        kept: nodes that stay whatever the rules say. since: what changed later than this stays too.
        sizes: of all blobs, in bytes; empty where no limit asks.
    """

    standing: Standing
    kept: set[str]
    since: datetime
    now: datetime
    sizes: Mapping[str, int]
    lead: Callable[[str], Iterable[str]]

    def takes(self, node: str, *others: str) -> frozenset[str]:
        """The blobs that a node leads to, but for those of others."""
        if not self.sizes:
            return frozenset()
        return frozenset(reach([node], self.lead, self.standing.gone | set(others)) & self.sizes.keys())

    def beyond(self, kind: _Kind, items: Iterable[Item], limits: Limits) -> list[Given]:
        """Those of the items that go."""
        known = {item.name: item for item in items}
        stay = self.kept | {item.name for item in known.values() if item.time > self.since}
        setting = f"retention.{kind}s"
        rules = due([*known.values()], limits, setting, now=self.now, sizes=self.sizes, safe=stay)
        return [Given(kind=kind, node=node, of=known[node].group, rule=rule) for node, rule in rules.items()]


def plan(ws: Workspace, standing: Standing, since: datetime) -> list[Given]:
    """What the rules give up.

    Args:
        since: what changed later than this stays.
    """
    rules = ws.config.retention
    if rules == Retention():
        return []
    look = _look(ws, standing, since)
    runs = look.beyond("run", _runs(ws, look), rules.runs)
    snapshots = look.beyond("snapshot", _snapshots(look), rules.snapshots)
    checkpoints = _checkpoints(look, {given.node for given in runs})
    return [*runs, *snapshots, *look.beyond("checkpoint", checkpoints, rules.checkpoints)]


def retire(ws: Workspace, standing: Standing, given: Sequence[Given]) -> Iterator[Given]:
    """Record things as given up; those of which it was, as nobody uses them or has moved them since the look."""
    acts = {"run": _retire_run, "snapshot": _retire_snapshot, "checkpoint": _retire_checkpoint}
    needed: set[str] = set()
    for thing in reversed(given):  # a refit comes before its judge, which stays where the refit does
        if thing.node in needed:
            continue
        try:
            acts[thing.kind](ws.acting_as(_ACTOR), standing.graph, thing)
        except (PointerMoved, RunHeld):
            if thing.kind == "run":
                needed.add(f"run:{get_run(ws, _id(thing)).judge}")
        else:
            yield thing


def let_stand(ws: Workspace, standing: Standing) -> None:
    """Take back what was recorded of a snapshot while somebody began to rest on it."""
    for digest in safe(standing, EVER) & standing.collected.keys() & standing.graph.records.keys():
        if standing.graph.records[digest].kind == Snapshot.kind():
            with suppress(PointerMoved):  # another collector does the same
                ws.acting_as(_ACTOR).commit(lift(ws.ledger, digest, "snapshot.let-stand"))


# -------------------------------------------------------------------------------------------------------------- planning


def _look(ws: Workspace, standing: Standing, since: datetime) -> _Look:
    rules = ws.config.retention
    sized = any(limits.size for limits in (rules.runs, rules.snapshots, rules.checkpoints))
    sizes: dict[str, int] = {entry.digest: entry.size for entry in ws.blobs.entries()} if sized else {}
    lead = leads(standing.graph, ws.blobs, sizes, lenient=True)
    return _Look(standing, safe(standing, since), since, ws.clock.now(), sizes, lead)


def _runs(ws: Workspace, look: _Look) -> Iterator[Item]:
    graph = look.standing.graph
    for run in (decode(stored.payload, Run) for stored in ws.ledger.records(Run.kind())):
        node, version = f"run:{run.id}", f"version:{graph.value(f'registered:{run.id}')}"
        if node in graph.pointers and node not in look.standing.collected:
            judge = frozenset([f"run:{run.judge}"] if run.judge else [])
            yield Item(
                name=node,
                group=run.name,
                time=max(graph.pointers[one].moved for one in (node, version) if one in graph.pointers),
                blobs=look.takes(node, *judge, *([run.snapshot] if run.snapshot else [])),
                needs=judge,
            )


def _snapshots(look: _Look) -> Iterator[Item]:
    for digest, record in look.standing.graph.records.items():
        if record.kind == Snapshot.kind() and digest not in look.standing.collected:
            time = _replaced(look, digest, f"dataset:{record.name}") or record.created
            yield Item(name=digest, group=record.name, time=time, blobs=look.takes(digest))


def _replaced(look: _Look, digest: str, dataset: str) -> datetime | None:
    """When another snapshot last took the place of this one as the newest; now, if none has."""
    if look.standing.graph.value(dataset) == digest:
        return look.now
    events = look.standing.graph.events.get(dataset, ())
    return max((event.time for event in events if event.body.get("from") == digest), default=None)


def _checkpoints(look: _Look, going: set[str]) -> Iterator[Item]:
    """Those of runs that do not go themselves."""
    gone = going | look.standing.collected.keys()
    for subject, events in look.standing.graph.events.items():
        kind, _, run = subject.partition(":")
        if kind == "checkpoints" and f"run:{run}" not in gone:
            ended = {event.body["checkpoint"] for event in events if event.type != "checkpoint.saved"}
            saved = {event.body["checkpoint"]: event.time for event in events if event.type == "checkpoint.saved"}
            for digest in saved.keys() - ended:
                yield Item(name=digest, group=run, time=saved[digest], blobs=look.takes(digest))


# ------------------------------------------------------------------------------------------------------------- recording


def _retire_run(ws: Workspace, graph: Graph, given: Given) -> None:
    run = get_run(ws, _id(given))
    registered, key = f"registered:{run.id}", f"key:{run.key}"
    reference = graph.value(registered)
    writes: list[Write] = [Expect(given.node, graph.value(given.node)), Expect(registered, reference)]
    if graph.value(key) == run.id:
        writes.append(Move(key, run.id, None, "key.released", {"reason": given.rule}))
    if reference and graph.value(f"version:{reference}") == VersionState.REJECTED:
        way = (VersionState.REJECTED, VersionState.ARCHIVED)
        writes.append(Move(f"version:{reference}", *way, "version.archived", {"reason": given.rule}))
    with _locked(ws, run):
        collect(ws, run.id, given.rule, *writes)


def _retire_snapshot(ws: Workspace, graph: Graph, given: Given) -> None:
    newest = f"dataset:{given.of}"
    ws.commit(Expect(newest, graph.value(newest)), bury(given.node, "snapshot.collected", given.rule))


def _retire_checkpoint(ws: Workspace, graph: Graph, given: Given) -> None:
    run, subject = f"run:{given.of}", f"checkpoints:{given.of}"
    saved = next(one for one in graph.events[subject] if one.body["checkpoint"] == given.node)
    body = {"step": saved.body["step"], "checkpoint": given.node, "reason": given.rule}
    with _locked(ws, get_run(ws, given.of)):
        ws.commit(Expect(run, graph.value(run)), Append(subject, "checkpoint.collected", body))


@contextmanager
def _locked(ws: Workspace, run: Run) -> Iterator[None]:
    """The run's lock; a refit happens under its judge's."""
    key = get_run(ws, run.judge).key if run.judge else run.key
    with hold(ws.lock(f"run-{key}"), ws.holder):
        yield


def _id(given: Given) -> str:
    return given.node.removeprefix("run:")
