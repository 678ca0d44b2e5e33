"""A training with everything in it that a resume could get wrong, as a project on disk, and what such a training came to."""

import json
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from doom import Doom
from project import customers

from velodrome.cli.main import main
from velodrome.core.config import read_config
from velodrome.core.digest import Hasher, digest_json
from velodrome.core.errors import StorageError
from velodrome.registry.runs import RunDetails, show_run
from velodrome.registry.search import list_runs
from velodrome.registry.series import read_series
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.checkpoints import checkpoints_of
from velodrome.training.torch_state import decode_state
from velodrome.training.work import ITEMS

__all__ = ["SMALL", "WORDS", "Ending", "digests", "ending", "lay_out", "newest_step", "program"]

SMALL = {"rows": 300, "epochs": 6, "patience": 9}
"""A short training, where many are needed."""

WORDS = ("run", "recipe.py", "--json")

RECIPE = """
import time
from pathlib import Path

import torch

import velodrome as vd


class Network(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.city = torch.nn.Embedding(next(field["cardinality"] for field in inputs if field["name"] == "city"), 4)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)
        )

    def forward(self, age, minutes, city):
        while Path("hang").exists():
            time.sleep(0.01)
        return self.layers(torch.cat([torch.stack([age, minutes], 1), self.city(city)], 1))[:, 0]


recipe = vd.Recipe(
    "churn",
    data=vd.Dataset("customers", source=vd.Files("customers*.csv"), key="customer"),
    label="churned",
    features=["age", "minutes", "city"],
    prepare=[vd.Impute(), vd.Scale(), vd.Encode()],
    split=vd.RandomSplit(validation=0.2, test=0.2),
    learner=vd.Torch(
        network=Network,
        optimizer=vd.AdamW(lr=0.01),
        schedule=vd.Cosine(warmup=0.1),
        epochs=EPOCHS,
        batch=30,
        micro_batch=10,
        precision="bf16",
        clip=1.0,
        ema=vd.EMA(decay=0.9),
        augment=[vd.GaussianNoise(scale=0.1), vd.MaskFields(p=0.1)],
        stop=vd.EarlyStopping(patience=PATIENCE),
        checkpoints=vd.Checkpoints(every=4),
        workers=WORKERS,
        stall="1s",
    ),
    evaluation=vd.Evaluation("roc_auc", resamples=40),
    gates=[vd.AtLeast("roc_auc", 0.5)],
)
"""


def lay_out(folder: Path, *, rows: int = 600, epochs: int = 14, patience: int = 3, workers: int = 0) -> Path:
    """Write the project into a new folder."""
    folder.mkdir(exist_ok=True)
    customers(rows).write_csv(folder / "customers.csv")
    text = RECIPE.replace("EPOCHS", str(epochs)).replace("PATIENCE", str(patience)).replace("WORKERS", str(workers))
    (folder / "recipe.py").write_text(text)
    return folder


def program(folder: Path, doom: Doom | None, words: tuple[str, ...] = WORDS) -> None:
    """A life of the program `velodrome`, in a process that has imported it: what it prints goes into the project's file
    `output`, how it ends into `ended`, unless it is killed."""
    os.chdir(folder)
    with open("output", "wb") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
    torch.set_num_threads(1)
    sys.argv = ["velodrome", *words]
    points = doom.install() if doom else None
    try:
        main()
    except SystemExit as ended:
        code: Any = ended.code
    except BaseException:  # noqa: BLE001 - that is what is looked for
        traceback.print_exc()
        code = "escaped"
    said = {"code": code, "operations": points.names if points else []}
    draft = Path(".ended")
    draft.write_text(json.dumps(said))
    draft.replace("ended")


@dataclass(frozen=True)
class Ending:
    """What a training came to.

    Attributes:
        items: digests of the last checkpoint's tensors and facts by item, of weights, history and sample ledger.
        restored: the step from which each attempt went on; 0: from nothing.
        steps: how many were done; per_epoch: in an epoch. saved: the step of each checkpoint that was ever recorded.
    """

    items: dict[str, str]
    restored: list[int]
    steps: int
    per_epoch: int
    saved: list[int]


def ending(folder: Path) -> Ending:
    """Of the only run of a project."""
    with open_folder(folder, read_config(folder)) as ws:
        details = _details(ws)
        assert details.outcome is not None
        last = checkpoints_of(ws, details.run.id)[-1]
        items = digests(*decode_state(ws.blobs.read(last.blob)))
        items |= {name: str(getattr(details.outcome, name)) for name in ("weights", "history", "samples", "steps")}
        events = ws.ledger.events(f"checkpoints:{details.run.id}")
        saved = [event.body["step"] for event in events if event.type == "checkpoint.saved"]
        (first, *_), _ = read_series(ws, details.run.id, "validation_loss")
    return Ending(items, [attempt.restored_step or 0 for attempt in details.attempts], last.step, int(first), saved)


def _details(ws: Workspace) -> RunDetails:
    (found,) = list_runs(ws)
    return show_run(ws, found.id)


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint of the only run that verifies; 0 where there is none."""
    with open_folder(folder, read_config(folder)) as ws:
        for checkpoint in reversed(checkpoints_of(ws, _details(ws).run.id)):
            with suppress(StorageError):
                ws.blobs.read(checkpoint.blob)
                return checkpoint.step
    return 0


def digests(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> dict[str, str]:
    """Of a decoded state, by item; the run's id is no part of it."""
    found = {name: digest_json(facts[name]) for name in ("memory", "order")}
    for item in ITEMS:
        named = {name: tensor for name, tensor in sorted(tensors.items()) if f"{name}/".startswith(f"{item}/")}
        if named:
            hasher = Hasher()
            for name, tensor in named.items():
                hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                hasher.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
            found[item] = hasher.digest()
    return {name: str(digest) for name, digest in found.items()}
