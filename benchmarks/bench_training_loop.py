"""What the training loop costs beyond the loop that one writes by hand, on one thread: a small network, and steps of 50 ms.

The limit is the bare loop by hand over batches that were cut beforehand: no shuffling, no reading, no record of anything.
Ours is the real trainer with everything on: rows shuffled and gathered from a memory map, the gradient's norm, the finite
check, the series in the ledger, the sample ledger, a checkpoint early in each turn, which is waited for on our clock.
The small network is an MLP of 64-128-10 with batches of 64, 500 steps a turn. Beside it stand PyTorch's own DataLoader, by
hand, and, where TRAINERS_PYTHON names the interpreter of an environment that has them, Lightning, Accelerate and HF Trainer:
see `trainers.py`. Each of those is a process of its own that waits between its turns.
The other network is an MLP of 64-w-w-10 with batches of 512, its width w found in this very run, so that a bare step takes
about 50 ms; 60 steps a turn, so a checkpoint every three seconds. What is left of our cost is chiefly one pass over the gradients
for their norm, which weighs the more the fewer rows a batch has.
All take turns, so that a noisy machine hits all of them; the ratio is the median over the turns, each to the limit's of the
same turn. What a loop does more seldom than once a turn, as the end of an epoch, is hence left out, to the peers' favour.
"""

import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, pairwise
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

LONG_STEP = 0.05  # seconds
PEERS = ("Lightning", "Lightning, bare", "Accelerate", "HF Trainer", "HF Trainer, bare")
LIMIT, AGAIN, LOADER = "by hand, pre-batched (the limit)", "by hand, pre-batched, again (noise)", "by hand, DataLoader"
OURS = "velodrome, everything on"

Run = Callable[[], float]
"""Runs one turn and returns its seconds."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A network, its data and how long a turn is.

    Attributes:
        name: of the line that is printed; goal: the most that ours may take, as a multiple of the limit.
        sizes: of the layers, from inputs to classes.
        turn: steps of one, and between two checkpoints.
        late: steps by which a turn begins before a checkpoint, so that its writing falls into that turn.
    """

    name: str
    goal: float
    sizes: tuple[int, ...]
    batch: int
    rows: int
    turn: int
    turns: int
    late: int

    def data(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.rows, self.sizes[0]), dtype=np.float32)
        return x, rng.integers(0, self.sizes[-1], self.rows)


SMALL = Setting(
    name="training-loop", goal=1.25, sizes=(64, 128, 10), batch=64, rows=128_000, turn=500, turns=40, late=50
)


def large(width: int) -> Setting:
    sizes = (64, width, width, 10)
    return Setting(name="training-loop-50ms", goal=1.01, sizes=sizes, batch=512, rows=25_600, turn=60, turns=15, late=2)


class Network(torch.nn.Module):
    """Linear layers of these sizes, ReLU between them; with the same first weights each time."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [layer for pair in pairwise(sizes) for layer in (torch.nn.Linear(*pair), torch.nn.ReLU())]
        self.layers = torch.nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


# ----------------------------------------------------------------------------------------------------------------- ours


class Turns:
    """Our batches, which hand over to the others after each turn, with the clock stopped."""

    def __init__(
        self, setting: Setting, batches: TensorBatches, others: Callable[[], None], settle: Callable[[], None]
    ) -> None:
        self._setting, self._batches, self._others, self._settle = setting, batches, others, settle
        self.steps_per_epoch = batches.steps_per_epoch
        self.seconds: list[float] = []

    def batches_from(self, step: int) -> Iterator[Batch]:
        stream, turn = self._batches.batches_from(step), self._setting.turn
        yield from islice(stream, turn - self._setting.late)  # warms up
        while True:
            self._others()
            begun = time.perf_counter()
            yield from islice(stream, turn)
            self._settle()
            self.seconds.append(time.perf_counter() - begun)


def ours(ws: Workspace, setting: Setting, others: Callable[[], None]) -> list[float]:
    """Train for so many turns and return the seconds of each."""
    x, y = setting.data()
    layout = materialise(
        ws, digest_json("benchmark"), [Field("x", "float32", shape=(setting.sizes[0],))], lambda: ({"x": x}, y)
    )
    module = Network(setting.sizes)
    stepper = make_stepper(SGD(lr=0.01), module)
    loss = loss_function("cross_entropy", setting.sizes[-1])
    recorder, copy, watch = SeriesWriter(ws, "run", 1), StateCopy(State(module, stepper)), Stopwatch(ws.clock.monotonic)
    checkpointer = Checkpointer(ws, "run", 1, recorder.flush, interval=Interval(steps=setting.turn))
    batches = TensorBatches(layout, EpochOrder(setting.rows, setting.batch, seed=1))
    turns = Turns(setting, batches, others, checkpointer.wait)
    steps = setting.turn * (setting.turns + 1) - setting.late + 1

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


# -------------------------------------------------------------------------------------------------------------- by hand


def by_hand(setting: Setting, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Run:
    module = Network(setting.sizes)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)

    def turn() -> float:
        begun = time.perf_counter()
        for x, y in islice(batches, setting.turn):
            optimizer.zero_grad()
            functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        return time.perf_counter() - begun

    return turn


def pre_batched(setting: Setting) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    x, y = map(torch.from_numpy, setting.data())
    batches = list(zip(x.split(setting.batch), y.split(setting.batch), strict=True))
    while True:
        yield from batches


def loader(setting: Setting) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    rows = TensorDataset(*map(torch.from_numpy, setting.data()))
    while True:
        yield from DataLoader(rows, batch_size=setting.batch, shuffle=True)


def width_for(seconds: float) -> int:
    """The width with which a bare step takes about so long here and now; time grows with about its square."""
    width = 1024
    for _ in range(3):
        setting = large(width)
        turn = by_hand(setting, pre_batched(setting))
        taken = min(turn() for _ in range(2)) / setting.turn
        width = max(64, round(width * math.sqrt(seconds / taken) / 64) * 64)
    return width


# ---------------------------------------------------------------------------------------------------------------- peers


class Peer:
    """Another package's loop, in a process of its own."""

    def __init__(self, python: str, name: str, setting: Setting, folder: Path) -> None:
        self._name, self._said = name, folder / "said"
        numbers = (*setting.sizes, setting.batch, setting.rows, setting.turn)
        folder.mkdir()
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [python, str(Path(__file__).parent / "trainers.py"), name, *map(str, numbers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )

    def __call__(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        if not told:
            raise SystemExit(f"{self._name} ended: {self._said.read_text()[-2000:]}")
        return float(told)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


# --------------------------------------------------------------------------------------------------------------- report


def measure(setting: Setting, loops: dict[str, Run], folder: Path) -> dict[str, list[float]]:
    """The seconds of each turn of each loop, ours among them."""
    taken: dict[str, list[float]] = {name: [] for name in loops}

    def others() -> None:
        for name, turn in loops.items():
            taken[name].append(turn())

    for turn in loops.values():
        turn()
    with open_folder(folder) as ws:
        taken[OURS] = ours(ws, setting, others)
    return {name: seconds[: setting.turns] for name, seconds in taken.items()}


def measure_small(folder: Path) -> dict[str, list[float]]:
    loops: dict[str, Run] = {
        LIMIT: by_hand(SMALL, pre_batched(SMALL)),
        AGAIN: by_hand(SMALL, pre_batched(SMALL)),
        LOADER: by_hand(SMALL, loader(SMALL)),
    }
    python = os.environ.get("TRAINERS_PYTHON")
    with ExitStack() as stack:
        for number, name in enumerate(PEERS if python else ()):
            peer = Peer(python or "", name, SMALL, folder / str(number))
            stack.callback(peer.close)
            loops[name] = peer
        return measure(SMALL, loops, folder / "ours")


def measure_large(setting: Setting, folder: Path) -> dict[str, list[float]]:
    loops = {LIMIT: by_hand(setting, pre_batched(setting)), AGAIN: by_hand(setting, pre_batched(setting))}
    return measure(setting, loops, folder)


def summary(setting: Setting, taken: dict[str, list[float]]) -> dict[str, object]:
    ratios = {
        name: statistics.median(mine / bare for mine, bare in zip(seconds, taken[LIMIT], strict=True))
        for name, seconds in taken.items()
    }
    return {
        "sizes": setting.sizes,
        "median_microseconds": {n: statistics.median(each) / setting.turn * 1e6 for n, each in taken.items()},
        "ratios": ratios,
        "goal": setting.goal,
        "all_seconds": taken,
    }


def told(summed: dict[str, object]) -> list[str]:
    return [
        f"{name:36s} {value:9.1f}µs  ratio {summed['ratios'][name]:.3f}"
        for name, value in summed["median_microseconds"].items()
    ]


def judgement(setting: Setting, summed: dict[str, object]) -> tuple[float, str]:
    """How far the goal is exceeded, and the last words on it."""
    mine, bare = (summed["median_microseconds"][name] for name in (OURS, LIMIT))
    ratio = summed["ratios"][OURS]
    verdict = "met" if ratio <= setting.goal else "missed"
    words = f"{setting.name} {mine:.1f}µs {bare:.1f}µs ratio {ratio:.3f} goal {setting.goal:.2f} {verdict}"
    return ratio / setting.goal, words


def main() -> None:
    torch.set_num_threads(1)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    wide = large(width_for(LONG_STEP))
    with tempfile.TemporaryDirectory() as folder:
        found = [
            (SMALL, summary(SMALL, measure_small(Path(folder)))),
            (wide, summary(wide, measure_large(wide, Path(folder, "large")))),
        ]
    (results / "training_loop.json").write_text(json.dumps({setting.name: each for setting, each in found}, indent=1))
    for setting, summed in found:
        print("-".join(map(str, setting.sizes)), *told(summed), sep="\n")
    if "TRAINERS_PYTHON" not in os.environ:
        print("not compared: Lightning, Accelerate, HF Trainer (TRAINERS_PYTHON names no interpreter that has them)")
    for _, words in sorted(judgement(setting, summed) for setting, summed in found):
        print(words)


if __name__ == "__main__":
    main()
