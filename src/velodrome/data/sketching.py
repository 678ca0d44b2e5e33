"""The sketches of snapshots and of parts of them, from what was stored when their files were read.

Cost: a few small blobs and a merge, some 10 ms for 12 fragments of 40 columns. Rows are read only by `window_sketches`, and
only those of a fragment of which the snapshot leaves some out.
"""

from collections.abc import Sequence

from velodrome.core.errors import StateError
from velodrome.data.fragments import Fragment
from velodrome.data.profile import Profile, merge_sketches, read_sketches, sketch_frame
from velodrome.data.snapshots import FragmentUse, Snapshot, fragment_of, scan_use
from velodrome.evaluation.sketches import ColumnSketch
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace

__all__ = ["snapshot_sketches", "window_sketches"]


def snapshot_sketches(ws: Workspace, snapshot: Snapshot) -> tuple[ColumnSketch, ...]:
    """The sketches of all rows of a snapshot, in the order of its columns.

    Raises:
        StateError: an older velodrome took it, without sketches.
    """
    return _stored(ws, read_record(ws.ledger, snapshot.profile, Profile), snapshot.dataset)


def window_sketches(ws: Workspace, snapshot: Snapshot, uses: Sequence[FragmentUse]) -> tuple[ColumnSketch, ...]:
    """The sketches of the rows that these of its fragments (at least one) bring into a snapshot, in the order of its columns.

    Raises:
        StateError: an older velodrome read one of them, without sketches.
    """
    return merge_sketches(snapshot.columns, [_of_use(ws, snapshot, use) for use in uses])


def _of_use(ws: Workspace, snapshot: Snapshot, use: FragmentUse) -> tuple[ColumnSketch, ...]:
    if use.excluded is not None:
        return sketch_frame(scan_use(ws, snapshot, use).collect())
    fragment = fragment_of(ws, use)
    return _stored(ws, fragment, fragment.file)


def _stored(ws: Workspace, owner: Profile | Fragment, name: str) -> tuple[ColumnSketch, ...]:
    if owner.sketches is None:
        raise StateError(
            f"nothing is known of how the values of {name!r} are distributed: an older velodrome read it",
            remedy="take the snapshot again with `velodrome data snapshot`, and train on it",
        )
    return read_sketches(ws, owner.sketches)
