"""A small training of digits within this process: what the tests of the engine's settings share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.datasets import load_digits

import velodrome as vd
from velodrome.control.declaring import Declared, Source, declare
from velodrome.control.training import Trained, train
from velodrome.core.config import Config
from velodrome.registry.series import read_histories
from velodrome.store.ledger import Event
from velodrome.store.workspace import open_folder

SIDE = 4
PIXELS = [f"p{number}" for number in range(SIDE * SIDE)]


class Network(torch.nn.Module):
    """Pixels by name to ten classes."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(SIDE * SIDE, 16), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 10)
        )

    def forward(self, **pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.stack([pixels[name] for name in PIXELS], 1) / 16)


class Pictures(torch.nn.Module):
    """The same as pictures of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.last = torch.nn.Linear(8, 10)

    def forward(self, **pixels: torch.Tensor) -> torch.Tensor:
        picture = torch.stack([pixels[name] for name in PIXELS], 1).reshape(-1, 1, SIDE, SIDE) / 16
        return self.last(torch.relu(self.second(torch.relu(self.first(picture)))).mean((2, 3)))


def network(inputs: list[dict[str, Any]]) -> torch.nn.Module:
    return Network()


def with_dropout(inputs: list[dict[str, Any]]) -> torch.nn.Module:
    return Network(dropout=0.3)


def pictures(inputs: list[dict[str, Any]]) -> torch.nn.Module:
    return Pictures()


@dataclass(frozen=True)
class Course:
    """A finished training: its steps' losses, evaluations and events."""

    trained: Trained
    losses: dict[int, float]
    validation: dict[int, float]
    rates: dict[int, float]
    events: list[Event]

    @property
    def weights(self) -> str:
        assert self.trained.outcome.weights
        return self.trained.outcome.weights

    def told(self, type_: str) -> list[dict[str, Any]]:
        """What the events of a type say."""
        return [event.body for event in self.events if event.type == type_]


class Digits:
    """A workspace with 300 digits of 4 x 4 pixels, 0 to 16."""

    def __init__(self, root: Path, config: Config | None = None, rows: int = 300) -> None:
        self.root, self.ws = root, open_folder(root, config)
        digits = load_digits()
        small = digits.images[:rows].reshape(rows, SIDE, 2, SIDE, 2).mean((2, 4)).reshape(rows, -1)
        columns = {"id": np.arange(rows), "digit": digits.target[:rows]}
        pl.DataFrame(columns | dict(zip(PIXELS, small.T, strict=True))).write_csv(root / "digits.csv")

    def recipe(self, build: Callable[..., Any] = network, **settings: Any) -> vd.Recipe:
        return vd.Recipe(
            "digits",
            data=vd.Dataset("digits", source=vd.Files("digits.csv"), key="id"),
            label="digit",
            features=PIXELS,
            prepare=[],
            split=vd.RandomSplit(validation=0.2, test=0.2),
            learner=vd.Torch(network=build, **({"optimizer": vd.AdamW(lr=0.01), "epochs": 2, "batch": 32} | settings)),
        )

    def declared(self, build: Callable[..., Any] = network, seed: int = 0, **settings: Any) -> Declared:
        return declare(self.ws, self.recipe(build, **settings), Source(self.root, None, ("recipe",)), seed)

    def train(self, build: Callable[..., Any] = network, seed: int = 0, **settings: Any) -> Course:
        """Train anew with these settings; the report is not made."""
        trained = train(self.ws, self.declared(build, seed, **settings), fresh=True)
        series = {
            name: dict(zip(each.steps.tolist(), each.values.tolist(), strict=True))
            for name, each in read_histories(self.ws, trained.run.id).items()
        }
        events = self.ws.ledger.events(f"run:{trained.run.id}")
        return Course(trained, series["loss"], series.get("validation_loss", {}), series["lr"], list(events))
