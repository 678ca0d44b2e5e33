"""What the rows of a ledger say about each other, and beside what anchors once saw: every damage by its place.

Pure: rows come in as `Ledger.dump` gives them, what anchors saw comes in as *lines*, and damages come out. A line is what an
anchor keeps of a row; lines are sorted, as rows are by their keys:

    edge      (src, role, dst)                                 all of it, but for its seal
    event     (subject, seq, digest)                           the head of a chain, which vouches for all events before it
    record    (position, digest, kind, name, created, actor)   all but the seal, and the payload, for which the digest vouches

The seals of records and edges (`store.rows`) must fit, whatever anchors saw. An event must be the very bytes that the ledger
writes, so that no column changes unseen, and a pointer what its events say.
What came after the newest anchor is held together by its chains and seals alone; docs/audit.md says what that cannot prove.
Cost: 25 µs for an event, 5 µs for a record, 3 µs for an edge. Memory: one chain, and what is known of each pointer.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import IntegrityError
from velodrome.store.ledger import Edge, Event
from velodrome.store.rows import event_row, is_sealed, moment_text, read_event, read_moment

__all__ = ["Damage", "EdgeLine", "HeadLine", "Inspection", "RecordLine", "edge_lines", "head_lines", "record_lines"]

EdgeLine: TypeAlias = tuple[str, str, str]
HeadLine: TypeAlias = tuple[str, int, str]
RecordLine: TypeAlias = tuple[int, str, str, str, str, str]

_What: TypeAlias = Literal["anchor", "edge", "event", "pointer", "record", "series"]
_Row: TypeAlias = tuple[Any, ...]
_L = TypeVar("_L", bound=tuple[Any, ...])

_COLUMNS = ("position", "digest", "kind", "name", "created", "actor")
_CHANGED = "it was changed after it was written"


class Damage(msgspec.Struct, frozen=True):
    """One thing that is not as it was written.

    Attributes:
        subject: whose event, pointer or histories; a record's kind and name; an edge's ends; an anchor's digest.
        position: the number of an event in its chain or of a record in the ledger, from 1.
    """

    what: _What
    subject: str
    position: int | None
    problem: str


class Inspection:
    """Looks at the tables, one after the other in this order: edges, events, pointers, records.

    Attributes:
        seen: how many edges, events, chains, pointers and records there are.
        later: how many of the edges, events and records came after the newest anchor.
        late: those of the later edges that go out of records that an anchor saw. The ledger writes an edge together with the
            record it goes out of, or when a newer program writes an old record again; so does who makes lineage up.
    """

    def __init__(self) -> None:
        self.damages: list[Damage] = []
        self.seen = dict.fromkeys(("edges", "events", "chains", "pointers", "records"), 0)
        self.later = dict.fromkeys(("edges", "events", "records"), 0)
        self.late: list[Edge] = []
        self._said: dict[str, _Said] = {}
        self._new: dict[str, list[Edge]] = {}

    def edges(self, rows: Iterable[_Row], lines: Iterable[EdgeLine], *, anchored: bool = True) -> None:
        """`anchored`: there is an anchor, so that some edges may be late."""
        placed = self._placed("edge", rows, (str, str, str))
        for (src, role, dst), found, seen in _beside(placed, lines, itemgetter(slice(3))):
            self.seen["edges"] += len(found)
            if not all(map(is_sealed, found)):
                self.found("edge", f"{src} → {dst}", None, f"the edge {role!r} is not what was sealed: {_CHANGED}")
            if not found:
                self.found("edge", f"{src} → {dst}", None, f"the edge {role!r} is gone")
            elif not seen:
                self.later["edges"] += 1
                if anchored:
                    self._new.setdefault(src, []).append(Edge(src, dst, role))

    def events(self, rows: Iterable[_Row], lines: Iterable[HeadLine]) -> None:
        for subject, found, seen in _beside(self._placed("event", rows, (str, int)), lines, itemgetter(0)):
            last = max((seq for _, seq, _ in seen), default=0)
            self.seen["chains"] += bool(found)
            self.seen["events"] += len(found)
            self.later["events"] += sum(row[1] > last for row in found)
            chain = _Chain(found)
            for position, problem in sorted({**chain.beside(seen), **chain.problems}.items()):
                self.found("event", subject, position, problem)
            if chain.said.moves or chain.said.unread:
                self._said[subject] = chain.said

    def pointers(self, rows: Iterable[_Row]) -> None:
        """Beside what the events of their subjects said."""
        for row in self._placed("pointer", rows, (str,)):
            self.seen["pointers"] += 1
            said = self._said.pop(row[0], None)
            for problem in said.beside(row) if said else ["no event moved it"]:
                self.found("pointer", row[0], None, problem)
        for subject, said in self._said.items():
            if said.moves:
                self.found("pointer", subject, None, f"it is gone; its events say {said.value!r}")

    def records(self, rows: Iterable[_Row], lines: Iterable[RecordLine], count: int, *, whole: bool = True) -> None:
        """`count`: how many there were when the newest anchor was made. `whole`: `lines` has all of these."""
        expected = 1
        for position, found, seen in _beside(self._placed("record", rows, (int,)), lines, itemgetter(0)):
            if position > expected:
                self.found("record", "the ledger", expected, _gone("record", expected, position - 1))
            expected = max(expected, position + 1)
            self.seen["records"] += len(found)
            self.later["records"] += position > count
            unseen = position < 1 or (whole and position <= count and not seen)
            for problem in _record(found, seen, unseen=unseen):
                self.found("record", _named([*seen, *found][0]), position, problem)
            if seen and found:
                self.late += self._new.pop(found[0][1], [])
        if expected <= count:
            self.found("record", "the ledger", expected, _gone("record", expected, count))

    def found(self, what: _What, subject: str, position: int | None, problem: str) -> None:
        self.damages.append(Damage(what, subject, position, problem))

    def _placed(self, what: _What, rows: Iterable[_Row], types: tuple[type, ...]) -> Iterator[_Row]:
        """The rows whose keys are of the types that the ledger writes; the others have no place, and are told."""
        size = len(types)
        for row in rows:
            if tuple(map(type, row[:size])) == types:
                yield row
            else:
                self.found(what, repr(row[:size]), None, "its key is not of the type that the ledger writes")


@dataclass(slots=True)
class _Said:
    """What the events of a subject say of its pointer: where it is, how often it moved, and when it did last.

    Attributes:
        unread: an event does not read, so nothing of it is known.
    """

    value: str | None = None
    moves: int = 0
    moved: str = ""
    unread: bool = False

    def beside(self, row: _Row) -> list[str]:
        """What of the pointer is otherwise."""
        said = {"value": self.value, "revision": self.moves, "moved": self.moved}
        pairs = zip(said.items(), row[1:], strict=True) if not self.unread else ()
        return [
            f"its {name} is {is_!r}, its events say {should!r}"
            for (name, should), is_ in pairs
            if (type(is_), is_) != (type(should), should)
        ]


class _Chain:
    """The events of one subject, with what is wrong with them, by position."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self.problems: dict[int, str] = {}
        self.said = _Said()
        self._length = 0
        self._sure = True
        self._digests = {row[1]: row[7] for row in rows}
        before: str | None = ""
        for row in rows:
            before = self._look(row, before)

    def beside(self, lines: Iterable[HeadLine]) -> dict[int, str]:
        """What differs from what anchors saw, by position."""
        problems, last = {}, 0
        for _, seq, digest in lines:
            last = max(last, seq)
            if self._digests.get(seq, digest) != digest:
                problems[seq] = "it is not the event that an anchor saw"
        if last > self._length:
            problems[self._length + 1] = _gone("event", self._length + 1, last)
        return problems

    def _look(self, row: _Row, before: str | None) -> str | None:
        """Look at an event after the one of the digest `before`, and return this one's; None where it cannot be relied on."""
        seq, event = row[1], _read(row)
        if seq < 1:
            self.problems[seq] = "a chain begins with event 1: somebody put it in"
            return before
        if seq > self._length + 1:
            self.problems[self._length + 1] = _gone("event", self._length + 1, seq - 1)
            before, self._sure = None, False
        if event is None:
            self.problems[seq] = f"{_CHANGED}: it is not what the ledger writes"
            self.said.unread = True
        elif event.sealed().digest != event.digest:
            self.problems[seq] = _CHANGED
        elif before not in (None, event.previous):
            self.problems[seq] = "it does not follow the event before it"
        self._length = seq
        if event and event.body.keys() >= {"from", "to"}:
            self._follow(event, row[3])
        return None if event is None or seq in self.problems else event.digest

    def _follow(self, event: Event, time: str) -> None:
        """Take in a move; where it begins is sure as long as nothing before it was changed or is gone."""
        intact = event.seq not in self.problems
        if intact and self._sure and event.body["from"] != self.said.value:
            self.problems[event.seq] = f"it moves from {event.body['from']!r}, but the pointer was {self.said.value!r}"
        self._sure = intact
        self.said.value, self.said.moves, self.said.moved = event.body["to"], self.said.moves + 1, time


def edge_lines(rows: Iterable[_Row]) -> Iterator[EdgeLine]:
    """The lines of edges. Like the other two, this leaves out rows that somebody gave an impossible key."""
    for src, role, dst, _ in rows:
        if type(src) is type(role) is type(dst) is str:
            yield src, role, dst


def head_lines(rows: Iterable[_Row]) -> Iterator[HeadLine]:
    """The lines of events, one for each chain."""
    placed = (row for row in rows if type(row[0]) is str and type(row[1]) is int)
    for subject, events in groupby(placed, itemgetter(0)):
        *_, last = events
        yield subject, last[1], str(last[7])


def record_lines(rows: Iterable[_Row]) -> Iterator[RecordLine]:
    """The lines of records."""
    for position, digest, kind, name, created, actor, *_ in rows:
        yield position, str(digest), str(kind), str(name), str(created), str(actor)


def _record(found: Sequence[_Row], seen: Sequence[RecordLine], *, unseen: bool) -> Iterator[str]:
    """What is wrong with the record of a position, which anchors saw as told; `unseen`, though one looked there."""
    if not found:
        yield "it is gone"
        return
    if unseen:
        yield "it was put in where nothing was"
    digest, kind, created, payload = (found[0][column] for column in (1, 2, 4, 6))
    if not isinstance(payload, bytes) or digest_bytes(payload) != digest:
        yield "its payload is not what its digest says"
    elif _kind_of(payload) != kind:
        yield f"its kind is {kind!r}, its payload says {_kind_of(payload)!r}"
    if not _is_moment(created):
        yield f"its created is {created!r}, which the ledger does not write"
    different = [
        f"its {name} is {is_!r}, an anchor saw {was!r}"
        for line in dict.fromkeys(seen)
        for name, is_, was in zip(_COLUMNS, found[0], line, strict=False)
        if is_ != was
    ]
    if not different and not is_sealed(found[0]):
        different = [f"its kind, name, time or actor is not what was sealed: {_CHANGED}"]
    yield from different


def _read(row: _Row) -> Event | None:
    """The event of a row, if the row is what the ledger writes of it."""
    try:
        event = read_event(row)
        written = tuple(event_row(event).values())
    except (IntegrityError, ValueError, TypeError, AttributeError):
        return None
    return event if written == row and tuple(map(type, written)) == tuple(map(type, row)) else None


def _kind_of(payload: bytes) -> str | None:
    try:
        return msgspec.json.decode(payload, type=_Kind).kind
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class _Kind(msgspec.Struct):
    kind: str


def _is_moment(text: object) -> bool:
    try:
        return isinstance(text, str) and moment_text(read_moment(text)) == text
    except (IntegrityError, OverflowError):
        return False


def _named(row: _Row) -> str:
    return f"{row[2]} {row[3]}".strip()


def _gone(what: str, first: int, last: int) -> str:
    return f"{what} {first} is gone" if first == last else f"{what}s {first} to {last} are gone"


def _beside(
    rows: Iterable[_Row], lines: Iterable[_L], key: Callable[[Any], Any]
) -> Iterator[tuple[Any, list[_Row], list[_L]]]:
    """Each key, with its rows and its lines; both come sorted by it."""
    one, other = ((key(row), row, None) for row in rows), ((key(line), None, line) for line in lines)
    for value, group in groupby(heapq.merge(one, other, key=itemgetter(0)), itemgetter(0)):
        pairs = list(group)
        yield value, [row for _, row, _ in pairs if row is not None], [line for *_, line in pairs if line is not None]
