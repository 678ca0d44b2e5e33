"""What drift costs beyond the least that numpy and polars could do: sketch both frames, compare every column.

The limit is by hand, with the range known and nothing checked: 2,048 equal-width bins of both columns, ten bins of equal
shares from them, the population stability index; text by `value_counts`. Ours is what a snapshot does when its files are
read and what a window does later: `sketch_frame` of both frames, then `compare_columns`. Both take columns in two
threads, in turn in one process, so that a noisy machine hits both; the ratio is the median over the turns.
The second part streams 3 million rows of 1,000 columns through sketches, chunk by chunk, in a process of its own, whose
peak of memory is then its own; drawing the numbers is not on the clock.
Evidently is compared, once, where EVIDENTLY_PYTHON names the interpreter of an environment that has it.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from velodrome.data.profile import sketch_frame
from velodrome.evaluation.drift import ColumnDrift, Drift, compare_columns
from velodrome.evaluation.sketches import ColumnSketch, merge_columns

GOAL = 1.5
THREADS = 2
TURNS = 15
FRAMES = {"1M-x-40": (1_000_000, 30, 10), "100k-x-100": (100_000, 75, 25)}  # rows, columns of numbers, of text
LEVELS = [f"k{level}" for level in range(20)]

STREAM_ROWS, STREAM_COLUMNS, CHUNK = 3_000_000, 1000, 50_000
FAN_IN = 8
SECONDS, BYTES = 600.0, 2e9

EVIDENTLY = """
import json, pathlib, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
folder, numbers, texts = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
columns = [f"n{i}" for i in range(numbers)], [f"c{i}" for i in range(texts)]
levels = np.array([f"k{level}" for level in range(20)], dtype=object)
def frame(side):
    values, codes = np.load(folder / f"{side}-numbers.npy"), np.load(folder / f"{side}-texts.npy")
    return pd.DataFrame(dict(zip(columns[0], values)) | {name: levels[code] for name, code in zip(columns[1], codes)})
frames = [frame(side) for side in ("before", "after")]
definition = DataDefinition(numerical_columns=columns[0], categorical_columns=columns[1])
taken = {}
for name, methods in {"default": {}, "psi": {"num_method": "psi", "cat_method": "psi"}}.items():
    begun = time.perf_counter()
    before, after = [Dataset.from_pandas(frame, data_definition=definition) for frame in frames]
    Report([DataDriftPreset(**methods)]).run(after, before).dict()
    taken[name] = time.perf_counter() - begun
print(json.dumps(taken))
"""


# ----------------------------------------------------------------------------------------------------------- two frames


def draw(side: str, rows: int, numbers: int, texts: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Numbers (columns, rows), of which a third moves by 0.05 in the window, and the codes of texts (columns, rows)."""
    rng = np.random.default_rng(["before", "after"].index(side))
    values = rng.standard_normal((numbers, rows))
    if side == "after":
        values[::3] += 0.05
    return values, rng.integers(0, len(LEVELS), (texts, rows))


def as_frame(values: NDArray[np.float64], codes: NDArray[np.int64]) -> pl.DataFrame:
    levels = pl.Series(LEVELS)
    numbers = {f"n{i}": column for i, column in enumerate(values)}
    return pl.DataFrame(numbers | {f"c{i}": levels.gather(column) for i, column in enumerate(codes)})


def ours(before: pl.DataFrame, after: pl.DataFrame, pool: ThreadPoolExecutor) -> tuple[ColumnDrift, ...]:
    columns = [frame.select(name) for frame in (before, after) for name in frame.columns]
    sketches = [sketch for (sketch,) in pool.map(sketch_frame, columns)]
    return compare_columns(sketches[: before.width], sketches[before.width :], Drift())


def by_hand(before: pl.DataFrame, after: pl.DataFrame, pool: ThreadPoolExecutor) -> list[float]:
    return list(pool.map(lambda name: index_by_hand(before[name], after[name]), before.columns))


def index_by_hand(before: pl.Series, after: pl.Series) -> float:
    if before.dtype == pl.String:
        counts = before.value_counts().join(
            after.value_counts(), on=before.name, how="full", coalesce=True, suffix="_now"
        )
        filled = counts.fill_null(0)
        return stability_index(filled["count"].to_numpy(), filled["count_now"].to_numpy())
    here, now = before.to_numpy(), after.to_numpy()
    low, high = here.min(), here.max()
    fine = np.histogram(here, 2048, (low, high))[0]
    fine_now = np.histogram(np.clip(now, low, high), 2048, (low, high))[0]
    cumulated = np.cumsum(fine)
    starts = np.r_[0, np.searchsorted(cumulated, np.linspace(0, cumulated[-1], 11)[1:-1]) + 1]
    return stability_index(np.add.reduceat(fine, starts), np.add.reduceat(fine_now, starts))


def stability_index(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    p, q = (np.maximum(counts / counts.sum(), 1e-4) for counts in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


def measure(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, list[float]]:
    """The seconds of each turn."""
    taken: dict[str, list[float]] = {"velodrome": [], "by hand (the limit)": []}
    with ThreadPoolExecutor(THREADS) as pool:
        found, indices = ours(before, after, pool), by_hand(before, after, pool)
        for column, index in zip(found, indices, strict=True):  # both see the same, or one of them measures nothing
            assert column.psi is not None
            assert abs(column.psi - index) < 0.005, (column.column, column.psi, index)
        for _ in range(TURNS):
            for name, run in (("velodrome", ours), ("by hand (the limit)", by_hand)):
                taken[name].append(seconds(run, before, after, pool))
    return taken


def seconds(run: Callable[..., object], *arguments: object) -> float:
    begun = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - begun


def evidently(sides: dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]) -> dict[str, float] | None:
    """Its seconds by method, or None where no interpreter that has it is named."""
    python = os.environ.get("EVIDENTLY_PYTHON")
    if not python:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for side, (values, codes) in sides.items():
            np.save(Path(folder) / f"{side}-numbers.npy", values)
            np.save(Path(folder) / f"{side}-texts.npy", codes)
        values, codes = sides["before"]
        command = [python, "-c", EVIDENTLY, folder, str(len(values)), str(len(codes))]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(told.splitlines()[-1]))


# ------------------------------------------------------------------------------------------------------------ a stream


class Streamed:
    """Sketches of all chunks so far: up to FAN_IN of each level, then one of the next; so errors add up log times."""

    def __init__(self) -> None:
        self._levels: list[list[tuple[ColumnSketch, ...]]] = []

    def add(self, sketches: tuple[ColumnSketch, ...], level: int = 0) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(sketches)
        if len(self._levels[level]) == FAN_IN:
            full, self._levels[level] = self._levels[level], []
            self.add(merged(full), level + 1)

    def all(self) -> tuple[ColumnSketch, ...]:
        return merged([sketches for level in self._levels for sketches in level])


def merged(parts: list[tuple[ColumnSketch, ...]]) -> tuple[ColumnSketch, ...]:
    return tuple(merge_columns(column) for column in zip(*parts, strict=True))


def stream(rows: int, columns: int) -> dict[str, float]:
    """Sketch a stream and compare its second half with its first; the seconds, the peak in bytes, and what was found."""
    rng, taken = np.random.default_rng(0), 0.0
    halves = Streamed(), Streamed()
    for start in range(0, rows, CHUNK):
        later = int(2 * start >= rows)
        chunk = rng.standard_normal((columns, min(CHUNK, rows - start)), dtype=np.float32)
        chunk[:: columns // 10] += 0.5 * later
        frame = pl.DataFrame({f"n{i}": column for i, column in enumerate(chunk)})
        taken += seconds(lambda: halves[later].add(sketch_frame(frame)))  # noqa: B023 - called at once
    begun = time.perf_counter()
    before, after = (half.all() for half in halves)
    found = compare_columns(before, after, Drift())
    taken += time.perf_counter() - begun
    assert [column.drifted for column in found] == [i % (columns // 10) == 0 for i in range(columns)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    error = max(column.quantiles.error for column in (*before, *after) if column.quantiles is not None)
    return {"rows": rows, "columns": columns, "seconds": taken, "peak_bytes": peak, "error": error}


def streamed_by_a_child(rows: int, columns: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", "--rows", str(rows), "--columns", str(columns)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


# --------------------------------------------------------------------------------------------------------------- report


def main() -> None:
    asked = arguments()
    if asked.child:
        print(json.dumps(stream(asked.rows, asked.columns)))
        return
    found = streamed_by_a_child(asked.rows, asked.columns)  # first: a child's peak begins with what its parent holds
    results: dict[str, object] = {"goal": GOAL, "threads": THREADS, "stream": found}
    lines = stream_lines(found)
    for subject in FRAMES:
        results[subject], text = compare(subject)
        lines.append(text)
    if "EVIDENTLY_PYTHON" not in os.environ:
        print("not compared: evidently (EVIDENTLY_PYTHON names no interpreter that has it)")
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "drift.json").write_text(json.dumps(results, indent=1))
    print("\n".join(text for _, text in sorted(lines)))


def compare(subject: str) -> tuple[dict[str, object], tuple[float, str]]:
    """All three on two frames: what was measured, and the line that says so."""
    rows, numbers, texts = FRAMES[subject]
    sides = {side: draw(side, rows, numbers, texts) for side in ("before", "after")}
    taken = measure(*(as_frame(*drawn) for drawn in sides.values()))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratio = statistics.median(mine / bare for mine, bare in zip(*taken.values(), strict=True))
    peer = evidently(sides)
    mine, bare = medians.values()
    for name, value in (medians | {f"evidently, {name}": value for name, value in (peer or {}).items()}).items():
        print(f"{subject:12s} {name:20s} {value:8.3f}s  ratio {value / bare:.2f}")
    measured = {"median_seconds": medians, "ratio": ratio, "evidently_seconds": peer, "all_seconds": taken}
    return measured, line(f"drift-{subject}", f"{mine * 1000:.0f}ms", f"{bare * 1000:.0f}ms", ratio, GOAL)


def stream_lines(found: dict[str, float]) -> list[tuple[float, str]]:
    spent, held = found["seconds"], found["peak_bytes"]
    print(f"stream of {found['rows']:,} x {found['columns']:,}: {spent:.1f}s, peak {held / 1e9:.2f} GB, ", end="")
    print(f"a quantile's rank is off by {found['error']:.2%} at most")
    return [
        line("drift-stream-time", f"{spent:.0f}s", f"{SECONDS:.0f}s", spent / SECONDS, 1.0),
        line("drift-stream-memory", f"{held / 1e9:.2f}GB", f"{BYTES / 1e9:.0f}GB", held / BYTES, 1.0),
    ]


def line(subject: str, mine: str, limit: str, ratio: float, goal: float) -> tuple[float, str]:
    """The last words on one goal, after the share of it that was needed, by which they are sorted."""
    verdict = "met" if ratio <= goal else "missed"
    return ratio / goal, f"{subject} {mine} {limit} ratio {ratio:.2f} goal {goal:.2f} {verdict}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the cost of drift")
    parser.add_argument("--rows", type=int, default=STREAM_ROWS, help="of the stream; fewer for a trial")
    parser.add_argument("--columns", type=int, default=STREAM_COLUMNS, help="of the stream")
    parser.add_argument("--child", action="store_true", help="only the stream, in this process")
    return parser.parse_args()


if __name__ == "__main__":
    main()
