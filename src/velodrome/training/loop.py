"""The training loop, once: next batch, forward and backward, clip, step, log, evaluate, checkpoint, stop.

Everything it needs is a value it is given. Gradients are left to autograd: a parameter that the loss does not reach has none
and is skipped by the optimiser, as in a loop by hand. The gradient's norm is the check that it is finite, and it is read before
the optimiser moves: a loss or gradient that is not finite never reaches the weights. Cost beyond the bare step: the two
numbers read, and one record packed, some tens of microseconds.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from velodrome.core.errors import Diverged, Preempted, TrainingError
from velodrome.core.logging import logger
from velodrome.core.progress import Task
from velodrome.data.torch import Batch
from velodrome.registry.time_spent import Spent
from velodrome.training.accounting import Stopwatch
from velodrome.training.samples import SampleLedger
from velodrome.training.torch_optimizers import Average, Freezer, Stepper
from velodrome.training.torch_parameters import FIRST_STEPS, Parameters
from velodrome.training.torch_step import Objective
from velodrome.training.work import RollBack

__all__ = ["Batches", "Memory", "Plan", "Recorder", "Saver", "Trainer"]


class Batches(Protocol):
    """Where batches come from: `batches_from` seeks to any global step and goes on without end."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batches_from(self, step: int) -> Iterator[Batch]: ...


class Recorder(Protocol):
    """What keeps the histories; must cost microseconds and never raise for storage."""

    def log(self, step: int, /, **values: float) -> None: ...


class Saver(Protocol):
    """What keeps the state."""

    def due(self, step: int, now: float) -> bool:
        """Whether the state after that step is to be saved, at that moment of the clock; raises if the save before failed."""

    def save(self, memory: "Memory") -> None:
        """Copy the state and save it in the background."""

    def wait(self) -> None:
        """Return when the last save is durable."""


class Memory(msgspec.Struct, frozen=True):
    """What the loop remembers between steps, beside weights and optimiser.

    Attributes:
        step: steps done.
        best, best_step, waited: the best validation loss, where it was, and how many evaluations ago; stopped: for good.
        smoothed: the validation loss as early stopping sees it.
        lowered: what a plateau has multiplied the learning rate with; plateau, plateau_waited: its best loss, how long ago.
        scale, good: of the scaler of float16. micro_batch: rows of one forward, where memory ran out; 0: as planned.
        passed_over: steps (from 0) whose batches are not trained on.
        chain: where the sample ledger stands.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    stopped: bool = False
    smoothed: float | None = None
    lowered: float = 1.0
    plateau: float | None = None
    plateau_waited: int = 0
    scale: float | None = None
    good: int = 0
    micro_batch: int = 0
    passed_over: tuple[int, ...] = ()
    chain: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """When the loop does what.

    Attributes:
        stop_at: steps after which training ends.
        lr: learning rate as a function of the step.
        clip: largest norm of the gradient; clip_value: then, of each of its elements; None: any.
        evaluate_every: steps between evaluations (an epoch); 0: never.
        patience: evaluations without improvement before it stops; None: never stops early.
        minimum_change: by how much the validation loss must fall to count as better.
        smoothing: of the validation loss, for what is better.
        plateau: (factor, patience, minimum change) by which the learning rate is lowered.
        on_divergence: what is done about a loss or gradient that is not finite.
    """

    stop_at: int
    lr: Callable[[int], float]
    clip: float | None = None
    clip_value: float | None = None
    evaluate_every: int = 0
    patience: int | None = None
    minimum_change: float = 0.0
    smoothing: float = 0.0
    plateau: tuple[float, int, float] | None = None
    on_divergence: Literal["stop", "skip", "roll back"] = "stop"

    def evaluates_after(self, step: int) -> bool:
        return self.evaluate_every > 0 and step % self.evaluate_every == 0

    def saves_after(self, step: int) -> bool:
        """Whatever the saver's interval is."""
        return step == self.stop_at or self.evaluates_after(step)


@dataclass(kw_only=True)
class Trainer:
    """A training and everything it is made of.

    Attributes:
        average: of the weights, which is evaluated in their place.
        asked_to_leave: whether somebody asked the process to end.
        tell: records an event of the run.
    """

    plan: Plan
    module: torch.nn.Module
    objective: Objective
    stepper: Stepper
    batches: Batches
    evaluate: Callable[[], float]
    recorder: Recorder
    samples: SampleLedger
    saver: Saver
    watch: Stopwatch
    task: Task
    average: Average | None = None
    freezer: Freezer | None = None
    asked_to_leave: Callable[[], bool] = lambda: False
    tell: Callable[[str, dict[str, Any]], None] = lambda type_, body: None
    parameters: Parameters = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = Parameters(self.module, self.stepper.parameters)

    def train(self, memory: Memory) -> Memory:
        """Train from `memory.step` to the end of the plan and return what is remembered there.

        Raises:
            Diverged: a loss or gradient that is not finite; the weights are those before that step.
            RollBack: the same, where the plan says so.
            TrainingError: the loss reaches no parameter, a gradient is sparse, parameters are added or reshaped on the way, or
                the network or the step raises.
            Preempted: it was asked to leave; the state is saved.
            OutOfMemory: not even one row fits.
        """
        plan, watch = self.plan, self.watch
        self.module.train()
        for ids, inputs, target in self.batches.batches_from(memory.step) if _goes_on(plan, memory) else ():
            begun, ready = watch.last, watch.lap(Spent.DATA_WAIT)
            # forward, backward, clip, step
            value = norm = lr = math.nan
            if memory.step not in memory.passed_over:
                value, norm, lr = self.learn(memory, ids, inputs, target)
            if self.average:
                self.average.update(memory.step + 1)
            memory = msgspec.structs.replace(memory, step=memory.step + 1)
            # log
            now = watch.lap(Spent.OPTIMIZER)
            self.samples.add(memory.step, ids, value, norm, lr)
            self.recorder.log(
                memory.step, loss=value, gradient_norm=norm, lr=lr, data_wait=ready - begun, step_time=now - begun
            )
            if now >= watch.due:
                self.recorder.log(memory.step, **watch.pulse())
            self.task.advance(1, f"loss {value:.4f}")
            # evaluate
            if plan.evaluates_after(memory.step):
                memory = self._evaluated(memory)
            # checkpoint
            leaving = self.asked_to_leave()
            if self.saver.due(memory.step, now) or plan.saves_after(memory.step) or leaving:
                memory = self._saved(memory)
            # stop?
            if leaving:
                self._leave(memory)
            if not _goes_on(plan, memory):
                break
            watch.lap(Spent.OTHER)
        return self._complete(memory)

    def learn(
        self,
        memory: Memory,
        ids: npt.NDArray[np.integer[Any]],
        inputs: dict[str, torch.Tensor],
        target: torch.Tensor,
    ) -> tuple[float, float, float]:
        """One step: its loss, the norm of its gradient, and the learning rate, which is NaN where nothing moved.

        Raises:
            Diverged, RollBack, TrainingError, OutOfMemory: as `train`.
        """
        plan, scaler = self.plan, self.objective.scaler
        if self.freezer:
            self.freezer.apply(memory.step)
        # forward and backward
        value = self.objective(memory.step, inputs, target)
        self.parameters.require_sizes()
        if memory.step < FIRST_STEPS:
            self._look_at_parameters(memory.step)
        # clip
        gradients = [parameter.grad for parameter in self.stepper.parameters if parameter.grad is not None]
        if scaler.scale != 1.0:
            torch._foreach_mul_(gradients, 1.0 / scaler.scale)
        norm = _norm(gradients, self.module)
        if not math.isfinite(value + norm):
            if not (math.isfinite(value) and scaler.overflowed()):  # no scale makes a loss finite
                _decide(plan, memory.step, (value, norm), ids, _not_finite(ids, inputs, target), self.tell)
            return value, norm, math.nan
        if plan.clip is not None and norm > plan.clip:
            torch._foreach_mul_(gradients, plan.clip / norm)
        if plan.clip_value is not None:
            torch._foreach_clamp_min_(gradients, -plan.clip_value)
            torch._foreach_clamp_max_(gradients, plan.clip_value)
        # step
        lr = plan.lr(memory.step) * memory.lowered
        self.stepper.step(lr)
        scaler.succeeded()
        return value, norm, lr

    def _look_at_parameters(self, step: int) -> None:
        """In the first steps: nobody changes parameters, and each has a gradient, or a word is said about it, once."""
        self.parameters.require_same()
        self.parameters.reached()
        idle = self.parameters.unreached()
        if step == FIRST_STEPS - 1 and idle:
            remedy = "let forward use them, freeze them, or leave them out"
            logger().warning("run.parameters_without_gradient", steps=FIRST_STEPS, names=idle[:20], remedy=remedy)
            self.tell(
                "run.parameters-without-gradient", {"steps": FIRST_STEPS, "names": idle[:100], "count": len(idle)}
            )

    def _evaluated(self, memory: Memory) -> Memory:
        self.watch.lap(Spent.OTHER)
        self.module.eval()
        with self.average.in_place() if self.average else nullcontext():
            score = self.evaluate()
        self.module.train()
        if not math.isfinite(score):
            raise Diverged(
                f"the validation loss after step {memory.step} is not finite",
                received=score,
                remedy="lower the learning rate, or look at the validation rows",
            )
        self.recorder.log(memory.step, validation_loss=score)
        self.watch.lap(Spent.EVALUATION)
        return _judged(self.plan, memory, score)

    def _saved(self, memory: Memory) -> Memory:
        self.watch.lap(Spent.OTHER)
        self.parameters.require_same()
        memory = self._complete(memory)
        self.saver.save(memory)
        self.watch.lap(Spent.CHECKPOINT)
        return memory

    def _leave(self, memory: Memory) -> NoReturn:
        self.saver.wait()
        raise Preempted(
            f"the process was asked to end; the state after step {memory.step} is saved",
            remedy="run the same command again: it goes on from there",
        )

    def _complete(self, memory: Memory) -> Memory:
        """With what others remember for the loop."""
        scaler = self.objective.scaler
        return msgspec.structs.replace(
            memory,
            scale=scaler.scale if scaler.active else None,
            good=scaler.good,
            micro_batch=self.objective.micro_batch or 0,
            chain=self.samples.seal(),
        )


def _goes_on(plan: Plan, memory: Memory) -> bool:
    return not memory.stopped and memory.step < plan.stop_at


def _norm(gradients: list[torch.Tensor], module: torch.nn.Module) -> float:
    """The norm of all gradients as one vector: on the CPU in float64 over the norms of each, elsewhere where they are."""
    try:
        parts = torch._foreach_norm(gradients)
        if gradients[0].is_cpu:
            return math.hypot(*[part.item() for part in parts])
        return float(torch.linalg.vector_norm(torch.stack(parts)))
    except (RuntimeError, IndexError) as error:
        if not gradients:
            raise TrainingError(
                "no parameter that the optimiser moves has a gradient",
                remedy="let forward use the parameters it is to train, and nothing that cuts the gradient (detach, no_grad)",
            ) from error
        for name, parameter in module.named_parameters():
            if parameter.grad is not None and parameter.grad.layout != torch.strided:
                raise TrainingError(
                    f"the gradient of {name!r} is sparse; only dense gradients are trained",
                    received=str(parameter.grad.layout),
                    remedy="make the embedding with sparse=False",
                ) from error
        raise


def _judged(plan: Plan, memory: Memory, score: float) -> Memory:
    """After an evaluation: the best so far, whether it stops, and whether the learning rate is lowered."""
    smoothed = score if memory.smoothed is None else plan.smoothing * memory.smoothed + (1 - plan.smoothing) * score
    memory = msgspec.structs.replace(_lowered(plan, memory, smoothed), smoothed=smoothed)
    if memory.best is None or smoothed < memory.best - plan.minimum_change:
        return msgspec.structs.replace(memory, best=smoothed, best_step=memory.step, waited=0)
    waited = memory.waited + 1
    return msgspec.structs.replace(memory, waited=waited, stopped=plan.patience is not None and waited >= plan.patience)


def _lowered(plan: Plan, memory: Memory, score: float) -> Memory:
    if plan.plateau is None:
        return memory
    factor, patience, change = plan.plateau
    if memory.plateau is None or score < memory.plateau - change:
        return msgspec.structs.replace(memory, plateau=score, plateau_waited=0)
    if memory.plateau_waited + 1 < patience:
        return msgspec.structs.replace(memory, plateau_waited=memory.plateau_waited + 1)
    return msgspec.structs.replace(memory, lowered=memory.lowered * factor, plateau_waited=0)


def _not_finite(
    ids: npt.NDArray[np.integer[Any]], inputs: dict[str, torch.Tensor], target: torch.Tensor
) -> npt.NDArray[np.integer[Any]]:
    """Those of a batch's rows that hold NaN or infinity themselves."""
    wrong = np.zeros(len(ids), dtype=bool)
    for given in (*inputs.values(), target):
        wrong |= ~torch.isfinite(given.reshape(len(ids), -1)).all(1).cpu().numpy()
    return ids[wrong]


def _decide(
    plan: Plan,
    step: int,
    came_out: tuple[float, float],
    ids: npt.NDArray[np.integer[Any]],
    not_finite: npt.NDArray[np.integer[Any]],
    tell: Callable[[str, dict[str, Any]], None],
) -> None:
    """What a loss or gradient that is not finite leads to; returns where only its batch is passed over."""
    loss, norm = came_out
    blamed = not_finite if len(not_finite) else ids
    rows = ", ".join(map(str, blamed[:5])) + (", ..." if len(blamed) > 5 else "")
    error = Diverged(
        f"step {step + 1} has a loss or gradient that is not finite",
        received=f"loss {loss}, gradient norm {norm}; "
        + (f"NaN or infinity in rows {rows}" if len(not_finite) else f"rows {rows}, all of them finite"),
        remedy="lower the learning rate, clip gradients (clip=1.0), or look at those rows: "
        f"velodrome runs samples RUN --step {step + 1}",
    )
    if plan.on_divergence == "stop":
        raise error
    named = {"rows": ids[:100].tolist(), "not_finite": not_finite[:100].tolist()}
    body = {"step": step + 1, "loss": str(loss), "gradient_norm": str(norm), **named}
    tell("run.diverged", body | {"then": plan.on_divergence})
    if plan.on_divergence == "roll back":
        raise RollBack(step, error)
