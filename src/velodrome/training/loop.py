"""The training loop, once: next batch, forward, backward, clip, step, log, evaluate, checkpoint, stop.

Everything it needs is a value it is given. Gradients are left to autograd: a parameter that the loss does not reach has none
and is skipped by the optimiser, as in a loop by hand. The gradient's norm is the check that it is finite, and it is read before
the optimiser moves: a loss or gradient that is not finite never reaches the weights. Cost beyond the bare step: the two
numbers read, and one record packed, some tens of microseconds.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from velodrome.core.clock import Clock
from velodrome.core.errors import Diverged, TrainingError
from velodrome.core.progress import Task
from velodrome.data.torch import Batch

__all__ = ["Batches", "Memory", "Plan", "Recorder", "train"]


class Batches(Protocol):
    """Where batches come from: `batches_from` seeks to any global step and goes on without end."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batches_from(self, step: int) -> Iterator[Batch]: ...


class Recorder(Protocol):
    """What keeps the histories; must cost microseconds and never raise for storage."""

    def log(self, step: int, /, **values: float) -> None: ...


class Memory(msgspec.Struct, frozen=True):
    """What the loop remembers between steps: steps done, and the best validation loss, where it was, and how long ago."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    stopped: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """When the loop does what.

    Attributes:
        stop_at: steps after which training ends.
        lr: learning rate as a function of the step.
        clip: largest norm of the gradient, or None.
        evaluate_every: steps between evaluations (an epoch); 0: never.
        checkpoint_every: steps between checkpoints beside those after an evaluation and at the end; 0: only those.
        patience: evaluations without improvement before it stops; None: never stops early.
        minimum_change: by how much the validation loss must fall to count as better.
    """

    stop_at: int
    lr: Callable[[int], float]
    clip: float | None = None
    evaluate_every: int = 0
    checkpoint_every: int = 0
    patience: int | None = None
    minimum_change: float = 0.0

    def evaluates_after(self, step: int) -> bool:
        return self.evaluate_every > 0 and step % self.evaluate_every == 0

    def saves_after(self, step: int) -> bool:
        at_checkpoint = self.checkpoint_every > 0 and step % self.checkpoint_every == 0
        return at_checkpoint or step == self.stop_at or self.evaluates_after(step)


def train(
    plan: Plan,
    memory: Memory,
    *,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor],
    batches: Batches,
    evaluate: Callable[[], float],
    recorder: Recorder,
    save: Callable[[Memory], None],
    clock: Clock,
    task: Task,
) -> Memory:
    """Train from `memory.step` to the end of the plan and return what is remembered there.

    Raises:
        Diverged: a loss or gradient that is not finite; the weights are those before that step.
        TrainingError: the loss reaches no parameter, or a gradient is sparse.
    """
    groups = optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    module.train()
    now = clock.monotonic()
    for ids, inputs, target in batches.batches_from(memory.step) if _goes_on(plan, memory) else ():
        begun, ready = now, clock.monotonic()
        # forward
        loss = loss_of(inputs, target)
        # backward
        for parameter in parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        # clip
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        value, norm = loss.item(), _norm(gradients, module)
        if not math.isfinite(value + norm):
            raise _diverged(memory.step, value, norm, ids)
        if plan.clip is not None and norm > plan.clip:
            torch._foreach_mul_(gradients, plan.clip / norm)
        # step
        lr = plan.lr(memory.step)
        for group in groups:
            group["lr"] = lr
        optimizer.step()
        memory = Memory(memory.step + 1, memory.best, memory.best_step, memory.waited, memory.stopped)
        # log
        now = clock.monotonic()
        recorder.log(memory.step, loss=value, gradient_norm=norm, lr=lr, data_wait=ready - begun, step_time=now - begun)
        # evaluate
        if plan.evaluates_after(memory.step):
            memory = _judged(plan, memory, _evaluated(module, evaluate, recorder, memory.step))
        # checkpoint
        if plan.saves_after(memory.step):
            save(memory)
            now = clock.monotonic()
        task.advance(1, f"loss {value:.4f}")
        # stop?
        if not _goes_on(plan, memory):
            break
    return memory


def _goes_on(plan: Plan, memory: Memory) -> bool:
    return not memory.stopped and memory.step < plan.stop_at


def _norm(gradients: list[torch.Tensor], module: torch.nn.Module) -> float:
    """The norm of all gradients as one vector: in float64 over the norms of each, which are in the gradient's own type."""
    try:
        return math.hypot(*[part.item() for part in torch._foreach_norm(gradients)])
    except RuntimeError as error:
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


def _evaluated(module: torch.nn.Module, evaluate: Callable[[], float], recorder: Recorder, step: int) -> float:
    module.eval()
    score = evaluate()
    module.train()
    if not math.isfinite(score):
        raise Diverged(
            f"the validation loss after step {step} is not finite",
            received=score,
            remedy="lower the learning rate, or look at the validation rows",
        )
    recorder.log(step, validation_loss=score)
    return score


def _judged(plan: Plan, memory: Memory, score: float) -> Memory:
    better = memory.best is None or score < memory.best - plan.minimum_change
    if better:
        return msgspec.structs.replace(memory, best=score, best_step=memory.step, waited=0)
    waited = memory.waited + 1
    return msgspec.structs.replace(memory, waited=waited, stopped=plan.patience is not None and waited >= plan.patience)


def _diverged(step: int, loss: float, norm: float, ids: npt.NDArray[np.integer[Any]]) -> Diverged:
    rows = ", ".join(map(str, ids[:5]))
    return Diverged(
        f"step {step + 1} has a loss or gradient that is not finite",
        received=f"loss {loss}, gradient norm {norm}; rows {rows}, ... of the training set",
        remedy="lower the learning rate, clip gradients (clip=1.0), or look at those rows",
    )
