"""Who stood where, and when: the history of an alias, and the version on which it stood at a moment.

Both are read off the alias's own events. Their times never go backwards, whatever the clocks of those who moved it, so at
every moment one version stood there, or none; of several moves at one moment the last counts. Cost: a read of one chain.
"""

from datetime import UTC, datetime

import msgspec

from velodrome.core.errors import NotFound, nearest
from velodrome.registry.versions import CHAMPION, Version, require_model, resolve
from velodrome.store.workspace import Workspace

__all__ = ["Standing", "alias_history", "standing_at"]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A while in which an alias stood on a version.

    Attributes:
        version: its reference.
        until: when the alias moved on; None: it still stands there.
        how: "promoted" or "rolled-back".
    """

    version: str
    since: datetime
    until: datetime | None
    how: str
    actor: str
    reason: str


def alias_history(ws: Workspace, model: str, alias: str = CHAMPION) -> tuple[Standing, ...]:
    """Every standing of an alias, oldest first; there may be none yet.

    Raises:
        NotFound: there is no such model or alias; the nearest is named.
    """
    require_model(ws, model)
    events = ws.ledger.events(f"alias:{model}@{alias}")
    if not events and alias != CHAMPION:
        known = {pointer.subject.partition("@")[2] for pointer in ws.ledger.pointers(f"alias:{model}@")}
        raise NotFound(f"{model} has no alias {alias!r}", received=alias, remedy=nearest(alias, known | {CHAMPION}))
    ends = [*(event.time for event in events[1:]), None]
    return tuple(
        Standing(
            version=str(event.body["to"]),
            since=event.time,
            until=end,
            how=event.type.partition(".")[2],
            actor=event.actor,
            reason=str(event.body.get("reason", "")),
        )
        for event, end in zip(events, ends, strict=False)
    )


def standing_at(ws: Workspace, model: str, time: datetime, alias: str = CHAMPION) -> Version | None:
    """The version on which an alias stood at a moment (without a zone: in UTC), or None. Raises as `alias_history`."""
    moment = time if time.tzinfo else time.replace(tzinfo=UTC)
    before = [standing for standing in alias_history(ws, model, alias) if standing.since <= moment]
    return resolve(ws, before[-1].version) if before else None
