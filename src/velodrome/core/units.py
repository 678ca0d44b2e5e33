"""Durations and sizes as people write them."""

import re
from datetime import timedelta

from velodrome.core.errors import ConfigurationError

__all__ = ["parse_bytes", "parse_duration", "show_bytes", "show_duration"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]i?)?B\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_duration(text: str) -> timedelta:
    """A number and one of s, m, h, d, w.

    Raises:
        ConfigurationError: any other text, or more than 2.7 million years.

    >>> parse_duration("14d").days
    14
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            "a duration is a number and one of s, m, h, d, w", received=text, remedy="write for example '7d' or '12h'"
        )
    try:
        return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    except OverflowError as error:
        raise ConfigurationError("a duration is longer than time goes", received=text, remedy="write less") from error


def parse_bytes(text: str) -> int:
    """A number and one of B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).

    Raises:
        ConfigurationError: any other text.

    >>> parse_bytes("10 GB"), parse_bytes("1.5KiB")
    (10000000000, 1536)
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            "a size is a number and one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB",
            received=text,
            remedy="write for example '10GB'",
        )
    unit = (match[2] or "").lower()
    return int(float(match[1]) * (1024 if unit.endswith("i") else 1000) ** _POWERS[unit[:1]])


def show_duration(seconds: float) -> str:
    """A duration for a person.

    >>> show_duration(0.0123), show_duration(75), show_duration(7300)
    ('12 ms', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def show_bytes(count: float) -> str:
    """A size for a person, in powers of 1024.

    >>> show_bytes(512), show_bytes(1536)
    ('512 B', '1.5 KiB')
    """
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"
