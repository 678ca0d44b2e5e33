"""Losses by name, over the shapes that networks return: logits (n,), (n, 1) or (n, classes), values (n,) or (n, 1)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch.nn import functional

from velodrome.core.errors import TrainingError

__all__ = ["ACTIVATIONS", "loss_function", "loss_name"]

_COLUMN_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "bce": functional.binary_cross_entropy_with_logits,
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
}
_AUTO = {"binary": "bce", "multiclass": "cross_entropy", "regression": "mse"}
_FITS = {"bce": {"binary"}, "cross_entropy": {"binary", "multiclass"}, "mse": {"regression"}, "mae": {"regression"}}


ACTIVATIONS: dict[str, Literal["sigmoid", "softmax", "identity"]] = {
    "bce": "sigmoid",
    "cross_entropy": "softmax",
    "mse": "identity",
    "mae": "identity",
}
"""What makes scores of the output of a network that was trained with a loss."""


def loss_name(name: str, task: str) -> str:
    """The loss that a recipe means for a task; "auto" is bce, cross_entropy or mse.

    Raises:
        TrainingError: the loss does not fit the task.
    """
    name = _AUTO[task] if name == "auto" else name
    if task in _FITS[name]:
        return name
    fitting = [loss for loss, tasks in _FITS.items() if task in tasks]
    raise TrainingError(f"the loss {name} does not fit a {task} label", remedy=f"take one of {', '.join(fitting)}")


def loss_function(
    name: str, classes: int, label_smoothing: float = 0.0
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The mean loss of (network's output, target).

    Raises:
        TrainingError: labels that are numbers are to be smoothed; when it is called: the output's shape does not fit.
    """
    if label_smoothing and _FITS[name] == {"regression"}:
        raise TrainingError(
            f"the loss {name} has no classes to smooth labels over",
            received=f"label_smoothing={label_smoothing:g}",
            remedy="leave label_smoothing out",
        )
    if name == "cross_entropy":
        return lambda output, target: functional.cross_entropy(
            _shaped(output, (target.shape[0], classes)), target, label_smoothing=label_smoothing
        )
    loss = _COLUMN_LOSSES[name]
    if label_smoothing:
        return lambda output, target: loss(
            _column(output, target.shape[0]), target.to(output.dtype) * (1 - label_smoothing) + label_smoothing / 2
        )
    return lambda output, target: loss(_column(output, target.shape[0]), target.to(output.dtype))


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
