"""Whoever changes parameters behind the optimiser's back is told which."""

from collections.abc import Callable

import pytest
import torch

from velodrome.core.errors import TrainingError
from velodrome.training.torch_parameters import Parameters


def _network() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


def _resize(module: torch.nn.Sequential) -> None:
    module[0].weight.data = torch.zeros(4, 7)


def _retype(module: torch.nn.Sequential) -> None:
    module[0].weight.data = module[0].weight.data.double()


def _turn(module: torch.nn.Sequential) -> None:
    module[0].weight.data = module[0].weight.data.t()


def _replace(module: torch.nn.Sequential) -> None:
    module[0].weight = torch.nn.Parameter(torch.zeros(4, 3))


def _add(module: torch.nn.Sequential) -> None:
    module.append(torch.nn.Linear(1, 1))


def _remove(module: torch.nn.Sequential) -> None:
    module[0].bias = None


@pytest.mark.parametrize(
    ("change", "named", "each_step"),
    [
        (_resize, r"0\.weight \(of shape \(4, 7\) instead of \(4, 3\)\)", True),
        (_retype, r"0\.weight \(torch\.float64 instead of torch\.float32\)", True),
        (_turn, r"0\.weight \(of shape \(3, 4\) instead of \(4, 3\)\)", False),
        (_replace, r"0\.weight \(replaced\)", False),
        (_add, r"2\.bias \(added\), 2\.weight \(added\)", False),
        (_remove, r"0\.bias \(removed\)", False),
    ],
)
def test_a_change_is_named(change: Callable[[torch.nn.Sequential], None], named: str, each_step: bool) -> None:
    """What the optimiser's kernels could not survive is seen in each step, the rest when the state is saved."""
    module = _network()
    parameters = Parameters(module, list(module.parameters()))
    parameters.require_sizes()
    parameters.require_same()
    change(module)
    with pytest.raises(TrainingError, match=named) as caught:
        parameters.require_same()
    assert "in place" in str(caught.value)
    if each_step:
        with pytest.raises(TrainingError, match=named):
            parameters.require_sizes()


def test_changes_in_place_are_training() -> None:
    module = _network()
    parameters = Parameters(module, list(module.parameters()))
    with torch.no_grad():
        module[0].weight.fill_(7.0)
    module[0].weight.data = torch.zeros(4, 3)  # as an average takes the parameters' place
    parameters.require_sizes()
    parameters.require_same()


def test_parameters_without_a_gradient_are_named_unless_they_are_frozen() -> None:
    module = _network()
    parameters = Parameters(module, list(module.parameters()))
    module[1].bias.requires_grad_(False)
    module[0].weight.grad = torch.zeros(4, 3)
    parameters.reached()
    module[0].weight.grad = None
    module[0].bias.grad = torch.zeros(4)
    parameters.reached()
    assert parameters.unreached() == ["1.weight"]
