"""What the training loop costs beyond the loop that one writes by hand: an MLP of 64-128-10, batches of 64, one thread.

The limit is the bare loop by hand over batches that were cut beforehand: no shuffling, no reading, no record of anything.
Ours is the real trainer with everything on: rows shuffled and gathered from a memory map, the gradient's norm, the finite
check, the series in the ledger, a checkpoint every 500 steps. The peer is PyTorch's own DataLoader, by hand; trainers of
other packages are no dependency of ours, so they are named, not compared. All go on in turn in one process, 500 steps each
time, so that a noisy machine hits all of them; the ratio is the median over the turns, each to the limit's of the same turn.
What our checkpoint still has to write when our turn ends is waited for, on our clock.
"""

import importlib.util
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from velodrome.core.digest import digest_json
from velodrome.core.progress import Silent
from velodrome.data.fields import Field
from velodrome.data.layout import materialise
from velodrome.data.order import EpochOrder
from velodrome.data.torch import Batch, TensorBatches
from velodrome.registry.series_writer import SeriesWriter
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.accounting import Stopwatch
from velodrome.training.checkpoints import Checkpointer, Interval, checkpoints_of
from velodrome.training.learners import SGD
from velodrome.training.loop import Memory, Plan, Trainer
from velodrome.training.samples import SampleLedger
from velodrome.training.torch_losses import loss_function
from velodrome.training.torch_optimizers import make_stepper
from velodrome.training.torch_state import State, StateCopy
from velodrome.training.torch_step import Objective

GOAL = 1.25
INPUTS, HIDDEN, CLASSES, BATCH, ROWS = 64, 128, 10, 64, 128_000
TURN = 500  # steps; one checkpoint in each
FIRST_TURN = 450  # so that a checkpoint is taken early in a turn, and its writing falls into that turn
TURNS = 40
PEERS = ("lightning", "accelerate", "transformers")

Run = Callable[[], float]
"""Runs one turn and returns its seconds."""


class Network(torch.nn.Module):
    """64-128-10 with the same first weights each time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(INPUTS, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Turns:
    """Our batches, which hand over to the others after each turn, with the clock stopped."""

    def __init__(self, batches: TensorBatches, others: Callable[[], None], settle: Callable[[], None]) -> None:
        self._batches, self._others, self._settle = batches, others, settle
        self.steps_per_epoch = batches.steps_per_epoch
        self.seconds: list[float] = []

    def batches_from(self, step: int) -> Iterator[Batch]:
        stream = self._batches.batches_from(step)
        yield from islice(stream, FIRST_TURN)  # warms up
        while True:
            self._others()
            begun = time.perf_counter()
            yield from islice(stream, TURN)
            self._settle()
            self.seconds.append(time.perf_counter() - begun)


def ours(ws: Workspace, x: NDArray[np.float32], y: NDArray[np.int64], others: Callable[[], None]) -> list[float]:
    """Train for `TURNS` turns and return the seconds of each."""
    field = Field("x", "float32", shape=(INPUTS,))
    layout = materialise(ws, digest_json("benchmark"), [field], lambda: ({"x": x}, y))
    module = Network()
    stepper = make_stepper(SGD(lr=0.01), module)
    loss = loss_function("cross_entropy", CLASSES)
    recorder, copy, watch = SeriesWriter(ws, "run", 1), StateCopy(State(module, stepper)), Stopwatch(ws.clock.monotonic)
    checkpointer = Checkpointer(ws, "run", 1, recorder.flush, interval=Interval(steps=500))
    turns = Turns(TensorBatches(layout, EpochOrder(ROWS, BATCH, seed=1)), others, checkpointer.wait)
    steps = FIRST_TURN + TURN * TURNS + 1

    class Saver:
        due, wait = checkpointer.due, checkpointer.wait

        def save(self, memory: Memory) -> None:
            checkpointer.save(memory.step, lambda: copy.taken({"memory": msgspec.to_builtins(memory), "order": ""}))

    with Silent().task("train") as task:
        trainer = Trainer(
            plan=Plan(stop_at=steps, lr=lambda step: 0.005 * (1 + math.cos(math.pi * step / steps)), clip=1e9),
            module=module,
            objective=Objective(
                lambda inputs, target: loss(module(**inputs), target), stepper.parameters, seed=1, watch=watch
            ),
            stepper=stepper,
            batches=turns,
            evaluate=lambda: math.nan,
            recorder=recorder,
            samples=SampleLedger(recorder),
            saver=Saver(),
            watch=watch,
            task=task,
        )
        trainer.train(Memory())
    checkpointer.close()
    recorder.close()
    assert checkpoints_of(ws, "run")[-1].step == steps
    return turns.seconds


def by_hand(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Run:
    module = Network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)

    def turn() -> float:
        begun = time.perf_counter()
        for x, y in islice(batches, TURN):
            optimizer.zero_grad()
            functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        return time.perf_counter() - begun

    return turn


def pre_batched(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    while True:
        yield from batches


def loader(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)


def measure(x: NDArray[np.float32], y: NDArray[np.int64]) -> dict[str, list[float]]:
    """The seconds of each turn of each loop."""
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    loops = {
        "by hand, pre-batched (the limit)": by_hand(pre_batched(*tensors)),
        "by hand, pre-batched, again (noise)": by_hand(pre_batched(*tensors)),
        "by hand, DataLoader": by_hand(loader(*tensors)),
    }
    taken: dict[str, list[float]] = {name: [] for name in loops}

    def others() -> None:
        for name, turn in loops.items():
            taken[name].append(turn())

    for turn in loops.values():
        turn()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ws = stack.enter_context(open_folder(Path(folder)))
        taken["velodrome, everything on"] = ours(ws, x, y, others)
    return {name: seconds[:TURNS] for name, seconds in taken.items()}


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, INPUTS), dtype=np.float32), rng.integers(0, CLASSES, ROWS)
    taken = measure(x, y)
    limit = taken["by hand, pre-batched (the limit)"]
    microseconds = {name: statistics.median(seconds) / TURN * 1e6 for name, seconds in taken.items()}
    ratios = {
        name: statistics.median(mine / bare for mine, bare in zip(seconds, limit, strict=True))
        for name, seconds in taken.items()
    }
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "training_loop.json").write_text(
        json.dumps(
            {"median_microseconds": microseconds, "ratios": ratios, "goal": GOAL, "all_seconds": taken}, indent=1
        )
    )
    for name, value in microseconds.items():
        print(f"{name:36s} {value:7.1f}µs  ratio {ratios[name]:.2f}")
    for name in PEERS:
        print(f"not compared: {name} ({'installed' if importlib.util.find_spec(name) else 'not installed'})")
    mine, bare = list(microseconds.values())[-1], next(iter(microseconds.values()))
    ratio = list(ratios.values())[-1]
    verdict = "met" if ratio <= GOAL else "missed"
    print(f"training-loop {mine:.1f}µs {bare:.1f}µs ratio {ratio:.2f} goal {GOAL:.2f} {verdict}")


if __name__ == "__main__":
    main()
