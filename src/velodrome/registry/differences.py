"""Nested plain values side by side: pure functions behind the comparison of runs and the frame of all runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from velodrome.core.digest import canonical

__all__ = ["differing", "flatten"]


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists as canonical JSON.

    >>> flatten({"a": {"b": 1}, "c": [1, 2]})
    {'a.b': 1, 'c': '[1,2]'}
    """
    return dict(_leaves(value, ""))


def differing(flat: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Key → its value in each mapping (None: not there), for the keys whose values are not all the same.

    >>> differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}])
    {'b': (2, 3), 'c': (None, 4)}
    """
    keys = dict.fromkeys(key for mapping in flat for key in mapping)
    rows = {key: tuple(mapping.get(key) for mapping in flat) for key in keys}
    return {key: values for key, values in rows.items() if any(_differ(value, values[0]) for value in values)}


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", canonical(item).decode() if isinstance(item, list | tuple) else item


def _differ(left: Any, right: Any) -> bool:
    """True and 1 are equal to Python, but not to a person who compares parameters."""
    return type(left) is not type(right) or bool(left != right)
