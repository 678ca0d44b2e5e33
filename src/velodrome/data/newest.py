"""The newest snapshot of each dataset: a pointer that moves from one record to the next."""

from collections.abc import Mapping, Sequence
from typing import Any

from velodrome.core.errors import PointerMoved
from velodrome.core.values import Record
from velodrome.store.ledger import Link, Move, Put, digest_record
from velodrome.store.tombstones import lift
from velodrome.store.workspace import Workspace

__all__ = ["publish"]

_ATTEMPTS = 5


def publish(ws: Workspace, snapshot: Record, dataset: str, links: Sequence[Link], body: Mapping[str, Any]) -> None:
    """Record a snapshot with its links, and that it is the newest of its dataset; nothing, if it is that already.

    The snapshot before it becomes its parent, unless it was there already: going back to old data makes no circle.
    """
    digest, subject = digest_record(snapshot), f"dataset:{dataset}"
    for attempt in range(1, _ATTEMPTS + 1):
        pointer = ws.ledger.pointer(subject)
        present = pointer.value if pointer else None
        if present == digest:
            return
        parent = [Link(digest, present, "parent")] if present and ws.ledger.get(digest) is None else []
        move = Move(subject, present, digest, "snapshot.taken", dict(body))
        try:
            ws.commit(Put(snapshot, dataset), *links, *parent, lift(ws.ledger, digest, "snapshot.back"), move)
        except PointerMoved:
            if attempt == _ATTEMPTS:
                raise
        else:
            return
