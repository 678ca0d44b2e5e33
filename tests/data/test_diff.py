from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.data.contracts import Contract, Types
from velodrome.data.dataset import Dataset
from velodrome.data.diff import RowCounts, changed_rows, compare_rows, diff
from velodrome.data.snapshots import Snapshot, fragments_of, take_snapshot
from velodrome.data.sources import Files
from velodrome.store.workspace import Workspace, open_folder


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_folder(tmp_path)


def take(ws: Workspace, key: str | None = "id", contract: Contract | None = None, **files: str) -> Snapshot:
    for path in ws.root.glob("*.csv"):
        path.unlink()
    for name, text in files.items():
        (ws.root / f"{name}.csv").write_text(text, encoding="utf-8")
    return take_snapshot(ws, Dataset("d", Files("*.csv"), key=key, contract=contract or Contract())).snapshot


A, B = "id,x\n1,a\n2,b\n", "id,x\n3,c\n4,\n"


def test_a_snapshot_does_not_differ_from_itself(ws: Workspace) -> None:
    snapshot = take(ws, a=A, b=B)
    found = diff(ws, snapshot, snapshot)
    assert found.is_empty
    assert found.lines() == []
    assert found.keys == RowCounts(0, 0, 0)
    nothing = (
        found.added_files,
        found.removed_files,
        found.added_columns,
        found.removed_columns,
        found.retyped,
        found.profiles,
    )
    assert nothing == ((),) * 6


def test_what_a_new_file_brings(ws: Workspace) -> None:
    before = take(ws, a=A)
    found = diff(ws, before, take(ws, a=A, b=B))
    assert (found.rows, found.shared, found.added_files, found.keys) == ((2, 4), 1, ("b.csv",), RowCounts(2, 0, 0))
    assert [change.name for change in found.profiles] == ["id", "x"]
    lines = dict(found.lines())
    assert (lines["rows"], lines["mean of id"], lines["nulls of x"]) == ("2 → 4", "1.5 → 2.5", "0 → 1")


def test_rows_that_came_went_and_changed(ws: Workspace) -> None:
    before = take(ws, a=A, b=B)
    after = take(ws, a=A, b="id,x\n3,\n5,e\n")
    rows = changed_rows(ws, before, after)
    assert rows is not None
    assert rows.rows() == [("added", 5, ""), ("changed", 3, "x"), ("removed", 4, "")]


def test_columns_that_came_went_and_changed_their_type(ws: Workspace) -> None:
    before = take(ws, a="id,x,old\n1,1,a\n")
    after = take(ws, a="id,x,new\n1,1.5,a\n")
    found = diff(ws, before, after)
    assert [column.name for column in (*found.added_columns, *found.removed_columns)] == ["new", "old"]
    assert [(one.name, one.before, one.after) for one in found.retyped] == [("x", "int64", "float64")]
    lines = dict(found.lines())
    assert (lines["column new"], lines["column old"], lines["type of x"]) == (
        "– → string",
        "string → –",
        "int64 → float64",
    )


def test_a_key_that_changes_its_type_is_compared_as_text(ws: Workspace) -> None:
    before = take(ws, a=A)
    after = take(ws, a=A, contract=Contract([Types({"id": "string"})]))
    assert diff(ws, before, after).keys == RowCounts(0, 0, 0)


@pytest.mark.parametrize(("one", "other"), [(None, None), ("id", "x"), ("id", None)])
def test_without_a_common_key_rows_are_not_compared(ws: Workspace, one: str | None, other: str | None) -> None:
    found = diff(ws, take(ws, key=one, a=A), take(ws, key=other, a=B))
    assert found.keys is None
    assert found.removed_files == ("a.csv",)


def test_shared_fragments_are_not_read(ws: Workspace) -> None:
    before, after = take(ws, a=A), take(ws, a=A, b=B)
    for fragment in fragments_of(ws, before):
        ws.blobs.delete(fragment.content)
    assert diff(ws, before, after).keys == RowCounts(2, 0, 0)


TABLES = st.dictionaries(st.integers(0, 8), st.none() | st.sampled_from("xyz"), max_size=6)


@given(TABLES, TABLES)
def test_changes_are_those_of_the_tables(old: dict[int, str | None], new: dict[int, str | None]) -> None:
    schema = {"id": pl.Int64, "x": pl.String}
    frames = [pl.DataFrame(list(table.items()), schema=schema, orient="row") for table in (old, new)]
    expected = [("added", key, "") for key in sorted(new.keys() - old.keys())]
    expected += [("changed", key, "x") for key in sorted(new.keys() & old.keys()) if old[key] != new[key]]
    expected += [("removed", key, "") for key in sorted(old.keys() - new.keys())]
    assert compare_rows(*frames, "id").rows() == expected


def test_of_a_key_that_is_there_twice_the_first_row_counts() -> None:
    old, new = pl.DataFrame({"id": [1, 1], "x": [1, 2]}), pl.DataFrame({"id": [1, 1], "x": [1, 3]})
    assert compare_rows(old, new, "id").height == 0
