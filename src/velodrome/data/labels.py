"""Label coding: which task a label column sets, and the classes behind the codes that learners see.

The coding is fitted on the training rows and travels with the model. Classes are kept in the order of their values
and coded 0, 1, ...; in a binary task code 1, the second class, is the positive one (`True` after `False`, 1 after 0,
"yes" after "no"). Cost: one pass over the column to fit, one to encode.
"""

from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from velodrome.core.errors import LabelError

__all__ = ["MAXIMUM_INTEGER_CLASSES", "LabelCoding", "LabelTask", "decode_labels", "encode_labels", "fit_labels"]

LabelTask: TypeAlias = Literal["binary", "multiclass", "regression"]

MAXIMUM_INTEGER_CLASSES = 20
"""An integer label with more distinct values than this is a quantity, unless the recipe says otherwise."""


class LabelCoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How labels become what a learner is trained on, and back.

    Attributes:
        task: what is learned.
        classes: the label's values in the order of their codes; empty for regression.
    """

    task: LabelTask
    classes: tuple[bool | int | float | str, ...] = ()


def fit_labels(labels: pl.Series, task: Literal["auto"] | LabelTask = "auto") -> LabelCoding:
    """The coding of a label column.

    Args:
        labels: the training rows only. Booleans, text, integers or floats.
        task: "auto" takes booleans and text for classes; integers for classes if there are at most
            `MAXIMUM_INTEGER_CLASSES` distinct ones, else for quantities; floats for quantities, unless there are
            exactly two distinct ones. Two classes are a binary task, more a multiclass one.

    Raises:
        LabelError: no rows, labels missing or not finite, a single value, or values that do not fit the task.

    >>> fit_labels(pl.Series(["yes", "no", "yes"]))
    LabelCoding(task='binary', classes=('no', 'yes'))
    """
    _refuse_missing(labels)
    plain = _plain(labels)
    classes = plain.unique().sort()
    if len(classes) < 2:
        raise LabelError(
            f"the label {labels.name!r} needs two or more distinct values in the training rows",
            received=repr(classes.to_list()),
            remedy="take another label, or a split whose training rows hold both outcomes",
        )
    if task == "auto":
        task = _guess(classes)
    if task == "regression":
        _numbers(plain)
        return LabelCoding("regression")
    if task == "binary" and len(classes) > 2:
        raise LabelError(
            f"a binary task has two classes; the label {labels.name!r} has {len(classes)}",
            received=repr(classes.head(5).to_list()),
            remedy='say task="multiclass"',
        )
    return LabelCoding(task, tuple(classes.to_list()))


def encode_labels(coding: LabelCoding, labels: pl.Series) -> NDArray[Any]:
    """Codes, int64 (rows,), or for regression the values, float64 (rows,).

    Raises:
        LabelError: a label is missing, not finite, of another type, or of no class that the coding has.
    """
    _refuse_missing(labels)
    if coding.task == "regression":
        return _numbers(labels).to_numpy(writable=True)
    plain, known = _comparable(labels, pl.Series(coding.classes))
    codes = plain.replace_strict(known, pl.arange(len(known), eager=True), default=None, return_dtype=pl.Int64)
    if codes.null_count():
        strange = plain.filter(codes.is_null()).unique().sort().head(5).to_list()
        raise LabelError(
            f"the label {labels.name!r} is of no class that was there in training in {codes.null_count()} rows",
            received=", ".join(map(repr, strange)),
            remedy=f"correct them, or let the training rows hold every class; known: {list(coding.classes[:20])}",
        )
    return codes.to_numpy(writable=True)


def decode_labels(coding: LabelCoding, codes: ArrayLike) -> pl.Series:
    """The class of each code, in the label's own type; for regression the values as they are, float64.

    >>> decode_labels(LabelCoding("binary", ("no", "yes")), [1, 0]).to_list()
    ['yes', 'no']
    """
    if coding.task == "regression":
        return pl.Series(np.asarray(codes, dtype=np.float64))
    return pl.Series(coding.classes).gather(np.asarray(codes, dtype=np.int64))


def _guess(classes: pl.Series) -> LabelTask:
    if len(classes) == 2:
        return "binary"
    few = classes.dtype.is_integer() and len(classes) <= MAXIMUM_INTEGER_CLASSES
    return "multiclass" if few or classes.dtype == pl.String else "regression"


def _refuse_missing(labels: pl.Series) -> None:
    missing = labels.len() - int(labels.is_finite().sum()) if labels.dtype.is_float() else labels.null_count()
    if missing:
        raise LabelError(
            f"the label {labels.name!r} is missing or not finite in {missing} of {labels.len()} rows",
            remedy=f'quarantine such rows with the contract rule NotNull("{labels.name}")',
        )


def _plain(labels: pl.Series) -> pl.Series:
    """Booleans, strings, int64 or float64."""
    dtype = labels.dtype
    if dtype == pl.Boolean:
        return labels
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return labels.cast(pl.String)
    if dtype.is_integer():
        return labels.cast(pl.Int64)
    if dtype.is_numeric():
        return labels.cast(pl.Float64)
    raise LabelError(
        f"the label {labels.name!r} holds neither classes nor numbers",
        received=str(dtype),
        remedy="a label is boolean, text, integer or float",
    )


def _numbers(labels: pl.Series) -> pl.Series:
    if not labels.dtype.is_numeric():
        raise LabelError(
            f"regression needs numbers in the label {labels.name!r}",
            received=str(labels.dtype),
            remedy='say task="auto"',
        )
    return labels.cast(pl.Float64)


def _comparable(labels: pl.Series, classes: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Labels and classes in one type; integers and floats stand for each other, as CSV files hardly tell them apart."""
    plain = _plain(labels)
    if plain.dtype == classes.dtype:
        return plain, classes
    if plain.dtype.is_numeric() and classes.dtype.is_numeric():
        return plain.cast(pl.Float64), classes.cast(pl.Float64)
    raise LabelError(
        f"the label {labels.name!r} has another type than in training",
        received=str(labels.dtype),
        remedy=f"training rows held {classes.dtype}",
    )
