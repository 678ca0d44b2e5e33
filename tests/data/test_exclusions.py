from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from velodrome.data.exclusions import Exclusions, put_exclusions, read_exclusions, without
from velodrome.store.workspace import open_folder


def test_exclusions_are_read_as_they_were_put(tmp_path: Path) -> None:
    ws = open_folder(tmp_path)
    digest = put_exclusions(ws, np.array([1, 3]), ["a", "b"])
    assert read_exclusions(ws, digest) == Exclusions((1, 3), ("a", "b"))


def test_no_exclusions_are_no_blob(tmp_path: Path) -> None:
    ws = open_folder(tmp_path)
    assert put_exclusions(ws, np.array([], dtype=np.int64), []) is None
    assert read_exclusions(ws, None) == Exclusions()


@given(st.sets(st.integers(0, 9)))
def test_what_is_left_is_in_order(rows: set[int]) -> None:
    left = without(pl.LazyFrame({"a": range(10)}), Exclusions(tuple(sorted(rows)), ("",) * len(rows))).collect()
    assert left["a"].to_list() == [row for row in range(10) if row not in rows]
    assert left.columns == ["a"]
