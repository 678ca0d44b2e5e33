"""Finding a learning rate, and a batch size, on a recipe's own rows and network, before anything is trained for good.

The snapshot and the training layout are made as `run` would make them, which then finds them. No run is recorded.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import msgspec

from velodrome.control.declaring import Source, declare
from velodrome.control.training import prepared_rows
from velodrome.core.errors import ConfigurationError, DataError, OutOfMemory, TrainingError
from velodrome.core.extras import load
from velodrome.core.units import show_bytes
from velodrome.recipe import Recipe
from velodrome.store.workspace import Workspace
from velodrome.training.accounting import Stopwatch
from velodrome.training.batch_sizes import SizeSuggestion, SizeTrial, doubled, suggest_size
from velodrome.training.learners import Torch
from velodrome.training.rate_range import RateStep, RateSuggestion, exploded, growing_rates, suggest_rate
from velodrome.training.work import Unrecorded, Work, forget

__all__ = ["FoundBatch", "FoundRate", "find_batch", "find_lr"]

_FEWEST_STEPS = 20
_FEWEST_ROWS = 64
_LR = "learner.optimizer.lr"


class FoundRate(msgspec.Struct, frozen=True, kw_only=True):
    """What a learning-rate range test said.

    Attributes:
        rows: of training. present: the recipe's own rate.
        ended: why it did: the highest rate was reached, or the loss had exploded before.
        setting: what to give to --set.
    """

    recipe: str
    seed: int
    device: str
    rows: int
    batch: int
    present: float
    curve: tuple[RateStep, ...]
    ended: Literal["highest rate", "exploded"]
    suggestion: RateSuggestion
    setting: str


class FoundBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What batches of growing size said.

    Attributes:
        rows: of training. field: of the learner, "batch" or "micro_batch"; present: the recipe's own value.
        budget: bytes that a trial might take beyond what was there before; None: until the device was full.
        ended: why no larger one was tried: memory would not suffice, there are no more training rows, the recipe's batch has no
            more, or no more were asked for.
        setting: what to give to --set.
    """

    recipe: str
    seed: int
    device: str
    rows: int
    field: Literal["batch", "micro_batch"]
    present: int
    trials: tuple[SizeTrial, ...]
    budget: int | None
    ended: Literal["memory", "rows", "batch", "asked"]
    suggestion: SizeSuggestion
    setting: str


def find_lr(
    ws: Workspace,
    recipe: Recipe,
    source: Source,
    *,
    steps: int = 100,
    low: float = 1e-6,
    high: float = 10.0,
    seed: int = 0,
) -> FoundRate:
    """The range test over rates from `low` to `high`, one step each.

    Raises:
        ConfigurationError: the recipe learns without a rate, or the range is none.
        DataError: fewer than 64 training rows.
        TrainingError: the loss falls at no rate.
    """
    learner = _torch(recipe)
    _require_range(low, high, steps)
    with _work(ws, recipe, source, seed) as work:
        if len(work.train) < _FEWEST_ROWS:
            raise DataError(f"a range test needs at least {_FEWEST_ROWS} training rows", received=len(work.train))
        curve = load("trials:torch").measure_rates(work, growing_rates(low, high, steps))
    suggestion = suggest_rate(curve, steps)
    if suggestion is None:
        raise _nothing_falls(curve)
    return FoundRate(
        recipe=recipe.name,
        seed=seed,
        device=ws.config.device,
        rows=len(work.train),
        batch=learner.batch,
        present=learner.optimizer.lr,
        curve=curve,
        ended="exploded" if exploded(curve) else "highest rate",
        suggestion=suggestion,
        setting=f"{_LR}={suggestion.rate:g}",
    )


def find_batch(
    ws: Workspace,
    recipe: Recipe,
    source: Source,
    *,
    start: int = 32,
    most: int | None = None,
    steps: int = 5,
    share: float = 0.5,
    seed: int = 0,
) -> FoundBatch:
    """Speed and memory of batches of `start` rows, twice as many, and so on up to `most`, or to all training rows.

    A recipe that says `micro_batch` keeps its batch: what is found is the size of its micro-batches.

    Args:
        steps: that are timed for each size.
        share: of the free memory that may be taken where there is no accelerator, 0 to 1.

    Raises:
        ConfigurationError: the recipe learns without batches, or there is no size in the range.
        DataError: fewer training rows than `start`. OutOfMemory: not even the first size fits.
    """
    learner = _torch(recipe)
    _require_sizes(start, most, steps, share)
    with _work(ws, recipe, source, seed) as work:
        field: Literal["batch", "micro_batch"] = "micro_batch" if learner.micro_batch else "batch"
        sizes = _sizes(start, most, len(work.train), learner)
        trials, budget = load("trials:torch").measure_sizes(work, field, sizes, steps=steps, share=share)
    suggestion = suggest_size(trials)
    if suggestion is None:
        raise OutOfMemory(
            f"not even {start} rows fit at once",
            received=None if budget is None else f"{show_bytes(budget)} may be taken",
            remedy="begin with fewer (--from), or allow more of the memory (--memory)",
        )
    return FoundBatch(
        recipe=recipe.name,
        seed=seed,
        device=ws.config.device,
        rows=len(work.train),
        field=field,
        present=learner.micro_batch or learner.batch,
        trials=trials,
        budget=budget,
        ended=_ended(suggestion.largest, sizes, len(work.train), learner),
        suggestion=suggestion,
        setting=f"learner.{field}={suggestion.enough}",
    )


def _require_range(low: float, high: float, steps: int) -> None:
    if not 0 < low < high < math.inf:
        raise ConfigurationError(
            "the rates of a range test grow: from one above 0 to a larger one",
            received=f"from {low:g} to {high:g}",
            remedy="for example --from 1e-6 --to 10",
        )
    if steps < _FEWEST_STEPS:
        raise ConfigurationError(
            f"a range test takes at least {_FEWEST_STEPS} steps", received=steps, remedy="--steps 100"
        )


def _require_sizes(start: int, most: int | None, steps: int, share: float) -> None:
    if not (1 <= start <= (most or start) and steps >= 1 and 0 < share <= 1):
        raise ConfigurationError(
            "sizes grow from 1 or more, are timed for 1 step or more, and take a share of the memory up to 1",
            received=f"from {start}{f' to {most}' if most is not None else ''}, {steps} steps, share {share:g}",
            remedy="for example --from 32 --to 4096 --steps 5 --memory 0.5",
        )


def _sizes(start: int, most: int | None, rows: int, learner: Torch) -> list[int]:
    """What is tried: no more than the training rows, nor as a micro-batch than the recipe's batch."""
    limit = min(rows, learner.batch) if learner.micro_batch else rows
    if start > limit:
        raise DataError(
            "there are fewer rows to learn from at once than the first size",
            received=f"{limit} rows, from {start}",
            remedy="begin with a smaller one: --from",
        )
    return list(doubled(start, min(limit, most or limit)))


def _ended(
    largest: int, sizes: Sequence[int], rows: int, learner: Torch
) -> Literal["memory", "rows", "batch", "asked"]:
    if largest < sizes[-1]:
        return "memory"
    if learner.micro_batch and 2 * largest > learner.batch:
        return "batch"
    return "rows" if 2 * largest > rows else "asked"


def _torch(recipe: Recipe) -> Torch:
    if not isinstance(recipe.learner, Torch):
        raise ConfigurationError(
            "only a recipe whose learner is vd.Torch has a learning rate and batches to find",
            received=type(recipe.learner).__name__,
            remedy="an estimator is told everything by its own parameters",
        )
    return recipe.learner


@contextmanager
def _work(ws: Workspace, recipe: Recipe, source: Source, seed: int) -> Iterator[Work]:
    """What the learner would be given by a run, but for the run."""
    with ws.writing():
        declared = declare(ws, recipe, source, seed)
        rows = prepared_rows(ws, declared)
        yield Work(
            ws=ws,
            run="",
            attempt=0,
            seed=seed,
            learner=recipe.learner,
            layout=rows.layout,
            train=rows.train,
            validation=rows.validation,
            device=ws.config.device,
            task=rows.coding.task,
            classes=len(rows.coding.classes),
            recorder=Unrecorded(),
            watch=Stopwatch(ws.clock.monotonic),
            tell=forget,
        )


def _nothing_falls(curve: tuple[RateStep, ...]) -> TrainingError:
    last = curve[-1]
    return TrainingError(
        "the loss falls at none of the rates by more than chance would make it",
        received=f"{len(curve)} steps, from rate {curve[0].rate:g} to {last.rate:g}",
        remedy="try more steps, or begin lower if it exploded at once; else look at whether the features tell of the label",
    )
