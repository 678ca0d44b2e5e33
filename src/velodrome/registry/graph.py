"""Lineage of anything: up to all that it was made from, or down to all that was made from it.

The ledger's edges are walked as they are meant, from a result to what it was made from, with three things set right:
- A run and a version each have a subject and a record; here they are one node, named by the subject.
- Edges from a run to its outcome, artifact, reports, checkpoints and failures lead to what it made: they are turned round.
- That a snapshot came after its parent does not make it of that one, so no walk goes that way: whoever learned from a later
  snapshot did not learn from a file that only an earlier one had.
Records from before an edge was written are understood by their fields. Nodes that a walk comes to again are not walked again.
Cost: some ten reads for each step away from the start, of up to 200 rows each; memory for what is walked over.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from velodrome.core.digest import decode, is_digest
from velodrome.core.errors import StorageError
from velodrome.registry.references import SOURCE, find
from velodrome.store.ledger import Edge, Event, Ledger, Stored
from velodrome.store.rows import read_edge, read_event, read_pointer, read_verified
from velodrome.store.tombstones import tombstone
from velodrome.store.trees import read_tree
from velodrome.store.workspace import Workspace

__all__ = ["Lineage", "Node", "walk"]

_PRODUCTS = frozenset(("artifact", "checkpoint", "failure", "outcome", "report"))
_SAME, _BEFORE, _DECISION = "record", "parent", "decision"


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the ledger knows.

    Attributes:
        id: the digest of a record, a blob or a file; or a subject: run:<id>, version:<name>/<number>.
        kind: of its record; the role that it plays, where it has none; "decision" for an event of a version.
        name: for people.
        state: of a run or a version; or that a snapshot was collected. aliases: those that stand on a version now.
        created, by: when its record was put, and by whom.
    """

    id: str
    kind: str
    name: str
    state: str = ""
    aliases: tuple[str, ...] = ()
    created: datetime | None = None
    by: str = ""


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """A walk up or down from `start`.

    Attributes:
        nodes: by id, in the order in which they were come to, nearest first.
        edges: each from a result (`src`) to what it was made from (`dst`).
        ends: nodes at the depth that was asked for, beyond which nothing was looked at.
    """

    start: str
    down: bool
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    ends: tuple[str, ...] = ()

    def steps(self) -> dict[str, list[tuple[str, str]]]:
        """Node → (role, next node) of each step away from the start."""
        steps: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for edge in self.edges:
            here, there = (edge.dst, edge.src) if self.down else (edge.src, edge.dst)
            steps[here].append((edge.role, there))
        return steps


class _Field(msgspec.Struct, frozen=True):
    """A field of a kind of record that names what it was made from; older records have no edge that says so."""

    kind: str
    path: str
    role: str
    target: str


_FILE = _Field("fragment", "source", SOURCE, "file")
_FIELDS = (
    _FILE,
    _Field("checkpoint", "blob", "blob", "blob"),
    _Field("conclusion", "run", "run", "run"),
    _Field("drift_report", "reference", "reference", "snapshot"),
    _Field("drift_report", "snapshot", "snapshot", "snapshot"),
    _Field("provenance", "lock", "lock", "blob"),
    _Field("provenance", "repository.diff", "diff", "blob"),
)


def walk(ws: Workspace, reference: str, *, down: bool = False, depth: int | None = None) -> Lineage:
    """Everything that a thing was made from, or with `down` everything that was made from it.

    Args:
        reference: what `references.find` understands.
        depth: how many steps at most.

    Raises:
        NotFound: nothing is called so, or several things; the nearest, or they, are named.
        IntegrityError: a record on the way was changed by hand.
    """
    look = _Look(ws)
    start = look.node(*find(ws, reference))
    edges, seen = dict[Edge, None](), {start: None}
    frontier, steps = [start], 0
    while frontier and (depth is None or steps < depth):
        found = look.below(frontier) if down else look.above(frontier)
        edges |= dict.fromkeys(found)
        ends = dict.fromkeys(edge.src if down else edge.dst for edge in found)
        frontier, steps = [node for node in ends if node not in seen], steps + 1
        seen |= dict.fromkeys(frontier)
    described = {node.id: node for node in look.described(seen)}
    return Lineage(start=start, down=down, nodes=described, edges=tuple(edges), ends=tuple(frontier))


_Row: TypeAlias = tuple[Any, ...]


def _ends(row: _Row) -> _Row:
    """Of the row of an edge where it begins, its role, and where it ends."""
    edge = read_edge(row)
    return edge.src, edge.role, edge.dst


class _Rows:
    """The rows of a table by the value of a column, read many at a time and remembered; what `read` makes of them."""

    def __init__(
        self, ledger: Ledger, table: str, column: str, index: int, read: Callable[[_Row], _Row] = tuple
    ) -> None:
        self._ledger, self._table, self._column, self._index, self._read = ledger, table, column, index, read
        self._found: dict[str, list[_Row]] = {}

    def want(self, values: Iterable[str]) -> None:
        """Read what is going to be asked for."""
        missing = [value for value in dict.fromkeys(values) if value not in self._found]
        self._found |= {value: [] for value in missing}
        for row in self._ledger.rows(self._table, self._column, missing):
            self._found[row[self._index]].append(self._read(row))

    def __getitem__(self, value: str) -> list[_Row]:
        self.want([value])
        return self._found[value]


class _Look:
    """The ledger as a walk needs it: of many nodes at a time, what they were made from and what was made from them."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._out = _Rows(ws.ledger, "edge", "src", 0, _ends)
        self._in = _Rows(ws.ledger, "edge", "dst", 2, _ends)
        self._records = _Rows(ws.ledger, "record", "digest", 1)
        self._events = _Rows(ws.ledger, "event", "subject", 0)
        self._pointers = _Rows(ws.ledger, "pointer", "subject", 0)
        self._read: dict[str, tuple[Stored | None, dict[str, Any]]] = {}
        self._kinds: dict[str, str] = {}
        self._older: dict[_Field, dict[str, list[str]]] = {}

    def above(self, nodes: list[str]) -> list[Edge]:
        """The edges from nodes to what they were made from."""
        names = self._names(nodes)
        self._out.want(names)
        self._events.want(node for node in nodes if node.startswith("version:"))
        self._in.want(node for node in nodes if self._is_product(node))
        self._load(dst for name in names for _, _, dst in self._out[name])
        return [edge for node in nodes for edge in self._made_from(node)]

    def below(self, nodes: list[str]) -> list[Edge]:
        """The edges to nodes from what was made from them."""
        names = self._names(nodes)
        self._in.want(names)
        self._out.want(node for node in nodes if node.startswith("run:"))
        self._load(src for name in names for src, _, _ in self._in[name])
        return [edge for node in nodes for edge in self._made_of(node)]

    def described(self, nodes: Iterable[str]) -> Iterator[Node]:
        nodes = list(nodes)
        self._load(nodes)
        self._pointers.want(self._standing_of(node) for node in nodes)
        self._in.want(node for node in nodes if self.kind(node) == "file")
        return map(self._described, nodes)

    def kind(self, node: str) -> str:
        """The kind of a record; of a subject what it begins with; of what has neither, the role that it plays."""
        if not is_digest(node):
            return _DECISION if "#" in node else node.partition(":")[0]
        stored, _ = self._record(node)
        return stored.kind if stored else self._kinds[node]

    def node(self, name: str, role: str) -> str:
        """The node that an edge calls so. `role`: what it plays there; the bytes of a file may also be those of its rows."""
        if role == SOURCE or name not in self._kinds:
            self._kinds[name] = "file" if role == SOURCE else role
        stored, payload = self._record(name)
        if stored and stored.kind == "run":
            return f"run:{payload['id']}"
        if stored and stored.kind == "version":
            return f"version:{payload['model']}/{payload['number']}"
        return name

    def _load(self, names: Iterable[str]) -> None:
        """Read the records of names, and of the subjects among them what else edges call these."""
        names = list(names)
        self._out.want(name for name in names if not is_digest(name))
        self._records.want(name for name in self._names(names) if is_digest(name))

    def _names(self, nodes: Iterable[str]) -> list[str]:
        return [name for node in nodes for name in self._named(node)]

    def _named(self, node: str) -> list[str]:
        """What edges call a node: its id, and the digest of its record where that is another."""
        if is_digest(node):
            return [node]
        return [node, *(dst for _, role, dst in self._out[node] if role == _SAME)]

    def _record(self, node: str) -> tuple[Stored | None, dict[str, Any]]:
        """The record of a node and what it says; nothing for a node that has none."""
        if node not in self._read:
            rows = self._records[self._named(node)[-1]]
            stored = read_verified(rows[0]) if rows else None
            self._read[node] = (stored, decode(stored.payload, dict) if stored else {})
        return self._read[node]

    def _made_from(self, node: str) -> Iterator[Edge]:
        for src, role, dst in (row for name in self._named(node) for row in self._out[name]):
            if _is_lineage(src, role):
                yield Edge(node, self.node(dst, role), role)
        for field in _FIELDS:
            value = _dig(self._record(node)[1], field.path) if self.kind(node) == field.kind else None
            if value:
                yield Edge(node, self.node(f"run:{value}" if field.target == "run" else value, field.role), field.role)
        if self._is_product(node):
            makers = (src for src, role, _ in self._in[node] if src.startswith("run:") and role in _PRODUCTS)
            yield from (Edge(node, src, "run") for src in makers)
        if node.startswith("version:"):
            events = map(read_event, self._events[node])
            yield from (Edge(node, f"{node}#{event.seq}", _what(event)) for event in events)

    def _made_of(self, node: str) -> Iterator[Edge]:
        for src, role, _ in (row for name in self._named(node) for row in self._in[name]):
            if _is_lineage(src, role):
                yield Edge(self.node(src, "unknown"), node, role)
        for field in _FIELDS:
            if field.target == self._target(node):
                yield from (Edge(src, node, field.role) for src in self._naming(field, node.removeprefix("run:")))
        if node.startswith("run:"):
            made = ((role, dst) for _, role, dst in self._out[node] if role in _PRODUCTS)
            yield from (Edge(self.node(dst, role), node, "run") for role, dst in made)

    def _is_product(self, node: str) -> bool:
        return is_digest(node) and self.kind(node) in _PRODUCTS

    def _target(self, node: str) -> str:
        """Which target of a field a node is."""
        kind = self.kind(node)
        return "blob" if is_digest(node) and self._record(node)[0] is None and kind != "file" else kind

    def _naming(self, field: _Field, value: str) -> list[str]:
        """The records of a field's kind in which it has that value."""
        if field not in self._older:
            found: defaultdict[str, list[str]] = defaultdict(list)
            for stored in self._ws.ledger.records(field.kind, newest_first=False):
                found[_dig(decode(stored.payload, dict), field.path) or ""].append(stored.digest)
            self._older[field] = found
        return self._older[field].get(value, [])

    def _described(self, node: str) -> Node:
        kind = self.kind(node)
        if kind == _DECISION:
            return self._decision(node)
        stored, payload = self._record(node)
        value = next((read_pointer(row).value for row in self._pointers[self._standing_of(node)]), None) or ""
        state, _, aliases = value.replace("/", "@").partition("@")
        state += ", not reproducible" if kind == "run" and self._lacked(node) else ""
        return Node(
            id=node,
            kind=kind,
            name=_title(kind, payload) or self._content(node, kind) or node.partition(":")[2] or node[:12],
            state=state,
            aliases=tuple(aliases.split(",")) if aliases and kind == "version" else (),
            created=stored.created if stored else None,
            by=stored.actor if stored else "",
        )

    def _lacked(self, run: str) -> bool:
        """Whether a run went on from a checkpoint that was not whole."""
        outcomes = (self._record(dst)[1] for _, role, dst in self._out[run] if role == "outcome")
        return any(outcome and outcome.get("missing") for outcome in outcomes)

    def _standing_of(self, node: str) -> str:
        """The subject whose pointer says how a node stands."""
        return tombstone(node) if is_digest(node) else node

    def _decision(self, node: str) -> Node:
        subject, _, seq = node.partition("#")
        event = read_event(self._events[subject][int(seq) - 1])
        alias, reason = event.body.get("alias"), event.body.get("reason")
        name = f"{_what(event)}{f' to {alias}' if alias else ''} by {event.actor}{f': {reason}' if reason else ''}"
        return Node(id=node, kind=_DECISION, name=name, created=event.time, by=event.actor)

    def _content(self, node: str, kind: str) -> str:
        """What a file was called; what is in a tree of code, as far as that is still there."""
        if kind == "file":
            fragments = [src for src, role, _ in self._in[node] if role == SOURCE] or self._naming(_FILE, node)
            return str(self._record(fragments[0])[1]["file"]) if fragments else ""
        with suppress(StorageError):
            return ", ".join(read_tree(self._ws.blobs, node)) if kind == "code" else ""
        return ""


def _is_lineage(src: str, role: str) -> bool:
    """Whether an edge leads from a result to what it was made from."""
    return role not in (_SAME, _BEFORE) and not (src.startswith("run:") and role in _PRODUCTS)


def _what(event: Event) -> str:
    return event.type.partition(".")[2]


def _dig(payload: dict[str, Any], path: str) -> str | None:
    value: Any = payload
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return str(value) if value else None


def _title(kind: str, record: dict[str, Any]) -> str:
    """What people call a record, of whatever version of the program; nothing where that is not known."""
    with suppress(KeyError, TypeError):
        return _TITLES[kind](record) if record else ""
    return ""


_TITLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "checkpoint": lambda record: f"after step {record['step']} of {record['run']}",
    "conclusion": lambda record: record["verdict"],
    "cycle": lambda record: f"{record['number']} of {record['model']}: {record['decision']['action']}",
    "drift_report": lambda record: f"of {record['dataset']}",
    "environment": lambda record: f"{record['python']}, {record['device']}, {record['threads']} threads",
    "failure": lambda record: f"{record['error']}: {record['message']}",
    "fragment": lambda record: f"{record['file']}, {record['rows']} rows",
    "outcome": lambda record: f"{record['steps']} steps",
    "own_snapshot": lambda record: f"{record['dataset']}, {record['rows']} rows of one's own",
    "provenance": lambda record: f"on {record['host']}, commit {(record['repository'] or {}).get('commit') or 'none'}",
    "quality": lambda record: f"of {record['version']} on {record['window']}",
    "report": lambda record: f"{record['primary']} {record['metrics'][record['primary']]['value']:.4f}",
    "run": lambda record: f"{record['id']}, {record['type']} of {record['name']}",
    "snapshot": lambda record: f"{record['dataset']}, {record['rows']} rows",
    "version": lambda record: f"{record['model']}/{record['number']}",
}
