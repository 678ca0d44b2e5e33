"""A snapshot of data of one's own as rows ready to train on: split by the number of each row or by time, labels coded.

What `training_set` is for files. Nothing is prepared and no input is kept: batches are asked of the data when a step needs
them. Labels and times alone are kept, in a layout without inputs, so that splitting and judging read no input.
Cost: one read of all rows on the first call for a snapshot, unless taking it has read them; then of the labels alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.core.digest import digest_json
from velodrome.core.errors import DataError, LabelError, NotFound, nearest
from velodrome.data.fields import Field, rows_within
from velodrome.data.labels import encode_labels, fit_labels
from velodrome.data.layout import Prepared, materialise
from velodrome.data.own import OwnData, OwnRows
from velodrome.data.own_snapshots import OwnTaken, own_keys
from velodrome.data.splits import TEST, TRAIN, VALIDATION, TimeSplit, assign
from velodrome.data.training_set import Ingredients, TrainingSet, require_classes
from velodrome.store.workspace import Workspace

__all__ = ["OwnTest", "build_own_set", "own_test"]

_BATCH_BYTES = 1 << 26
_MICROSECONDS_OF_A_DAY = 86_400_000_000
_TIME = "time"


@dataclass(frozen=True, slots=True)
class OwnTest:
    """The rows of the test part, which are read when they are judged.

    Attributes:
        ids: their numbers, ascending.
        labels: theirs, as the data gives them.
        days: of each row, since 1970; None where the dataset has no time.
        keys: see `own_keys`.
    """

    data: OwnData
    ids: npt.NDArray[np.intp]
    labels: pl.Series
    days: npt.NDArray[np.int64] | None
    keys: npt.NDArray[np.uint64]

    def batches(self) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        """The inputs in pieces of some 64 MB, all of them and not only those that the recipe learns from."""
        rows = rows_within(self.data.fields, _BATCH_BYTES)
        for start in range(0, len(self.ids), rows):
            yield self.data.take(self.ids[start : start + rows])[0]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept of the rows."""

    labels: pl.Series
    times: npt.NDArray[np.int64] | None
    parts: npt.NDArray[np.uint8]


def build_own_set(ws: Workspace, taken: OwnTaken, made_from: Ingredients) -> TrainingSet:
    """Split, and code the labels.

    Raises:
        NotFound: a feature is no input of the data.
        SplitError, LabelError: as `build_training_set`.
        SourceError, DataError: a row cannot be read.
    """
    fields = _fields(taken.data, made_from)
    known = _known(ws, taken, made_from)
    everyone = np.arange(taken.snapshot.rows, dtype=np.uint32)
    train = everyone if made_from.everything else everyone[known.parts == TRAIN]
    validation = everyone[:0] if made_from.everything else everyone[known.parts == VALIDATION]
    coding = fit_labels(known.labels, made_from.task)
    target = encode_labels(coding, known.labels)
    for name, rows in {"training": train, "validation": validation}.items():
        require_classes(coding, target[rows], name)
    target = target.astype(np.float32) if coding.task == "regression" else target
    return TrainingSet(OwnRows(taken.data, fields, target), None, coding, train, validation)


def own_test(ws: Workspace, taken: OwnTaken, made_from: Ingredients) -> OwnTest:
    """The rows that a run is judged on. Raises as `build_own_set`."""
    known = _known(ws, taken, made_from)
    ids = np.flatnonzero(known.parts == TEST)
    days = None if known.times is None else known.times[ids] // _MICROSECONDS_OF_A_DAY
    keys: npt.NDArray[np.uint64] = own_keys(taken.snapshot)[ids]
    return OwnTest(taken.data, ids, known.labels[ids], days, keys)


def _fields(data: OwnData, made_from: Ingredients) -> tuple[Field, ...]:
    """The chosen inputs in the order of the features."""
    known = {field.name: field for field in data.fields}
    for name in made_from.features:
        if name not in known:
            raise NotFound("the data has no such input", received=name, remedy=nearest(name, known))
    return tuple(known[name] for name in made_from.features or known)


def _known(ws: Workspace, taken: OwnTaken, made_from: Ingredients) -> _Known:
    time, label = made_from.time, made_from.label
    shape = taken.data.kinds[label][1]
    if shape:
        raise DataError(
            f"the label {label!r} of data of one's own is one number for each row, by which a model is judged",
            received=f"shape {('n', *shape)}",
            remedy="give what a step of one's own compares with as a further input",
        )

    def produce() -> Prepared:
        columns = taken.data.columns([label, *([time] if time else [])], ws.progress)
        _require_finite(label, columns[label])
        times = {_TIME: columns[time].astype("datetime64[us]").astype(np.int64)} if time else {}
        return times, columns[label]

    fields = (Field(_TIME, "int64"),) if time else ()
    name = digest_json(["own", made_from.snapshot, label, time])
    layout = materialise(ws, name, fields, produce, made_from.snapshot)
    times = layout.take(np.arange(layout.rows))[_TIME] if time else None
    moments = None if times is None else times.view("datetime64[us]")
    if isinstance(made_from.split, TimeSplit) and moments is None:
        raise DataError(
            "a TimeSplit needs to know when each row happened",
            remedy="answer with an array of datetime64, and name it: vd.Dataset(..., time='taken')",
        )
    parts = assign(made_from.split, keys=own_keys(taken.snapshot), times=moments, seed=made_from.seed)
    return _Known(pl.Series(label, np.array(layout.target)), times, parts)


def _require_finite(label: str, values: npt.NDArray[Any]) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise LabelError(
            f"the label {label!r} of data of one's own is not finite in {len(wrong)} of {len(values)} rows",
            received=f"rows {', '.join(map(str, wrong[:8]))}{', ...' if len(wrong) > 8 else ''}",
            remedy="give each of them a number, or leave it out",
        )
