"""A snapshot as rows ready to train on: split, labels coded, preparation fitted on the training rows, layout on disk.

A pure function of the snapshot and of what the recipe says; the layout is made once for each and shared by runs and trials.
Cost: one read of the named columns, and on the first call one write of the prepared rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.core.digest import digest_bytes, digest_json
from velodrome.core.errors import DataError, LabelError, NotFound, nearest
from velodrome.core.values import describe
from velodrome.data.labels import LabelCoding, encode_labels, fit_labels
from velodrome.data.layout import Layout, materialise
from velodrome.data.own import OwnRows
from velodrome.data.snapshots import Snapshot, read_columns, row_keys
from velodrome.data.splits import TEST, TRAIN, VALIDATION, RandomSplit, TimeSplit, assign
from velodrome.data.transforms import Preparation, apply, fit_preparation
from velodrome.store.workspace import Workspace

__all__ = ["Ingredients", "TrainingSet", "build_training_set", "require_classes", "test_keys", "test_rows"]


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a training set is made from.

    Attributes:
        snapshot: digest of the snapshot; `time` is its dataset's time column.
        features: of data of one's own, none of them means every input.
        everything: train on all rows, as a refit does.
    """

    snapshot: str
    features: tuple[str, ...]
    label: str
    task: Literal["auto", "binary", "multiclass", "regression"]
    prepare: tuple[Any, ...]
    encoding: Literal["codes", "onehot"]
    split: RandomSplit | TimeSplit
    time: str | None
    seed: int
    everything: bool = False


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Prepared rows.

    Attributes:
        layout: all rows of the snapshot, prepared, in its order, with the label's codes (int64) or values (float32).
        preparation: None for data of one's own, which comes prepared.
        train, validation: row numbers, uint32, ascending.
    """

    layout: Layout | OwnRows
    preparation: Preparation | None
    coding: LabelCoding
    train: npt.NDArray[np.uint32]
    validation: npt.NDArray[np.uint32]


def build_training_set(ws: Workspace, snapshot: Snapshot, made_from: Ingredients) -> TrainingSet:
    """Split, fit and lay out.

    Raises:
        NotFound: a feature or the label is no column of the snapshot.
        SplitError: a part of the split is empty.
        LabelError: the label has nulls, or a part has one class only.
    """
    frame = _read(ws, snapshot, made_from, made_from.features)
    parts = _parts(ws, snapshot, made_from, frame)
    coding = fit_labels(frame[made_from.label], made_from.task)
    target = encode_labels(coding, frame[made_from.label])
    everyone = np.arange(frame.height, dtype=np.uint32)
    train = everyone if made_from.everything else everyone[parts == TRAIN]
    validation = everyone[:0] if made_from.everything else everyone[parts == VALIDATION]
    for name, rows in {"training": train, "validation": validation}.items():
        require_classes(coding, target[rows], name)
    features = frame.select(made_from.features)
    preparation = fit_preparation(made_from.prepare, features[train], made_from.features, made_from.encoding)
    layout = _layout(ws, made_from, features, preparation, target)
    return TrainingSet(layout, preparation, coding, train, validation)


def test_rows(ws: Workspace, snapshot: Snapshot, made_from: Ingredients, columns: Sequence[str] = ()) -> pl.DataFrame:
    """The rows of the test part, raw: features, label and further `columns`, in the snapshot's order."""
    wanted = tuple(dict.fromkeys([*made_from.features, *columns]))
    frame = _read(ws, snapshot, made_from, wanted)
    return frame.filter(_parts(ws, snapshot, made_from, frame) == TEST)


def test_keys(ws: Workspace, snapshot: Snapshot, made_from: Ingredients) -> npt.NDArray[np.uint64]:
    """The keys of the rows of the test part, uint64 (rows,), in the order of `test_rows`; see `snapshots.row_keys`."""
    frame = _read(ws, snapshot, made_from, ())
    keys: npt.NDArray[np.uint64] = row_keys(ws, snapshot)[_parts(ws, snapshot, made_from, frame) == TEST]
    return keys


def _read(ws: Workspace, snapshot: Snapshot, made_from: Ingredients, columns: Sequence[str]) -> pl.DataFrame:
    known = [column.name for column in snapshot.columns]
    needed = [*columns, made_from.label, *([made_from.time] if made_from.time else [])]
    for name in needed:
        if name not in known:
            raise NotFound("the data has no such column", received=name, remedy=nearest(name, known))
    return read_columns(ws, snapshot, list(dict.fromkeys(needed)))


def _parts(ws: Workspace, snapshot: Snapshot, made_from: Ingredients, frame: pl.DataFrame) -> npt.NDArray[np.uint8]:
    times = None
    if isinstance(made_from.split, TimeSplit):
        if made_from.time is None:
            raise DataError(
                "a TimeSplit needs to know when each row happened",
                remedy="name the column: vd.Dataset(..., time='scheduled')",
            )
        times = frame[made_from.time].cast(pl.Datetime("us")).to_numpy()
    return assign(made_from.split, keys=row_keys(ws, snapshot), times=times, seed=made_from.seed)


def require_classes(coding: LabelCoding, target: npt.NDArray[Any], part: str) -> None:
    """Raises LabelError where the rows of a part, if there are any, have one class only."""
    if coding.task == "regression" or not len(target) or len(np.unique(target)) > 1:
        return
    raise LabelError(
        f"the {part} rows have one class only",
        received=coding.classes[int(target[0])],
        remedy="take more rows, or another split",
    )


def _layout(
    ws: Workspace, made_from: Ingredients, features: pl.DataFrame, preparation: Preparation, target: npt.NDArray[Any]
) -> Layout:
    name = digest_json(
        [
            made_from.snapshot,
            list(made_from.features),
            made_from.label,
            describe(preparation),
            digest_bytes(target.tobytes()),
        ]
    )
    return materialise(
        ws, name, preparation.outputs, lambda: (apply(preparation, features), target), made_from.snapshot
    )
