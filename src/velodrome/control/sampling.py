"""Which rows a run learned from, step by step: proven from its record, and shown.

The order of rows is a function of the run's seed, so no list of them was ever kept. It is computed again and held against the
sample ledger, whose links cover the rows of every step; so the rows of any step are known, long after, by their keys.
Cost: the order of each epoch again, and one hash for each step.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.control.recorded import recorded
from velodrome.control.training import Assignment
from velodrome.core.errors import ConfigurationError, NotFound
from velodrome.core.extras import load
from velodrome.data.order import EpochOrder
from velodrome.data.own_snapshots import OwnTaken
from velodrome.data.snapshots import read_columns
from velodrome.recipe import Recipe
from velodrome.registry.runs import get_run, outcome_of
from velodrome.registry.series import read_histories
from velodrome.store.workspace import Workspace
from velodrome.training.accounting import Stopwatch
from velodrome.training.learners import Torch, learner_kind
from velodrome.training.samples import check_samples
from velodrome.training.work import Unrecorded

__all__ = ["Samples", "StepRows", "check", "rows_of"]

_LINKED = ("loss", "gradient_norm", "lr", "step_digest")


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """What the sample ledger of a run proves.

    Attributes:
        steps: those whose links are what the seed gives. epochs: how many were begun; in none was a row used twice.
        uses: how many rows were used how often, over all epochs.
    """

    run: str
    steps: int
    epochs: int
    uses: dict[int, int]


class StepRows(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one step, in their order; step and epoch from 1.

    Attributes:
        rows: of each its place in the snapshot from 0, as `row`, and what the recipe names: key, time, label, features; of
            data of one's own the label, and the inputs of one number each.
    """

    run: str
    step: int
    epoch: int
    rows: list[dict[str, Any]]


def check(ws: Workspace, reference: str) -> Samples:
    """Prove that every step of a run learned from the rows that its seed gives it, and from none twice in an epoch.

    Raises:
        NotFound: no such run. ConfigurationError: it has no steps of ours.
        IntegrityError: names the first step that learned from other rows, or whose figures were changed.
    """
    run = get_run(ws, reference)
    series = _series(ws, run.id)
    steps = max(series["step_digest"], default=0)
    with recorded(ws, run) as assignment:
        order, rows = _order(assignment)
        with ws.progress.task("check", steps) as task:
            check_samples(_counted(order.batches_from(0), task.advance), series, steps)
    epochs = order.epoch_of(steps - 1) + 1 if steps else 0
    return Samples(run=run.id, steps=steps, epochs=epochs, uses=_uses(order, rows, steps, epochs))


def rows_of(ws: Workspace, reference: str, step: int) -> StepRows:
    """The rows that a step of a run learned from, with what the snapshot says of them; of a run that did not come to its end
    also the rows of the step that would have been next, at which it may have failed.

    Raises:
        NotFound: no such run, or no such step. ConfigurationError: it has no steps of ours.
    """
    run = get_run(ws, reference)
    done = max(_series(ws, run.id)["loss"], default=0)
    last = done if outcome_of(ws, run.id) else done + 1
    if not 1 <= step <= last:
        came = f"it did steps 1 to {done}{'' if last == done else f', and came to step {last}'}"
        raise NotFound(f"the run {run.id} did no such step", received=step, remedy=came)
    with recorded(ws, run) as assignment:
        order, _ = _order(assignment)
        ids = order.ids_of(step - 1)
        rows = _described(assignment, ids)
    return StepRows(run=run.id, step=step, epoch=order.epoch_of(step - 1) + 1, rows=rows)


def _series(ws: Workspace, run: str) -> dict[str, dict[int, float]]:
    histories = read_histories(ws, run)
    return {
        name: dict(zip(histories[name].steps.tolist(), histories[name].values.tolist(), strict=True))
        if name in histories
        else {}
        for name in _LINKED
    }


def _order(assignment: Assignment) -> tuple[EpochOrder, npt.NDArray[np.uint32]]:
    """The order in which a run took its rows, and those it might take.

    Raises:
        ConfigurationError: its learner does no steps.
    """
    learner = assignment.declared.recipe.learner
    if not isinstance(learner, Torch):
        raise ConfigurationError(
            f"the run {assignment.run.id} has no steps: its estimator learned from all training rows at once",
            remedy=f"see which rows those are with: velodrome trace {assignment.run.id}",
        )
    work = assignment.work(assignment.rows(), 0, Unrecorded(), Stopwatch(assignment.ws.clock.monotonic))
    return load(f"learner:{learner_kind(learner)}").order_of(work), work.train


def _counted(
    batches: Iterable[tuple[int, npt.NDArray[np.uint32]]], advance: Callable[[int], object]
) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
    for batch in batches:
        yield batch
        advance(1)


def _uses(order: EpochOrder, rows: npt.NDArray[np.uint32], steps: int, epochs: int) -> dict[int, int]:
    used = np.zeros(order.largest + 1, dtype=np.int64)
    for epoch in range(epochs):
        ids = order.epoch(epoch)[: (steps - order.first_step(epoch)) * order.batch]
        once = np.bincount(ids, minlength=len(used))
        assert once.max(initial=0) <= 1, "the order of an epoch names each row once"
        used += once
    return dict(zip(*(each.tolist() for each in np.unique(used[rows], return_counts=True)), strict=True))


def _described(assignment: Assignment, ids: npt.NDArray[np.uint32]) -> list[dict[str, Any]]:
    recipe, taken = assignment.declared.recipe, assignment.declared.taken
    if isinstance(taken, OwnTaken):
        return _own_described(recipe, taken, ids)
    names = dict.fromkeys([recipe.data.key, recipe.data.time, recipe.label, *recipe.features])
    frame = read_columns(assignment.ws, taken.snapshot, [name for name in names if name])
    found: pl.DataFrame = frame[ids.tolist()].insert_column(0, pl.Series("row", ids))
    return found.to_dicts()


def _own_described(recipe: Recipe, taken: OwnTaken, ids: npt.NDArray[np.uint32]) -> list[dict[str, Any]]:
    inputs, target = taken.data.take(ids)
    told = {name: inputs[name] for name in recipe.features or inputs if inputs[name].ndim == 1}
    return pl.DataFrame({"row": ids, recipe.label: target, **told}).to_dicts()
