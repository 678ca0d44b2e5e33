"""Identifiers that sort by the time they were made: 48 bits of milliseconds and 80 random bits, as in the ULID specification.

Written in 26 lower-case characters of Crockford's base 32, so that they are safe in file names and URLs. Two ids made in
one process always sort in the order in which they were made, also within one millisecond or when the clock steps back.
"""

import os
import threading
from datetime import UTC, datetime, timedelta
from typing import NewType

__all__ = ["IdFactory", "RunId", "made_at"]

RunId = NewType("RunId", str)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80


class IdFactory:
    """Makes ids; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def new(self, now: datetime) -> str:
        """The next id: greater than every id that this factory made before.

        >>> from datetime import UTC
        >>> factory = IdFactory()
        >>> first, second = (factory.new(datetime(2026, 1, 1, tzinfo=UTC)) for _ in range(2))
        >>> len(first), first < second
        (26, True)
        """
        milliseconds = int(now.timestamp() * 1000)
        number = (milliseconds << _RANDOM_BITS) | int.from_bytes(os.urandom(_RANDOM_BITS // 8))
        with self._lock:
            self._last = number = max(number, self._last + 1)
        return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def made_at(id_: str) -> datetime:
    """The moment that an id was made for, cut to the millisecond.

    >>> made_at(IdFactory().new(datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)))
    datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.timezone.utc)
    """
    number = 0
    for letter in id_:
        number = number << 5 | _ALPHABET.index(letter)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number >> _RANDOM_BITS)
