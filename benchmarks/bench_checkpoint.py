"""What a checkpoint of 200 MB costs: how long training waits, and how long until it is durable, digested and recorded.

The limits are taken in turn in the same process: a copy of as many bytes into a buffer that was touched before (what the wait
can be at best), and writing as many bytes to a file with fsync (what durable can be at best). Ours is the real thing: the state
of a module copied into the bytes of a safetensors file, hashed, written to a blob, flushed, renamed, its folder flushed, its
record and event committed. The peer is torch.save and fsync.
A disk that is shared slows now one writer, now another (here from 0.13 to 0.6 s, the same call, by chance): all wait a second
before they write, each is first in turn, and of what the disk has a part in the fastest turns are compared. The JSON has all.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from velodrome.core.config import Config
from velodrome.store.workspace import open_folder
from velodrome.training.checkpoints import Checkpointer, newest_verified
from velodrome.training.learners import SGD
from velodrome.training.torch_optimizers import make_stepper
from velodrome.training.torch_state import State, StateCopy, decode_state

STALL_GOAL, DURABLE_GOAL = 1.5, 1.3
LAYERS, WIDTH = 12, 2048
TURNS = 12
SETTLE_SECONDS = 1.0
DISK = ("write+fsync", "durable", "torch.save+fsync")

Taken = dict[str, list[float]]


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def written(path: Path, data: memoryview) -> None:
    with path.open("wb", buffering=0) as stream:
        done = 0
        while done < len(data):
            done += stream.write(data[done:])
        os.fsync(stream.fileno())
    path.unlink()


def saved(path: Path, module: torch.nn.Module) -> None:
    with path.open("wb") as stream:
        torch.save(module.state_dict(), stream)
        stream.flush()
        os.fsync(stream.fileno())
    path.unlink()


def measure(folder: Path) -> tuple[Taken, int]:
    module = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    stepper = make_stepper(SGD(lr=0.1), module)
    taken: Taken = {name: [] for name in ("memcpy", "stall", "write+fsync", "durable", "torch.save+fsync")}
    with open_folder(folder, Config(keep_checkpoints=TURNS)) as ws:  # what is dropped is dropped later
        copy = StateCopy(State(module, stepper))
        checkpointer = Checkpointer(ws, "run", 1, lambda: True)
        size = len(copy.taken({"memory": {}, "order": ""})())
        source, target = np.random.default_rng(0).bytes(size), memoryview(bytearray(size))

        def save(turn: int) -> None:
            checkpointer.save(turn, lambda: copy.taken({"memory": {"step": turn}, "order": ""}))

        def ours(turn: int) -> None:
            begun = time.perf_counter()
            taken["stall"].append(seconds(partial(save, turn)))
            checkpointer.wait()
            taken["durable"].append(time.perf_counter() - begun)

        for turn in range(1, TURNS + 1):
            with torch.no_grad():
                next(module.parameters()).add_(1.0)  # so that each turn stores new bytes
            taken["memcpy"].append(seconds(partial(target.__setitem__, slice(None), source)))
            writers: list[Callable[[], None]] = [
                partial(ours, turn),
                lambda: taken["write+fsync"].append(seconds(partial(written, folder / "raw", memoryview(source)))),
                lambda: taken["torch.save+fsync"].append(seconds(partial(saved, folder / "peer", module))),
            ]
            for writer in (*writers[turn % 3 :], *writers[: turn % 3]):
                os.sync()
                time.sleep(SETTLE_SECONDS)
                writer()
        checkpointer.close()
        found = newest_verified(ws, "run")
        assert found is not None
        assert decode_state(found[1])[1]["memory"] == {"step": TURNS}
    return {name: each[1:] for name, each in taken.items()}, size


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        taken, size = measure(Path(folder))
    milliseconds = {
        name: (min(each) if name in DISK else statistics.median(each)) * 1e3 for name, each in taken.items()
    }
    lines = []
    for ours, limit, goal in (("stall", "memcpy", STALL_GOAL), ("durable", "write+fsync", DURABLE_GOAL)):
        turns = zip(taken[ours], taken[limit], strict=True)
        ratio = min(taken[ours]) / min(taken[limit]) if ours in DISK else statistics.median(m / b for m, b in turns)
        lines.append((ratio / goal, ours, limit, ratio, goal))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "checkpoint.json").write_text(
        json.dumps(
            {
                "bytes": size,
                "milliseconds": milliseconds,
                "ratios": {ours: ratio for _, ours, _, ratio, _ in lines},
                "goals": {"stall": STALL_GOAL, "durable": DURABLE_GOAL},
                "all_seconds": taken,
            },
            indent=1,
        )
    )
    for name, value in milliseconds.items():
        print(f"{name:20s} {value:8.1f} ms")
    for _, ours, limit, ratio, goal in sorted(lines):
        verdict = "met" if ratio <= goal else "missed"
        print(
            f"checkpoint-{ours} {milliseconds[ours]:.1f}ms {milliseconds[limit]:.1f}ms ratio {ratio:.2f} goal {goal:.2f} {verdict}"
        )


if __name__ == "__main__":
    main()
