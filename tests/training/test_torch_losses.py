"""Losses by name beside PyTorch's modules, and label smoothing beside targets that are smoothed by hand."""

import pytest
import torch

from velodrome.core.errors import TrainingError
from velodrome.training.torch_losses import loss_function, loss_name

ROWS, CLASSES = 50, 4


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_with_smoothed_labels_is_that_of_torch_and_of_targets_smoothed_by_hand(smoothing: float) -> None:
    output, target = _drawn(ROWS, CLASSES), torch.arange(ROWS) % CLASSES
    ours = loss_function("cross_entropy", CLASSES, smoothing)(output, target)
    of_torch = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(output, target)
    shares = torch.nn.functional.one_hot(target, CLASSES).double() * (1 - smoothing) + smoothing / CLASSES
    by_hand = -(shares * torch.log_softmax(output, 1)).sum(1).mean()
    torch.testing.assert_close(ours, of_torch, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, by_hand, rtol=1e-12, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)])
def test_two_classes_are_smoothed_as_cross_entropy_would(smoothing: float, shape: tuple[int, ...]) -> None:
    logit, target = _drawn(ROWS), torch.arange(ROWS) % 2
    ours = loss_function("bce", 2, smoothing)(logit.reshape(shape), target)
    both = torch.stack([torch.zeros_like(logit), logit], 1)
    of_torch = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(both, target)
    torch.testing.assert_close(ours, of_torch, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "module"), [("mse", torch.nn.MSELoss()), ("mae", torch.nn.L1Loss())])
def test_losses_of_numbers_are_those_of_torch(name: str, module: torch.nn.Module) -> None:
    output, target = _drawn(ROWS), torch.linspace(-1, 1, ROWS, dtype=torch.float64)
    assert loss_function(name, 0)(output[:, None], target) == module(output, target)


def test_a_loss_that_does_not_fit_the_label_names_those_that_do() -> None:
    assert [loss_name("auto", task) for task in ("binary", "multiclass", "regression")] == [
        "bce",
        "cross_entropy",
        "mse",
    ]
    with pytest.raises(TrainingError, match="take one of mse, mae"):
        loss_name("bce", "regression")


@pytest.mark.parametrize(("name", "shape"), [("cross_entropy", (ROWS,)), ("bce", (ROWS, 2)), ("mse", (ROWS - 1,))])
def test_an_output_of_another_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError, match="output has the shape") as caught:
        loss_function(name, CLASSES)(_drawn(*shape), torch.zeros(ROWS, dtype=torch.int64))
    assert str(shape) in str(caught.value)


def test_numbers_have_no_classes_to_smooth_over() -> None:
    for name in ("mse", "mae"):
        with pytest.raises(TrainingError, match=f"the loss {name} has no classes"):
            loss_function(name, 1, 0.1)
