"""`velodrome doctor`: every invariant of a workspace, looked at; what is wrong is named with how to mend it.

Each check is a function of what was seen, and finds nothing where all is well; docs/doctor.md lists what they find. Nothing
that is damaged ends the examination. `mend` makes anew what follows from the rest.
Cost: the ledger is read four times, and every blob and every history read and hashed where it lies, so it takes what the disk
or the network takes. A quick look leaves the latter out: a second for 10,000 records and 20,000 events.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from velodrome.control.auditing import Audit, verify
from velodrome.control.needed import EVER, KINDS, Standing, along, needed, strange, survey
from velodrome.core.digest import Digest
from velodrome.core.errors import IntegrityError, MissingBlob, StorageError, VelodromeError
from velodrome.core.units import parse_duration, show_bytes
from velodrome.registry.index import reindex, wrong_facts
from velodrome.registry.runs import RunState
from velodrome.registry.series_writer import ship_leftovers
from velodrome.store.arrays import map_arrays
from velodrome.store.blobs import Blobs, Entry
from velodrome.store.collection import leads
from velodrome.store.health import (
    Finding,
    blob_folder,
    damaged_copies,
    examine_access,
    examine_space,
    keyring,
    local_places,
)
from velodrome.store.ledger import Ledger, Stored
from velodrome.store.leftovers import abandoned, find_leftovers, leftover_folders, remove_leftovers
from velodrome.store.transfer import unreadable
from velodrome.store.trees import read_tree
from velodrome.store.workspace import Workspace

__all__ = ["Findings", "examine", "mend", "missing_blobs"]

_RESTORE = "restore a backup into an empty workspace: docs/backup.md"
_BRING_BACK = "velodrome restore BACKUP --mend"
_OTHER_LEDGER = (
    "let `ledger` in velodrome.toml name theirs, or restore a backup into an empty workspace: docs/backup.md"
)
_MAKE_ANEW = "velodrome doctor --mend"
_AHEAD = timedelta(minutes=1)

_PASSED_OVER = ("checkpoint.damaged", "checkpoint.collected")
_BLOBS = {
    "anchor": ("lists.edge", "lists.event", "lists.record"),
    "checkpoint": ("blob",),
    "fragment": ("content", "converted", "quarantine", "sketches"),
    "profile": ("sketches",),
    "provenance": ("lock", "repository.diff"),
    "snapshot": ("contract", "fragments.excluded"),
}
"""Which fields of which kind of record name blobs. Those that name trees: `needed.KINDS`."""


class Findings(msgspec.Struct, frozen=True):
    """What an examination found; `summary` says what was looked at."""

    problems: tuple[Finding, ...]
    summary: str
    notes: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the checks judge. What could not be read is not there, and a finding by itself.

    Attributes:
        standing: what of the ledger is needed; None where it is damaged.
        blobs: all that are there.
    """

    ws: Workspace
    now: datetime
    audit: Audit | None
    standing: Standing | None
    records: list[Stored]
    blobs: Mapping[Digest, Entry] | None
    unread: tuple[Finding, ...]


_T = TypeVar("_T")
_Check = Callable[[_Seen], Iterable[Finding]]


def examine(ws: Workspace, *, quick: bool = False) -> Findings:
    """Look at everything.

    Args:
        quick: leave out whatever reads all bytes: blobs, histories, facts, caches.
    """
    seen = _look(ws, quick)
    checks = _QUICK if quick else (*_QUICK, *_THOROUGH)
    found = [*seen.unread]
    with ws.progress.task("examine", len(checks)) as task:
        for check in checks:
            found += check(seen)
            task.advance(note=check.__name__.strip("_"))
    counts = (seen.audit.seen if seen.audit else {}) | {"blobs": len(seen.blobs or ())}
    return Findings(
        problems=tuple(finding for finding in found if finding.severity == "problem"),
        summary=", ".join(f"{counts.get(what, 0)} {what}" for what in ("records", "chains", "blobs")),
        notes=tuple(finding for finding in found if finding.severity == "note"),
    )


def mend(ws: Workspace) -> list[str]:
    """Make anew what follows from the rest, and bring into the ledger what killed runs have left here; what was done.

    Raises:
        StorageError: the rest is damaged itself.
    """
    done = [f"brought {left.points} points of the run {left.run} into the ledger" for left in ship_leftovers(ws)]
    keys = keyring(ws.blobs)
    if keys and (count := keys.mend_keys()):
        done.append(f"stored {count} keys twice again")
    if count := reindex(ws):
        done.append(f"made the facts of {count} runs anew")
    damaged = [*damaged_copies(ws.blobs), *_damaged_layouts(ws)]
    remove_leftovers(damaged)
    return [*done, *(f"removed {path}" for path in damaged)]


def missing_blobs(ledger: Ledger, present: Mapping[Digest, Any], blobs: Blobs) -> dict[Digest, str]:
    """Blobs that a ledger needs and that are not present → the kind of record that names it.

    Args:
        blobs: where trees are read; one that cannot be is taken for empty.
    """
    return _missing(_quietly(lambda: survey(ledger)), list(ledger.scan()), present, blobs)


# ---------------------------------------------------------------------------------------------------------------- checks


def _database(seen: _Seen) -> Iterator[Finding]:
    yield from (Finding("ledger", text, _RESTORE) for text in seen.ws.ledger.check())


def _written(seen: _Seen) -> Iterator[Finding]:
    for damage in seen.audit.damages if seen.audit else ():
        where = f"{damage.what} {'' if damage.position is None else f'{damage.position} '}of {damage.subject}"
        yield Finding(where, damage.problem, _BRING_BACK if damage.what == "anchor" else _RESTORE)


def _clock(seen: _Seen) -> Iterator[Finding]:
    with suppress(StorageError):
        times = (row[3] for _, rows in seen.ws.ledger.dump("event") for row in rows)
        newest = max((time for time in times if isinstance(time, str)), default="")  # what is none is told already
        if newest > (seen.now + _AHEAD).astimezone(UTC).isoformat(timespec="microseconds"):
            text = f"its newest event lies in the future: {newest}"
            yield Finding(
                "ledger", text, "set the clock of the machine that is wrong, or wait: times do not go backwards"
            )


def _missed(seen: _Seen) -> Iterator[Finding]:
    missing = _missing_now(seen)
    if missing:  # unless it was put, or its owner dropped it, between two of our looks
        missing = {
            digest: kind for digest, kind in missing.items() if digest in _missing_now(_look(seen.ws, quick=True))
        }
    for digest, kind in missing.items():
        yield Finding(f"blob {digest[:12]}", f"it is not there, but a {kind} names it", _BRING_BACK)


def _unneeded(seen: _Seen) -> Iterator[Finding]:
    if seen.standing is None or seen.blobs is None:
        return
    sizes: dict[str, int] = {digest: entry.size for digest, entry in seen.blobs.items()}
    lead = leads(seen.standing.graph, seen.ws.blobs, sizes, lenient=True)
    before = seen.now - _grace(seen.ws)
    old = {digest for digest, entry in seen.blobs.items() if entry.time < before}
    if foreign := strange(seen.standing, seen.blobs.values(), seen.now):
        text = f"{len(foreign)} are here, but the ledger has no record at all: theirs is another, or was lost"
        yield Finding("blobs", text, _OTHER_LEDGER)
        return
    kept = needed(seen.standing, lead, EVER)
    garbage = [seen.blobs[digest] for digest in old - kept]
    if garbage:
        size = show_bytes(sum(entry.size for entry in garbage))
        yield Finding("blobs", f"{len(garbage)} are needed by nothing ({size})", "velodrome gc", "note")


def _keys(seen: _Seen) -> Iterator[Finding]:
    keys = keyring(seen.ws.blobs)
    for name in keys.damaged_keys() if keys and seen.blobs is not None else ():
        yield Finding(name, "a copy of a key of the blobs is missing or does not open", _MAKE_ANEW)


def _places(seen: _Seen) -> Iterator[Finding]:
    places = local_places(seen.ws)
    yield from examine_access(places)
    yield from examine_space(places)


def _leftovers(seen: _Seen) -> Iterator[Finding]:
    ws, folder = seen.ws, blob_folder(seen.ws.blobs)
    folders = [*leftover_folders(ws), *([folder / "incoming"] if folder else [])]
    left = [*find_leftovers(folders, seen.now - _grace(ws)), *abandoned(ws)]
    if left:
        text = f"killed processes left {left[0]}{f' and {len(left) - 1} more' if len(left) > 1 else ''}"
        yield Finding(str(ws.store), text, "velodrome gc", "note")


def _bytes(seen: _Seen) -> Iterator[Finding]:
    digests = sorted(seen.blobs or ())
    with seen.ws.progress.task("read blobs", len(digests)) as task:
        damaged = unreadable(digests, seen.ws.blobs, task.advance)
    for digest, error in damaged.items():
        if not isinstance(error, MissingBlob):  # nobody needed it any more; what is missed is told above
            yield Finding(f"blob {digest[:12]}", error.problem, _BRING_BACK)


def _facts(seen: _Seen) -> Iterator[Finding]:
    try:
        going_on = {pointer.subject for pointer in seen.ws.ledger.pointers("run:") if _goes_on(pointer.value)}
        for subject, difference in wrong_facts(seen.ws):
            if subject not in going_on:
                key, (known, expected) = next(iter(difference.items()))
                text = f"{len(difference)} of its facts are wrong: {key} is {known!r}, not {expected!r}"
                yield Finding(subject.replace("run:", "run ", 1), text, _MAKE_ANEW)
    except VelodromeError as error:  # what a run is made of is damaged, which may be a finding already
        if not seen.unread and not (seen.audit and seen.audit.damages):
            yield Finding("facts", error.problem, _RESTORE)


def _copies(seen: _Seen) -> Iterator[Finding]:
    for path in [*damaged_copies(seen.ws.blobs), *_damaged_layouts(seen.ws)]:
        yield Finding(str(path), "a copy in the cache is damaged; it would not be used", _MAKE_ANEW, "note")


_QUICK: tuple[_Check, ...] = (_database, _written, _clock, _missed, _unneeded, _keys, _places, _leftovers)
_THOROUGH: tuple[_Check, ...] = (_bytes, _facts, _copies)


# --------------------------------------------------------------------------------------------------------------- looking


def _look(ws: Workspace, quick: bool) -> _Seen:
    """The ledger first, and then the blobs, as a blob is put before the row that names it."""
    unread: list[Finding] = []
    audit, blobs = None, None
    try:
        audit = verify(ws, histories=not quick)
    except StorageError as error:
        unread.append(Finding("ledger", error.problem, _RESTORE))
    standing, records = _quietly(lambda: survey(ws.ledger)), _quietly(lambda: list(ws.ledger.scan()))
    try:
        blobs = {entry.digest: entry for entry in ws.blobs.entries()}
    except StorageError as error:
        unread.append(Finding("blobs", error.problem, error.remedy or _RESTORE))
    return _Seen(
        ws=ws,
        now=ws.clock.now(),
        audit=audit,
        standing=standing,
        records=records or [],
        blobs=blobs,
        unread=tuple(unread),
    )


def _quietly(act: Callable[[], _T]) -> _T | None:
    """What `act` gives; None where the ledger is damaged, which the audit says."""
    try:
        return act()
    except StorageError:
        return None


def _missing_now(seen: _Seen) -> dict[Digest, str]:
    return {} if seen.blobs is None else _missing(seen.standing, seen.records, seen.blobs, seen.ws.blobs)


def _missing(
    standing: Standing | None, records: Iterable[Stored], present: Mapping[Digest, Any], blobs: Blobs
) -> dict[Digest, str]:
    """Of a damaged ledger all records count."""
    living = needed(standing, along(standing.graph), EVER) - _passed_over(standing) if standing else None
    missing: dict[Digest, str] = {}
    for stored in records:
        if living is None or stored.digest in living:
            named = list(_named(stored, present, blobs))
            missing |= {digest: stored.kind for digest in named if digest not in present}
    return missing


def _passed_over(standing: Standing) -> set[str]:
    """Checkpoints that were found damaged, so that another was taken, or given up before anything rested on their run."""
    events = (event for chain in standing.graph.events.values() for event in chain)
    return {event.body["checkpoint"] for event in events if event.type in _PASSED_OVER}


def _named(stored: Stored, present: Mapping[Digest, Any], blobs: Blobs) -> Iterator[Digest]:
    """The blobs that a record names, the leaves of its trees among them."""
    try:
        payload = msgspec.json.decode(stored.payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    for path in _BLOBS.get(stored.kind, ()):
        yield from _at(payload, path)
    for tree in (tree for path in KINDS.trees.get(stored.kind, ()) for tree in _at(payload, path)):
        yield tree
        with suppress(StorageError):  # it is missing or damaged, which is a finding by itself
            yield from (leaf.digest for leaf in read_tree(blobs, tree).values()) if tree in present else ()


def _at(value: Any, path: str) -> Iterator[Digest]:
    """The digests at a dotted path, through lists."""
    name, _, rest = path.partition(".")
    if isinstance(value, list):
        for item in value:
            yield from _at(item, path) if path else (item,)
    elif isinstance(value, dict) and value.get(name):
        yield from _at(value[name], rest)
    elif isinstance(value, str) and not path:
        yield Digest(value)


def _damaged_layouts(ws: Workspace) -> Iterator[Path]:
    for folder in sorted((ws.cache / "layouts").glob("[!.]*")):
        try:
            map_arrays(folder)
        except IntegrityError:
            yield folder


def _goes_on(value: str | None) -> bool:
    return (value or "").startswith(RunState.RUNNING)


def _grace(ws: Workspace) -> timedelta:
    return parse_duration(ws.config.gc_grace)
