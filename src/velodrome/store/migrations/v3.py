"""Version 3: facts, by which runs are searched and sorted, made of what the records, events and series of version 2 say.

Everything here is as version 2 wrote it: which JSON a run, an outcome and a report are, and how a block holds its points. A
record or a block that was damaged is passed over: its facts are missing, and it is for `doctor` to tell.
"""

import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from alembic.operations import Operations

from velodrome.core.digest import digest_bytes

__all__ = ["upgrade"]

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_MOST_TEXT, _MOST_KEY = 1024, 512  # bytes
_OF_RUN = ("name", "type", "seed", "snapshot", "key", "code", "environment", "judge")
_OF_OUTCOME = ("steps", "rows", "seconds", "artifact", "weights", "history")
_TIMING = ("_seconds", "_time", "_wait")
_HEADER = struct.Struct("<4sBB2x")

_RUNS = """
SELECT pointer.subject, pointer.value, record.created, record.digest, record.payload FROM pointer
JOIN edge ON edge.src = pointer.subject AND edge.role = 'record' JOIN record ON record.digest = edge.dst
WHERE pointer.subject > 'run:' AND pointer.subject < 'run;' AND pointer.value IS NOT NULL ORDER BY pointer.subject
"""
_LINKED = """
SELECT edge.role, record.digest, record.payload FROM edge JOIN record ON record.digest = edge.dst
WHERE edge.src = :subject AND edge.role IN ('outcome', 'report') ORDER BY record.created, record.digest DESC
"""
_RESTORED = "SELECT body FROM event WHERE subject = :subject AND type = 'run.restored' ORDER BY seq"
_BLOCKS = """
SELECT series, attempt, count, data FROM series_block WHERE run = :run ORDER BY series, attempt, first_step
"""

_Points: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
_NOTHING: _Points = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64))


def upgrade(to: Operations) -> None:
    fact = to.create_table(
        "fact",
        sa.Column("subject", _TEXT, primary_key=True),
        sa.Column("key", _TEXT, primary_key=True),
        sa.Column("number", sa.Double),
        sa.Column("text", _TEXT),
        sqlite_with_rowid=False,
    )
    connection = to.get_bind()
    for subject, state, created, digest, payload in connection.execute(sa.text(_RUNS)).all():
        facts = dict(_facts(connection, subject, state, created, _read(digest, payload)))
        rows = [row for key, value in facts.items() if (row := _row(subject, key, value))]
        connection.execute(fact.insert(), rows)
    to.create_index("fact_by_number", "fact", ["key", "number", "subject"])
    to.create_index("fact_by_text", "fact", ["key", "text", "subject"])


def _facts(
    connection: sa.Connection, subject: str, state: str, created: str, run: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """What is known about a run, with None for what is not."""
    linked = {role: _read(*stored) for role, *stored in connection.execute(sa.text(_LINKED), {"subject": subject})}
    outcome, report = linked.get("outcome", {}), linked.get("report", {})
    series = _histories(connection, subject)
    yield "id", subject.removeprefix("run:")
    yield "state", state.partition("/")[0]
    yield "attempts", int(state.partition("/")[2])
    yield "started", created
    yield "owner", run.get("owner") or None
    yield from ((name, run.get(name)) for name in _OF_RUN)
    yield from ((name, outcome.get(name)) for name in _OF_OUTCOME)
    yield "primary", report.get("primary")
    yield from _flat(run.get("recipe", {}), "params.")
    yield from ((f"metrics.{name}", figure["value"]) for name, figure in report.get("metrics", {}).items())
    for name, (_, values) in series.items():
        if run.get("type") == "track" and outcome and not name.endswith(_TIMING):
            yield f"metrics.{name}", float(values[-1])
        yield f"series.{name}.last", float(values[-1])
        yield f"series.{name}.min", float(np.fmin.reduce(values))
        yield f"series.{name}.max", float(np.fmax.reduce(values))
        yield f"series.{name}.count", len(values)


def _flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _row(subject: str, key: str, value: Any) -> dict[str, Any] | None:
    """The row of a fact: numbers that are floats as such, others, true, false and lists as their JSON. None: nothing."""
    number, text = None, None
    if isinstance(value, bool | list) or (isinstance(value, int) and abs(value) > 2**53):
        text = msgspec.json.encode(value, order="sorted").decode()
    elif isinstance(value, str):
        text = value
    elif value is not None:
        number = float(value)
    if len(key.encode()) > _MOST_KEY or "\0" in key or (text is None and (number is None or np.isnan(number))):
        return None
    if text is not None:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode()[:_MOST_TEXT].decode(errors="ignore")
    return {"subject": subject, "key": key, "number": number, "text": text}


def _read(digest: str, payload: bytes | str) -> dict[str, Any]:
    """What a record says; nothing, if it was changed after it was written, which may have left it as text."""
    data = payload.encode() if isinstance(payload, str) else bytes(payload)
    return dict(msgspec.json.decode(data)) if digest_bytes(data) == digest else {}


def _histories(connection: sa.Connection, subject: str) -> dict[str, _Points]:
    """Series → its points after all attempts: each overrides what was logged after the step that it went on from."""
    starts = dict(_restored(body) for (body,) in connection.execute(sa.text(_RESTORED), {"subject": subject}))
    points: defaultdict[str, defaultdict[int, list[_Points]]] = defaultdict(lambda: defaultdict(list))
    for series, attempt, count, data in connection.execute(sa.text(_BLOCKS), {"run": subject.removeprefix("run:")}):
        points[series][attempt].append(_decode(bytes(data), count))
        starts.setdefault(attempt, 0)
    merged = {series: _merged(attempts, starts) for series, attempts in points.items()}
    return {series: history for series, history in merged.items() if len(history[0])}


def _restored(body: bytes) -> tuple[int, int]:
    """The attempt, and the step that it went on from."""
    try:
        read = msgspec.json.decode(body, type=dict[str, int])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        read = {}
    return read.get("attempt", 0), read.get("step", 0)


def _decode(data: bytes, count: int) -> _Points:
    if len(data) != _HEADER.size + 16 * count or _HEADER.unpack_from(data)[:2] != (b"vdms", 1):
        return _NOTHING
    steps, values = (np.frombuffer(data, type_, count, at) for type_, at in (("<i8", 8), ("<f8", 8 + 8 * count)))
    return steps.astype(np.int64), values.astype(np.float64)


def _merged(attempts: Mapping[int, list[_Points]], starts: Mapping[int, int]) -> _Points:
    steps, values = _NOTHING
    for attempt, start in sorted(starts.items()):
        kept = steps <= start
        later = attempts.get(attempt, [])
        steps = np.concatenate([steps[kept], *(each for each, _ in later)])
        values = np.concatenate([values[kept], *(each for _, each in later)])
    unique, first_from_behind = np.unique(steps[::-1], return_index=True)
    return unique, values[::-1][first_from_behind]
