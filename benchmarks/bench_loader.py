"""What our batches cost beyond a bare gather: 1 million rows of 32 float32 and a target, shuffled, in batches of 1,024.

The limit is numpy's `take` of the same rows by hand, in an order that is there already, from the same memory map or the same
array in memory. Ours are the batches that training takes: the epoch's order, ids, a tensor for the inputs and one for the
target; also with two workers, without a goal, since training that takes no time leaves them nothing to hide behind. The peer is PyTorch's
DataLoader over a TensorDataset, alone and with two workers. All go on in turn in one process, so that a noisy machine hits
all of them; a ratio is the median over the turns, each to the limit's of the same turn. A turn of ours is four epochs.
A seek, to the middle of the hundredth epoch, is compared with the order of one epoch, which it cannot do without.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from velodrome.core.digest import digest_json
from velodrome.data.fields import Field
from velodrome.data.layout import materialise
from velodrome.data.order import EpochOrder
from velodrome.data.torch import TensorBatches
from velodrome.store.workspace import open_folder

GOAL, SEEK_GOAL = 0.8, 1.2
ROWS, INPUTS, BATCH = 1_000_000, 32, 1024
STEPS = -(-ROWS // BATCH)  # of an epoch
EPOCHS, PEER_STEPS = 4, 100  # of a turn
TURNS = 15
SETTLE_SECONDS = 0.1  # after a turn of ours: the order of the next epoch is prepared in a thread

Run = Callable[[], tuple[int, float]]
"""Runs one turn and returns its batches and its seconds."""


def timed(batches: Iterator[object], count: int) -> tuple[int, float]:
    begun = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return count, time.perf_counter() - begun


def bare(x: NDArray[np.float32], y: NDArray[np.int64]) -> Run:
    order = EpochOrder(ROWS, BATCH, seed=0).epoch(0).astype(np.intp)
    index = [order[start : start + BATCH] for start in range(0, ROWS, BATCH)]
    gathers = ((x.take(rows, axis=0), y.take(rows)) for rows in chain.from_iterable(repeat(index)))
    return lambda: timed(gathers, STEPS)


def ours(x: NDArray[np.float32], y: NDArray[np.int64], workers: int = 0) -> Run:
    stream = TensorBatches({"x": x}, EpochOrder(ROWS, BATCH, seed=1), y, workers=workers).batches_from(0)

    def turn() -> tuple[int, float]:
        taken = timed(stream, EPOCHS * STEPS)
        time.sleep(SETTLE_SECONDS)
        return taken

    return turn


def peer(x: NDArray[np.float32], y: NDArray[np.int64], workers: int) -> Run:
    dataset = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    batches = chain.from_iterable(repeat(loader))
    return lambda: timed(batches, PEER_STEPS)


def measure(runs: dict[str, Run]) -> dict[str, list[float]]:
    """Rows per second of each turn of each run, after one that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, run in runs.items():
            count, seconds = run()
            if turn:
                taken[name].append(count * BATCH / seconds)
    return taken


def seeks(x: NDArray[np.float32], y: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Seconds to the first batch from the middle of an epoch on, and of the order of that epoch alone."""
    order = EpochOrder(ROWS, BATCH, seed=1)
    batches = TensorBatches({"x": x}, order, y)
    sought, ordered = [], []
    for _ in range(TURNS):
        begun = time.perf_counter()
        stream = batches.batches_from(100 * STEPS + STEPS // 2)
        next(stream)
        sought.append(time.perf_counter() - begun)
        stream.close()
        time.sleep(SETTLE_SECONDS)
        begun = time.perf_counter()
        order.epoch(100)
        ordered.append(time.perf_counter() - begun)
    return sought, ordered


def line(name: str, unit: str, mine: list[float], limit: list[float], goal: float) -> tuple[float, str]:
    """The last words on one goal, after the share of it that was missing or left, by which they are sorted."""
    ratio = statistics.median(here / there for here, there in zip(mine, limit, strict=True))
    speed = unit == "Mrows/s"
    scale, met = (1e-6, ratio >= goal) if speed else (1e3, ratio <= goal)
    here, there = (f"{statistics.median(values) * scale:.1f}{unit}" for values in (mine, limit))
    verdict = "met" if met else "missed"
    return (
        goal / ratio if speed else ratio / goal,
        f"loader-{name} {here} {there} ratio {ratio:.2f} goal {goal:.2f} {verdict}",
    )


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, INPUTS), dtype=np.float32), rng.integers(0, 10, ROWS)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ws = stack.enter_context(open_folder(Path(folder)))
        field = Field("x", "float32", shape=(INPUTS,))
        layout = materialise(ws, digest_json("benchmark"), [field], lambda: ({"x": x}, y))
        mapped = layout.arrays["numbers"], layout.target
        workers = peer(x, y, 2)
        workers()  # its processes are forked before any thread of ours
        taken = measure(
            {
                "bare gather, memory map": bare(*mapped),
                "velodrome, memory map": ours(*mapped),
                "velodrome, memory map, 2 workers": ours(*mapped, workers=2),
                "bare gather, memory": bare(x, y),
                "velodrome, memory": ours(x, y),
                "velodrome, memory, 2 workers": ours(x, y, workers=2),
                "DataLoader": peer(x, y, 0),
                "DataLoader, 2 workers": workers,
            }
        )
        sought, ordered = seeks(*mapped)
    for name, speeds in taken.items():
        limit = taken["bare gather, memory map" if "map" in name else "bare gather, memory"]
        ratio = statistics.median(mine / theirs for mine, theirs in zip(speeds, limit, strict=True))
        print(f"{name:34s} {statistics.median(speeds) / 1e6:7.2f} Mrows/s  ratio {ratio:.3f}")
    lines = [
        line(kind.replace(" ", "-"), "Mrows/s", taken[f"velodrome, {kind}"], taken[f"bare gather, {kind}"], GOAL)
        for kind in ("memory map", "memory")
    ]
    lines.append(line("seek", "ms", sought, ordered, SEEK_GOAL))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    found = {
        "goal": GOAL,
        "seek_goal": SEEK_GOAL,
        "rows_per_second": taken,
        "seek_seconds": sought,
        "order_seconds": ordered,
    }
    (results / "loader.json").write_text(json.dumps(found, indent=1))
    print("\n".join(text for _, text in sorted(lines)))


if __name__ == "__main__":
    main()
