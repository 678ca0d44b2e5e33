"""Steps of a recipe's training that are measured and forgotten: at growing learning rates, and with batches of growing size.

Network, rows, optimiser, precision and micro-batches are the recipe's own. Nothing is recorded and nothing saved.

On a CPU an operating system kills whoever takes too much memory instead of refusing it, so there a size is tried only if twice
what the size before took lies within a share of the memory that was free before (`batch_sizes.may_fit`, `free_memory`). What is
taken is the resident memory of this process, looked at every two milliseconds by a thread. On CUDA the allocator counts, and
running out of memory is an error that tells.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from statistics import median
from typing import Any

import msgspec
import psutil
import torch

from velodrome.core.errors import Diverged, OutOfMemory
from velodrome.training.batch_sizes import SizeTrial, may_fit
from velodrome.training.free_memory import free_memory
from velodrome.training.own_code import is_out_of_memory
from velodrome.training.rate_range import RateStep, curve_of, exploded
from velodrome.training.torch_learner import trial
from velodrome.training.work import Work

__all__ = ["measure_rates", "measure_sizes"]

_WARM = 3
_ROUNDS, _LEAST_SECONDS = 3, 0.1
_LOOK_SECONDS = 0.002


def measure_rates(work: Work, rates: Sequence[float]) -> tuple[RateStep, ...]:
    """One step at each rate, until the loss explodes or is not finite; that step is the last.

    Raises:
        TrainingError: the network does not fit, as in a run. OutOfMemory: not even one row fits.
    """
    losses: list[float] = []
    with closing(trial(work, rates.__getitem__)) as steps, work.ws.progress.task("rates", len(rates)) as task:
        try:
            for _, (_, loss) in zip(rates, steps, strict=False):
                losses.append(loss)
                task.advance(1, f"loss {loss:.4f}")
                if exploded(curve_of(rates, losses)):
                    break
        except Diverged:  # of which the curve tells
            losses.append(float("nan"))
    return curve_of(rates, losses)


def measure_sizes(
    work: Work, field: str, sizes: Sequence[int], *, steps: int, share: float
) -> tuple[tuple[SizeTrial, ...], int | None]:
    """Some steps with each size, the smallest first, until one does not fit or may not.

    Args:
        field: of the learner, that is set to each size.
        steps: that are timed at least, and more of them until a tenth of a second is over; three times. The best of the
            three medians counts, since whatever else the machine does only slows steps down. Memory is looked at during three steps before.
        share: of the free memory of a machine without an accelerator that may be taken.

    Returns:
        The trials, and how many bytes they might take; None on an accelerator.
    """
    gauge = _DeviceMemory(work.device) if work.device != "cpu" else _HostMemory()
    budget = gauge.budget(share)
    trials: list[SizeTrial] = []
    with work.ws.progress.task("sizes", len(sizes)) as task:
        for size in sizes:
            if not may_fit(trials, budget):
                break
            trials.append(_tried(_with(work, field, size), size, steps, gauge, budget))
            task.advance(1, f"{size} rows")
    return tuple(trials), budget


def _with(work: Work, field: str, size: int) -> Work:
    learner = msgspec.structs.replace(work.learner, **{field: size})
    return replace(work, learner=learner, tell=_refuse_to_shrink)


def _refuse_to_shrink(type_: str, body: dict[str, Any]) -> None:
    if type_ == "run.micro-batch-halved":
        raise OutOfMemory("memory does not suffice for these rows at once")


def _tried(work: Work, size: int, steps: int, gauge: "_Memory", budget: int | None) -> SizeTrial:
    try:
        with closing(trial(work, lambda step: 0.0)) as done:
            with gauge.watched():
                for _ in islice(done, _WARM):
                    gauge.finish()
            speed = max(_speed(done, steps, work.ws.clock.monotonic, gauge) for _ in range(_ROUNDS))
    except (OutOfMemory, MemoryError):
        return SizeTrial(size=size, fits=False)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return SizeTrial(size=size, fits=False)
    fits = budget is None or gauge.peak <= budget
    return SizeTrial(size=size, fits=fits, rows_per_second=speed, memory=gauge.peak)


def _speed(done: Iterator[tuple[int, float]], steps: int, monotonic: Callable[[], float], gauge: "_Memory") -> float:
    """Rows a second: the median of some steps."""
    first, speeds = monotonic(), list[float]()
    while len(speeds) < steps or monotonic() - first < _LEAST_SECONDS:
        begun = monotonic()
        rows, _ = next(done)
        gauge.finish()
        speeds.append(rows / max(monotonic() - begun, 1e-9))
    return median(speeds)


class _HostMemory:
    """Resident memory of this process, beyond what it was at first."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._resident()
        self.peak = 0

    def budget(self, share: float) -> int | None:
        return int(share * free_memory())

    def finish(self) -> None:
        """Nothing is under way when a step returns."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """`peak` is what the block took."""
        self.peak, ended = 0, threading.Event()

        def look() -> None:
            while True:
                last = ended.wait(_LOOK_SECONDS)
                self.peak = max(self.peak, self._resident() - self._before)
                if last:
                    return

        thread = threading.Thread(target=look, name="memory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)


class _DeviceMemory:
    """What torch's allocator handed out on a CUDA device, beyond what it had at first."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._before = torch.cuda.memory_allocated(self._device)
        self.peak = 0

    def budget(self, share: float) -> int | None:
        return None

    def finish(self) -> None:
        """Wait for what the step has begun."""
        torch.cuda.synchronize(self._device)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """`peak` is what the block took."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        yield
        self.peak = torch.cuda.max_memory_allocated(self._device) - self._before


_Memory = _HostMemory | _DeviceMemory
