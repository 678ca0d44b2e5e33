from collections.abc import Callable

from velodrome.data.snapshots import Taken
from velodrome.monitoring.windows import new_window, windows
from velodrome.store.workspace import Workspace


def test_what_an_earlier_snapshot_has_is_not_new(ws: Workspace, deliver: Callable[..., Taken]) -> None:
    first = deliver(1).snapshot
    assert new_window(ws, first, [first]) is None
    second = deliver(2).snapshot
    window = new_window(ws, second, [first])
    assert window is not None
    assert (window.name, window.rows, window.quarantined, window.rows_per_file) == ("day-02", 600, 0, (600,))
    assert window.time_from is not None
    assert (window.time_from.day, window.time_from.month) == (2, 1)
    assert new_window(ws, second, []).rows == 1200  # type: ignore[union-attr]


def test_windows_are_ordered_by_time_and_close_when_they_have_enough(
    ws: Workspace, deliver: Callable[..., Taken]
) -> None:
    first = deliver(1).snapshot
    for day, rows in ((5, 300), (3, 600), (4, 300), (7, 100)):
        taken = deliver(day, rows=rows)
    found = windows(ws, taken.snapshot, [first], minimum=500)
    assert [(window.name, window.rows) for window in found] == [
        ("day-03", 600),
        ("day-04 to day-05", 600),
        ("day-07", 100),
    ]


def test_repeated_rows_are_counted_as_kept_out(ws: Workspace, deliver: Callable[..., Taken]) -> None:
    first = deliver(1).snapshot
    window = new_window(ws, deliver(2, key=1).snapshot, [first])
    assert window is not None
    assert (window.rows, window.quarantined) == (0, 600)


def test_a_contract_that_lets_more_rows_in_makes_a_file_new_and_a_stricter_one_does_not(
    ws: Workspace, deliver: Callable[..., Taken]
) -> None:
    strict = deliver(1, most=0.0).snapshot
    open_ = deliver(1).snapshot
    assert new_window(ws, open_, [strict]).rows == 600  # type: ignore[union-attr]
    assert new_window(ws, strict, [open_]) is None
