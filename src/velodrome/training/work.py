"""What a learner is given and what it gives back: the interface between the pipeline and the learners.

A learner is a function `fit(work) -> Fitted` in the module that `core.extras` names for it. Contract: equal work gives
equal weights; a `fit` that was killed and is called again with the same run goes on from its newest checkpoint.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from velodrome.core.digest import Digest
from velodrome.data.layout import Layout
from velodrome.registry.series_writer import SeriesWriter
from velodrome.store.workspace import Workspace
from velodrome.training.learners import Learner

__all__ = ["Fitted", "Work"]


@dataclass(frozen=True, slots=True)
class Work:
    """One training to do.

    Attributes:
        run, attempt: whose checkpoints and series these are.
        layout: the prepared rows; `layout.take(ids)` gives inputs by name, `layout.target` the label codes or values.
        train, validation: row ids of the layout, uint32; validation may be empty.
        task, classes: "binary", "multiclass" or "regression", and how many classes.
        steps: for a refit, the steps that the judged run chose; None: the learner decides.
        planned_steps: for a refit, the length of the schedule of the judged run.
    """

    ws: Workspace
    run: str
    attempt: int
    seed: int
    learner: Learner
    layout: Layout
    train: npt.NDArray[np.uint32]
    validation: npt.NDArray[np.uint32]
    task: str
    classes: int
    recorder: SeriesWriter
    steps: int | None = None
    planned_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training made.

    Attributes:
        family: which `models` module reads the files.
        files: the artifact's files by path.
        extra: what that module wrote for itself into the manifest.
        steps: the step whose weights these are; planned_steps: the length of the schedule.
        weights: digest of the weights' bits.
    """

    family: Literal["torch", "sklearn"]
    files: dict[str, Any]
    extra: dict[str, Any]
    steps: int
    planned_steps: int
    weights: Digest
