"""A loop of one's own, within this process; through the program it is in scenarios/test_track.py."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from velodrome.core.errors import TrainingError
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.torch_optimizers import TorchStepper
from velodrome.training.torch_state import State, StateCopy, decode_state
from velodrome.training.track import tracked


def test_parameters_that_the_optimiser_was_not_given_are_told_once_by_name(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(module[0].parameters(), lr=0.1)
    with open_folder(tmp_path) as ws:
        with tracked(ws, "half", params={}, cells=("half",)) as run:
            for step in (1, 2, 3):
                optimizer.zero_grad()
                module(torch.ones(4, 2)).sum().backward()
                optimizer.step()
                run.checkpoint(module, optimizer, step)
        told = [event.body for event in ws.ledger.events(f"run:{run.id}") if event.type == "run.parameters-not-trained"]
    assert told == [{"names": ["1.weight", "1.bias"], "count": 2}]


class Cut(Exception):
    """Ends a loop in the middle."""


def _rates(ws: Workspace, cut: int | None = None) -> list[float]:
    """The learning rates of a loop whose scheduler halves them, which goes on where an attempt before it was cut."""
    module = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.8)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    rates = []
    with suppress(Cut), tracked(ws, "halved", params={}, cells=("halved",)) as run:
        for step in range(run.restore(module, optimizer) + 1, 7):
            optimizer.zero_grad()
            module(torch.ones(4, 2)).sum().backward()
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            run.checkpoint(module, optimizer, step)
            if step == cut:
                raise Cut
    return rates


def test_the_learning_rate_that_a_scheduler_came_to_is_restored(tmp_path: Path) -> None:
    with open_folder(tmp_path) as ws:
        assert _rates(ws, cut=4) + _rates(ws) == [0.8, 0.4, 0.2, 0.1, 0.05, 0.025]


def test_a_checkpoint_of_before_settings_were_kept_is_restored(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 1)
    state = State(module, TorchStepper(torch.optim.SGD(module.parameters(), lr=0.1)))
    facts = {"memory": {"step": 1}, "order": None}
    tensors, found = decode_state(bytes(StateCopy(state).taken(facts)()))
    assert tensors.pop("optimizer/group0/lr").item() == 0.1
    with pytest.raises(TrainingError, match=r"optimizer/group0/lr \(missing\)"):
        state.restore(tensors, found, facts)
    for name in [name for name in tensors if name.startswith("optimizer/group")]:
        tensors.pop(name)
    assert state.restore(tensors, found | {"format": 1}, facts) == ()


def test_an_optimiser_that_no_checkpoint_holds_is_named(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(module.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = module(torch.ones(4, 2)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with open_folder(tmp_path) as ws, tracked(ws, "newton", params={}, cells=("newton",)) as run:
        with pytest.raises(TrainingError, match="state that a checkpoint cannot hold") as caught:
            run.checkpoint(module, optimizer, 1)
        assert str(caught.value.received).endswith(": list")
