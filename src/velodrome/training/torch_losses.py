"""Losses by name, over the shapes that networks return: logits (n,), (n, 1) or (n, classes), values (n,) or (n, 1)."""

from collections.abc import Callable

import torch
from torch.nn import functional

from velodrome.core.errors import TrainingError

__all__ = ["loss_function"]

_AUTO = {"binary": "bce", "multiclass": "cross_entropy", "regression": "mse"}
_FITS = {"bce": {"binary"}, "cross_entropy": {"binary", "multiclass"}, "mse": {"regression"}, "mae": {"regression"}}


def loss_function(name: str, task: str, classes: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The mean loss of (network's output, target) for a task.

    Raises:
        TrainingError: the loss does not fit the task; or, when called, the output's shape does not fit.
    """
    name = _AUTO[task] if name == "auto" else name
    if task not in _FITS[name]:
        fitting = [loss for loss, tasks in _FITS.items() if task in tasks]
        raise TrainingError(f"the loss {name} does not fit a {task} label", remedy=f"take one of {', '.join(fitting)}")
    if name == "cross_entropy":
        return lambda output, target: functional.cross_entropy(_shaped(output, (len(target), classes)), target)
    loss = {"bce": functional.binary_cross_entropy_with_logits, "mse": functional.mse_loss, "mae": functional.l1_loss}[
        name
    ]
    return lambda output, target: loss(_column(output, len(target)), target.to(output.dtype))


def _column(output: torch.Tensor, rows: int) -> torch.Tensor:
    return output if output.shape == (rows,) else _shaped(output, (rows, 1))[:, 0]


def _shaped(output: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if output.shape != shape:
        raise TrainingError(
            f"the network's output has the shape {shape}",
            received=str(tuple(output.shape)),
            remedy="let forward return one row for each input row",
        )
    return output
