"""Loss scaling beside PyTorch's own scaler, and what a step may give. The rest of a step is in test_loop.py."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.clock import SystemClock
from velodrome.core.errors import OutOfMemory, TrainingError
from velodrome.training.accounting import Stopwatch
from velodrome.training.torch_step import Objective, Scaler


@given(st.lists(st.booleans(), max_size=40))
def test_the_scale_moves_as_that_of_torch(finite: list[bool]) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
    ours = Scaler(active=True, scale=2.0**40, patience=3)
    for each in finite:
        theirs.scale(parameter.sum()).backward()
        parameter.grad = torch.tensor([1.0 if each else float("inf")])
        theirs.step(optimizer)
        theirs.update()
        if each:
            ours.succeeded()
        else:
            assert ours.overflowed()
        assert ours.scale == theirs.get_scale()


def test_a_scale_of_one_cannot_help() -> None:
    assert not Scaler(active=True, scale=1.0).overflowed()
    assert not Scaler(active=False).overflowed()


def _objective(loss_of: Any, **more: Any) -> tuple[Objective, torch.nn.Parameter]:
    weight = torch.nn.Parameter(torch.ones(3))
    given = Objective(
        lambda inputs, target: loss_of(weight, inputs["x"]),
        [weight],
        seed=1,
        watch=Stopwatch(SystemClock().monotonic),
        **more,
    )
    return given, weight


X = torch.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_step_in_which_no_row_counts_moves_nothing(micro_batch: int | None) -> None:
    objective, weight = _objective(lambda weight, x: ((x @ weight).sum() * 0, 0), micro_batch=micro_batch)
    assert objective(0, {"x": X}, X[:, 0]) == 0
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize(
    "given_back", [lambda weight, x: (weight.sum(), 1, 2), lambda weight, x: ()], ids=["three", "none"]
)
def test_more_than_a_sum_and_its_number_is_named(given_back: Any) -> None:
    objective, _ = _objective(given_back)
    with pytest.raises(TrainingError, match="a tensor of one number"):
        objective(0, {"x": X}, X[:, 0])


def test_what_the_user_s_code_raises_is_their_mistake_by_file_and_line() -> None:
    def broken(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (x @ weight[:2]).sum()

    objective, _ = _objective(broken)
    with pytest.raises(
        TrainingError, match=r"fails in step 5 at .*test_torch_step\.py line \d+, in broken: RuntimeError"
    ):
        objective(4, {"x": X}, X[:, 0])


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried")], ids=["Python's", "torch's"]
)
def test_memory_that_runs_out_is_no_mistake(error: Any) -> None:
    def greedy(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            raise error
        return (x @ weight).sum()

    sizes: list[int] = []
    objective, weight = _objective(greedy, halved=lambda step, rows: sizes.append(rows))
    assert objective(0, {"x": X}, X[:, 0]) == pytest.approx(float((X @ torch.ones(3)).mean()))
    assert sizes == [2, 1]
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, X.mean(0))

    def always(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        raise error

    with pytest.raises(OutOfMemory, match="one row at step 1"):
        _objective(always)[0](0, {"x": X}, X[:, 0])
