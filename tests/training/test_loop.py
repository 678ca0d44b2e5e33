from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from velodrome.core.clock import SystemClock
from velodrome.core.errors import Diverged, TrainingError
from velodrome.core.progress import Silent
from velodrome.data.order import EpochOrder
from velodrome.data.torch import TensorBatches
from velodrome.training.learners import AdamW
from velodrome.training.loop import Memory, Plan, train
from velodrome.training.torch_learner import make_optimizer
from velodrome.training.torch_state import StateCopy, decode_state, digest_weights, restore_state

ROWS, WIDTH = 200, 6


class Network(torch.nn.Module):
    """Dropout makes the random state count, the tied weight the alias map, the unused layer the missing gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(WIDTH, WIDTH)
        self.second = torch.nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.dropout = torch.nn.Dropout(0.3)
        self.last = torch.nn.Linear(WIDTH, 1)
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(torch.relu(self.second(torch.relu(self.first(x))))))[:, 0]


class Histories:
    def __init__(self) -> None:
        self.values: dict[str, dict[int, float]] = {}

    def log(self, step: int, /, **values: float) -> None:
        for name, value in values.items():
            self.values.setdefault(name, {})[step] = value


class Trial:
    """One training, stopped and gone on with as often as a test likes."""

    def __init__(self, plan: Plan, poison: int | None = None) -> None:
        torch.manual_seed(1)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
        y = (x @ rng.normal(size=WIDTH)).astype(np.float32)
        if poison is not None:
            x[poison] = np.nan
        self.plan, self.module, self.histories = plan, Network(), Histories()
        self.optimizer = make_optimizer(AdamW(lr=0.01), self.module)
        self.order = EpochOrder(ROWS, 32, seed=3)
        self.batches = TensorBatches({"x": x}, self.order, target=y)
        self.scores: Iterator[float] = iter(())
        self.copy = StateCopy(self.module, self.optimizer)
        self.saved: dict[int, tuple[Memory, bytes]] = {}

    def run(self, memory: Memory | None = None) -> Memory:
        def save(memory: Memory) -> None:
            self.saved[memory.step] = (memory, self.copy.taken({"step": memory.step})())

        with Silent().task("train") as task:
            return train(
                self.plan,
                memory or Memory(),
                module=self.module,
                optimizer=self.optimizer,
                loss_of=lambda inputs, target: torch.nn.functional.mse_loss(self.module(**inputs), target),
                batches=self.batches,
                evaluate=lambda: next(self.scores),
                recorder=self.histories,
                save=save,
                clock=SystemClock(),
                task=task,
            )


def _plan(**fields: Any) -> Plan:
    return Plan(**({"stop_at": 20, "lr": lambda step: 0.01 / (1 + step)} | fields))


def test_it_equals_the_loop_by_hand() -> None:
    ours, by_hand = Trial(_plan(clip=0.5)), Trial(_plan(clip=0.5))
    torch.manual_seed(2)  # dropout's
    ours.run()
    torch.manual_seed(2)
    by_hand.module.train()
    for step, (_, inputs, target) in zip(range(20), by_hand.batches.batches_from(0), strict=False):
        for group in by_hand.optimizer.param_groups:
            group["lr"] = 0.01 / (1 + step)
        by_hand.optimizer.zero_grad()
        torch.nn.functional.mse_loss(by_hand.module(**inputs), target).backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.module.parameters(), 0.5)
        by_hand.optimizer.step()
        assert ours.histories.values["gradient_norm"][step + 1] == pytest.approx(norm.item(), rel=1e-5)
    for mine, theirs in zip(ours.module.parameters(), by_hand.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 6, 7, 8, 13])
def test_gone_on_from_a_checkpoint_it_ends_with_the_same_bits(stop: int) -> None:
    whole = Trial(_plan())
    whole.run()
    first = Trial(_plan(checkpoint_every=1))
    first.run()
    memory, data = first.saved[stop]
    second = Trial(_plan())
    torch.manual_seed(99)
    restore_state(decode_state(data)[0], second.module, second.optimizer)
    second.run(memory)
    assert memory.step == stop
    assert digest_weights(second.module) == digest_weights(whole.module)
    late = {step: value for step, value in whole.histories.values["loss"].items() if step > stop}
    assert second.histories.values["loss"] == late


def test_a_row_that_is_not_finite_never_reaches_the_weights() -> None:
    trial = Trial(_plan(checkpoint_every=1), poison=17)
    with pytest.raises(Diverged, match="not finite") as caught:
        trial.run()
    step = len(trial.histories.values.get("loss", {}))
    assert 17 in trial.order.ids_of(step)
    assert f"step {step + 1}" in str(caught.value)
    assert all(torch.isfinite(parameter).all() for parameter in trial.module.parameters())


def test_a_loss_that_reaches_no_parameter_is_named() -> None:
    trial = Trial(_plan())
    trial.optimizer = torch.optim.SGD(trial.module.unused.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match="no parameter that the optimiser moves has a gradient"):
        trial.run()


def test_a_sparse_gradient_is_named() -> None:
    trial = Trial(_plan())
    table = torch.nn.Embedding(4, 1, sparse=True)
    trial.module.unused = table
    trial.module.forward = lambda x: table(torch.zeros(len(x), dtype=torch.int64))[:, 0]
    trial.optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match=r"gradient of 'unused\.weight' is sparse"):
        trial.run()


def test_it_stops_when_the_validation_loss_no_longer_falls_and_remembers_the_best() -> None:
    trial = Trial(_plan(stop_at=100, evaluate_every=7, patience=2, minimum_change=0.1))
    trial.scores = iter([3.0, 2.0, 1.95, 1.94])
    memory = trial.run()
    assert (memory.stopped, memory.step, memory.best_step, memory.best) == (True, 28, 14, 2.0)
    assert sorted(trial.saved) == [7, 14, 21, 28]
    assert trial.run(memory) == memory


def test_a_validation_loss_that_is_not_finite_is_named() -> None:
    trial = Trial(_plan(evaluate_every=7))
    trial.scores = iter([float("nan")])
    with pytest.raises(Diverged, match="validation loss after step 7"):
        trial.run()


def test_every_row_is_seen_once_in_an_epoch() -> None:
    trial = Trial(_plan(stop_at=7))
    seen = [ids for (ids, _, _), _ in zip(trial.batches.batches_from(0), range(7), strict=False)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(ROWS))
