"""Collection: what of a workspace can still be reached, and the removal of the bytes that cannot.

Marking is plain reachability. Records and subjects are nodes; a node leads along its edges and to everything that it names:
each run of 64 hexadecimal digits in it is taken for the name of a record or a blob, so that a kind of record from a later
version still holds what it needs. What kinds there are and where the marking begins is for the caller to say.

Why nothing goes that somebody is about to name, though only names in the ledger count:
- A *horizon* is found before the ledger is read: some moment that lies before the beginning of every hold (`store.holds`) and
  a `grace` before now. A blob goes only if it was last put or kept before the horizon.
- Who names a blob has put or kept it before and, if on this machine, holds from before that until the row is there. If the
  hold counts when the horizon is found, the blob was put after the horizon. If it has ended by then, the row is there and
  is read. If it begins later, the blob is put after the horizon was found. Whether blobs are listed before or after the
  ledger is read does not matter: the store compares the times again, in one step with the removal.
- Elsewhere a writer has `grace` to get from the put to the row. Put and horizon are both told by the clock of the store of
  the blobs: the collector puts a blob of its own and looks at its time, so that no clock of a machine is compared with it.

Cost: a read of the ledger without its series and facts, some 10 µs a row; a listing of all blobs; memory, some 300 bytes for
each record and blob; a request or two for each blob that goes.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import MINYEAR, datetime, timedelta
from itertools import chain, groupby, islice
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from velodrome.core.digest import Digest, digest_bytes, is_digest
from velodrome.core.errors import IntegrityError, StorageError
from velodrome.store.blobs import Blobs, Entry
from velodrome.store.holds import oldest_hold
from velodrome.store.ledger import Batch, Event, Ledger, Pointer, Stored, verify_chain
from velodrome.store.rows import read_edge, read_event, read_pointer, read_sealed
from velodrome.store.workspace import Workspace

__all__ = ["Graph", "Horizon", "Kinds", "find_horizon", "leads", "reach", "read_graph", "sweep"]

_NAME = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_NOTHING: set[str] = set()
_LARGEST_TREE = 64 << 20
_AT_ONCE = 4
_GROUP = 256


class Kinds(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller knows about records and subjects.

    Attributes:
        trees: for each kind that is known, the fields that name trees. Of other kinds any name may be one.
        parts: the kinds that are needed only if something leads to them.
        passive: prefixes of subjects that are needed only then. roles: of edges that nothing is reached along.
        told: prefixes of the subjects whose events are wanted.
    """

    trees: Mapping[str, tuple[str, ...]]
    parts: frozenset[str]
    passive: tuple[str, ...]
    roles: frozenset[str]
    told: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A ledger as one moment saw it.

    Attributes:
        names: node → what it leads to: nodes, blobs, and what only looks like one.
        records: each without its payload, by digest.
        pointers: by subject. events: of the subjects that were asked for.
        roots: the nodes that are needed by themselves.
        trees, perhaps: names of trees, and of what may be trees.
    """

    names: dict[str, set[str]] = field(default_factory=dict)
    records: dict[str, Stored] = field(default_factory=dict)
    pointers: dict[str, Pointer] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)
    roots: set[str] = field(default_factory=set)
    trees: set[str] = field(default_factory=set)
    perhaps: set[str] = field(default_factory=set)

    def value(self, subject: str) -> str | None:
        """Where a pointer is."""
        pointer = self.pointers.get(subject)
        return pointer.value if pointer else None

    def lead(self, node: str, *names: str) -> None:
        self.names.setdefault(node, set()).update(names)


class Horizon(msgspec.Struct, frozen=True):
    """A moment from which on nothing is collected: by the clock of this machine, and by that of the store of the blobs."""

    ledger: datetime
    blobs: datetime


def read_graph(ledger: Ledger, kinds: Kinds) -> Graph:
    """What a ledger says, all of it verified: a name that cannot be read might be of something that is needed.

    Raises:
        IntegrityError: a record, an edge or a chain was changed after it was written.
    """
    graph = Graph()
    read: dict[str, Callable[[Graph, Kinds, Iterable[Any]], None]] = {
        "record": _read_records,
        "edge": _read_edges,
        "event": _read_events,
        "pointer": _read_pointers,
    }
    batches: Iterable[Batch] = ledger.dump(*read)
    for table, group in groupby(batches, itemgetter(0)):
        read[table](graph, kinds, chain.from_iterable(rows for _, rows in group))
    return graph


def reach(starts: Iterable[str], names: Callable[[str], Iterable[str]], cut: Container[str] = frozenset()) -> set[str]:
    """Everything that the starts lead to, themselves among it, on ways that pass nothing of `cut`.

    >>> sorted(reach("a", {"a": "bc", "c": "d", "b": "", "d": "a"}.get, cut="c"))
    ['a', 'b']
    """
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        node = waiting.pop()
        if node not in found and node not in cut:
            found.add(node)
            waiting += names(node)
    return found


def leads(
    graph: Graph, blobs: Blobs, present: Mapping[str, int], *, lenient: bool = False
) -> Callable[[str], set[str]]:
    """What each node and each tree of a graph leads to, for `reach`. A tree is read when it is come to.

    Args:
        present: size in bytes of each blob that is there.
        lenient: take a tree that cannot be read for empty.

    Raises (when called):
        StorageError: a tree is missing or damaged, so that nobody knows what it leads to.
    """
    leaves: dict[str, set[str]] = {}

    def lead(node: str) -> set[str]:
        if node not in leaves:
            leaves[node] = _leaves(node, graph, blobs, present, lenient)
        return graph.names.get(node, _NOTHING) | leaves[node]

    return lead


def find_horizon(ws: Workspace, grace: timedelta, *, dry: bool = False) -> tuple[dict[Digest, Entry], Horizon]:
    """Every blob, and a horizon that holds for whatever is read after this.

    Args:
        dry: write nothing, and take the clock of this machine for that of the store.

    Raises:
        StorageError: the store does not list what was just put.
    """
    begun = ws.clock.now()
    probe = None if dry else ws.blobs.put(f"velodrome collection {ws.new_id()}".encode()).digest
    ended = ws.clock.now()
    hold = oldest_hold(ws.holds, ws.clock)
    entries = {entry.digest: entry for entry in ws.blobs.entries()}
    moment = min(begun - grace, hold or begun)
    if probe is None:
        return entries, Horizon(moment, moment)
    if probe not in entries:
        raise StorageError("the blobs do not list what was just put", received=probe, remedy="try again")
    ws.blobs.delete(probe)
    stamp = entries.pop(
        probe
    ).time  # of a moment before `ended`: what is shifted by the difference lies early, if anything
    return entries, Horizon(moment, min(stamp - grace, _shifted(hold, stamp - ended) if hold else stamp))


def sweep(
    blobs: Blobs, garbage: Iterable[Entry], before: datetime, advance: Callable[[], object] = lambda: None
) -> Iterator[Entry]:
    """Collect what was last put or kept before a moment by the store's clock; the blobs that went.

    Args:
        advance: called for each blob.
    """
    rest = iter(garbage)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="collection") as threads:
        while group := list(islice(rest, _GROUP)):
            went = threads.map(lambda entry: blobs.collect(entry.digest, before), group)
            for entry, gone in zip(group, went, strict=True):
                advance()
                if gone:
                    yield entry


def _shifted(moment: datetime, by: timedelta) -> datetime:
    """A moment by another clock; the beginning of time stays what it is."""
    return moment if moment.year == MINYEAR else moment + by


def _read_records(graph: Graph, kinds: Kinds, rows: Iterable[Any]) -> None:
    for stored in map(read_sealed, rows):
        if digest_bytes(stored.payload) != stored.digest:
            raise IntegrityError(
                f"the {stored.kind} {stored.digest[:12]} was changed after it was written",
                remedy="run `velodrome doctor`: nothing is collected from a damaged ledger",
            )
        names = _names(stored.payload)
        graph.lead(stored.digest, *names)
        if is_digest(stored.name):
            graph.lead(stored.name, stored.digest)
        if stored.kind not in kinds.parts:
            graph.roots.add(stored.digest)
        if stored.kind not in kinds.trees:
            graph.perhaps.update(names)
        elif fields := kinds.trees[stored.kind]:
            payload = msgspec.json.decode(stored.payload)
            graph.trees.update(payload[name] for name in fields if payload.get(name))
        graph.records[stored.digest] = msgspec.structs.replace(stored, payload=b"")


def _read_edges(graph: Graph, kinds: Kinds, rows: Iterable[Any]) -> None:
    for edge in map(read_edge, rows):
        if edge.role not in kinds.roles:
            graph.lead(edge.src, edge.dst)


def _read_events(graph: Graph, kinds: Kinds, rows: Iterable[Any]) -> None:
    for subject, group in groupby(map(read_event, rows), attrgetter("subject")):
        events = list(group)
        verify_chain(subject, events)
        names = {name for event in events for name in _names(msgspec.json.encode(event.body))}
        graph.lead(subject, *names)
        graph.perhaps.update(names)
        if not subject.startswith(kinds.passive):
            graph.roots.add(subject)
        if subject.startswith(kinds.told):
            graph.events[subject] = events


def _read_pointers(graph: Graph, kinds: Kinds, rows: Iterable[Any]) -> None:
    graph.pointers.update((pointer.subject, pointer) for pointer in map(read_pointer, rows))


def _names(data: bytes) -> set[str]:
    return {found.decode() for found in _NAME.findall(data)}


def _leaves(digest: str, graph: Graph, blobs: Blobs, present: Mapping[str, int], lenient: bool) -> set[str]:
    """What a tree names, or what may be one; anything that looks like a name, in whatever format the tree is."""
    may_be = digest in graph.perhaps and present.get(digest, _LARGEST_TREE) < _LARGEST_TREE
    if digest not in graph.trees and not may_be:
        return _NOTHING
    try:
        return _names(blobs.read(digest))
    except StorageError:
        if lenient:
            return _NOTHING
        raise
