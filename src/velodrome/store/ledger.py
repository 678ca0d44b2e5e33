"""The ledger's interface: what an implementation promises, and the values that go in and out.

Everything that happens is a *commit*: a list of writes that take effect together or not at all. There are eight kinds of
write, so a new noun of the product is a new record, never a new method here.

Records are immutable and named by their digest. Edges run from a result to what it was made from. Events form one hash
chain per subject. A pointer is the only thing that changes: a subject's present value, moved by compare-and-set, and each
move appends its event to the subject's chain in the same commit; aliases and states are pointers. Series blocks hold
metric histories as bytes, and go only when a run is collected. Facts are an index: numbers and texts by which subjects are
searched and sorted, which say what records, events and series say already, are in no digest, and can be made again.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from velodrome.core.digest import Digest, canonical, decode, digest_bytes
from velodrome.core.errors import IntegrityError, NotFound
from velodrome.core.values import Record
from velodrome.store.query import Found, Query

__all__ = [
    "Append",
    "Batch",
    "Block",
    "Drop",
    "Edge",
    "Event",
    "Expect",
    "Fact",
    "Ledger",
    "Link",
    "Move",
    "Pointer",
    "Put",
    "Stored",
    "Write",
    "digest_record",
    "read_record",
    "verify_chain",
]

_R = TypeVar("_R", bound=Record)

Batch = tuple[str, Sequence[tuple[Any, ...]]]
"""The name of a table, and some of its rows."""


class Put(msgspec.Struct, frozen=True):
    """Keep a record; putting an equal record again changes nothing. `name` is what `records` filters by."""

    record: Record
    name: str = ""


class Link(msgspec.Struct, frozen=True):
    """Keep an edge from a result to one of its inputs; repeating it changes nothing."""

    src: str
    dst: str
    role: str


class Append(msgspec.Struct, frozen=True):
    """Append an event to the chain of `subject`. `body` is plain JSON with ids, never personal data."""

    subject: str
    type: str
    body: dict[str, Any] = msgspec.field(default_factory=dict)


class Move(msgspec.Struct, frozen=True):
    """Move the pointer of `subject` from `expected` to `value` (None: no value) and append the event that says so.

    The commit fails with PointerMoved when the present value is not `expected`.
    """

    subject: str
    expected: str | None
    value: str | None
    type: str
    body: dict[str, Any] = msgspec.field(default_factory=dict)


class Expect(msgspec.Struct, frozen=True):
    """Change nothing, but let the commit fail with PointerMoved unless the pointer of `subject` is `value` (None: no value).

    For what rests on something that another might take away: it is still there when the commit takes effect.
    """

    subject: str
    value: str | None


class Block(msgspec.Struct, frozen=True):
    """Points of one metric series of one attempt of a run, encoded by the registry.

    It takes the place of the block of that series and attempt that began at the same step, so that a block may grow, and the
    same again changes nothing.
    """

    run: str
    series: str
    attempt: int
    first_step: int
    last_step: int
    count: int
    data: bytes


class Drop(msgspec.Struct, frozen=True):
    """Take all series blocks of a run away, for its collection; there may be none. Its facts stay."""

    run: str


class Fact(msgspec.Struct, frozen=True):
    """What is known about a subject under a key now, in the place of what was known before. None or NaN: nothing.

    NaN has no place in an order, so it is no fact; infinities are. Whole numbers beyond 2^53 are rounded, as floats are.
    A text is kept up to its first 1,024 bytes of UTF-8, cut between characters; a key has at most 512.
    """

    subject: str
    key: str
    value: float | str | None


Write = Put | Link | Append | Move | Expect | Block | Drop | Fact


class Stored(msgspec.Struct, frozen=True):
    """A record as it lies in the ledger: `payload` is its canonical JSON, whose digest is `digest`."""

    digest: Digest
    kind: str
    name: str
    created: datetime
    actor: str
    payload: bytes


class Edge(msgspec.Struct, frozen=True):
    """One step of lineage: `src` was made from `dst`, which played `role`."""

    src: str
    dst: str
    role: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One link of a subject's chain; `digest` covers all other fields, `previous` is the digest of the event before."""

    subject: str
    seq: int
    type: str
    time: datetime
    actor: str
    body: dict[str, Any]
    previous: str
    digest: str = ""

    def sealed(self) -> "Event":
        """This event with its digest."""
        return msgspec.structs.replace(self, digest=digest_bytes(canonical(msgspec.structs.replace(self, digest=""))))


class Pointer(msgspec.Struct, frozen=True):
    """The present value of a subject; `revision` counts its moves from 1."""

    subject: str
    value: str | None
    revision: int
    moved: datetime


class Ledger(ABC):
    """Where everything that happened is kept.

    Contract, held by `velodrome.testing.ledger` for every implementation:
    - `commit` is atomic and durable: after it returns the writes survive a kill of the process and of the machine; when it
      raises, none of them is there. Writes take effect in their order; readers see all of a commit or nothing of it.
    - Commits of many threads and processes are serialised: each sees the effect of those before it.
    - Reads see every commit that returned before the read began.
    - A handle may be shared by threads. A handle used in a forked child raises StorageError.
    - Nothing that was put, linked or appended ever changes or goes; a block goes only by a `Drop`. Pointers and facts are
      what they were last said to be.
    - A record or an edge of which a column was changed in the database is not handed out: IntegrityError names it. Only
      `scan`, `rows` and `dump` give everything as it is.
    """

    @abstractmethod
    def commit(self, writes: Sequence[Write], *, actor: str, now: datetime) -> None:
        """Apply the writes together.

        Raises:
            PointerMoved: a Move or an Expect whose value is not the present one; `received` is the present value.
            StorageError: the database refused, or a write cannot be kept everywhere (see `Fact`); nothing was written.
        """

    @abstractmethod
    def get(self, digest: str) -> Stored | None:
        """The record of that digest, its payload verified.

        Raises:
            IntegrityError: the stored payload is not what its digest says.
        """

    @abstractmethod
    def records(
        self, kind: str, *, name: str | None = None, newest_first: bool = True, limit: int | None = None
    ) -> list[Stored]:
        """Records of a kind in the order in which they were put, payloads not verified."""

    @abstractmethod
    def edges(self, node: str, *, incoming: bool = False, role: str | None = None) -> list[Edge]:
        """Edges out of `node` (or into it), ordered by role and end, optionally of one role."""

    @abstractmethod
    def events(self, subject: str) -> list[Event]:
        """The chain of a subject, oldest first."""

    @abstractmethod
    def pointer(self, subject: str) -> Pointer | None:
        """The pointer of a subject, or None if it never moved."""

    @abstractmethod
    def pointers(self, prefix: str) -> list[Pointer]:
        """Every pointer whose subject starts with `prefix`, ordered by subject."""

    @abstractmethod
    def blocks(self, run: str, series: str | None = None) -> list[Block]:
        """The series blocks of a run, ordered by series, attempt and first step."""

    @abstractmethod
    def search(self, query: Query) -> list[Found]:
        """The subjects that a query finds, in its order; how conditions and orders are meant is said in `store.query`."""

    @abstractmethod
    def facts(self, subjects: Iterable[str], *keys: str) -> dict[str, dict[str, float | str]]:
        """Subject → key → value, ordered by key: all facts of each subject, or those of some keys.

        A key that ends in a dot stands for all that begin so.
        """

    @abstractmethod
    def fact_keys(self) -> list[str]:
        """Every key under which anything is known about any subject, ordered."""

    @abstractmethod
    def subjects(self, prefix: str = "") -> list[str]:
        """Every subject that has a chain of events, ordered."""

    @abstractmethod
    def scan(self) -> Iterator[Stored]:
        """Every record in the order in which it was put, payloads *not* verified: for `doctor`, which reports all damage."""

    @abstractmethod
    def rows(self, table: str, column: str, values: Iterable[str]) -> list[tuple[Any, ...]]:
        """The rows of a table, as `dump` gives them, that have one of the values in a column: many things in few reads."""

    @abstractmethod
    def dump(self, *tables: str, after: int = 0) -> Generator[Batch, None, None]:
        """Every row of every table as one moment saw them, a few at a time, each table's in the order of its keys.

        Reads in one transaction, which ends with the iterator: exhaust it or close it. Nothing is verified.

        Args:
            tables: only these.
            after: of the records, only those that were put after the first so many.
        """

    @abstractmethod
    def fill(self, batches: Iterable[Batch]) -> None:
        """Take in what another ledger's `dump` gives, of whatever database that is, in one commit.

        Raises:
            StateError: this ledger holds something already.
            StorageError: the database refused; nothing was written.
        """

    @abstractmethod
    def check(self) -> list[str]:
        """What the database itself finds wrong with its files; empty when nothing is."""

    @abstractmethod
    def close(self) -> None:
        """Give the handle's resources back; the handle is of no further use."""


def digest_record(record: Record) -> Digest:
    """The name of a record: the digest of its canonical JSON."""
    return digest_bytes(canonical(record))


def read_record(ledger: Ledger, digest: str, type_: type[_R]) -> _R:
    """The record of that digest as a value.

    Raises:
        NotFound: there is no such record, or it is of another kind.
        IntegrityError: it was changed by hand.
    """
    stored = ledger.get(digest)
    if stored is None or stored.kind != type_.kind():
        raise NotFound(
            f"there is no {type_.kind()} of that digest",
            received=digest if stored is None else f"{digest}, a {stored.kind}",
            remedy="is this the right workspace?",
        )
    return decode(stored.payload, type_)


def verify_chain(subject: str, events: Sequence[Event]) -> None:
    """Check that no event of a chain was edited, removed or reordered.

    Raises:
        IntegrityError: names the first event that does not fit.
    """
    previous = ""
    for position, event in enumerate(events, start=1):
        intact = (
            event.seq == position
            and event.previous == previous
            and event.sealed().digest == event.digest
            and event.subject == subject
        )
        if not intact:
            raise IntegrityError(
                f"the chain of {subject!r} is broken at event {position}",
                received=f"event {event.seq} ({event.type})",
                remedy="restore the ledger from a backup",
            )
        previous = event.digest
