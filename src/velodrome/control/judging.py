"""Judging a trained model on the test rows: its report, the comparison with the champion on the same rows, the gates' verdicts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.control.declaring import Declared
from velodrome.control.training import Trained
from velodrome.core.digest import Digest, digest_json
from velodrome.core.errors import SchemaError
from velodrome.core.values import describe
from velodrome.data.labels import LabelCoding, encode_labels
from velodrome.data.own_set import own_test
from velodrome.data.own_snapshots import OwnTaken, keys_of, read_snapshot
from velodrome.data.training_set import test_keys, test_rows
from velodrome.evaluation.gates import Comparison, NotWorse, Verdict, compare, judge
from velodrome.evaluation.report import Evaluation, Report, evaluate, plan_metrics
from velodrome.models.manifest import read_manifest
from velodrome.models.predictor import load_artifact
from velodrome.recipe import Recipe
from velodrome.registry.runs import get_run, outcome_of, record_report
from velodrome.registry.versions import CHAMPION, Version, find_alias
from velodrome.store.ledger import Move, digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = ["Judged", "judge_run"]


class Judged(msgspec.Struct, frozen=True):
    """The report of a run and what the gates say to it.

    Attributes:
        champion: the version it was compared with, by reference; None where there was none.
        comparisons: with the champion by the primary metric, and what the gates asked for besides.
    """

    report: Digest
    figures: Report
    verdicts: tuple[Verdict, ...]
    champion: str | None
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class _Examination:
    """What a run, and whoever it is compared with, is examined on.

    Attributes:
        rows: read and give the test rows, in pieces; keys: what identifies them.
        cohorts: a text for each row, by column.
    """

    plan: Evaluation
    coding: LabelCoding
    rows: Callable[[], Iterator[pl.DataFrame | Mapping[str, Any]]]
    target: npt.NDArray[Any]
    cohorts: Mapping[str, npt.NDArray[np.object_]]
    days: npt.NDArray[np.int64] | None
    keys: Callable[[], npt.NDArray[np.uint64]]
    seed: int

    def score(self, ws: Workspace, artifact: Digest) -> npt.NDArray[Any]:
        model = load_artifact(ws, artifact)
        return np.concatenate([model.score(rows) for rows in self.rows()])


def judge_run(ws: Workspace, declared: Declared, trained: Trained) -> Judged:
    """Evaluate the run on the test rows (or find its report) and ask the gates."""
    others = _others(ws, declared.recipe)
    examination = _examination(ws, declared, trained, others.values())
    report = _report(ws, declared, trained, examination)
    figures = read_record(ws.ledger, report, Report)
    scores, incomparable = _scores(ws, examination, others)
    comparisons = _comparisons(ws, declared, trained, examination, scores)
    champion = others.get(CHAMPION)
    verdicts = judge(declared.recipe.gates, figures, comparisons, incomparable)
    return Judged(report, figures, verdicts, champion.reference if champion else None, comparisons)


def _others(ws: Workspace, recipe: Recipe) -> dict[str, Version]:
    """The versions that a run is compared with, by alias: the champion, and those that gates name."""
    aliases = dict.fromkeys([CHAMPION, *(gate.than for gate in recipe.gates if isinstance(gate, NotWorse))])
    found = {alias: find_alias(ws, recipe.name, alias) for alias in aliases}
    return {alias: version for alias, version in found.items() if version}


def _examination(ws: Workspace, declared: Declared, trained: Trained, others: Iterable[Version]) -> _Examination:
    manifest = read_manifest(ws, trained.artifact)
    coding, taken = LabelCoding(manifest.task, manifest.classes), declared.taken
    if isinstance(taken, OwnTaken):
        return _own_examination(ws, declared, taken, coding)
    plan, time = declared.recipe.evaluation or Evaluation(), declared.recipe.data.time
    known = {column.name for column in taken.snapshot.columns}
    inputs = [name for other in others for name in read_manifest(ws, other.artifact).reads if name in known]
    rows = test_rows(ws, taken.snapshot, declared.ingredients(), [*plan.cohorts, *inputs])
    return _Examination(
        plan=plan,
        coding=coding,
        rows=lambda: iter([rows]),
        target=encode_labels(coding, rows[declared.recipe.label]),
        cohorts={column: _texts(rows[column]) for column in plan.cohorts},
        days=rows[time].dt.epoch("d").to_numpy() if time and plan.by == "days" else None,
        keys=lambda: test_keys(ws, taken.snapshot, declared.ingredients()),
        seed=declared.seed,
    )


def _own_examination(ws: Workspace, declared: Declared, taken: OwnTaken, coding: LabelCoding) -> _Examination:
    plan, test = declared.recipe.evaluation or Evaluation(), own_test(ws, taken, declared.ingredients())
    return _Examination(
        plan=plan,
        coding=coding,
        rows=test.batches,
        target=encode_labels(coding, test.labels),
        cohorts={},
        days=test.days if plan.by == "days" else None,
        keys=lambda: test.keys,
        seed=declared.seed,
    )


def _report(ws: Workspace, declared: Declared, trained: Trained, on: _Examination) -> Digest:
    subject = f"report:{trained.run.id}:{digest_json(describe(on.plan))}"
    known = ws.ledger.pointer(subject)
    if known and known.value:
        return Digest(known.value)
    prediction = on.score(ws, trained.artifact)
    report = evaluate(on.plan, on.coding.task, on.target, prediction, on.cohorts, seed=on.seed, groups=on.days)
    evaluated = Move(subject, None, digest_record(report), "run.evaluated")
    return record_report(ws, trained.run.id, report, evaluated, name=declared.recipe.name)


def _scores(
    ws: Workspace, on: _Examination, others: Mapping[str, Version]
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """What the others predict, by alias; and why one cannot: data or classes are not those that it knows."""
    scores, incomparable = {}, {}
    keys = on.keys() if others else np.empty(0, np.uint64)
    for alias, other in others.items():
        manifest = read_manifest(ws, other.artifact)
        if (manifest.task, manifest.classes) != (on.coding.task, on.coding.classes):
            incomparable[alias] = f"{other.reference} predicts {_classes(manifest.task, manifest.classes)}"
            continue
        try:
            scores[alias] = on.score(ws, _fair_artifact(ws, other, keys))
        except SchemaError as error:
            incomparable[alias] = f"{other.reference} cannot read the data: {error.problem}"
    return scores, incomparable


def _classes(task: str, classes: tuple[Any, ...]) -> str:
    return f"{task}, {', '.join(map(str, classes))}" if classes else task


def _comparisons(
    ws: Workspace, declared: Declared, trained: Trained, on: _Examination, scores: Mapping[str, npt.NDArray[Any]]
) -> tuple[Comparison, ...]:
    if not scores:
        return ()
    metrics = plan_metrics(on.plan, on.coding.task)
    primary = next(iter(metrics))
    asked = [(gate.than, gate.metric or primary) for gate in declared.recipe.gates if isinstance(gate, NotWorse)]
    pairs = [pair for pair in dict.fromkeys([(CHAMPION, primary), *asked]) if pair[0] in scores]
    own = on.score(ws, trained.artifact)
    return tuple(
        compare(
            alias,
            metrics[metric],
            on.target,
            own,
            scores[alias],
            seed=on.seed,
            resamples=on.plan.resamples,
            level=on.plan.level,
            groups=on.days,
        )
        for alias, metric in pairs
    )


def _fair_artifact(ws: Workspace, version: Version, keys: npt.NDArray[np.uint64]) -> Digest:
    """What stands for a version on test rows: itself, unless it is a refit that saw one of them; then its judge."""
    run = get_run(ws, version.run)
    judged = outcome_of(ws, run.judge) if run.judge else None
    if judged is None or judged.artifact is None or run.snapshot is None:
        return version.artifact
    seen = keys_of(ws, read_snapshot(ws, run.snapshot))
    return judged.artifact if np.isin(keys, seen).any() else version.artifact


def _texts(column: pl.Series) -> npt.NDArray[np.object_]:
    return column.cast(pl.String).fill_null("(missing)").to_numpy()
