"""Can the ledger's story be believed? Anchors say what stood at a moment, and `verify` holds everything that stands to them.

An anchor is made when somebody asks, by each collection and backup, and at the end of a run when the newest is a day old.
Whoever keeps the digest of one elsewhere can prove later that nothing which stood then was edited, taken out, put in or
reordered; without it that is known only up to the newest anchor that an intruder left. docs/audit.md says what that means.
Cost: an anchor reads the keys of all edges and events and the records that are new, and hashes what it lists: a second for
some 300,000 rows. `verify` hashes everything: some 25 µs an event, 5 µs a record or an edge; histories are read in full.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

import msgspec

from velodrome.core.digest import Digest, decode, is_digest
from velodrome.core.errors import ConfigurationError, IntegrityError, MissingBlob, NotFound, PointerMoved
from velodrome.core.progress import Task
from velodrome.registry.anchors import AUDIT, Anchor, Listed, beyond, put_lines, read_lines
from velodrome.registry.runs import Outcome, RunState
from velodrome.registry.series import block_problems, digest_histories, merge_blocks, restored_steps
from velodrome.store.audit import (
    Damage,
    EdgeLine,
    HeadLine,
    Inspection,
    RecordLine,
    edge_lines,
    head_lines,
    record_lines,
)
from velodrome.store.ledger import Batch, Block, Edge, Event, Link, Move, Put, digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = ["Anchored", "Audit", "anchor", "anchor_if_due", "verify"]

_ATTEMPTS = 5
_LISTED: tuple[Listed, ...] = ("edge", "event", "record")
_TABLES = ("edge", "event", "pointer", "record")

_Rows = Iterator[tuple[Any, ...]]
_T = TypeVar("_T", bound=str)


class Anchored(msgspec.Struct, frozen=True):
    """An anchor with when it was made. Keep `digest` where nobody who can write to the ledger can."""

    digest: Digest
    time: datetime
    anchor: Anchor


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at everything found.

    Attributes:
        newest: the newest anchor's digest, and its time.
        seen: how many edges, events, chains, pointers, records and histories were looked at.
        later: how many edges, events and records came after the newest anchor, but for its own: the chains alone vouch for
            them.
        late: see `store.audit.Inspection`: perhaps somebody made lineage up.
    """

    anchors: int
    newest: tuple[Digest, datetime] | None
    seen: dict[str, int]
    later: dict[str, int]
    late: tuple[Edge, ...]
    damages: tuple[Damage, ...]


def anchor(ws: Workspace) -> Anchored:
    """Make an anchor of everything that stands in the ledger now.

    Raises:
        StorageError: the ledger or the blobs refused, or a list of an earlier anchor is missing or damaged.
        PointerMoved: others made anchors at the same time, again and again.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _anchor(ws)
        except PointerMoved:
            continue
    return _anchor(ws)


def anchor_if_due(ws: Workspace, every: timedelta = timedelta(days=1)) -> Anchored | None:
    """An anchor, if the newest is older than that; None also when somebody else makes one just now. Raises as `anchor`."""
    newest = ws.ledger.pointer(AUDIT)
    if newest and ws.clock.now() - newest.moved < every:
        return None
    try:
        return _anchor(ws)
    except PointerMoved:
        return None


def verify(ws: Workspace, *, anchor: str | None = None, histories: bool = True) -> Audit:
    """Look at every edge, event, pointer and record, beside each other and beside what anchors saw; and at the histories.

    Args:
        anchor: the digest of an anchor that was kept elsewhere, which must be there.
        histories: read the series of all runs too, and compare those of finished ones with what their outcomes say.

    Raises:
        ConfigurationError: `anchor` is no digest.
        StorageError: the database cannot read its own files: `velodrome doctor` says more.
    """
    _require_digest(anchor)
    look, linked, events = Inspection(), _linked(ws), _events(ws)
    anchors, whole = _anchors(ws, linked, events, look)
    outcomes = _inspect(ws, look, anchors, whole)
    read = _histories(ws, outcomes, look) if histories else 0
    made = events or []
    if anchor and anchor not in {event.digest for event in made}:
        look.found("anchor", anchor, None, "it is not here: it was taken out or rewritten, or this is another ledger")
    newest = made[-1] if made else None
    own = {"edges": len(made[-1:]), "events": len(made), "records": len(made[-1:])}
    return Audit(
        anchors=len(anchors),
        newest=(Digest(newest.digest), newest.time) if newest else None,
        seen=look.seen | {"histories": read},
        later={what: max(0, count - own[what]) for what, count in look.later.items()},
        late=tuple(look.late),
        damages=tuple(look.damages),
    )


# -------------------------------------------------------------------------------------------------------------- anchoring


def _anchor(ws: Workspace) -> Anchored:
    """The pointer is read before everything else, so that of two who make the same anchor only one can."""
    pointer = ws.ledger.pointer(AUDIT)
    before = [read_record(ws.ledger, edge.dst, Anchor) for edge in ws.ledger.edges(AUDIT, role="anchor")]
    with ws.writing():
        made = _seen_by(ws, sorted(before, key=lambda anchor: anchor.number))
        digest = digest_record(made)
        move = Move(AUDIT, pointer.value if pointer else None, digest, "audit.anchored")
        ws.commit(Put(made), Link(AUDIT, digest, "anchor"), move)
    event = next(event for event in reversed(ws.ledger.events(AUDIT)) if event.body["to"] == digest)
    return Anchored(Digest(event.digest), event.time, made)


def _seen_by(ws: Workspace, before: list[Anchor]) -> Anchor:
    """What stands in the ledger now; its lists are stored."""
    census = _Census(records=max((anchor.records for anchor in before), default=0))
    lists: dict[Listed, tuple[Digest, ...]] = {}
    with closing(ws.ledger.dump(*_LISTED, after=census.records)) as batches:
        for table, rows in _tables(batches, *_LISTED):
            known = () if table == "record" else read_lines(ws.blobs, before, table)
            lists[table] = put_lines(ws.blobs, beyond(census.lines(table, rows), known))
    return Anchor(
        number=len(before) + 1,
        records=census.records,
        edges=census.edges,
        events=census.events,
        chains=census.chains,
        lists=lists,
    )


@dataclass(slots=True)
class _Census:
    """Counts what passes."""

    records: int
    edges: int = 0
    events: int = 0
    chains: int = 0

    def lines(self, table: Listed, rows: _Rows) -> Iterator[Any]:
        return {"edge": self._edges, "event": self._heads, "record": self._records}[table](rows)

    def _edges(self, rows: _Rows) -> Iterator[EdgeLine]:
        for line in edge_lines(rows):
            self.edges += 1
            yield line

    def _heads(self, rows: _Rows) -> Iterator[HeadLine]:
        for line in head_lines(rows):
            if line[0] != AUDIT:
                self.chains += 1
                self.events += line[1]
                yield line

    def _records(self, rows: _Rows) -> Iterator[RecordLine]:
        for line in record_lines(rows):
            self.records = max(self.records, line[0])
            yield line


# -------------------------------------------------------------------------------------------------------------- verifying


def _require_digest(anchor: str | None) -> None:
    if anchor is not None and not is_digest(anchor):
        raise ConfigurationError(
            "an anchor is named by all 64 characters of its digest",
            received=anchor,
            remedy="`velodrome audit anchor` prints it",
        )


def _events(ws: Workspace) -> list[Event] | None:
    """The chain of the anchors; None where one of its events does not read, which the inspection tells."""
    try:
        return [event for event in ws.ledger.events(AUDIT) if "to" in event.body]
    except IntegrityError:
        return None


def _linked(ws: Workspace) -> set[str]:
    """The anchors by their edges, whatever became of these, which the inspection tells."""
    return {str(dst) for _, role, dst, _ in ws.ledger.rows("edge", "src", [AUDIT]) if role == "anchor"}


def _anchors(
    ws: Workspace, linked: set[str], events: list[Event] | None, look: Inspection
) -> tuple[list[Anchor], bool]:
    """The anchors as far as they can be read, and whether that is all of them.

    Others may make some meanwhile, so the edges are read before the events (`linked`) and after them.
    """
    moved = {str(event.body["to"]) for event in events or ()}
    for digest in sorted(linked - moved) if events is not None else ():
        look.found("anchor", digest, None, "no event made it: the chain of anchors was cut")
    for digest in sorted(moved - _linked(ws)):
        look.found("edge", f"{AUDIT} → {digest}", None, "the edge 'anchor' is gone")
    found, whole = [], True
    for digest in sorted(linked | moved):
        try:
            anchor = read_record(ws.ledger, digest, Anchor)
        except (IntegrityError, NotFound) as error:
            look.found("anchor", digest, None, f"it cannot be read, nor what only it lists: {error.problem}")
            whole = False
            continue
        lists = {table: tuple(_readable(ws, digest, anchor.lists[table], look)) for table in anchor.lists}
        whole = whole and lists == anchor.lists
        found.append(msgspec.structs.replace(anchor, lists=lists))
    return found, whole


def _readable(ws: Workspace, anchor: str, lists: Iterable[Digest], look: Inspection) -> Iterator[Digest]:
    for digest in lists:
        try:
            ws.blobs.local(digest)
        except (IntegrityError, MissingBlob) as error:
            look.found("anchor", anchor, None, f"its list {digest} cannot be read: {error.problem}")
        else:
            yield digest


def _inspect(ws: Workspace, look: Inspection, anchors: list[Anchor], whole: bool) -> list[bytes]:
    """Look at the tables; the payloads of the outcomes among the records."""
    count = max((anchor.records for anchor in anchors), default=0)
    outcomes: list[bytes] = []
    with closing(ws.ledger.dump(*_TABLES)) as batches, ws.progress.task("verify") as task:
        for table, rows in _tables(_told(batches, task), *_TABLES):
            if table == "edge":
                look.edges(rows, read_lines(ws.blobs, anchors, "edge"), anchored=bool(anchors))
            elif table == "event":
                look.events(rows, read_lines(ws.blobs, anchors, "event"))
            elif table == "pointer":
                look.pointers(rows)
            else:
                lines = read_lines(ws.blobs, anchors, "record")
                look.records(_keeping(rows, outcomes), lines, count, whole=whole)
    return outcomes


def _histories(ws: Workspace, outcomes: list[bytes], look: Inspection) -> int:
    """Look at every block, and compare the histories of finished runs with their outcomes; how many these are."""
    finished = dict(_finished(outcomes))
    with closing(ws.ledger.dump("series_block")) as batches, ws.progress.task("histories") as task:
        rows = chain.from_iterable(rows for _, rows in _told(batches, task))
        for run, group in groupby((Block(*row) for row in rows), attrgetter("run")):
            for problem in _history_problems(ws, list(group), finished.pop(run, None)):
                look.found("series", f"run:{run}", None, problem)
    for run, history in finished.items():
        if history != digest_histories({}) and not _is_collected(ws, run):
            look.found("series", f"run:{run}", None, _OTHERS)
    return len(outcomes)


def _history_problems(ws: Workspace, blocks: list[Block], history: Digest | None) -> list[str]:
    """What is wrong with all blocks of a run. `history`: the digest of what it finished with, if it did."""
    if problems := block_problems(blocks):
        return problems
    if history is None:
        return []
    try:
        merged = merge_blocks(blocks, restored_steps(ws.ledger.events(f"run:{blocks[0].run}")))
    except IntegrityError as error:
        return [error.problem]
    return [] if digest_histories(merged) == history or _is_collected(ws, blocks[0].run) else [_OTHERS]


def _finished(outcomes: Iterable[bytes]) -> Iterator[tuple[str, Digest]]:
    """Each run that finished, with the digest of its histories."""
    for payload in outcomes:
        with suppress(IntegrityError):  # a payload that does not read is told already
            outcome = decode(payload, Outcome)
            yield outcome.run, outcome.history


_OTHERS = "its histories are not those that it finished with"


def _is_collected(ws: Workspace, run: str) -> bool:
    pointer = ws.ledger.pointer(f"run:{run}")
    return pointer is not None and (pointer.value or "").startswith(RunState.COLLECTED)


def _keeping(rows: _Rows, outcomes: list[bytes]) -> _Rows:
    for row in rows:
        if row[2] == Outcome.kind() and isinstance(row[6], bytes):
            outcomes.append(row[6])
        yield row


def _told(batches: Iterable[Batch], task: Task) -> Iterator[Batch]:
    for batch in batches:
        task.advance(len(batch[1]))
        yield batch


def _tables(batches: Iterable[Batch], *tables: _T) -> Iterator[tuple[_T, _Rows]]:
    """Each table, in the order of the batches, with its rows; also one that has none."""
    groups = groupby(batches, itemgetter(0))
    name, group = next(groups, ("", iter(())))
    for table in tables:
        if table == name:
            yield table, chain.from_iterable(rows for _, rows in group)
            name, group = next(groups, ("", iter(())))
        else:
            yield table, iter(())
