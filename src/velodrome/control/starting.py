"""`velodrome init`: look at a file, decide what each column is, and write a commented recipe that runs as it is."""

import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
import polars as pl
import polars.selectors as cs

from velodrome.core.errors import ConfigurationError, DataError, LabelError, NotFound, nearest
from velodrome.data.labels import LabelCoding, fit_labels
from velodrome.data.sources import read_user_file
from velodrome.store.files import write_atomic

__all__ = ["Started", "write_recipe"]

_KEY_WORDS = ("id", "key", "uuid", "guid")
_DTYPES = (
    (cs.boolean(), "boolean"),
    (cs.integer(), "int64"),
    (cs.float(), "float64"),
    (cs.datetime(), "datetime"),
    (cs.date(), "date"),
    (cs.string(), "string"),
)


class Started(msgspec.Struct, frozen=True):
    """What `init` decided: the recipe's path, the task, the features, and why each other column was left out."""

    recipe: str
    task: str
    rows: int
    features: tuple[str, ...]
    left_out: dict[str, str]


def write_recipe(file: Path, label: str, out: Path, *, force: bool = False) -> Started:
    """Write a recipe to `out` that predicts `label` from the useful columns of `file`.

    Raises:
        SourceError: the file is missing or cannot be read.
        NotFound: there is no such label column.
        LabelError: the label cannot be learned.
        ConfigurationError: `out` is there already and `force` is off.
    """
    if out.exists() and not force:
        raise ConfigurationError(
            "there is a recipe already", received=str(out), remedy="name another with --out, or replace it with --force"
        )
    frame = read_user_file(file)
    if label not in frame.columns:
        raise NotFound("the file has no such column", received=label, remedy=nearest(label, frame.columns))
    labelled = frame.filter(pl.col(label).is_not_null())
    coding = _coding(labelled[label])
    left_out = {name: reason for name in frame.columns if name != label and (reason := _why_not(frame[name]))}
    features = [name for name in frame.columns if name != label and name not in left_out]
    if not features:
        raise DataError(
            "no column of the file can be learned from",
            received="; ".join(f"{name}: {why}" for name, why in left_out.items()),
        )
    write_atomic(out, _recipe_text(file, frame, labelled[label], features, coding, _key(frame, label)).encode())
    return Started(str(out), coding.task, frame.height, tuple(features), left_out)


def _coding(label: pl.Series) -> LabelCoding:
    coding, why = fit_labels(label, "auto"), _why_not(label)
    if why and coding.task == "multiclass":
        raise LabelError(f"the label {label.name!r} cannot be learned", received=why, remedy="take another label")
    return coding


def _why_not(column: pl.Series) -> str | None:
    """Why a column is no feature, or None if it is one."""
    present = column.drop_nulls()
    distinct = present.n_unique()
    if distinct <= 1:
        return "it has one value" if distinct else "it is empty"
    if not any(column.name in column.to_frame().select(kind).columns for kind, _ in _DTYPES):
        return f"its type {column.dtype} is not supported"
    if _is_identifier(column, distinct):
        return "each row has its own value: an identifier"
    if column.dtype == pl.String and distinct > max(50, len(present) // 2):
        return "nearly every row has its own text"
    return None


def _is_identifier(column: pl.Series, distinct: int) -> bool:
    named = column.name.lower() in _KEY_WORDS or column.name.lower().endswith(
        tuple(f"{mark}{word}" for word in _KEY_WORDS for mark in "_- ")
    )
    counted = (
        column.dtype.is_integer()
        and len(column) > 20
        and distinct == len(column)
        and bool((column.diff().drop_nulls() == 1).all())
    )
    return distinct == len(column) and (named or counted)


def _key(frame: pl.DataFrame, label: str) -> str | None:
    keys = [
        name
        for name in frame.columns
        if name != label and _is_identifier(frame[name], frame[name].n_unique()) and not frame[name].has_nulls()
    ]
    return keys[0] if keys else None


def _dtype(column: pl.Series) -> str:
    return next(name for kind, name in _DTYPES if column.to_frame().select(kind).columns)


def _recipe_text(
    file: Path, frame: pl.DataFrame, label: pl.Series, features: list[str], coding: LabelCoding, key: str | None
) -> str:
    task = coding.task
    types = {name: _dtype(frame[name]) for name in [*features, label.name]}
    estimator = "HistGradientBoostingRegressor" if task == "regression" else "HistGradientBoostingClassifier"
    return _TEMPLATE.format(
        summary=_in_a_docstring(f"Predicts {label.name} from {file.name}."),
        label=_quoted(label.name),
        estimator=estimator,
        name=_slug(file.name.split(".")[0]),
        path=_quoted(_shown_path(file)),
        key=f"    key={_quoted(key)},\n" if key else "",
        types=_lines((f"{_quoted(name)}: {_quoted(kind)}" for name, kind in types.items()), indent=20),
        unique=f"            vd.Unique({_quoted(key)}),\n" if key else "",
        features=_lines(map(_quoted, features), indent=8),
        gate=_baseline(label, task),
        metric={"binary": "roc_auc", "multiclass": "accuracy", "regression": "rmse"}[task],
        margin=_margin(label, task),
        task=task,
        classes=f"  # `probability` is that of {coding.classes[1]!r}" if task == "binary" else "",
    )


def _baseline(label: pl.Series, task: str) -> str:
    """The gate that a model without knowledge would just miss."""
    if task == "regression":
        return f'vd.AtMost("rmse", {_spread(label):.6g}),  # always saying the mean has about this error'
    if task == "multiclass":
        share = float(label.value_counts()["count"].max() or 0) / len(label)  # type: ignore[arg-type]
        return f'vd.AtLeast("accuracy", {share:.4f}),  # always saying the most frequent class has this accuracy'
    return 'vd.AtLeast("roc_auc", 0.5),  # guessing has 0.5'


def _margin(label: pl.Series, task: str) -> str:
    """By how much a newcomer may be worse than the champion: 0.02 of a share, or a twentieth of the label's spread."""
    return f"{_spread(label) / 20:.6g}" if task == "regression" else "0.02"


def _spread(label: pl.Series) -> float:
    return float(label.cast(pl.Float64).std() or 0.0)  # type: ignore[arg-type]


def _shown_path(file: Path) -> str:
    absolute, here = file.resolve(), Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.as_posix()


def _slug(text: str) -> str:
    words = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in text.lower()).split()
    return "-".join(words) or "model"


def _quoted(text: str) -> str:
    """A string of Python in double quotes, as formatters like it."""
    return json.dumps(text, ensure_ascii=False)


def _in_a_docstring(text: str) -> str:
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")


def _lines(items: Iterable[str], indent: int) -> str:
    return "".join(f"{' ' * indent}{item},\n" for item in items)


_TEMPLATE = '''"""{summary} Written by `velodrome init`; it is yours to change.

    velodrome run THIS_FILE            train, judge, approve
    velodrome predict {name} IN --out OUT
"""

from sklearn.ensemble import {estimator}

import velodrome as vd

data = vd.Dataset(
    "{name}",
    source=vd.Files({path}),  # a glob takes many files; a later run reads only new ones
{key}    # What the data must be. A row that breaks a rule goes to quarantine with its reason (action="warn" or "stop" differ).
    contract=vd.Contract(
        [
            vd.Types(
                {{
{types}                }}
            ),
            vd.NotNull({label}),
{unique}        ]
    ),
)

recipe = vd.Recipe(
    "{name}",
    data=data,
    label={label},
    task="{task}",{classes}
    # Only these columns reach the model: take out what is not known at the time of the prediction.
    features=[
{features}    ],
    # Fitted on the training rows only; saved with the model.
    prepare=[vd.Calendar(), vd.Impute(), vd.Encode()],
    # With a time column, vd.TimeSplit(validation="7d", test="14d") judges on the newest rows instead.
    split=vd.RandomSplit(validation=0.1, test=0.2),
    learner=vd.Sklearn({estimator}(max_iter=200, learning_rate=0.05)),
    evaluation=vd.Evaluation("{metric}"),
    gates=[
        {gate}
        vd.NotWorse("champion", by={margin}),
    ],
    refit=True,  # once the gates are passed: the same recipe on all rows
    operate=vd.Operate(approval=vd.PolicyApproval("passed-gates")),  # vd.PersonApproval() waits for you
)
'''
