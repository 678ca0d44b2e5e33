"""A loop of one's own, within this process; through the program it is in scenarios/test_track.py."""

from pathlib import Path

import torch

from velodrome.store.workspace import open_folder
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
