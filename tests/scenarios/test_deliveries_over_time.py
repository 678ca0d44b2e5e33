"""A year of deliveries: what the good and the bad ones become, and that what was there before stays."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from velodrome.core.clock import ManualClock
from velodrome.core.digest import Digest
from velodrome.core.errors import SchemaError
from velodrome.data import deliveries
from velodrome.data.contracts import Between, Contract, NotNull, Types, Unique
from velodrome.data.dataset import Dataset
from velodrome.data.diff import RowCounts, diff
from velodrome.data.sketching import snapshot_sketches, window_sketches
from velodrome.data.snapshots import Snapshot, Taken, fragments_of, newest_snapshot, quarantine, scan, take_snapshot
from velodrome.data.sources import Files
from velodrome.store.workspace import Workspace, open_folder

pytestmark = pytest.mark.slow  # together more than two seconds

CONTRACT = Contract(
    [NotNull("delay"), Between("delay", -60, 1440), Between("distance", 0), Types({"day": "date"}), Unique("id")]
)
ROWS = 20

Month = Callable[..., pl.DataFrame]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """Files are old enough to be remembered, since the clock is an hour ahead."""
    opened = open_folder(tmp_path / "project")
    (opened.root / "data").mkdir()
    return replace(opened, clock=ManualClock(datetime.now(UTC) + timedelta(hours=1)))


def month(number: int, rows: int = ROWS) -> pl.DataFrame:
    """Flights of a month, each with a number that no other month has."""
    places = list(range(rows))
    return pl.DataFrame(
        {
            "id": [number * 1000 + place for place in places],
            "day": [date(2013, number, place % 28 + 1) for place in places],
            "carrier": [("AA", "B6", "UA")[place % 3] for place in places],
            "distance": [100.0 * place for place in places],
            "delay": [place - 5 for place in places],
        }
    )


def deliver(ws: Workspace, rows: pl.DataFrame, name: str) -> Path:
    path = ws.root / "data" / name
    rows.write_csv(path)
    return path


def flights(*, rules: Sequence[Any] = CONTRACT.rules) -> Dataset:
    return Dataset("flights", Files("data/*.csv"), key="id", time="day", contract=Contract(rules))


def first_quarter(ws: Workspace) -> Taken:
    for number in (1, 2, 3):
        deliver(ws, month(number), f"2013-{number:02}.csv")
    return take_snapshot(ws, flights())


def values(ws: Workspace, snapshot: Snapshot) -> pl.DataFrame:
    return scan(ws, snapshot).collect()


def assert_whole(ws: Workspace, taken: Taken, rows: pl.DataFrame) -> None:
    """A snapshot is the newest, and every row of it is there."""
    assert newest_snapshot(ws, "flights") == taken.snapshot
    assert_frame_equal(values(ws, taken.snapshot), rows)


# ------------------------------------------------------------------------------------------------------ a month that is good


def test_a_new_month_shares_all_fragments_and_reads_nothing_old(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proven by taking away the rows of the old months, which nobody misses, and by listing what is hashed and parsed."""
    rules = CONTRACT.row_rules  # a Unique rule looks at the keys of all rows
    for number in (1, 2, 3):
        deliver(ws, month(number).with_columns(delay=pl.when(pl.col("delay") != 0).then("delay")), f"{number}.csv")
    before = take_snapshot(ws, flights(rules=rules)).snapshot
    for fragment in fragments_of(ws, before):
        assert fragment.quarantine is not None
        ws.blobs.delete(fragment.content)
        ws.blobs.delete(fragment.quarantine)
    looked_at: list[str] = []

    def noted(reader: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, **options: (looked_at.append(path.name), reader(path, **options))[1]

    monkeypatch.setattr(pl, "read_csv", noted(pl.read_csv))
    monkeypatch.setattr(deliveries, "digest_file", noted(deliveries.digest_file))
    deliver(ws, month(4), "4.csv")
    taken = take_snapshot(ws, flights(rules=rules))
    assert taken.snapshot.fragments[:3] == before.fragments
    assert (taken.new_fragments, taken.reused, set(looked_at)) == (1, 3, {"4.csv"})
    assert (taken.snapshot.rows, taken.snapshot.quarantined) == (before.rows + ROWS, before.quarantined)
    assert {sketch.rows for sketch in snapshot_sketches(ws, taken.snapshot)} == {taken.snapshot.rows}
    (new,) = window_sketches(ws, taken.snapshot, taken.snapshot.fragments[3:])[:1]
    assert new.quantiles is not None
    assert new.quantiles.values == tuple(float(number) for number in month(4)["id"])


def test_months_that_arrive_out_of_order_are_the_same_snapshot(ws: Workspace, tmp_path: Path) -> None:
    digests = []
    for order in ((5, 6), (6, 5)):
        with open_folder(tmp_path / f"{order}") as other:
            (other.root / "data").mkdir()
            for number in order:
                deliver(other, month(number), f"{number}.csv")
                taken = take_snapshot(other, flights())
            digests.append(taken.digest)
            assert values(other, taken.snapshot)["day"].is_sorted()
    assert len(set(digests)) == 1


def test_half_the_volume_is_taken_and_can_be_told_from_its_fragment(ws: Workspace) -> None:
    first_quarter(ws)
    deliver(ws, month(4, rows=ROWS // 2), "2013-04.csv")
    snapshot = take_snapshot(ws, flights()).snapshot
    assert [use.rows for use in snapshot.fragments] == [ROWS, ROWS, ROWS, ROWS // 2]


def test_a_month_without_rows_is_a_fragment_without_rows(ws: Workspace) -> None:
    before = first_quarter(ws)
    deliver(ws, month(4, rows=0), "2013-04.csv")
    empty = take_snapshot(ws, flights())
    assert [use.rows for use in empty.snapshot.fragments] == [ROWS, ROWS, ROWS, 0]
    assert (empty.snapshot.columns, empty.snapshot.time_to) == (before.snapshot.columns, before.snapshot.time_to)
    assert_frame_equal(values(ws, empty.snapshot), values(ws, before.snapshot))
    assert snapshot_sketches(ws, empty.snapshot) == snapshot_sketches(ws, before.snapshot)
    assert {sketch.rows for sketch in window_sketches(ws, empty.snapshot, empty.snapshot.fragments[3:])} == {0}
    deliver(ws, month(4), "2013-04.csv")
    assert take_snapshot(ws, flights()).snapshot.rows == 4 * ROWS


def test_a_column_without_a_value_goes_where_its_rules_say(ws: Workspace) -> None:
    before = first_quarter(ws)
    deliver(ws, month(4).with_columns(distance=None), "2013-04.csv")
    kept = take_snapshot(ws, flights()).snapshot
    assert (kept.rows, kept.columns) == (4 * ROWS, before.snapshot.columns)
    assert values(ws, kept)["distance"].null_count() == ROWS
    (distance,) = (one for one in window_sketches(ws, kept, kept.fragments[3:]) if one.name == "distance")
    assert (distance.dtype, distance.rows, distance.nulls) == ("float64", ROWS, ROWS)
    deliver(ws, month(4).with_columns(delay=None), "2013-04.csv")
    refused = take_snapshot(ws, flights()).snapshot
    assert (refused.rows, refused.quarantined) == (3 * ROWS, ROWS)


# ------------------------------------------------------------------------------------------------------- a month that is not


def without(name: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda rows: rows.drop(name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("carrier"), ["data/2013-04.csv has no column 'carrier'", "data/2013-01.csv"]),
        (without("distance"), ["data/2013-04.csv: vd.Between names a column that the data does not have", "distance"]),
        (lambda rows: rows.rename({"carrier": "airline"}), ["no column 'carrier'", "data/2013-01.csv lacks airline"]),
        (lambda rows: rows.rename({"delay": "delays"}), ["data/2013-04.csv: vd.NotNull", "did you mean 'delays'"]),
        (lambda rows: rows.with_columns(gate=1), ["data/2013-01.csv has no column 'gate', which data/2013-04.csv has"]),
        (
            lambda rows: rows.with_columns(id=pl.format("F{}", "id")),
            ["'id' has different types", "int64 in data/2013-01.csv, string in data/2013-04.csv", "vd.Types"],
        ),
        (
            lambda rows: rows.with_columns(distance=pl.format("{} km", "distance")),
            ["data/2013-04.csv: a bound of vd.Between('distance') does not fit its column"],
        ),
    ],
    ids=["missing", "missing with a rule", "renamed", "renamed with a rule", "added", "retyped", "retyped with a rule"],
)
def test_a_month_of_another_shape_is_refused_by_name(
    ws: Workspace, spoil: Callable[[pl.DataFrame], pl.DataFrame], words: list[str]
) -> None:
    before = first_quarter(ws)
    deliver(ws, spoil(month(4)), "2013-04.csv")
    with pytest.raises(SchemaError) as caught:
        take_snapshot(ws, flights())
    assert [word for word in words if word not in str(caught.value)] == []
    assert_whole(ws, before, pl.concat([month(1), month(2), month(3)]))
    deliver(ws, month(4), "2013-04.csv")
    assert take_snapshot(ws, flights()).reused == 3


def test_a_poisoned_month_goes_to_quarantine_whole(ws: Workspace) -> None:
    before = first_quarter(ws)
    deliver(ws, month(4).with_columns(delay=pl.col("delay") * 1000 + 50_000), "2013-04.csv")
    snapshot = take_snapshot(ws, flights()).snapshot
    assert (snapshot.rows, snapshot.quarantined) == (before.snapshot.rows, ROWS)
    assert snapshot_sketches(ws, snapshot) == snapshot_sketches(ws, before.snapshot)
    assert set(quarantine(ws, snapshot)["file"]) == {"data/2013-04.csv"}


def test_a_file_delivered_again_under_another_name_changes_nothing(ws: Workspace) -> None:
    before = first_quarter(ws)
    deliver(ws, month(3), "2013-03_again.csv")
    again = take_snapshot(ws, flights())
    assert (again.digest, again.new_fragments) == (before.digest, 0)


def test_the_same_rows_in_other_bytes_go_to_quarantine(ws: Workspace) -> None:
    before = first_quarter(ws)
    deliver(ws, month(3).select("delay", "carrier", "id", "distance", "day").reverse(), "2013-03_again.csv")
    snapshot = take_snapshot(ws, flights()).snapshot
    assert (snapshot.rows, snapshot.quarantined) == (before.snapshot.rows, ROWS)
    assert_frame_equal(values(ws, snapshot), values(ws, before.snapshot))
    aside = quarantine(ws, snapshot)
    assert aside["id"].to_list() == month(3)["id"].to_list()[::-1]
    assert set(aside["reason"]) == {"id was there before"}
    assert snapshot_sketches(ws, snapshot) == snapshot_sketches(ws, before.snapshot)
    assert diff(ws, before.snapshot, snapshot).keys == RowCounts(0, 0, 0)


def test_without_a_rule_that_says_unique_rows_delivered_again_count_again(ws: Workspace) -> None:
    deliver(ws, month(1), "2013-01.csv")
    deliver(ws, month(1).reverse(), "2013-01-again.csv")
    assert take_snapshot(ws, flights(rules=CONTRACT.row_rules)).snapshot.rows == 2 * ROWS


def test_rows_of_an_earlier_month_keep_their_first_values(ws: Workspace) -> None:
    before = first_quarter(ws)
    late = month(3).head(3).with_columns(delay=pl.lit(1000, pl.Int64))
    deliver(ws, pl.concat([month(4), late]), "2013-04.csv")
    snapshot = take_snapshot(ws, flights()).snapshot
    assert (snapshot.rows, snapshot.quarantined) == (4 * ROWS, 3)
    assert snapshot.fragments[:3] == before.snapshot.fragments
    assert_frame_equal(values(ws, snapshot), pl.concat([month(number) for number in (1, 2, 3, 4)]))
    assert quarantine(ws, snapshot).select("file", "row", "id", "delay").rows() == [
        ("data/2013-04.csv", ROWS + place + 1, 3000 + place, 1000) for place in range(3)
    ]
    window = {one.name: one for one in window_sketches(ws, snapshot, snapshot.fragments[3:])}
    assert window["delay"].quantiles is not None
    assert (window["delay"].rows, max(window["delay"].quantiles.values)) == (ROWS, month(4)["delay"].max())


def test_corrected_labels_replace_their_file_and_nothing_else(ws: Workspace) -> None:
    before = first_quarter(ws)
    corrected = month(2).with_columns(delay=pl.when(pl.col("id") < 2004).then(30).otherwise("delay"))
    deliver(ws, corrected, "2013-02.csv")
    after = take_snapshot(ws, flights())
    assert (after.new_fragments, after.reused) == (1, 2)
    assert_frame_equal(values(ws, after.snapshot), pl.concat([month(1), corrected, month(3)]))
    assert_frame_equal(values(ws, before.snapshot), pl.concat([month(1), month(2), month(3)]))
    found = diff(ws, before.snapshot, after.snapshot)
    assert (found.shared, found.keys) == (2, RowCounts(0, 0, 4))
    assert [change.name for change in found.profiles] == ["delay"]


def test_a_month_that_is_taken_back_leaves_the_snapshot_before(ws: Workspace) -> None:
    before = first_quarter(ws)
    path = deliver(ws, month(4), "2013-04.csv")
    april: Digest = take_snapshot(ws, flights()).digest
    path.unlink()
    assert take_snapshot(ws, flights()).digest == before.digest
    deliver(ws, month(4), "2013-04.csv")
    assert take_snapshot(ws, flights()).digest == april
