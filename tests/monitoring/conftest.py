from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import velodrome as vd
from velodrome.data.snapshots import Taken, take_snapshot
from velodrome.store.workspace import Workspace, open_folder


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path) as opened:
        yield opened


@pytest.fixture
def deliver(ws: Workspace) -> Callable[..., Taken]:
    """Write a file of one day's rows, 600 unless told, and take the snapshot of all files."""

    def write(day: int, *, rows: int = 600, shift: float = 0.0, key: int | None = None, most: float = 100.0) -> Taken:
        rng = np.random.default_rng(day)
        begin = np.datetime64(f"2020-01-{day:02}T00:00", "us")
        pl.DataFrame(
            {
                "id": [f"{key or day}-{number}" for number in range(rows)],
                "when": begin + rng.integers(0, 86_400_000_000, rows).astype("timedelta64[us]"),
                "x": rng.normal(shift, 1.0, rows),
                "city": rng.choice(["Bern", "Basel"], rows),
            }
        ).write_parquet(ws.root / f"day-{day:02}.parquet")
        contract = vd.Contract([vd.Between("x", None, most), vd.Unique("id")])
        return take_snapshot(
            ws, vd.Dataset("days", vd.Files("day-*.parquet"), key="id", time="when", contract=contract)
        )

    return write
