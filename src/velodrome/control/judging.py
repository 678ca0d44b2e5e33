"""Judging a trained model on the test rows: its report, the comparison with the champion on the same rows, the gates' verdicts."""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.control.declaring import Declared
from velodrome.control.training import Trained
from velodrome.core.digest import Digest, digest_json
from velodrome.core.values import describe
from velodrome.data.labels import LabelCoding, encode_labels
from velodrome.data.training_set import test_rows
from velodrome.evaluation.gates import Comparison, NotWorse, Verdict, compare, judge
from velodrome.evaluation.report import Evaluation, Report, evaluate, plan_metrics
from velodrome.models.manifest import read_manifest
from velodrome.models.predictor import load_artifact
from velodrome.registry.runs import get_run, outcome_of
from velodrome.registry.versions import Version, find_alias
from velodrome.store.ledger import Link, Move, Put, digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = ["Judged", "judge_run"]


class Judged(msgspec.Struct, frozen=True):
    """The report of a run and what the gates say to it."""

    report: Digest
    figures: Report
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class _Examination:
    """What a run, and whoever it is compared with, is examined on."""

    plan: Evaluation
    coding: LabelCoding
    rows: pl.DataFrame
    target: npt.NDArray[Any]
    days: npt.NDArray[np.int64] | None
    seed: int

    def score(self, ws: Workspace, artifact: Digest) -> npt.NDArray[Any]:
        return load_artifact(ws, artifact).score(self.rows)


def judge_run(ws: Workspace, declared: Declared, trained: Trained) -> Judged:
    """Evaluate the run on the test rows (or find its report) and ask the gates."""
    examination = _examination(ws, declared, trained)
    report = _report(ws, declared, trained, examination)
    figures = read_record(ws.ledger, report, Report)
    return Judged(
        report, figures, judge(declared.recipe.gates, figures, _comparisons(ws, declared, trained, examination))
    )


def _examination(ws: Workspace, declared: Declared, trained: Trained) -> _Examination:
    manifest = read_manifest(ws, trained.artifact)
    coding = LabelCoding(manifest.task, manifest.classes)
    plan, time = declared.recipe.evaluation or Evaluation(), declared.recipe.data.time
    rows = test_rows(ws, declared.taken.snapshot, declared.ingredients(), plan.cohorts)
    days = rows[time].dt.epoch("d").to_numpy() if time and plan.by == "days" else None
    return _Examination(plan, coding, rows, encode_labels(coding, rows[declared.recipe.label]), days, declared.seed)


def _report(ws: Workspace, declared: Declared, trained: Trained, on: _Examination) -> Digest:
    subject = f"report:{trained.run.id}:{digest_json(describe(on.plan))}"
    known = ws.ledger.pointer(subject)
    if known and known.value:
        return Digest(known.value)
    cohorts = {column: _texts(on.rows[column]) for column in on.plan.cohorts}
    prediction = on.score(ws, trained.artifact)
    report = evaluate(on.plan, on.coding.task, on.target, prediction, cohorts, seed=on.seed, groups=on.days)
    digest, run = digest_record(report), f"run:{trained.run.id}"
    ws.commit(
        Put(report, declared.recipe.name), Link(run, digest, "report"), Move(subject, None, digest, "run.evaluated")
    )
    return digest


def _comparisons(ws: Workspace, declared: Declared, trained: Trained, on: _Examination) -> list[Comparison]:
    found = []
    for gate in declared.recipe.gates:
        other = find_alias(ws, declared.recipe.name, gate.than) if isinstance(gate, NotWorse) else None
        if isinstance(gate, NotWorse) and other:
            metrics = plan_metrics(on.plan, on.coding.task)
            metric = metrics[gate.metric] if gate.metric else next(iter(metrics.values()))
            scores = (on.score(ws, trained.artifact), on.score(ws, _judged_artifact(ws, other)))
            found.append(
                compare(
                    gate.than,
                    metric,
                    on.target,
                    *scores,
                    seed=on.seed,
                    resamples=on.plan.resamples,
                    level=on.plan.level,
                    groups=on.days,
                )
            )
    return found


def _judged_artifact(ws: Workspace, version: Version) -> Digest:
    """The artifact that may be compared on test rows: a refit saw them, so its judge stands for it."""
    run = get_run(ws, version.run)
    judged = outcome_of(ws, run.judge) if run.judge else None
    return judged.artifact if judged and judged.artifact else version.artifact


def _texts(column: pl.Series) -> npt.NDArray[np.object_]:
    return column.cast(pl.String).fill_null("(missing)").to_numpy()
