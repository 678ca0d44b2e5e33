"""What a learner is given and what it gives back: the interface between the pipeline and the learners.

A learner is a function `fit(work) -> Fitted` in the module that `core.extras` names for it. Contract: equal work gives
equal weights; a `fit` that was killed and is called again with the same run goes on from its newest checkpoint.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from velodrome.core.digest import Digest
from velodrome.core.errors import Diverged, NotFound, nearest
from velodrome.data.layout import Layout
from velodrome.data.own import OwnRows
from velodrome.store.workspace import Workspace
from velodrome.training.accounting import Stopwatch
from velodrome.training.learners import Learner

__all__ = ["ITEMS", "Fitted", "Histories", "RollBack", "Unrecorded", "Work", "forget", "require_items"]

ITEMS = ("model", "buffer", "optimizer", "ema", "rng/torch", "rng/numpy", "rng/python", "rng/cuda", "memory", "order")
"""What a checkpoint is made of, by the names under which `allow_missing` knows it."""


class Histories(Protocol):
    """What keeps the histories of a run."""

    def log(self, step: int, /, **values: float) -> None: ...

    def flush(self) -> bool: ...


class Unrecorded:
    """Histories that are kept in memory, by step, and recorded nowhere."""

    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}

    def log(self, step: int, /, **values: float) -> None:
        self.values.setdefault(step, {}).update(values)

    def flush(self) -> bool:
        return True


def forget(type_: str, body: dict[str, Any]) -> None:
    """A `Work.tell` for what is no part of any run's history."""


class RollBack(Diverged):
    """Training is to go on from its newest checkpoint, in another attempt, without the batch of `step` (from 0)."""

    def __init__(self, step: int, error: Diverged) -> None:
        super().__init__(error.problem, received=error.received, remedy=error.remedy)
        self.step = step


@dataclass(frozen=True, slots=True)
class Work:
    """One training to do.

    Attributes:
        run, attempt: whose checkpoints and series these are.
        layout: the prepared rows, of files or of one's own; `layout.take(ids)` gives inputs by name, `layout.target` the
            label codes or values.
        train, validation: row ids of the layout, uint32; validation may be empty.
        device: "cpu", or "cuda" with or without a number.
        task, classes: "binary", "multiclass" or "regression", and how many classes.
        steps: for a refit, the steps that the judged run chose; None: the learner decides.
        planned_steps: for a refit, the length of the schedule of the judged run.
        watch: where the time of this attempt goes.
        tell: records an event of the run, by its type and body.
        passed_over: steps (from 0) whose batches an attempt before found to diverge.
        allow_missing: items that a checkpoint may lack.
        profile: where a trace of some steps goes.
    """

    ws: Workspace
    run: str
    attempt: int
    seed: int
    learner: Learner
    layout: Layout | OwnRows
    train: npt.NDArray[np.uint32]
    validation: npt.NDArray[np.uint32]
    device: str
    task: str
    classes: int
    recorder: Histories
    watch: Stopwatch
    tell: Callable[[str, dict[str, Any]], None]
    steps: int | None = None
    planned_steps: int | None = None
    passed_over: tuple[int, ...] = ()
    allow_missing: tuple[str, ...] = ()
    profile: Path | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training made.

    Attributes:
        family: which `models` module reads the files.
        files: the artifact's files by path.
        extra: what that module wrote for itself into the manifest.
        steps: the step whose weights these are; planned_steps: the length of the schedule.
        weights: digest of the weights' bits. samples: where the sample ledger ends, for a learner that has steps.
    """

    family: Literal["torch", "sklearn"]
    files: dict[str, Any]
    extra: dict[str, Any]
    steps: int
    planned_steps: int
    weights: Digest
    samples: str = ""


def require_items(names: Collection[str]) -> None:
    """Refuse names of what no checkpoint has.

    Raises:
        NotFound: names the nearest.
    """
    for name in names:
        if name not in ITEMS:
            raise NotFound("a checkpoint has no such item", received=name, remedy=nearest(name, ITEMS))
