"""What of a workspace is needed, by what the packages below know about their records.

Three things decide. *Pinned* is whatever a version rests on that stands behind an alias, ever stood there, or may come to;
whatever a running run rests on; each dataset's newest snapshot; and what the newest cycle of a model looked at. Nothing that
these reach is ever collected, and that does not depend on who decides what is: marking starts from them and takes no notice
of anything that was collected. *Collected* things lead nowhere else: from the other records nothing is reached through them.
*Gone* things lead nowhere at all: checkpoints that their own run has dropped, fragments that others stand for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from velodrome.core.digest import Digest
from velodrome.data.fragments import REPLACED
from velodrome.registry.anchors import Anchor
from velodrome.registry.runs import RunState
from velodrome.registry.versions import VersionState
from velodrome.store.blobs import Entry
from velodrome.store.collection import Graph, Kinds, reach, read_graph
from velodrome.store.ledger import Ledger
from velodrome.store.tombstones import COLLECTED, tombstone

__all__ = ["EVER", "KINDS", "Standing", "along", "imagined", "needed", "safe", "strange", "survey"]

EVER = datetime.max.replace(tzinfo=UTC)
"""The horizon beyond which nobody is at work."""

KINDS = Kinds(
    trees={
        **dict.fromkeys(("anchor", "checkpoint", "conclusion", "cycle", "drift_report", "environment", "failure"), ()),
        **dict.fromkeys(("fragment", "own_snapshot", "profile", "provenance", "quality", "report", "snapshot"), ()),
        "outcome": ("artifact",),
        "run": ("code",),
        "version": ("artifact",),
    },
    parts=frozenset(
        ("checkpoint", "environment", "failure", "fragment", "outcome", "profile", "provenance", "report"),
    ),
    passive=("checkpoints:", REPLACED),
    roles=frozenset(("parent", "reproduces")),
    told=("alias:", "checkpoints:", "dataset:"),
)
"""Every kind of record; a test compares. What came after something, or does it again, does not rest on it."""

_ANCHOR = Anchor.kind()
_DAY = timedelta(days=1)
_TOMBSTONE = tombstone("")
_MAY_STAND = (VersionState.DRAFT, VersionState.CANDIDATE, VersionState.APPROVED)
_MAY_GO_ON = (RunState.CREATED, RunState.RUNNING)


@dataclass(frozen=True, slots=True)
class Standing:
    """A ledger, and what it says of the needs of its nodes.

    Attributes:
        collected: nodes that were collected, and when.
    """

    graph: Graph
    pinned: frozenset[str]
    gone: frozenset[str]
    collected: Mapping[str, datetime]


def survey(ledger: Ledger) -> Standing:
    """Look at a whole ledger. Raises as `read_graph`."""
    graph = read_graph(ledger, KINDS)
    return Standing(graph, frozenset(_pinned(graph)), frozenset(_gone(graph)), dict(_collected(graph)))


def imagined(standing: Standing, nodes: Iterable[str], now: datetime) -> Standing:
    """As it would be if these had been collected now."""
    collected = {each: now for node in nodes for each in _together(standing.graph, node)}
    return replace(standing, collected={**standing.collected, **collected})


def along(graph: Graph) -> Callable[[str], Iterable[str]]:
    """What nodes lead to for `needed` and `safe`, as far as the ledger says: records and subjects, no leaves of trees."""
    return lambda node: graph.names.get(node, ())


def safe(standing: Standing, since: datetime) -> set[str]:
    """The records and subjects that must not be collected: what is pinned, and what runs rest on that ended after `since`."""
    pointers = standing.graph.pointers.values()
    young = (pointer.subject for pointer in pointers if pointer.subject.startswith("run:") and pointer.moved > since)
    return reach((*standing.pinned, *young), along(standing.graph), standing.gone)


def needed(standing: Standing, lead: Callable[[str], Iterable[str]], horizon: datetime) -> set[str]:
    """Everything that can be reached, or could be at `horizon` or later: records, subjects, blobs.

    Args:
        lead: of the same graph, `along` it or with its trees (`store.collection.leads`).
    """
    graph = standing.graph
    pinned = reach(standing.pinned, lead, standing.gone)
    ended = {node for node, time in standing.collected.items() if time <= horizon}
    young = (digest for digest, record in graph.records.items() if record.created >= horizon)
    return pinned | reach((*graph.roots, *young), lead, standing.gone | ended)


def strange(standing: Standing, blobs: Iterable[Entry], now: datetime) -> set[Digest]:
    """Blobs older than a day that a ledger does not name that has no record at all: theirs is another, or was lost.

    What is younger may be of a first record that is on its way, or of a process that was killed before it.
    """
    graph = standing.graph
    if any(record.kind != _ANCHOR for record in graph.records.values()):
        return set()
    return {entry.digest for entry in blobs if entry.time < now - _DAY}.difference(*graph.names.values())


def _pinned(graph: Graph) -> Iterator[str]:
    for subject, events in graph.events.items():
        if subject.startswith("alias:"):
            yield from (f"version:{event.body['to']}" for event in events if event.body.get("to"))
    for subject, pointer in graph.pointers.items():
        kind, value = subject.partition(":")[0], pointer.value or ""
        state, _, aliases = value.partition("@")
        if kind in ("cycle", "dataset") and value:
            yield value
        may_stand = kind == "version" and (state in _MAY_STAND or aliases)
        if may_stand or (kind == "run" and value.startswith(_MAY_GO_ON)):
            yield subject


def _gone(graph: Graph) -> Iterator[str]:
    yield from (
        subject.removeprefix(REPLACED)
        for subject, pointer in graph.pointers.items()
        if subject.startswith(REPLACED) and pointer.value
    )
    yield from (digest for digest, _ in _checkpoints(graph, "checkpoint.dropped"))


def _collected(graph: Graph) -> Iterator[tuple[str, datetime]]:
    for subject, pointer in graph.pointers.items():
        if subject.startswith(("run:", _TOMBSTONE)) and (pointer.value or "").startswith(COLLECTED):
            yield from ((node, pointer.moved) for node in _together(graph, subject.removeprefix(_TOMBSTONE)))
    yield from _checkpoints(graph, "checkpoint.collected")


def _checkpoints(graph: Graph, type_: str) -> Iterator[tuple[str, datetime]]:
    for subject, events in graph.events.items():
        if subject.startswith("checkpoints:"):
            yield from ((event.body["checkpoint"], event.time) for event in events if event.type == type_)


def _together(graph: Graph, node: str) -> list[str]:
    """What is collected with a node: with a run its record, and its version with that one's."""
    kind, _, run = node.partition(":")
    if kind != "run":
        return [node]
    version = graph.value(f"registered:{run}")
    nodes = [node, *([f"version:{version}"] if version else [])]
    return [*nodes, *(digest for each in nodes for digest in _records(graph, each))]


def _records(graph: Graph, subject: str) -> Iterable[str]:
    """The record of a run or a version, whose kind its subject begins with."""
    kind = subject.partition(":")[0]
    named = (graph.records.get(node) for node in graph.names.get(subject, ()))
    return (record.digest for record in named if record is not None and record.kind == kind)
