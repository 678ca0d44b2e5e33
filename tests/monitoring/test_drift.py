from collections.abc import Callable

from velodrome.data.snapshots import Taken, fragments_of
from velodrome.evaluation.drift import Drift
from velodrome.monitoring.drift import detect_drift
from velodrome.store.workspace import Workspace


def test_which_column_moved_and_since_when(ws: Workspace, deliver: Callable[..., Taken]) -> None:
    reference = deliver(1).digest
    for day, shift in ((2, 0.0), (3, 2.0), (4, 2.0)):
        taken = deliver(day, shift=shift)
    report = detect_drift(ws, reference, taken.digest, ["x", "city", "when", "gone"], Drift())
    assert [window.drifted for window in report.windows] == [(), ("x",), ("x",)]
    assert (report.drifted, report.since("x"), report.since("city")) == (("x",), "day-03", None)
    assert [column.column for column in report.windows[0].columns] == ["x", "city", "when"]
    assert (report.reference_rows, report.windows[0].rows) == (600, 600)


def test_no_row_of_the_reference_is_read(ws: Workspace, deliver: Callable[..., Taken]) -> None:
    reference = deliver(1)
    taken = deliver(2, shift=2.0)
    for fragment in fragments_of(ws, reference.snapshot):
        ws.blobs.delete(fragment.content)
    assert detect_drift(ws, reference.digest, taken.digest, ["x"], Drift()).drifted == ("x",)


def test_nothing_new_is_no_window(ws: Workspace, deliver: Callable[..., Taken]) -> None:
    digest = deliver(1).digest
    report = detect_drift(ws, digest, digest, ["x"], Drift())
    assert (report.windows, report.drifted) == ((), ())
