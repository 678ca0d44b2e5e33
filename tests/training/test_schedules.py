"""Each schedule beside PyTorch's own of the same kind, and what holds for all of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from velodrome.training.learners import Constant, Cosine, Linear, OneCycle, Plateau, Schedule, StepDecay
from velodrome.training.schedules import factor

STEPS, LR = 40, 0.3

SCHEDULES = st.builds(
    lambda kind, warmup: kind(warmup=warmup), st.sampled_from([Constant, Linear, Cosine]), st.floats(0, 1)
)


@given(SCHEDULES, st.integers(1, 500))
def test_the_factor_rises_to_one_and_never_leaves_its_range(schedule: Schedule, steps: int) -> None:
    factors = [factor(schedule, step, steps) for step in range(steps)]
    assert all(0 <= value <= 1 for value in factors)
    top = factors.index(max(factors))
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_without_warmup_it_begins_at_one_and_is_half_way_at_half_time(kind: type[Linear | Cosine]) -> None:
    assert factor(kind(), 0, 100) == 1
    assert factor(kind(), 50, 100) == pytest.approx(0.5)
    assert factor(kind(final=0.2), 50, 100) == pytest.approx(0.6)


def _warmed(then: Callable[[torch.optim.Optimizer], Any], warm: int = 10) -> Callable[[torch.optim.Optimizer], Any]:
    """PyTorch's way to warm up: a linear schedule first."""

    def made(optimizer: torch.optim.Optimizer) -> Any:
        up = lr_scheduler.LinearLR(optimizer, start_factor=1 / warm, end_factor=1.0, total_iters=warm - 1)
        return lr_scheduler.SequentialLR(optimizer, [up, then(optimizer)], milestones=[warm])

    return made


CASES: dict[str, tuple[Schedule, Callable[[torch.optim.Optimizer], Any]]] = {
    "constant": (Constant(), lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0)),
    "constant, warmed up": (
        Constant(warmup=0.25),
        _warmed(lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0)),
    ),
    "linear": (
        Linear(final=0.1),
        lambda optimizer: lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=STEPS),
    ),
    "linear, warmed up": (
        Linear(warmup=0.25, final=0.1),
        _warmed(lambda optimizer: lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=30)),
    ),
    "cosine": (
        Cosine(final=0.1),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=0.1 * LR),
    ),
    "cosine, warmed up": (
        Cosine(warmup=0.25, final=0.1),
        _warmed(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.1 * LR)),
    ),
    "step": (
        StepDecay(epochs=2, gamma=0.3),
        lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=14, gamma=0.3),
    ),
    "one-cycle": (
        OneCycle(warmup=0.3, start=20.0, final=1000.0),
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer, max_lr=LR, total_steps=STEPS, pct_start=0.3, div_factor=20.0, final_div_factor=50.0
        ),
    ),
    "one-cycle as it is": (
        OneCycle(),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=STEPS),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler:UserWarning")
def test_it_is_that_of_torch(name: str) -> None:
    schedule, made = CASES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    reference = made(optimizer)
    for step in range(STEPS):
        ours = LR * factor(schedule, step, STEPS, steps_per_epoch=7)
        assert ours == pytest.approx(reference.get_last_lr()[0], rel=1e-9, abs=1e-12), step
        optimizer.step()
        reference.step()


def test_a_step_decay_counts_epochs_from_the_start_of_training_and_warms_up_within_them() -> None:
    schedule = StepDecay(epochs=1, gamma=0.5, warmup=0.1)
    assert [factor(schedule, step, 40, 10) for step in (0, 3, 4, 9, 10, 20, 39)] == [0.25, 1, 1, 1, 0.5, 0.25, 0.125]


def test_a_plateau_is_the_loop_s_business() -> None:
    assert {factor(Plateau(), step, STEPS) for step in range(STEPS)} == {1.0}
