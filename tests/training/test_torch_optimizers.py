"""What moves parameters, beside the same done by hand with PyTorch's own classes. Plain steps: test_torch_state.py."""

from collections.abc import Callable

import pytest
import torch

from velodrome.core.errors import TrainingError
from velodrome.training.learners import EMA, SGD, AdamW, Freeze, Rate
from velodrome.training.torch_optimizers import Average, Freezer, Stepper, make_stepper

STEPS = 12


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(3, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.head = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.body(x))))[:, 0]


def _network() -> Network:
    torch.manual_seed(3)
    return Network()


def _trained(
    module: Network, step: Callable[[int], None], before: Callable[[int], None] = lambda step: None
) -> Network:
    draws = torch.Generator().manual_seed(5)
    for number in range(STEPS):
        before(number)
        for parameter in module.parameters():
            parameter.grad = None
        x = torch.randn(16, 3, generator=draws)
        torch.nn.functional.mse_loss(module(x), x.sum(1)).backward()
        step(number)
    return module


def _with(stepper: Stepper, lr: Callable[[int], float] = lambda step: 0.02) -> Callable[[int], None]:
    return lambda number: stepper.step(lr(number))


def _assert_equal(one: Network, other: Network) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("settings", [AdamW(), SGD(momentum=0.9), SGD()])
def test_rates_are_parameter_groups_of_torch_bit_by_bit(settings: AdamW | SGD) -> None:
    """The first pattern that matches counts; what none matches learns at the full rate."""
    ours = _network()
    rates = (Rate("body.*", 0.1), Rate("*.bias", 0.5), Rate("body.weight", 7.0))
    _trained(ours, _with(make_stepper(settings, ours, rates)))
    theirs = _network()
    scales = dict.fromkeys(("body.weight", "body.bias"), 0.1) | dict.fromkeys(("norm.bias", "head.bias"), 0.5)
    groups = [
        {"params": [parameter], "lr": 0.02 * scales.get(name, 1.0)} for name, parameter in theirs.named_parameters()
    ]
    optimizer = (
        torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
        if isinstance(settings, AdamW)
        else torch.optim.SGD(groups, lr=0.02, momentum=settings.momentum, fused=True)
    )
    _trained(theirs, lambda number: optimizer.step())
    _assert_equal(ours, theirs)


def test_parameters_are_frozen_and_unfrozen_by_step_as_by_hand() -> None:
    ours, theirs = _network(), _network()
    first = _network()
    freezer = Freezer([Freeze("body.*", until=5), Freeze("norm.weight")], ours)
    seen: list[bool] = []

    def ours_before(number: int) -> None:
        freezer.apply(number)
        seen.append(torch.equal(ours.body.weight, first.body.weight))

    _trained(ours, _with(make_stepper(AdamW(), ours)), ours_before)
    assert seen == [number <= 5 for number in range(STEPS)]  # looked at before the step
    assert torch.equal(ours.norm.weight, first.norm.weight)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.02, fused=True)
    theirs.norm.weight.requires_grad_(False)

    def theirs_before(number: int) -> None:
        theirs.body.requires_grad_(number >= 5)

    _trained(theirs, lambda number: optimizer.step(), theirs_before)
    _assert_equal(ours, theirs)


def test_frozen_again_where_it_goes_on_in_the_middle() -> None:
    module = _network()
    Freezer([Freeze("body.*", until=5)], module).apply(7)
    assert module.body.weight.requires_grad
    Freezer([Freeze("body.*", until=9)], module).apply(7)
    assert not module.body.weight.requires_grad


def test_the_average_is_that_of_a_loop_by_hand() -> None:
    """In float64, with the decay that is smaller over the first steps."""
    module = _network()
    stepper = make_stepper(AdamW(), module)
    average = Average(EMA(decay=0.7), stepper.parameters)
    by_hand = [parameter.detach().double() for parameter in module.parameters()]
    decays = []

    def step(number: int) -> None:
        stepper.step(0.02)
        average.update(number + 1)
        decays.append(min(0.7, (2 + number) / (11 + number)))
        for kept, parameter in zip(by_hand, module.parameters(), strict=True):
            kept.mul_(decays[-1]).add_(parameter.detach().double() * (1 - decays[-1]))

    _trained(module, step)
    assert decays[0] < 0.7
    for ours, kept in zip(average.tensors, by_hand, strict=True):
        torch.testing.assert_close(ours.double(), kept, rtol=1e-6, atol=1e-7)
    plain = [parameter.detach().clone() for parameter in module.parameters()]
    with average.in_place():
        for parameter, kept in zip(module.parameters(), by_hand, strict=True):
            torch.testing.assert_close(parameter.detach().double(), kept, rtol=1e-6, atol=1e-7)
    assert all(map(torch.equal, plain, module.parameters()))


def test_a_network_without_anything_to_train_is_named() -> None:
    with pytest.raises(TrainingError, match="no parameter to train"):
        make_stepper(AdamW(), torch.nn.Identity())


def test_a_parameter_without_a_shape_is_named() -> None:
    with pytest.raises(TrainingError, match=r"'0\.weight' has no shape before the network is called") as caught:
        make_stepper(AdamW(), torch.nn.Sequential(torch.nn.LazyLinear(3)))
    assert "size of its input" in str(caught.value)


def test_a_complex_parameter_is_named() -> None:
    module = _network()
    module.turned = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(TrainingError, match="'turned' is complex") as caught:
        make_stepper(SGD(), module)
    assert "view_as_complex" in str(caught.value)


def test_an_expanded_parameter_is_named() -> None:
    """A kernel would write beyond its memory."""
    module = _network()
    module.scales = torch.nn.Parameter(torch.ones(1).expand(4))
    with pytest.raises(TrainingError, match="'scales' is expanded") as caught:
        make_stepper(AdamW(), module)
    assert "clone()" in str(caught.value)


def test_a_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(TrainingError, match=r"matches 'boby\.\*'"):
        make_stepper(AdamW(), _network(), [Rate("boby.*", 0.1)])
    with pytest.raises(TrainingError, match=r"matches 'haed\.\*'"):
        Freezer([Freeze("haed.*")], _network())
