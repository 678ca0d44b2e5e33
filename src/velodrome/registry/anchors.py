"""Anchors: what stood in the ledger at a moment, so that it can be proven later that all of it still does.

An anchor is a record, and the move of the pointer `audit` to it is an event, whose digest is what a person keeps elsewhere.
That one digest names the whole ledger of the moment: the event covers the record and, by the event before it, every earlier
anchor; the record names lists by their digests; a list holds *lines* (`store.audit`), which name edges, the heads of chains
and so every event in them, and records with all their columns. Pointers follow from events.

Format 1. A list is a blob: canonical JSON, an array of lines as arrays, sorted, at most `LINES` of them. An anchor lists only
what no earlier one has, in `lists` by table, so all lists together name each thing once; two anchors that race may list the
same. What was listed counts for ever: a later anchor takes nothing back, whatever it found.
Cost: a ledger grows by some 150 bytes in a list for each record, edge and moved chain, once.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Literal, TypeAlias, TypeVar

from velodrome.core.digest import Digest, canonical, decode
from velodrome.core.values import Record
from velodrome.store.audit import EdgeLine, HeadLine, RecordLine
from velodrome.store.blobs import Blobs

__all__ = ["AUDIT", "LINES", "Anchor", "Listed", "beyond", "put_lines", "read_lines"]

AUDIT = "audit"
"""The subject whose chain and pointer the anchors are."""

LINES = 20_000
"""Lines of a list at most: 3 MB, so that neither writing nor reading it takes much memory."""

Listed: TypeAlias = Literal["edge", "event", "record"]

_LINE: dict[Listed, Any] = {"edge": EdgeLine, "event": HeadLine, "record": RecordLine}
_L = TypeVar("_L", bound=tuple[Any, ...])


class Anchor(Record, frozen=True, kw_only=True, tag="anchor"):
    """What stood in the ledger.

    Attributes:
        number: from 1.
        records, edges, events, chains: how many there were, but for the chain `audit`, which holds itself together.
        lists: by table, the blobs that say which of them no earlier anchor has, in order.
    """

    format: Literal[1] = 1
    number: int
    records: int
    edges: int
    events: int
    chains: int
    lists: dict[Listed, tuple[Digest, ...]]


def put_lines(blobs: Blobs, lines: Iterable[tuple[Any, ...]]) -> tuple[Digest, ...]:
    """Store sorted lines as lists."""
    rest = iter(lines)
    return tuple(blobs.put(canonical(part)).digest for part in iter(lambda: list(islice(rest, LINES)), []))


def read_lines(blobs: Blobs, anchors: Sequence[Anchor], table: Listed) -> Iterator[Any]:
    """The lines of all anchors for a table, sorted. As many lists are in memory at a time as there are anchors.

    Raises:
        MissingBlob, IntegrityError: a list is not there, or damaged.
    """
    return heapq.merge(*(_lines(blobs, anchor.lists[table], _LINE[table]) for anchor in anchors))


def beyond(present: Iterable[_L], known: Iterable[_L]) -> Iterator[_L]:
    """What of the present is not known; both are sorted.

    >>> list(beyond([(1,), (3,), (4,)], [(2,), (3,)]))
    [(1,), (4,)]
    """
    rest = iter(known)
    line = next(rest, None)
    for one in present:
        while line is not None and line < one:
            line = next(rest, None)
        if line != one:
            yield one


def _lines(blobs: Blobs, lists: Iterable[Digest], type_: Any) -> Iterator[Any]:
    return chain.from_iterable(decode(blobs.read(digest), list[type_]) for digest in lists)
