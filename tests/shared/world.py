"""A small world that moves: a file of visits for each month of 2020, and a recipe that says who buys."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression

import velodrome as vd
from velodrome.control.declaring import Source
from velodrome.control.retraining import Cycled, retrain
from velodrome.core.config import Config
from velodrome.recipe import Recipe
from velodrome.store.workspace import Workspace, open_folder

ROWS = 400


class World:
    """A workspace with the files of a dataset.

    A visit's `wants` decides whether somebody buys, in a direction that `slope` gives, so a model of one slope is as bad as
    possible on another. `shift` moves the feature itself.
    """

    def __init__(self, root: Path, config: Config | None = None) -> None:
        self.root = root
        self.ws = open_folder(root, config)

    def deliver(
        self, month: int, *, rows: int = ROWS, slope: float = 3.0, shift: float = 0.0, name: str = "", seed: int = 0
    ) -> Path:
        """A month's file; the same arguments give the same bytes, `seed` other rows with the same keys."""
        frame = self.frame(month, rows=rows, slope=slope, shift=shift, seed=seed)
        return self.write(frame, name or f"visits-{month:02}")

    @staticmethod
    def frame(month: int, *, rows: int = ROWS, slope: float = 3.0, shift: float = 0.0, seed: int = 0) -> pl.DataFrame:
        rng = np.random.default_rng([month, seed])
        begin = np.datetime64(f"2020-{month:02}-01T00:00", "m")
        wants = rng.normal(shift, 1.0, rows)
        return pl.DataFrame(
            {
                "visit": [f"{month}-{number}" for number in range(rows)],
                "when": (begin + np.sort(rng.integers(0, 28 * 24 * 60, rows))).astype("datetime64[us]"),
                "wants": wants,
                "city": rng.choice(["Bern", "Basel", "Genf"], rows),
                "buys": (rng.random(rows) < 1 / (1 + np.exp(-slope * (wants - shift)))).astype(np.int64),
            }
        )

    def write(self, frame: pl.DataFrame, name: str) -> Path:
        path = self.root / f"{name}.parquet"
        frame.write_parquet(path)
        return path

    def recipe(
        self, *, contract: tuple[Any, ...] = (), retrain: dict[str, Any] | None = None, **changes: Any
    ) -> Recipe:
        policy = {
            "fall": 0.03,
            "min_rows": 100,
            "cool_down": "7d",
            "drift": vd.Drift(minimum_rows=300),
            **(retrain or {}),
        }
        given = {
            "data": vd.Dataset(
                "visits",
                source=vd.Files("visits-*.parquet"),
                key="visit",
                time="when",
                contract=vd.Contract([vd.NotNull(["buys", "when"]), vd.Unique("visit"), *contract]),
            ),
            "label": "buys",
            "features": ["wants", "city"],
            "prepare": [vd.Impute(), vd.Scale(), vd.Encode()],
            "learner": vd.Sklearn(LogisticRegression()),
            "split": vd.TimeSplit(validation="4d", test="10d"),
            "evaluation": vd.Evaluation("roc_auc", cohorts=["city"], resamples=60, smallest_cohort=20),
            "gates": [vd.AtLeast("roc_auc", 0.6), vd.NotWorse("champion", by=0.05)],
            "refit": True,
            "operate": vd.Operate(approval=vd.PolicyApproval("passed-gates"), retrain=vd.Retrain(**policy)),
        }
        return vd.Recipe("buyers", **{**given, **changes})

    def retrain(self, month: int, recipe: Recipe | None = None, *, day: int = 1, **options: Any) -> Cycled:
        """As on that day of the month after `month`."""
        now = datetime(2020, month + 1, day, tzinfo=UTC)
        return retrain(self.ws, recipe or self.recipe(), self.source, now=now, **options)

    @property
    def source(self) -> Source:
        return Source(self.root, None, ("recipe",))

    def using(self, ws: Workspace) -> "World":
        """The same world through another workspace."""
        other = World.__new__(World)
        other.root, other.ws = self.root, ws
        return other
