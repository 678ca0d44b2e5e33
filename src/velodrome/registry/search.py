"""Runs found, listed and put side by side by what is known of them: by their facts alone, however many there are.

A page is found by one query and its facts are read by another, so the first hundred of ten thousand take some milliseconds,
and all of them a third of a second. The cursor of a page says where the next one goes on: pages neither repeat nor leave out
a run, whatever is added meanwhile. (A run whose figures change may move past the place.)
"""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import polars as pl

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import ConfigurationError, IntegrityError
from velodrome.registry.grammar import parse
from velodrome.registry.runs import RunState
from velodrome.store.query import And, Compare, Found, Query, keys_of
from velodrome.store.workspace import Workspace

__all__ = ["RunPage", "RunSummary", "list_runs", "runs_frame", "search_runs"]

_SUMMARY = ("id", "name", "type", "state", "attempts", "started", "primary")
_NEEDED = set(_SUMMARY) - {"primary"}
_MOST = 10**9
_MEND = "run `velodrome doctor`, which says more; `velodrome doctor --mend` makes facts anew"
_BEYOND = 2**63
_INTEGERS = ("attempts", "steps", "rows", "seed")
_COLUMNS: dict[str, pl.DataType] = {
    **dict.fromkeys(("id", "name", "type", "state"), pl.String()),
    "attempts": pl.Int64(),
    "started": pl.Datetime("us", "UTC"),
    **dict.fromkeys(("steps", "rows"), pl.Int64()),
    "seconds": pl.Float64(),
    **dict.fromkeys(("artifact", "weights", "history", "key", "snapshot", "code", "environment"), pl.String()),
    "seed": pl.Int64(),
    **dict.fromkeys(("owner", "judge"), pl.String()),
}
"""The columns of `runs_frame` before those of metrics, parameters and tags."""

_Facts = dict[str, float | str]


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run as a line of a list. `metric` is the primary figure of its report in words, `metrics` all its figures."""

    id: str
    name: str
    type: str
    state: RunState
    attempts: int
    started: datetime
    metric: str | None
    metrics: dict[str, float]
    tags: dict[str, float | str]


class RunPage(msgspec.Struct, frozen=True):
    """Some of the runs that a query finds, in its order. `next` is the cursor of the page after; None: this is the last."""

    runs: tuple[RunSummary, ...]
    next: str | None


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended, and which query it belongs to."""

    query: bytes
    subject: str
    values: tuple[float | str | None, ...]


def search_runs(
    ws: Workspace, text: str = "", *, name: str | None = None, limit: int = 50, after: str | None = None
) -> RunPage:
    """A page of the runs that the words find; see docs/search.md. Without an order the newest come first.

    Args:
        name: only runs of this recipe.
        after: the cursor of the page before.

    Raises:
        ConfigurationError: the words do not read, or the cursor belongs to other words.
    """
    query = _read(ws, text, name, limit)
    last = _position(query, after) if after else None
    found = ws.ledger.search(msgspec.structs.replace(query, limit=limit + 1, after=last))
    runs = _summaries(ws, found[:limit])
    return RunPage(tuple(runs), _cursor(query, found[limit - 1]) if len(found) > limit else None)


def list_runs(
    ws: Workspace, name: str | None = None, *, state: RunState | None = None, limit: int | None = None
) -> list[RunSummary]:
    """Runs, newest first, optionally those of one recipe or in one state."""
    asked = {"name": name, "state": state and str(state)}
    where = And(tuple(Compare(key, "=", value) for key, value in asked.items() if value is not None))
    return _summaries(ws, ws.ledger.search(Query(where=where, limit=limit)))


def runs_frame(ws: Workspace, text: str = "", *, name: str | None = None, limit: int | None = None) -> pl.DataFrame:
    """The runs that the words find, one a row, with a column for each metric, parameter and tag: `metrics.roc_auc`.

    Columns are called as the words call them. Numbers are Float64; where some runs have a number and others a text, texts.
    So are all seeds, where one of them does not fit into 64 bits with a sign.
    What is known of a series has a column where the words name it.

    Raises:
        ConfigurationError: the words do not read.
    """
    query = _read(ws, text, name, limit)
    found = ws.ledger.search(query)
    asked = keys_of(query) - _COLUMNS.keys()
    facts = _facts(ws, found, *_COLUMNS, "metrics.", "params.", "tags.", *asked)
    others = sorted(asked | {key for each in facts for key in each if "." in key})
    known = [_attribute(facts, name, dtype) for name, dtype in _COLUMNS.items()]
    return pl.DataFrame([*known, *(_column(facts, key) for key in others)])


def _read(ws: Workspace, text: str, name: str | None, limit: int | None) -> Query:
    if limit is not None and not 1 <= limit <= _MOST:
        problem = f"a limit is a number of runs, from 1 to {_MOST:,}"
        raise ConfigurationError(problem, received=limit, remedy="say how many, such as 50")
    query = parse(text, ws.ledger.fact_keys())
    where = query.where if name is None else And((Compare("name", "=", name), query.where))
    return msgspec.structs.replace(query, where=where, limit=limit)


# ------------------------------------------------------------------------------------------------------------- summaries


def _summaries(ws: Workspace, found: Sequence[Found]) -> list[RunSummary]:
    facts = _facts(ws, found, *_SUMMARY, "metrics.", "tags.")
    for each, known in zip(found, facts, strict=True):
        if missing := _NEEDED - known.keys():
            problem = f"facts of {each.subject} are missing, by which it is listed"
            raise IntegrityError(problem, received=", ".join(sorted(missing)), remedy=_MEND)
    return [_summary(known) for known in facts]


def _facts(ws: Workspace, found: Sequence[Found], *keys: str) -> list[_Facts]:
    facts = ws.ledger.facts([each.subject for each in found], *keys)
    return [facts[each.subject] for each in found]


def _summary(facts: _Facts) -> RunSummary:
    """Raises IntegrityError where a fact is not of the kind that it should be."""
    try:
        return _told(facts)
    except (ValueError, TypeError) as error:
        problem = f"facts of run:{facts['id']} do not read, by which it is listed: {error}"
        raise IntegrityError(problem, remedy=_MEND) from error


def _told(facts: _Facts) -> RunSummary:
    groups: dict[str, _Facts] = {"metrics": {}, "tags": {}}
    for key, value in facts.items():
        group, dot, name = key.partition(".")
        if dot:
            groups[group][name] = value
    metrics = {name: float(value) for name, value in groups["metrics"].items()}
    primary = facts.get("primary")
    return RunSummary(
        id=str(facts["id"]),
        name=str(facts["name"]),
        type=str(facts["type"]),
        state=RunState(str(facts["state"])),
        attempts=int(facts["attempts"]),
        started=datetime.fromisoformat(str(facts["started"])),
        metric=f"{primary} {metrics[str(primary)]:.4f}" if primary in metrics else None,
        metrics=metrics,
        tags=groups["tags"],
    )


# ----------------------------------------------------------------------------------------------------------------- frames


def _attribute(facts: Sequence[_Facts], name: str, dtype: pl.DataType) -> pl.Series:
    values: list[Any] = [each.get(name) for each in facts]
    if name == "started":
        values = [datetime.fromisoformat(value) for value in values]
    elif name in _INTEGERS:
        values = [None if value is None else int(value) for value in values]
        if any(value is not None and not -_BEYOND <= value < _BEYOND for value in values):  # a seed
            return pl.Series(name, [None if value is None else str(value) for value in values], pl.String())
    return pl.Series(name, values, dtype)


def _column(facts: Sequence[_Facts], key: str) -> pl.Series:
    values = [each.get(key) for each in facts]
    if any(isinstance(value, str) for value in values):
        return pl.Series(key, [_text(value) if isinstance(value, float) else value for value in values], pl.String())
    return pl.Series(key, values, pl.Float64())


def _text(number: float) -> str:
    return str(int(number)) if number.is_integer() else str(number)


# ---------------------------------------------------------------------------------------------------------------- cursors


def _cursor(query: Query, last: Found) -> str:
    packed = msgspec.msgpack.encode(_Cursor(_mark(query), last.subject, last.values))
    return urlsafe_b64encode(packed).rstrip(b"=").decode()


def _position(query: Query, cursor: str) -> Found:
    try:
        packed = b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        read = msgspec.msgpack.decode(packed, type=_Cursor)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ConfigurationError("this is no cursor", received=cursor, remedy="give one as a page had it") from error
    if read.query != _mark(query) or len(read.values) != len(query.order):
        raise ConfigurationError(
            "the cursor belongs to another query",
            received=cursor,
            remedy="give it with the words that its page was found by, or begin without a cursor",
        )
    return Found(read.subject, read.values)


def _mark(query: Query) -> bytes:
    """What tells one query from another, whatever their limits."""
    return bytes.fromhex(digest_bytes(msgspec.msgpack.encode((query.where, query.order)))[:16])
