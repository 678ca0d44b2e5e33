"""Replay: every row of a dataset's newest snapshot, those in quarantine too, judged again by the present contract.

A fragment is named by its file's bytes and by the contract's rules for single rows, however it came to be. Replay puts the
rows of each file together again from what was stored, judges them, and stores the result under the name that reading the
file would give it. So whoever takes a snapshot of the same files later finds its fragments here and comes to the same digest.
What was there stays: the snapshot before keeps its fragments and its quarantine.
Each fragment is stored in one commit and the snapshot in the last, so a replay that was killed goes on where it stopped.
Cost: a read of the stored rows, then what a snapshot costs; nothing for files that the present contract has judged already.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from velodrome.core.digest import Digest, decode
from velodrome.core.errors import NotFound, SourceError
from velodrome.data.contracts import Contract
from velodrome.data.dataset import Dataset
from velodrome.data.deliveries import Delivery, look
from velodrome.data.fragments import Fragment, derive_fragment, fragment_name, judge_again, recall_fragment
from velodrome.data.snapshots import FragmentUse, Snapshot, Taken, fragments_of, freeze, kept_places, newest_snapshot
from velodrome.data.sources import list_files, require_files
from velodrome.store.workspace import Workspace

__all__ = ["Replayed", "replay"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """The snapshot after a replay, and which way rows went since the one before.

    Attributes:
        released: rows that were in quarantine and are in the snapshot now.
        withdrawn: rows that were in the snapshot and are in quarantine now.
        kept: rows that were in quarantine and stay there.
    """

    taken: Taken
    released: int
    withdrawn: int
    kept: int


def replay(ws: Workspace, dataset: Dataset) -> Replayed:
    """Judge the rows of the newest snapshot and of its quarantine by the present contract; files are not looked at.

    Two kinds of files have to be read again, if one is there unchanged: CSV of which the contract takes other columns as
    text than before, since that changes how it is read, and what an older velodrome read, which did not keep all of it.

    Raises:
        NotFound: no snapshot was taken.
        SourceError: a file has to be read again and is not there.
        SchemaError, ContractError, DataError: as `take_snapshot`; the snapshot before stays the newest.
    """
    with ws.writing():
        return _replay(ws, dataset)


def _replay(ws: Workspace, dataset: Dataset) -> Replayed:
    require_files(dataset.source)
    before = newest_snapshot(ws, dataset.name)
    if before is None:
        raise NotFound(
            f"no snapshot of {dataset.name!r} was taken",
            remedy="`velodrome data snapshot` takes one, by the present contract",
        )
    old = fragments_of(ws, before)
    names = [fragment_name(one.source, dataset.contract) for one in old]
    found = [recall_fragment(ws, name, before.fragment_names) for name in names]
    fragments = {one.source: one for one in found if one is not None}
    pending = [one for one in old if one.source not in fragments]
    files = _files(ws, dataset, before, pending)
    with ws.progress.task("judging rows again", len(pending)) as task:
        for one in pending:
            fragments[one.source] = _judge(ws, one, files.get(one.source), dataset.contract)
            task.advance(note=one.file)
    taken = freeze(ws, dataset, [fragments[one.source] for one in old], len(pending))
    return _replayed(ws, before, taken)


def _judge(ws: Workspace, fragment: Fragment, file: Delivery | None, contract: Contract) -> Fragment:
    return judge_again(ws, fragment, contract) if file is None else derive_fragment(ws, file, contract)


def _files(ws: Workspace, dataset: Dataset, before: Snapshot, pending: Sequence[Fragment]) -> dict[Digest, Delivery]:
    """The files that have to be read again, by their digests; most often none.

    Raises:
        SourceError: one of them is not there, or not as it was.
    """
    if not pending:
        return {}
    contract = decode(ws.blobs.read(before.contract), Contract)
    reasons = [(one, _reason(one, contract, dataset.contract)) for one in pending]
    needed = [(one, why) for one, why in reasons if why is not None]
    if not needed:
        return {}
    try:
        there = {delivery.digest: delivery for delivery in look(ws, list_files(ws, dataset.source))}
    except SourceError as error:
        raise _missing(*needed[0], error.problem) from error
    for one, why in needed:
        if one.source not in there:
            raise _missing(one, why, "no file with the bytes that it had")
    return {one.source: there[one.source] for one, _ in needed}


def _reason(fragment: Fragment, before: Contract, now: Contract) -> str | None:
    """Why the stored rows of a file do not say all that reading it again would; None where they do."""
    if fragment.sketches is None:
        return "an older velodrome read it, and did not keep all of it"
    if fragment.file.endswith(".parquet"):  # brings its types, whatever a contract says
        return None
    changed = set(before.text_columns) ^ set(now.text_columns)
    names = [column.name for column in fragment.columns if column.name in changed]
    return f"vd.Types changes whether it is read as text: {', '.join(names)}" if names else None


def _missing(fragment: Fragment, why: str, found: str) -> SourceError:
    return SourceError(
        f"{fragment.file} has to be read again to be replayed: {why}",
        received=found,
        remedy="put it back unchanged where the dataset's source finds it; what vd.Types reads as text can also be taken back",
    )


def _replayed(ws: Workspace, before: Snapshot, taken: Taken) -> Replayed:
    after = taken.snapshot
    pairs = zip(before.fragments, after.fragments, strict=True)
    stayed = sum(old.rows if old == new else _common(ws, old, new) for old, new in pairs)
    withdrawn = before.rows - stayed
    return Replayed(taken, after.rows - stayed, withdrawn, after.quarantined - withdrawn)


def _common(ws: Workspace, old: FragmentUse, new: FragmentUse) -> int:
    """How many rows of one file are in both snapshots."""
    return len(np.intersect1d(kept_places(ws, old), kept_places(ws, new), assume_unique=True))
