"""Rows of the ledger's tables as values, and back: the one place that knows how a value is written down.

Times are texts in UTC with six decimals, so that their order as texts is their order in time. Bodies are canonical JSON, so
that an event has one row and a row that says the same in other bytes was written by somebody else. Records and edges carry a
*seal*, a short digest over what nothing else vouches for: all of an edge, and of a record all but its payload, which its digest
covers, and its position, which is known by its neighbours. It tells what happens by accident; who changes a row on purpose can
seal it anew, which is what anchors are for.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from velodrome.core.digest import Digest, canonical, digest_bytes
from velodrome.core.errors import IntegrityError
from velodrome.store.ledger import Edge, Event, Pointer, Put, Stored

__all__ = [
    "edge_row",
    "event_row",
    "is_sealed",
    "moment_text",
    "read_edge",
    "read_event",
    "read_moment",
    "read_pointer",
    "read_sealed",
    "read_stored",
    "read_verified",
    "record_row",
    "seal",
]

_SEAL = 16  # characters
_BACKUP = "restore the ledger from a backup"


def moment_text(moment: datetime) -> str:
    """
    >>> moment_text(datetime(2026, 1, 2, tzinfo=UTC))
    '2026-01-02T00:00:00.000000+00:00'
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def read_moment(text: str) -> datetime:
    """The time that a row has; raises as `read_event`."""
    try:
        return datetime.fromisoformat(text)
    except (ValueError, TypeError) as error:
        raise _unreadable("a time in the ledger", error) from error


def seal(*columns: object) -> str:
    """
    >>> seal("run:1", "record", "abc")
    'e4a50491e76717e1'
    """
    return digest_bytes("\0".join(map(str, columns)).encode())[:_SEAL]


def is_sealed(row: Sequence[Any]) -> bool:
    """Whether the row of a record or an edge is what was sealed; of a record its payload and position aside."""
    return bool(row[-1] == (seal(*row[1:6]) if len(row) > _EDGE_COLUMNS else seal(*row[:-1])))


_EDGE_COLUMNS = 4


def record_row(put: Put, actor: str, now: datetime) -> dict[str, Any]:
    """The record by the columns of its table, but for its position."""
    payload = canonical(put.record)
    row = {
        "digest": digest_bytes(payload),
        "kind": put.record.kind(),
        "name": put.name,
        "created": moment_text(now),
        "actor": actor,
    }
    return row | {"payload": payload, "seal": seal(*row.values())}


def edge_row(src: str, role: str, dst: str) -> dict[str, Any]:
    """The edge by the columns of its table."""
    return {"src": src, "role": role, "dst": dst, "seal": seal(src, role, dst)}


def event_row(event: Event) -> dict[str, Any]:
    """The event by the columns of its table, in their order."""
    return msgspec.structs.asdict(event) | {"time": moment_text(event.time), "body": canonical(event.body)}


def read_event(row: Sequence[Any]) -> Event:
    """The event of a row.

    Raises:
        IntegrityError: somebody changed it so that it does not read.
    """
    subject, seq, type_, time, actor, body, previous, digest = row
    try:
        read = msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise _unreadable(f"the body of event {seq} of {subject!r}", error) from error
    return Event(
        subject=subject,
        seq=seq,
        type=type_,
        time=read_moment(time),
        actor=actor,
        body=read,
        previous=previous,
        digest=digest,
    )


def read_stored(row: Sequence[Any]) -> Stored:
    """The record of a row, its payload not verified; raises as `read_event`."""
    _, digest, kind, name, created, actor, payload, _ = row
    data = payload if isinstance(payload, bytes) else str(payload).encode()  # an edit by hand may leave text
    return Stored(Digest(digest), kind, name, read_moment(created), actor, data)


def read_sealed(row: Sequence[Any]) -> Stored:
    """The record of a row, its payload not verified.

    Raises:
        IntegrityError: its name, kind, time or actor was changed, or the row does not read.
    """
    stored = read_stored(row)
    if not is_sealed(row):
        raise IntegrityError(
            f"the {stored.kind} {stored.digest[:12]} was changed after it was written",
            received=f"of its columns one is not what was sealed: {', '.join(map(repr, row[2:6]))}",
            remedy=_BACKUP,
        )
    return stored


def read_verified(row: Sequence[Any]) -> Stored:
    """The record of a row.

    Raises:
        IntegrityError: as `read_sealed`, or its payload is not what its digest says.
    """
    stored = read_sealed(row)
    found = digest_bytes(stored.payload)
    if found != stored.digest:
        raise IntegrityError(
            f"the {stored.kind} {stored.digest[:12]} was changed after it was written",
            received=f"its bytes have the digest {found[:12]}",
            remedy=_BACKUP,
        )
    return stored


def read_edge(row: Sequence[Any]) -> Edge:
    """The edge of a row.

    Raises:
        IntegrityError: it was changed.
    """
    src, role, dst, _ = row
    if not is_sealed(row):
        raise IntegrityError(
            f"an edge of {src} was changed after it was written", received=f"{role!r} to {dst}", remedy=_BACKUP
        )
    return Edge(src, dst, role)


def read_pointer(row: Sequence[Any]) -> Pointer:
    """The pointer of a row; raises as `read_event`."""
    subject, value, revision, moved = row
    if not isinstance(subject, str) or not isinstance(value, str | None):
        raise IntegrityError("a pointer in the ledger does not read", received=repr((subject, value)), remedy=_BACKUP)
    return Pointer(subject, value, revision, read_moment(moved))


def _unreadable(what: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"{what} does not read: {error}", remedy=_BACKUP)
