"""A small project on disk, and the program run in it as a real process."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

PROGRAM = str(Path(sys.executable).parent / "velodrome")

RECIPE = """
import torch

import shapes
import velodrome as vd


class Network(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.city = torch.nn.Embedding(next(field["cardinality"] for field in inputs if field["name"] == "city"), 4)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, shapes.HIDDEN), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(shapes.HIDDEN, 1)
        )

    def forward(self, age, minutes, city):
        return self.layers(torch.cat([torch.stack([age, minutes], 1), self.city(city)], 1))[:, 0]


recipe = vd.Recipe(
    "churn",
    data=vd.Dataset(
        "customers",
        source=vd.Files("customers*.csv"),
        key="customer",
        contract=vd.Contract([vd.NotNull("churned"), vd.Between("age", 0, 120), vd.Unique("customer")]),
    ),
    label="churned",
    features=["age", "minutes", "city"],
    prepare=[vd.Impute(), vd.Scale(), vd.Encode()],
    split=vd.RandomSplit(validation=0.2, test=0.2),
    learner=vd.Torch(
        network=Network,
        optimizer=vd.AdamW(lr=0.01),
        schedule=vd.Cosine(warmup=0.1),
        epochs=EPOCHS,
        batch=64,
        clip=1.0,
        checkpoints=vd.Checkpoints(every=5),
    ),
    evaluation=vd.Evaluation("roc_auc", cohorts=["city"], resamples=200),
    gates=[vd.AtLeast("roc_auc", 0.6), vd.NotWorse("champion", by=0.3)],
    refit=True,
    operate=vd.Operate(approval=vd.PolicyApproval("passed-gates")),
)
"""


_LEARNER = RECIPE[RECIPE.index("    learner=") : RECIPE.index("    evaluation=")]
_NETWORK = RECIPE[RECIPE.index("import torch") : RECIPE.index("recipe = ")]

LINEAR = RECIPE.replace(_LEARNER, "    learner=vd.Sklearn(LogisticRegression()),\n").replace(
    _NETWORK, "from sklearn.linear_model import LogisticRegression\n\nimport velodrome as vd\n\n"
)
"""The same with an estimator instead of a network: quicker, and without torch."""


@dataclass(frozen=True)
class Project:
    """A folder with data, a recipe and a module that it imports."""

    folder: Path

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def command(self, *words: str) -> list[str]:
        return [PROGRAM, *words]

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
            timeout=1200,
        )

    def json(self, *words: str) -> Any:
        """What the command prints with --json; it must succeed."""
        done = self.call(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def error(self, *words: str) -> dict[str, Any]:
        """What the command says about its failure with --json."""
        done = self.call(*words, "--json")
        assert done.returncode != 0, done.stdout
        said: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
        assert said["exit_code"] == done.returncode
        return said

    def saved(self) -> int:
        """Checkpoints that were recorded so far, read beside the running program."""
        found = self._query("SELECT count(*) FROM event WHERE type = 'checkpoint.saved'")
        return int(found[0]) if found else 0

    def newest_checkpoint(self) -> tuple[int, str]:
        """Step and blob of the newest checkpoint."""
        payload = json.loads(
            self._query("SELECT payload FROM record WHERE kind = 'checkpoint' ORDER BY position DESC")[0]
        )
        return payload["step"], payload["blob"]

    def _query(self, query: str) -> Any:
        path = self.folder / ".velodrome" / "ledger.db"
        if path.exists():
            with closing(sqlite3.connect(path, timeout=60)) as connection, suppress(sqlite3.OperationalError):
                return connection.execute(query).fetchone()
        return None  # the program has not come so far


def customers(rows: int, seed: int = 0) -> pl.DataFrame:
    """Customers of whom the young and talkative leave; some ages are missing, some impossible."""
    rng = np.random.default_rng(seed)
    age, minutes = rng.integers(18, 80, rows), rng.gamma(2.0, 30.0, rows)
    city = rng.choice(["Aachen", "Bonn", "Celle"], rows, p=[0.5, 0.3, 0.2])
    leaves = rng.random(rows) < 1 / (1 + np.exp((age - 45) / 8 - minutes / 40 + (city == "Bonn")))
    frame = pl.DataFrame(
        {
            "customer": np.arange(rows) + seed * 1_000_000,
            "age": age,
            "minutes": minutes,
            "city": city,
            "churned": leaves.astype(int),
        }
    )
    lost = pl.Series(rng.random(rows) < 0.05)
    wrong = pl.Series(rng.random(rows) < 0.01)
    return frame.with_columns(age=pl.when(wrong).then(999).when(lost).then(None).otherwise("age"))


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
