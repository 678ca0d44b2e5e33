import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from velodrome.training.learners import Constant, Cosine, Linear, Schedule
from velodrome.training.schedules import factor

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


def test_cosine_is_that_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.03)
    for step in range(20):
        assert 0.3 * factor(Cosine(final=0.1), step, 20) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
