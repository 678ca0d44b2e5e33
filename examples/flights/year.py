"""The year in one comparison: the loop, the March model left alone, and training every month whatever happens.

For each month the model that was in force when the month began predicts all of its flights: the loop's is the champion of that
day, the March model's is always the first, and the third is refitted on everything up to the month before. Intervals are of
paired differences on the same flights, days drawn; those of the year treat the months as independent.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from velodrome.cli.output import print_table
from velodrome.control.cycles import Cycle, cycles
from velodrome.control.declaring import declare, source_of
from velodrome.control.training import train
from velodrome.core.digest import Digest
from velodrome.data.snapshots import Snapshot, Taken, scan_use
from velodrome.evaluation.bootstrap import Estimate, paired_difference
from velodrome.evaluation.metrics import metric_named
from velodrome.models.predictor import load_artifact
from velodrome.monitoring.windows import new_window
from velodrome.recipe import Recipe
from velodrome.registry.versions import resolve
from velodrome.store.files import write_atomic
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace
from velodrome.web.comparison import ComparisonPage, Course
from velodrome.web.render import render

METRIC = metric_named("roc_auc", "binary")


@dataclass(frozen=True)
class Month:
    """One month's AUC of each strategy, and what the loop and monthly training gain over the March model."""

    name: str
    loop: float
    alone: float
    monthly: float
    gain: Estimate
    monthly_gain: Estimate


def tell(ws: Workspace, recipe: Recipe, file: Path, page: Path) -> None:
    """Compute the comparison, print it, and write it as a page with a chart."""
    found = list(compare(ws, recipe, file))
    mean = [float(np.mean([getattr(month, name) for month in found])) for name in ("loop", "alone", "monthly")]
    rows = [(month.name, month.loop, month.alone, month.monthly, _shown(month.gain)) for month in found]
    gain, low, high = over_the_year([month.gain for month in found])
    rows.append(("mean", *mean, f"{gain:+.4f} ({low:+.4f} to {high:+.4f})"))
    print_table(["AUC on all flights of", "loop", "March model", "every month", "loop minus March model"], rows)
    gain, low, high = over_the_year([month.monthly_gain for month in found])
    print(f"training every month gains {gain:+.4f} ({low:+.4f} to {high:+.4f})")
    write_atomic(page, render(chart(found, ws.clock.now())).encode())


def chart(months: list[Month], made: datetime) -> ComparisonPage:
    gain, low, high = over_the_year([month.gain for month in months])
    named = {"loop": "the loop", "monthly": "every month", "alone": "March model, never retrained"}
    return ComparisonPage(
        name="The year 2013",
        finding=f"The loop gains {gain:.3f} ({low:.3f} to {high:.3f}) over the March model left alone, on all flights of a month",
        unit="ROC AUC",
        windows=tuple(month.name for month in months),
        courses=tuple(Course(name, tuple(getattr(month, field) for month in months)) for field, name in named.items()),
        made=made,
    )


def compare(ws: Workspace, recipe: Recipe, file: Path) -> Iterator[Month]:
    """April to December, from the cycles that the loop recorded."""
    history = [(cycle, taken_before(ws, cycle.snapshot)) for cycle, _ in cycles(ws, recipe.name)]
    first = resolve(ws, f"{recipe.name}/1").artifact
    for (_, before), (cycle, after) in pairwise(history):
        flights = arrived(ws, before.snapshot, after.snapshot)
        monthly = refitted(ws, recipe, file, before)
        yield judged(ws, cycle, flights, first, monthly)


def judged(ws: Workspace, cycle: Cycle, flights: pl.DataFrame, alone: Digest, monthly: Digest) -> Month:
    assert cycle.champion is not None
    artifacts = (resolve(ws, cycle.champion).artifact, alone, monthly)
    loop, march, newest = (load_artifact(ws, artifact).score(flights) for artifact in artifacts)
    late, days = flights["late"].to_numpy(), flights["scheduled"].dt.epoch("d").to_numpy()
    return Month(
        name=cycle.window.removeprefix("flights-"),
        loop=METRIC(late, loop),
        alone=METRIC(late, march),
        monthly=METRIC(late, newest),
        gain=paired_difference(METRIC, late, loop, march, seed=0, groups=days),
        monthly_gain=paired_difference(METRIC, late, newest, march, seed=0, groups=days),
    )


def taken_before(ws: Workspace, digest: Digest) -> Taken:
    snapshot = read_record(ws.ledger, digest, Snapshot)
    return Taken(digest, snapshot, 0, len(snapshot.fragments))


def arrived(ws: Workspace, before: Snapshot, after: Snapshot) -> pl.DataFrame:
    window = new_window(ws, after, [before])
    assert window is not None
    return pl.concat([scan_use(ws, after, use).collect() for use in window.uses])


def refitted(ws: Workspace, recipe: Recipe, file: Path, taken: Taken) -> Digest:
    """The recipe trained on everything that was there, found where the loop did that."""
    declared = declare(ws, recipe, source_of(ws, file, ()), 0, taken=taken)
    return train(ws, declared, judge=train(ws, declared)).artifact


def over_the_year(gains: list[Estimate]) -> tuple[float, float, float]:
    """Mean of the months' differences with its interval: squared distances to the bounds add up over independent months."""
    mean = float(np.mean([gain.value for gain in gains]))
    below = math.sqrt(sum((gain.value - gain.low) ** 2 for gain in gains if gain.low is not None)) / len(gains)
    above = math.sqrt(sum((gain.high - gain.value) ** 2 for gain in gains if gain.high is not None)) / len(gains)
    return mean, mean - below, mean + above


def _shown(found: Estimate) -> str:
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
