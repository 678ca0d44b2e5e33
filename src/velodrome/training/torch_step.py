"""Loss and gradient of one step: micro-batches, autocast, loss scaling, and what to do when memory runs out.

The gradient is that of the mean over all rows of the step, however many micro-batches it takes: each adds its share. Dropout
draws from a generator that is seeded by (seed, step, virtual rank, micro-batch) before each forward, so what a step draws depends
on nothing that happened before. When memory runs out, the gradients so far are dropped, micro-batches are halved, and the same step is
done again; that is an event, since it changes what dropout draws.
"""

from collections.abc import Callable
from typing import Any

import torch

from velodrome.core.counter import derive_seed
from velodrome.core.errors import OutOfMemory, TrainingError, VelodromeError
from velodrome.registry.time_spent import Spent
from velodrome.training.accounting import Stopwatch
from velodrome.training.own_code import is_out_of_memory, mistake

__all__ = ["LossOf", "Objective", "Scaler"]

LossOf = Callable[[dict[str, torch.Tensor], torch.Tensor], Any]
"""From inputs by name (n, ...) and target (n, ...) to the mean loss of the rows, or (sum of losses, how many count)."""

_MASK = (1 << 64) - 1


class Scaler:
    """The factor that keeps small gradients of float16 above zero (Micikevicius et al., "Mixed Precision Training", 2018).

    Halved by a gradient that is not finite, doubled after `patience` steps without one; 1 and idle for other precisions.
    """

    def __init__(self, active: bool, scale: float | None = None, good: int = 0, patience: int = 2000) -> None:
        self.active, self.scale, self.good, self._patience = (
            active,
            scale or (65536.0 if active else 1.0),
            good,
            patience,
        )

    def overflowed(self) -> bool:
        """A gradient was not finite: whether a smaller scale may help."""
        if not self.active or self.scale <= 1.0:
            return False
        self.scale, self.good = self.scale / 2, 0
        return True

    def succeeded(self) -> None:
        if self.active:
            self.good += 1
            if self.good >= self._patience:
                self.scale, self.good = self.scale * 2, 0


class Objective:
    """Computes the loss of a batch and leaves its gradient in `parameters`.

    Args:
        micro_batch: most rows of one forward; halved when memory runs out. None: the whole batch.
        halved: told when that happens: the step, from 1, and the new size.
        rank: which share of the global batch this is, whichever process computes it.
        autocast: the type that the forward computes in; None: the weights' own.
    """

    def __init__(
        self,
        loss_of: LossOf,
        parameters: list[torch.nn.Parameter],
        *,
        seed: int,
        watch: Stopwatch,
        micro_batch: int | None = None,
        halved: Callable[[int, int], None] = lambda step, rows: None,
        autocast: torch.dtype | None = None,
        scaler: Scaler | None = None,
        rank: int = 0,
    ) -> None:
        self._loss_of, self._parameters, self._watch = loss_of, parameters, watch
        self.micro_batch, self._halved = micro_batch, halved
        self._autocast, self.scaler = autocast, scaler or Scaler(active=False)
        self._device = parameters[0].device.type
        self._seed, self._rank = derive_seed(seed), rank

    def __call__(self, step: int, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> float:
        """The mean loss over the rows; the parameters' gradients are those of this step alone.

        Args:
            step: counted from 0.

        Raises:
            TrainingError: the loss is none, or the network or the step raises: file and line are named.
            OutOfMemory: not even one row fits.
        """
        while True:
            for parameter in self._parameters:
                parameter.grad = None
            try:
                return self._gradient(step, inputs, target)
            except VelodromeError:
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise mistake(error, f"step {step + 1}") from error
                self._shrink(step, len(target), error)

    def _gradient(self, step: int, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> float:
        rows, size = len(target), self.micro_batch or len(target)
        if size >= rows:
            value, weight = self._part(step, 0, inputs, target, 1.0)
            return self._shared(value, weight) if weight else value
        sums, weights = 0.0, 0.0
        for number, begin in enumerate(range(0, rows, size)):
            part = {name: tensor[begin : begin + size] for name, tensor in inputs.items()}
            count = min(size, rows - begin)
            value, weight = self._part(step, number, part, target[begin : begin + size], count / rows)
            sums += value * count / rows if weight is None else value
            weights += weight or 0.0
        return self._shared(sums, weights) if weights else sums

    def _part(
        self, step: int, number: int, inputs: dict[str, torch.Tensor], target: torch.Tensor, share: float
    ) -> tuple[float, float | None]:
        """Forward and backward of a micro-batch: its mean loss, or the sum of its losses and how many they are."""
        self._reseed(step, number)
        if self._autocast is None:
            loss = self._loss_of(inputs, target)
        else:
            with torch.autocast(self._device, dtype=self._autocast):
                loss = self._loss_of(inputs, target)
        loss, weight = _require_loss(loss)
        self._watch.lap(Spent.FORWARD)
        factor = self.scaler.scale * (share if weight is None else 1.0)
        (loss if factor == 1.0 else loss * factor).backward()
        value = float(loss.detach())
        self._watch.lap(Spent.BACKWARD)
        return value, weight

    def _shared(self, total: float, weight: float) -> float:
        """Make the gradient of a sum that of its mean; the mean."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / weight)
        return total / weight

    def _reseed(self, step: int, number: int) -> None:
        seed = _mixed(_mixed(_mixed(self._seed ^ step) ^ self._rank) ^ number)
        torch.default_generator.manual_seed(seed)
        if self._device == "cuda":
            torch.cuda.manual_seed(seed)

    def _shrink(self, step: int, rows: int, error: Exception) -> None:
        size = min(self.micro_batch or rows, rows)
        if size == 1:
            raise OutOfMemory(
                f"memory does not suffice for one row at step {step + 1}",
                received=(str(error).splitlines() or [type(error).__name__])[0],
                remedy="make the network smaller, or compute in bf16",
            ) from error
        self.micro_batch = (size + 1) // 2
        if self._device == "cuda":
            torch.cuda.empty_cache()
        self._halved(step + 1, self.micro_batch)


def _require_loss(given: Any) -> tuple[Any, float | None]:
    """The loss, and how many rows it is the sum of; None: it is their mean."""
    loss, weight = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise TrainingError(
            "a step gives one loss: a tensor of one number",
            received=f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss),
            remedy="return the mean over the rows, or (sum, how many)",
        )
    if not loss.requires_grad:
        raise TrainingError(
            "the loss has no gradient: nothing leads from it to a parameter",
            remedy="compute it from the network's output, outside of torch.no_grad, without detach or item; freeze not all parameters",
        )
    return loss, None if weight is None else float(weight)


def _mixed(number: int) -> int:
    """SplitMix64's finaliser, as in `velodrome.core.counter`, on one integer."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)
