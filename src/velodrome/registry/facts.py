"""The facts of a run: what its records, events and series say, flat and plain, so that runs are searched and sorted by it.

Whoever writes a record or an event of a run writes its facts in the same commit: its inputs when it starts, its state with
every move, its outcome at the end, its figures with its report, its tags when they are set. Which keys there are is said in
docs/search.md.
Cost: a row for each leaf of what is given.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from velodrome.core.digest import canonical
from velodrome.core.values import Record
from velodrome.evaluation.report import Report
from velodrome.registry.differences import flatten
from velodrome.store.ledger import Fact
from velodrome.store.workspace import Workspace

__all__ = ["facts_of", "known_of", "plain_fact", "record_facts"]

_OF_RUN = ("id", "name", "type", "seed", "snapshot", "key", "code", "environment", "judge")
_OF_OUTCOME = ("steps", "rows", "seconds", "artifact", "weights", "history")
_LONGEST_KEY = 512
_EXACT = 2**53


def facts_of(run_id: str, values: Mapping[str, Any]) -> Iterator[Fact]:
    """The facts of a run that nested plain values are, with dotted keys. None is that there is none.

    What a ledger cannot keep is left out: a key of more than 512 bytes, or with a NUL. Of two values with one dotted key the same
    counts always, in whatever order they are given.

    >>> [(fact.key, fact.value) for fact in facts_of("1", {"params": {"early": None, "lr": 0.1, "refit": True}})]
    [('params.early', None), ('params.lr', 0.1), ('params.refit', 'true')]
    """
    for key, value in flatten(_ordered(values)).items():
        if len(key.encode()) <= _LONGEST_KEY and "\0" not in key:
            yield Fact(f"run:{run_id}", key, plain_fact(value))


def _ordered(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _ordered(item) if isinstance(item, Mapping) else item for key, item in sorted(values.items())}


def record_facts(record: Record) -> dict[str, Any]:
    """What a record of a run, its outcome or a report says that the run is searched by, for `facts_of`."""
    if isinstance(record, Report):
        return {"primary": record.primary, "metrics": {name: each.value for name, each in record.metrics.items()}}
    said = msgspec.structs.asdict(record)
    if record.kind() == "outcome":
        return {name: said[name] for name in _OF_OUTCOME}
    return {name: said[name] for name in _OF_RUN} | {"owner": said["owner"] or None, "params": said["recipe"]}


def known_of(ws: Workspace, run_id: str, group: str) -> dict[str, float | str]:
    """What is known of a run under the keys that begin with `group` and a dot, by the rest of the key."""
    facts = ws.ledger.facts([f"run:{run_id}"], f"{group}.")[f"run:{run_id}"]
    return {key.removeprefix(f"{group}."): value for key, value in facts.items()}


def plain_fact(value: object) -> float | str | None:
    """A plain value as a number or a text: whole numbers beyond 2^53, which floats round, as their digits.

    >>> plain_fact(3), plain_fact(2**53 + 1), plain_fact(False), plain_fact(None)
    (3.0, '9007199254740993', 'false', None)
    """
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _EXACT:
        return float(value)
    return canonical(value).decode()
