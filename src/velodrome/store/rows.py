"""Rows of the ledger's tables as values, and back: the one place that knows how a value is written down.

Times are texts in UTC with six decimals, so that their order as texts is their order in time. Bodies are canonical JSON, so
that an event has one row and a row that says the same in other bytes was written by somebody else.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from velodrome.core.digest import Digest, canonical, digest_bytes
from velodrome.core.errors import IntegrityError
from velodrome.store.ledger import Event, Pointer, Stored

__all__ = ["event_row", "moment_text", "read_event", "read_moment", "read_pointer", "read_stored", "read_verified"]


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
    _, digest, kind, name, created, actor, payload = row
    data = payload if isinstance(payload, bytes) else str(payload).encode()  # an edit by hand may leave text
    return Stored(Digest(digest), kind, name, read_moment(created), actor, data)


def read_verified(row: Sequence[Any]) -> Stored:
    """The record of a row.

    Raises:
        IntegrityError: its payload is not what its digest says, or the row does not read.
    """
    stored = read_stored(row)
    found = digest_bytes(stored.payload)
    if found != stored.digest:
        raise IntegrityError(
            f"the {stored.kind} {stored.digest[:12]} was changed after it was written",
            received=f"its bytes have the digest {found[:12]}",
            remedy="restore the ledger from a backup",
        )
    return stored


def read_pointer(row: Sequence[Any]) -> Pointer:
    """The pointer of a row; raises as `read_event`."""
    subject, value, revision, moved = row
    return Pointer(subject, value, revision, read_moment(moved))


def _unreadable(what: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"{what} does not read: {error}", remedy="restore the ledger from a backup")
