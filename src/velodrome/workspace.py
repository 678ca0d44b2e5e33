"""The verbs of the Python face: the functions of the packages below, bound to the workspace that `open` finds.

The only place that composes: a configuration becomes a `Workspace` here.
"""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from velodrome.control import finding, pipeline, retraining
from velodrome.control.declaring import source_of
from velodrome.core.config import CONFIG_NAME, read_config
from velodrome.data.dataset import Dataset
from velodrome.data.snapshots import Taken, take_snapshot
from velodrome.models.predictor import Model
from velodrome.recipe import Recipe
from velodrome.registry.search import runs_frame
from velodrome.registry.tags import Tags
from velodrome.serving.batch import Predicted, load_model, predict_file
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.track import TrackedRun, tracked

__all__ = ["find_batch", "find_lr", "load", "open", "predict", "retrain", "run", "runs", "snapshot", "track"]


def open(path: str | Path | None = None) -> Workspace:  # noqa: A001 - vd.open is the product's word
    """The workspace of a project: the nearest folder at or above `path` (the present folder) with a velodrome.toml, else `path`.

    A workspace that is not there is made, in the folder `.velodrome` beside the project. Use it in a `with` block, or close it.
    """
    start = Path(path) if path is not None else Path.cwd()
    root = next(
        (folder for folder in (start.resolve(), *start.resolve().parents) if (folder / CONFIG_NAME).is_file()), start
    )
    return open_folder(root, read_config(root))


def run(
    recipe: Recipe, *, seed: int = 0, fresh: bool = False, tags: Tags | None = None, ws: Workspace | None = None
) -> pipeline.Result:
    """Data, checks, training, evaluation, gates, approval: all of a recipe, or what of it is not done yet.

    The code that the run is named by is the script that calls this, or the cells of the notebook. `tags` are set on its runs.
    """
    file, cells = _caller()
    with _opened(ws) as opened:
        return pipeline.run(opened, recipe, file=file, cells=cells, seed=seed, fresh=fresh, tags=tags)


def retrain(
    recipe: Recipe, *, seed: int = 0, now: datetime | None = None, asked: bool = False, ws: Workspace | None = None
) -> retraining.Cycled:
    """Look at what arrived, decide whether to train again, and if so train, judge, and promote or refuse."""
    file, cells = _caller()
    with _opened(ws) as opened:
        source = source_of(opened, file, cells)
        return retraining.retrain(opened, recipe, source, seed=seed, now=now, asked=asked)


def find_lr(
    recipe: Recipe,
    *,
    steps: int = 100,
    low: float = 1e-6,
    high: float = 10.0,
    seed: int = 0,
    ws: Workspace | None = None,
) -> finding.FoundRate:
    """A range test for the learning rate: one step at each of `steps` rates from `low` to `high` (Smith, 2017).

    Nothing is recorded. What it suggests goes into the recipe, or to `velodrome run --set`.
    """
    file, cells = _caller()
    with _opened(ws) as opened:
        source = source_of(opened, file, cells)
        return finding.find_lr(opened, recipe, source, steps=steps, low=low, high=high, seed=seed)


def find_batch(
    recipe: Recipe,
    *,
    start: int = 32,
    most: int | None = None,
    steps: int = 5,
    share: float = 0.5,
    seed: int = 0,
    ws: Workspace | None = None,
) -> finding.FoundBatch:
    """Rows a second and memory of batches of `start` rows, twice as many, and so on; nothing is recorded.

    `share`: of the free memory that may be taken where there is no accelerator.
    """
    file, cells = _caller()
    with _opened(ws) as opened:
        source = source_of(opened, file, cells)
        return finding.find_batch(opened, recipe, source, start=start, most=most, steps=steps, share=share, seed=seed)


def runs(
    query: str = "", *, name: str | None = None, limit: int | None = None, ws: Workspace | None = None
) -> pl.DataFrame:
    """The runs that a query finds, one a row: `vd.runs("metrics.roc_auc > 0.7 order by metrics.roc_auc desc", limit=10)`.

    All of them, newest first, without one. docs/search.md says what can be asked. `name`: only runs of that recipe.
    """
    with _opened(ws) as opened:
        return runs_frame(opened, query, name=name, limit=limit)


def load(reference: str, *, ws: Workspace | None = None) -> Model:
    """The model behind `name@champion`, `name/7` or `name`: `vd.load("late-arrivals@champion").predict(frame)`."""
    with _opened(ws) as opened:
        return load_model(opened, reference)


def predict(reference: str, source: str | Path, out: str | Path, *, ws: Workspace | None = None) -> Predicted:
    """Predict every row of a file into another file."""
    with _opened(ws) as opened:
        return predict_file(opened, reference, Path(source), Path(out))


def snapshot(dataset: Dataset, *, ws: Workspace | None = None) -> Taken:
    """The dataset as it is now, checked and frozen."""
    with _opened(ws) as opened:
        return take_snapshot(opened, dataset)


def track(
    name: str,
    *,
    params: Mapping[str, Any] | None = None,
    data: Taken | None = None,
    seed: int = 0,
    tags: Tags | None = None,
    ws: Workspace | None = None,
) -> AbstractContextManager[TrackedRun]:
    """Record a training loop of one's own: `with vd.track("my-loop", params={...}) as run: run.log(step, loss=loss)`."""
    file, cells = _caller()
    return tracked(
        ws or open(),
        name,
        params=dict(params or {}),
        snapshot=data.digest if data else None,
        seed=seed,
        tags=tags,
        file=file,
        cells=cells,
    )


def _opened(ws: Workspace | None) -> AbstractContextManager[Workspace]:
    """The given workspace, left open afterwards, or a newly opened one, closed afterwards."""
    return open() if ws is None else nullcontext(ws)


def _caller() -> tuple[Path | None, tuple[str, ...]]:
    """The file of the code that called a verb of this module, or the cells that a notebook has run so far."""
    names = sys._getframe(2).f_globals
    if "__file__" in names:
        return Path(names["__file__"]), ()
    return None, tuple(cell for cell in names.get("In", ()) if cell)
