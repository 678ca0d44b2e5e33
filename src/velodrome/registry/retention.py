"""Which of the things that are kept by rules go: a pure function of what there is, of the limits, and of the time.

A thing goes when it is beyond one of the limits and is not safe. What is safe takes part in the counting, so that a limit of a
hundred says how many of the newest stay, not how many stay beside the safe ones.
"""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter

import msgspec

from velodrome.core.config import Limits
from velodrome.core.units import parse_bytes, parse_duration

__all__ = ["Item", "due"]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A thing that may go.

    Attributes:
        name: no other item has it.
        group: items of one group are counted together.
        time: from which on its age counts.
        blobs: what it takes; those that a newer item of its group has are not counted again.
        needs: names of items that stay as long as this one does.
    """

    name: str
    group: str
    time: datetime
    blobs: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()


def due(
    items: Sequence[Item],
    limits: Limits,
    setting: str,
    *,
    now: datetime,
    sizes: Mapping[str, int],
    safe: Container[str],
) -> dict[str, str]:
    """The names of the items that go, each with the limit that it is beyond; of each group the oldest first.

    Args:
        setting: where the limits stand, such as "retention.runs".
        sizes: of blobs, in bytes.
        safe: names of items that stay.

    >>> from datetime import UTC
    >>> items = [Item(name=f"r{day}", group="late", time=datetime(2026, 1, day, tzinfo=UTC)) for day in (1, 2, 3)]
    >>> due(items, Limits(count=1), "retention.runs", now=datetime(2026, 2, 1, tzinfo=UTC), sizes={}, safe={"r2"})
    {'r1': 'retention.runs.count = 1'}
    """
    ordered = sorted(items, key=attrgetter("group", "time", "name"), reverse=True)
    beyond: dict[str, str] = {}
    for _, group in groupby(ordered, attrgetter("group")):
        taken: set[str] = set()
        size = 0
        for rank, item in enumerate(group, 1):
            size += sum(sizes.get(blob, 0) for blob in item.blobs - taken)
            taken |= item.blobs
            rule = _broken(limits, now - item.time, rank, size)
            if rule and item.name not in safe:
                beyond[item.name] = f"{setting}.{rule}"
    stay = {name for item in items if item.name not in beyond for name in item.needs}
    return {name: beyond[name] for name in reversed(beyond) if name not in stay}


def _broken(limits: Limits, age: timedelta, rank: int, size: int) -> str | None:
    """The first limit that is exceeded."""
    if limits.age is not None and age > parse_duration(limits.age):
        return f'age = "{limits.age}"'
    if limits.count is not None and rank > limits.count:
        return f"count = {limits.count}"
    if limits.size is not None and size > parse_bytes(limits.size):
        return f'size = "{limits.size}"'
    return None
