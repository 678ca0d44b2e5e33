"""Has the data moved since the model was trained? The sketches of new windows against those of the model's own snapshot.

No row of the reference is read: its sketches were stored when the snapshot was taken, and so were those of the new fragments.
Cost: a merge of sketches and a few array operations per column and window, about 1 ms; it does not grow with the rows.
"""

from collections.abc import Sequence

import msgspec

from velodrome.core.digest import Digest
from velodrome.core.values import Record
from velodrome.data.sketching import snapshot_sketches, window_sketches
from velodrome.data.snapshots import Snapshot
from velodrome.evaluation.drift import ColumnDrift, Drift, compare_columns
from velodrome.evaluation.sketches import ColumnSketch
from velodrome.monitoring.windows import windows
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace

__all__ = ["DriftReport", "WindowDrift", "detect_drift"]


class WindowDrift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The columns of one window, in the order that was asked for."""

    window: str
    rows: int
    columns: tuple[ColumnDrift, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        return tuple(column.column for column in self.columns if column.drifted)


class DriftReport(Record, frozen=True, kw_only=True, tag="drift_report"):
    """Every window that arrived after the reference, against the reference.

    Attributes:
        reference: the snapshot that the model was trained on.
        windows: oldest first; the last is the newest.
    """

    dataset: str
    reference: Digest
    reference_rows: int
    snapshot: Digest
    windows: tuple[WindowDrift, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """The columns that have drifted in the newest window."""
        return self.windows[-1].drifted if self.windows else ()

    def since(self, column: str) -> str | None:
        """The first window of the unbroken run of windows, up to the newest, in which the column has drifted."""
        found = None
        for window in reversed(self.windows):
            if column not in window.drifted:
                break
            found = window.window
        return found


def detect_drift(
    ws: Workspace, reference: Digest, snapshot: Digest, columns: Sequence[str], policy: Drift
) -> DriftReport:
    """Compare what a snapshot has beyond another with that, column by column and window by window.

    Raises:
        StateError: a snapshot has no sketches, since an older velodrome took it.
    """
    trained_on, present = (read_record(ws.ledger, digest, Snapshot) for digest in (reference, snapshot))
    before = _named(snapshot_sketches(ws, trained_on), columns)
    found = []
    for window in windows(ws, present, [trained_on], policy.minimum_rows):
        after = _named(window_sketches(ws, present, window.uses), columns)
        found.append(WindowDrift(window=window.name, rows=window.rows, columns=compare_columns(before, after, policy)))
    return DriftReport(
        dataset=present.dataset,
        reference=reference,
        reference_rows=trained_on.rows,
        snapshot=snapshot,
        windows=tuple(found),
    )


def _named(sketches: Sequence[ColumnSketch], columns: Sequence[str]) -> list[ColumnSketch]:
    by_name = {sketch.name: sketch for sketch in sketches}
    return [by_name[name] for name in columns if name in by_name]
