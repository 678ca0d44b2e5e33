"""Tombstones: what was collected, when and why. They are pointers, so that who names a thing and who collects it at the same
moment cannot both succeed.

`collected:<digest>` is COLLECTED from the commit that gives a record's bytes away to one that has them back. The state of
whatever has a pointer of its own begins with that word instead.
"""

from velodrome.core.errors import Gone
from velodrome.store.ledger import Expect, Ledger, Move

__all__ = ["COLLECTED", "bury", "lift", "require_kept", "tombstone"]

COLLECTED = "collected"


def tombstone(digest: str) -> str:
    """The subject that says whether a record was collected."""
    return f"{COLLECTED}:{digest}"


def bury(digest: str, type_: str, reason: str) -> Move:
    """The write that collects a record."""
    return Move(tombstone(digest), None, COLLECTED, type_, {"reason": reason})


def lift(ledger: Ledger, digest: str, type_: str) -> Move | Expect:
    """The write with which a commit names a record whose bytes are there: it stands, or stands again."""
    pointer = ledger.pointer(tombstone(digest))
    buried = pointer is not None and pointer.value == COLLECTED
    return Move(tombstone(digest), COLLECTED, None, type_) if buried else Expect(tombstone(digest), None)


def require_kept(ledger: Ledger, subject: str, what: str) -> Expect:
    """The write with which a commit rests on something: it fails if that is collected, or moves, meanwhile.

    Args:
        subject: a tombstone, or a pointer of its own.
        what: its name for people.

    Raises:
        Gone: it was collected; when and by which rule is said.
    """
    pointer = ledger.pointer(subject)
    value = pointer.value if pointer else None
    if value is None or not value.startswith(COLLECTED):
        return Expect(subject, value)
    last = ledger.events(subject)[-1]
    raise Gone(
        f"{what} was collected on {last.time:%Y-%m-%d %H:%M} UTC",
        received=f"by the rule {last.body.get('reason')}",
        remedy="what it was made from and what came of it is still recorded; its bytes are in backups: docs/collection.md",
    )
