"""`velodrome doctor`: every invariant of a workspace, looked at; what is wrong is named with how to mend it.

Cost: every blob is read and hashed, so it takes what the disk takes.
"""

import msgspec

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import IntegrityError, StorageError
from velodrome.store.ledger import Stored, verify_chain
from velodrome.store.trees import read_tree
from velodrome.store.workspace import Workspace

__all__ = ["Finding", "Findings", "examine"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: with what, what it is, and what to do."""

    subject: str
    finding: str
    remedy: str


class Findings(msgspec.Struct, frozen=True):
    """What an examination found; `summary` says what was looked at."""

    problems: tuple[Finding, ...]
    summary: str


_BACKUP = "restore it from a backup"
_BLOBS = {
    "checkpoint": ("blob",),
    "fragment": ("content", "converted", "quarantine", "sketches"),
    "profile": ("sketches",),
    "snapshot": ("contract",),
    "provenance": ("lock",),
}
_TREES = {"outcome": ("artifact",), "version": ("artifact",), "run": ("code",)}
"""Which fields of which kind of record name blobs, or trees of blobs."""


def examine(ws: Workspace) -> Findings:
    """Look at the database, every record, every chain and every blob."""
    records = list(ws.ledger.scan())
    subjects = ws.ledger.subjects()
    blobs = list(ws.blobs.list())
    problems = [Finding("ledger", text, _BACKUP) for text in ws.ledger.check()]
    with ws.progress.task("examine", len(records) + len(subjects) + len(blobs)) as task:
        for stored in records:
            problems += _record(stored)
            task.advance()
        for subject in subjects:
            problems += _chain(ws, subject)
            task.advance()
        for digest in blobs:
            problems += _blob(ws, digest)
            task.advance()
    problems += _missing(ws, records)
    return Findings(tuple(problems), f"{len(records)} records, {len(subjects)} chains, {len(blobs)} blobs")


def _record(stored: Stored) -> list[Finding]:
    if digest_bytes(stored.payload) == stored.digest:
        return []
    return [Finding(f"{stored.kind} {stored.digest[:12]}", "the record was changed after it was written", _BACKUP)]


def _chain(ws: Workspace, subject: str) -> list[Finding]:
    events = ws.ledger.events(subject)
    try:
        verify_chain(subject, events)
    except IntegrityError as error:
        return [Finding(subject, error.problem, _BACKUP)]
    pointer = ws.ledger.pointer(subject)
    moved = [event for event in events if "to" in event.body]
    if pointer and (not moved or moved[-1].body["to"] != pointer.value or len(moved) != pointer.revision):
        return [Finding(subject, f"it points to {pointer.value!r}, which its events do not say", _BACKUP)]
    return []


def _blob(ws: Workspace, digest: str) -> list[Finding]:
    try:
        ws.blobs.local(digest)
    except StorageError as error:
        return [Finding(f"blob {digest[:12]}", error.problem, _BACKUP)]
    return []


def _missing(ws: Workspace, records: list[Stored]) -> list[Finding]:
    """Blobs that records name and that are not there. Dropped checkpoints are not missed."""
    dropped = _dropped(ws)
    problems = []
    for stored in records:
        payload = msgspec.json.decode(stored.payload)
        named = [payload.get(field) for field in _BLOBS.get(stored.kind, ()) if stored.digest not in dropped]
        trees = [payload.get(field) for field in _TREES.get(stored.kind, ())]
        leaves = [leaf for tree in trees if tree for leaf in _leaves(ws, tree)]
        for digest in dict.fromkeys([*named, *trees, *leaves]):
            if digest and not ws.blobs.has(digest):
                problems.append(
                    Finding(f"blob {digest[:12]}", f"it is not there, but a {stored.kind} names it", _BACKUP)
                )
    return problems


def _leaves(ws: Workspace, tree: str) -> list[str]:
    try:
        return [leaf.digest for leaf in read_tree(ws.blobs, tree).values()]
    except StorageError:
        return []  # reported as a blob that is damaged or missing


def _dropped(ws: Workspace) -> set[str]:
    chains = [ws.ledger.events(subject) for subject in ws.ledger.subjects("checkpoints:")]
    return {event.body["checkpoint"] for chain in chains for event in chain if event.type != "checkpoint.saved"}
