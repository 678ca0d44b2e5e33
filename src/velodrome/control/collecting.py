"""`velodrome gc`: what the rules give up, and the bytes that nothing needs.

First each thing that a rule gives up is recorded as collected (`control.retiring`). Then the ledger is read anew, and whatever
it does not lead to goes, unless somebody may be about to name or to read it (`store.collection` says why that is so). What is
collected takes its bytes along once it has been so for `gc_grace`, and before everybody who is at work on this machine began:
whoever found it before that may go on. Nothing hangs on the rules but what they are asked for: marking takes no notice of
them, and what a promoted version rests on is marked first, whatever was collected (`control.needed`).

May be killed at any point: each step is found done, or done again. One collection runs at a time on a machine; two on
different machines do the same work twice.
Cost: see `store.collection`; a commit for each thing that is given up.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from velodrome.control.auditing import anchor, anchor_if_due
from velodrome.control.needed import EVER, Standing, imagined, needed, strange, survey
from velodrome.control.retiring import Given, let_stand, plan, retire
from velodrome.core.digest import Digest
from velodrome.core.errors import IntegrityError, StateError
from velodrome.core.units import parse_duration, show_bytes
from velodrome.data.layout import layouts_beyond
from velodrome.store.blobs import Entry
from velodrome.store.collection import Horizon, find_horizon, leads, sweep
from velodrome.store.holds import oldest_hold
from velodrome.store.ledger import Ledger
from velodrome.store.leftovers import abandoned, find_leftovers, leftover_folders, remove_leftovers
from velodrome.store.workspace import Workspace

__all__ = ["Collected", "Share", "collect"]


class Share(msgspec.Struct, frozen=True):
    """Some of the blobs: how many, and what they take in bytes."""

    blobs: int
    bytes: int


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection came to, or would.

    Attributes:
        given: what was recorded as collected now. held: what the rules give up too, but somebody uses or has just moved.
        went: the blobs that are gone. waiting: those that nothing needs, but for whoever may be at work still.
        leftovers: files and folders of killed processes, and training layouts of collected snapshots.
    """

    dry_run: bool
    given: tuple[Given, ...]
    held: tuple[Given, ...]
    went: Share
    waiting: Share
    leftovers: int

    def lines(self) -> list[tuple[str, object]]:
        """(label, value) pairs for a person."""
        counts = Counter((f"{given.kind}s", given.rule) for given in self.given)
        rows: list[tuple[str, object]] = [(kind, f"{count}, by {rule}") for (kind, rule), count in counts.items()]
        rows += [
            ("in use", f"{given.kind} {given.node.removeprefix('run:')[:26]}, of {given.of}") for given in self.held
        ]
        for label, share, what in (("blobs", self.went, ""), ("waiting", self.waiting, ": these stay for now")):
            rows += [(label, f"{share.blobs}, {show_bytes(share.bytes)}{what}")] if share.blobs else []
        return rows + ([("leftovers", str(self.leftovers))] if self.leftovers else [])


def collect(ws: Workspace, *, dry_run: bool = False) -> Collected:
    """Give up what the rules of the configuration say, and remove the bytes that nothing needs.

    Raises:
        Conflict: a collection, or a backup, of this workspace is at work on this machine.
        StateError: the ledger has no record, yet there are blobs: it is not theirs.
        IntegrityError: the ledger is damaged, or code or a model that is needed: nothing is collected then.
    """
    with ws.collecting():
        _require_sound(ws.ledger)
        standing = survey(ws.ledger)
        _require_ours(ws, standing)
        wanted = plan(ws, standing, _since(ws))
        return _imagine(ws, standing, wanted) if dry_run else _carry_out(ws, standing, wanted)


@dataclass(frozen=True, slots=True)
class _Found:
    """What could be removed.

    Attributes:
        unneeded: the blobs that nothing leads to now. old: those of them that nobody can be at work with.
        paths: leftovers.
    """

    unneeded: list[Entry]
    old: list[Entry]
    paths: list[Path]


def _imagine(ws: Workspace, standing: Standing, wanted: Sequence[Given]) -> Collected:
    standing = imagined(standing, [given.node for given in wanted], ws.clock.now())
    found = _find(ws, standing, *find_horizon(ws, _grace(ws), dry=True))
    return _told(found, found.old, len(found.paths), given=wanted, wanted=wanted, dry_run=True)


def _carry_out(ws: Workspace, standing: Standing, wanted: Sequence[Given]) -> Collected:
    given = _retired(ws, standing, wanted)
    entries, horizon = find_horizon(ws, _grace(ws))
    standing = survey(ws.ledger)
    let_stand(ws, standing)
    found = _find(ws, standing, entries, horizon)
    with ws.progress.task("collect blobs", len(found.old)) as task:
        went = list(sweep(ws.blobs, found.old, horizon.blobs, task.advance))
    remove_leftovers(found.paths)
    leftovers = len(found.paths) + ws.blobs.sweep(horizon.blobs)
    return _told(found, went, leftovers, given=given, wanted=wanted, dry_run=False)


def _retired(ws: Workspace, standing: Standing, wanted: Sequence[Given]) -> list[Given]:
    given = set()
    with ws.progress.task("give up", len(wanted)) as task:
        for thing in retire(ws, standing, wanted):
            given.add(thing)
            task.advance(note=f"{thing.kind} of {thing.of}")
    if given:
        anchor(ws)
    else:
        anchor_if_due(ws)
    return [thing for thing in wanted if thing in given]


def _find(ws: Workspace, standing: Standing, entries: Mapping[Digest, Entry], horizon: Horizon) -> _Found:
    lead = leads(standing.graph, ws.blobs, {digest: entry.size for digest, entry in entries.items()})
    kept, still = needed(standing, lead, horizon.ledger), needed(standing, lead, EVER)
    left = [*find_leftovers(leftover_folders(ws), horizon.ledger), *abandoned(ws)]
    unneeded = [entry for digest, entry in entries.items() if digest not in still]
    return _Found(
        unneeded=unneeded,
        old=[entry for entry in unneeded if entry.digest not in kept and entry.time < horizon.blobs],
        paths=[*left, *layouts_beyond(ws, kept, horizon.ledger)],
    )


def _told(
    found: _Found,
    went: Sequence[Entry],
    leftovers: int,
    *,
    given: Sequence[Given],
    wanted: Sequence[Given],
    dry_run: bool,
) -> Collected:
    gone = {entry.digest for entry in went}
    return Collected(
        dry_run=dry_run,
        given=tuple(given),
        held=tuple(thing for thing in wanted if thing not in given),
        went=_share(went),
        waiting=_share([entry for entry in found.unneeded if entry.digest not in gone]),
        leftovers=leftovers,
    )


def _share(entries: Sequence[Entry]) -> Share:
    return Share(len(entries), sum(entry.size for entry in entries))


def _grace(ws: Workspace) -> timedelta:
    return parse_duration(ws.config.gc_grace)


def _since(ws: Workspace) -> datetime:
    """What is older than this, everybody who is at work has found as it is."""
    now = ws.clock.now()
    return min(now - _grace(ws), oldest_hold(ws.holds, ws.clock) or now)


def _require_ours(ws: Workspace, standing: Standing) -> None:
    """Refuse to empty a place of blobs by a ledger that knows of nothing: where `blobs` is told and `ledger` forgotten."""
    if blobs := strange(standing, ws.blobs.entries(), ws.clock.now()):
        raise StateError(
            "the ledger has no record at all, but there are blobs, which may be of another ledger",
            received=f"{len(blobs)} blobs",
            remedy="let `ledger` in velodrome.toml name theirs; if there is none, what is new here brings the first record",
        )


def _require_sound(ledger: Ledger) -> None:
    """Refuse a ledger whose database finds it damaged: what it does not say any more might be needed."""
    if problems := ledger.check():
        raise IntegrityError(
            f"the ledger is damaged: {problems[0]}",
            received=f"{len(problems)} problems",
            remedy="run `velodrome doctor`; nothing was collected",
        )
