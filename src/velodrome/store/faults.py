"""Faults on purpose: stores that do harm at the n-th call, to see what becomes of everything that stands on them.

A `FaultPlan` says which call is harmed and how, and counts the calls of every wrapper that it is given to. So a first time
with an empty plan tells how many calls something makes, and as many times after that fail each of them in turn. Nothing is
drawn by chance: the same calls in the same order meet the same fault.

    fail      the call is refused; or, with `after`, carried out and its answer lost
    delay     the call waits first
    tear      half of what is written is written, then the call fails; a commit is taken back by the database
    corrupt   a bit of what is stored flips: of what was just written, or of what is about to be read
    kill      the process ends as by `kill -9`, before the call or after it

A call that carries no bytes is never torn, but fails, and never corrupted. Cost: nothing worth naming; what is torn or
corrupted is held in memory.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import msgspec
import sqlalchemy as sa

from velodrome.core.clock import Clock, SystemClock
from velodrome.core.digest import Digest, digest_bytes
from velodrome.core.errors import PointerMoved, StorageError
from velodrome.store import schema
from velodrome.store.blobs import Blob, Blobs, Entry, FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.files import write_atomic
from velodrome.store.ledger import (
    Append,
    Batch,
    Block,
    Edge,
    Event,
    Ledger,
    Move,
    Pointer,
    Put,
    Stored,
    Write,
    digest_record,
)
from velodrome.store.named import AddressedBlobs, Content, Held, Objects, Piece, blob_name
from velodrome.store.query import Found, Query
from velodrome.store.sql import SqlLedger

__all__ = ["Fault", "FaultPlan", "FaultyBlobs", "FaultyLedger", "FaultyObjects"]

_T = TypeVar("_T")
_IMPOSSIBLE = Move("fault:tear", "what was never there", None, "fault.torn")


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Harm to one call.

    Attributes:
        call: which call is harmed, from 1, of those that are `of` this: "" all of the plan's, "blobs" those of blob stores,
            "ledger.commit" commits alone.
        times: how many such calls in a row are harmed, from that one on.
        after: `fail` and `kill` come when the call was carried out.
        seconds: of a `delay`.
    """

    kind: Literal["fail", "delay", "tear", "corrupt", "kill"]
    call: int
    of: str = ""
    times: int = 1
    after: bool = False
    seconds: float = 0.0


class FaultPlan:
    """The faults of one experiment, and the names of the calls that were made, such as "blobs.put" and "ledger.commit".

    Threads may share it: each call has its own number.
    """

    def __init__(self, *faults: Fault, clock: Clock | None = None) -> None:
        self.calls: list[str] = []
        self._faults = faults
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()

    def perform(
        self,
        name: str,
        act: Callable[[], _T],
        *,
        tear: Callable[[], object] = lambda: None,
        corrupt: Callable[[], _T] | None = None,
    ) -> _T:
        """Count a call, and carry it out with `act`, or instead of that harm it as its fault says.

        Raises:
            StorageError: it was made to fail.
        """
        number, fault = self._next(name)
        if fault is None:
            return act()
        if fault.kind == "delay":
            self._clock.sleep(fault.seconds)
            return act()
        if fault.kind == "corrupt":
            return (corrupt or act)()
        if fault.kind == "tear":
            tear()
        elif fault.after:
            act()
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise _refusal(fault, name, number)

    def _next(self, name: str) -> tuple[int, Fault | None]:
        """The number of this call, and what harms it."""
        with self._lock:
            self.calls.append(name)
            for fault in self._faults:
                if _is_of(name, fault.of):
                    turn = sum(_is_of(call, fault.of) for call in self.calls)
                    if fault.call <= turn < fault.call + fault.times:
                        return len(self.calls), fault
            return len(self.calls), None


class FaultyBlobs(Blobs):
    """The blobs of `inner`. What is torn or corrupted is spoilt where `inner` keeps it, so that another handle sees it too."""

    def __init__(self, inner: Blobs, plan: FaultPlan) -> None:
        self.inner = inner
        self._plan = plan

    def __repr__(self) -> str:
        return f"FaultyBlobs({self.inner!r})"

    def put(self, source: bytes | memoryview | BinaryIO | Path) -> Blob:
        return self._plan.perform(
            "blobs.put",
            lambda: self.inner.put(source),
            tear=lambda: self._put_half(_all_of(source)),
            corrupt=lambda: self._put_corrupt(source),
        )

    def read(self, digest: str) -> bytes:
        return self._reading("read", digest, lambda: self.inner.read(digest))

    def copy_to(self, digest: str, out: BinaryIO) -> int:
        return self._reading("copy_to", digest, lambda: self.inner.copy_to(digest, out))

    def local(self, digest: str) -> Path:
        return self._reading("local", digest, lambda: self.inner.local(digest))

    def has(self, digest: str) -> bool:
        return self._plan.perform("blobs.has", lambda: self.inner.has(digest))

    def keep(self, digest: str) -> bool:
        return self._plan.perform("blobs.keep", lambda: self.inner.keep(digest))

    def delete(self, digest: str) -> None:
        self._plan.perform("blobs.delete", lambda: self.inner.delete(digest))

    def list(self) -> Iterator[Digest]:
        return self._plan.perform("blobs.list", self.inner.list)

    def entries(self) -> Iterator[Entry]:
        return self._plan.perform("blobs.entries", self.inner.entries)

    def collect(self, digest: str, before: datetime) -> bool:
        return self._plan.perform("blobs.collect", lambda: self.inner.collect(digest, before))

    def sweep(self, before: datetime) -> int:
        return self._plan.perform("blobs.sweep", lambda: self.inner.sweep(before))

    def _put_half(self, data: bytes) -> None:
        if not self.inner.has(digest_bytes(data)):  # what is there is not written again
            _spoil(self.inner, self.inner.put(data).digest, _half)

    def _put_corrupt(self, source: bytes | memoryview | BinaryIO | Path) -> Blob:
        blob = self.inner.put(source)
        _spoil(self.inner, blob.digest, _flipped)
        return blob

    def _reading(self, name: str, digest: str, act: Callable[[], _T]) -> _T:
        def corrupt() -> _T:
            _spoil(self.inner, digest, _flipped)
            return act()

        return self._plan.perform(f"blobs.{name}", act, corrupt=corrupt)


class FaultyObjects(Objects):
    """The objects of `inner`: what lies below encryption, a cache or the naming by digests.

    Torn, half of an object gets its name, as from a server that breaks its promise. Corrupted, a bit flips on the way: what
    is put is stored so, what is got comes so once.
    """

    def __init__(self, inner: Objects, plan: FaultPlan) -> None:
        self.inner = inner
        self._plan = plan

    @property
    def where(self) -> str:
        return self.inner.where

    def put(self, name: str, content: Content) -> None:
        def changed(change: Callable[[bytes], bytes]) -> None:
            self.inner.put(name, _content(change(b"".join(content.pieces()))))

        self._plan.perform(
            "objects.put",
            lambda: self.inner.put(name, content),
            tear=lambda: changed(_half),
            corrupt=lambda: changed(_flipped),
        )

    def get(self, name: str) -> Iterator[Piece]:
        return self._plan.perform(
            "objects.get",
            lambda: self.inner.get(name),
            corrupt=lambda: iter([_flipped(b"".join(self.inner.get(name)))]),
        )

    def has(self, name: str) -> bool:
        return self._plan.perform("objects.has", lambda: self.inner.has(name))

    def keep(self, name: str) -> bool:
        return self._plan.perform("objects.keep", lambda: self.inner.keep(name))

    def delete(self, name: str) -> None:
        self._plan.perform("objects.delete", lambda: self.inner.delete(name))

    def list(self, folder: str = "") -> Iterator[str]:
        return self._plan.perform("objects.list", lambda: self.inner.list(folder))

    def entries(self) -> Iterator[Held]:
        return self._plan.perform("objects.entries", self.inner.entries)

    def collect(self, name: str, before: datetime) -> bool:
        return self._plan.perform("objects.collect", lambda: self.inner.collect(name, before))

    def sweep(self, before: datetime) -> int:
        return self._plan.perform("objects.sweep", lambda: self.inner.sweep(before))


class FaultyLedger(Ledger):
    """The ledger `inner`. A bit flips in the newest record of a commit, or in its newest event where it has no record; or in
    the record that is got."""

    def __init__(self, inner: SqlLedger, plan: FaultPlan) -> None:
        self.inner = inner
        self._plan = plan

    def __repr__(self) -> str:
        return f"FaultyLedger({self.inner.name!r})"

    def commit(self, writes: Sequence[Write], *, actor: str, now: datetime) -> None:
        def tear() -> None:
            with suppress(PointerMoved):
                self.inner.commit([*writes[: (len(writes) + 1) // 2], _IMPOSSIBLE], actor=actor, now=now)

        def corrupt() -> None:
            self.inner.commit(writes, actor=actor, now=now)
            _spoil_newest(self.inner, writes)

        self._plan.perform(
            "ledger.commit", lambda: self.inner.commit(writes, actor=actor, now=now), tear=tear, corrupt=corrupt
        )

    def get(self, digest: str) -> Stored | None:
        def corrupt() -> Stored | None:
            _spoil_rows(self.inner, schema.record.c.payload, schema.record.c.digest == digest)
            return self.inner.get(digest)

        return self._plan.perform("ledger.get", lambda: self.inner.get(digest), corrupt=corrupt)

    def records(
        self, kind: str, *, name: str | None = None, newest_first: bool = True, limit: int | None = None
    ) -> list[Stored]:
        return self._plan.perform(
            "ledger.records", lambda: self.inner.records(kind, name=name, newest_first=newest_first, limit=limit)
        )

    def edges(self, node: str, *, incoming: bool = False, role: str | None = None) -> list[Edge]:
        return self._plan.perform("ledger.edges", lambda: self.inner.edges(node, incoming=incoming, role=role))

    def events(self, subject: str) -> list[Event]:
        return self._plan.perform("ledger.events", lambda: self.inner.events(subject))

    def pointer(self, subject: str) -> Pointer | None:
        return self._plan.perform("ledger.pointer", lambda: self.inner.pointer(subject))

    def pointers(self, prefix: str) -> list[Pointer]:
        return self._plan.perform("ledger.pointers", lambda: self.inner.pointers(prefix))

    def blocks(self, run: str, series: str | None = None) -> list[Block]:
        return self._plan.perform("ledger.blocks", lambda: self.inner.blocks(run, series))

    def search(self, query: Query) -> list[Found]:
        return self._plan.perform("ledger.search", lambda: self.inner.search(query))

    def facts(self, subjects: Iterable[str], *keys: str) -> dict[str, dict[str, float | str]]:
        return self._plan.perform("ledger.facts", lambda: self.inner.facts(subjects, *keys))

    def fact_keys(self) -> list[str]:
        return self._plan.perform("ledger.fact_keys", self.inner.fact_keys)

    def subjects(self, prefix: str = "") -> list[str]:
        return self._plan.perform("ledger.subjects", lambda: self.inner.subjects(prefix))

    def scan(self) -> Iterator[Stored]:
        return self._plan.perform("ledger.scan", self.inner.scan)

    def rows(self, table: str, column: str, values: Iterable[str]) -> list[tuple[Any, ...]]:
        return self._plan.perform("ledger.rows", lambda: self.inner.rows(table, column, values))

    def dump(self, *tables: str, after: int = 0) -> Generator[Batch, None, None]:
        return self._plan.perform("ledger.dump", lambda: self.inner.dump(*tables, after=after))

    def fill(self, batches: Iterable[Batch]) -> None:
        self._plan.perform("ledger.fill", lambda: self.inner.fill(batches))

    def check(self) -> list[str]:
        return self._plan.perform("ledger.check", self.inner.check)

    def close(self) -> None:
        self.inner.close()


def _is_of(name: str, what: str) -> bool:
    return what in ("", name, name.partition(".")[0])


def _refusal(fault: Fault, name: str, number: int) -> StorageError:
    what = "was torn" if fault.kind == "tear" else "has no answer" if fault.after else "was refused"
    return StorageError(
        f"{name} {what}: a fault on purpose", received=f"call {number}", remedy="take the fault out of the plan"
    )


def _all_of(source: bytes | memoryview | BinaryIO | Path) -> bytes:
    if isinstance(source, Path):
        return source.read_bytes()
    return bytes(source) if isinstance(source, bytes | memoryview) else source.read()


def _content(data: bytes) -> Content:
    return Content(len(data), lambda: iter([data]))


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    """The bytes with one bit of the middle one changed; nothing has none to change."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else b""


def _spoil(blobs: Blobs, digest: str, change: Callable[[bytes], bytes]) -> None:
    """Change a blob where it lies; one that is not there stays away."""
    if isinstance(blobs, FaultyBlobs):
        _spoil(blobs.inner, digest, change)
    elif isinstance(blobs, CachedBlobs):
        _spoil(blobs.remote, digest, change)
    elif isinstance(blobs, AddressedBlobs):
        with suppress(FileNotFoundError):
            name = blob_name(digest)
            blobs.objects.put(name, _content(change(b"".join(blobs.objects.get(name)))))
    elif isinstance(blobs, FolderBlobs):
        path = blobs.root / digest[:2] / digest
        if path.exists():
            times = path.stat()
            write_atomic(path, change(path.read_bytes()), 0o444)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # damage tells nobody when it came
    else:
        raise StorageError("only blobs of velodrome can be spoilt", received=type(blobs).__name__)


def _spoil_newest(ledger: SqlLedger, writes: Sequence[Write]) -> None:
    """Flip a bit of the last record of a commit, else of its last event's body; else of its last block."""
    put = next((write for write in reversed(writes) if isinstance(write, Put)), None)
    moved = next((write for write in reversed(writes) if isinstance(write, Append | Move)), None)
    block = next((write for write in reversed(writes) if isinstance(write, Block)), None)
    if put is not None:
        _spoil_rows(ledger, schema.record.c.payload, schema.record.c.digest == digest_record(put.record))
    elif moved is not None:
        event = schema.event.c
        newest = sa.select(sa.func.max(event.seq)).where(event.subject == moved.subject).scalar_subquery()
        _spoil_rows(ledger, event.body, sa.and_(event.subject == moved.subject, event.seq == newest))
    elif block is not None:
        names = ("run", "series", "attempt", "first_step")
        same = sa.and_(*(schema.series_block.c[name] == getattr(block, name) for name in names))
        _spoil_rows(ledger, schema.series_block.c.data, same)


def _spoil_rows(ledger: SqlLedger, column: sa.Column[bytes], where: sa.ColumnElement[bool]) -> None:
    with ledger._transaction() as connection:
        data = connection.execute(sa.select(column).where(where)).scalar_one_or_none()
        if data is not None:
            spoilt = column.table.update().where(where).values({column.name: _flipped(data)})
            connection.execute(spoilt)
