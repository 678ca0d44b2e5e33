"""One training run, found or done: the run's record, its attempts, its artifact and outcome.

A kill at any point leaves a run that is not finished; the same call finds it by its key and goes on from its newest checkpoint.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from velodrome.control.declaring import Declared
from velodrome.core.digest import Digest, digest_json
from velodrome.core.errors import Diverged, StorageError
from velodrome.core.extras import load
from velodrome.core.logging import bind
from velodrome.core.values import describe
from velodrome.data.labels import LabelCoding
from velodrome.data.own_set import build_own_set
from velodrome.data.own_snapshots import OwnTaken
from velodrome.data.training_set import TrainingSet, build_training_set
from velodrome.evaluation.gates import check_gates
from velodrome.evaluation.report import Evaluation, plan_metrics
from velodrome.models.manifest import Manifest, save
from velodrome.recipe import Recipe
from velodrome.registry.provenance import collect_provenance
from velodrome.registry.runs import (
    Outcome,
    Run,
    begin_attempt,
    fail,
    find_by_key,
    finish,
    missing_of,
    outcome_of,
    record_failure,
    start,
)
from velodrome.registry.series import history_digest
from velodrome.registry.series_writer import SeriesWriter
from velodrome.registry.tags import tag
from velodrome.registry.time_spent import TIME, Spent
from velodrome.store.ledger import Append, Put, digest_record
from velodrome.store.workspace import Workspace
from velodrome.training.accounting import Stopwatch
from velodrome.training.learners import learner_kind
from velodrome.training.work import Fitted, Histories, RollBack, Work, require_items

__all__ = ["Assignment", "Trained", "prepared_rows", "train"]

_ROLLBACKS = 10


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run; `found` says that it was finished before."""

    run: Run
    outcome: Outcome
    found: bool

    @property
    def artifact(self) -> Digest:
        """The trained model; every run of a recipe has one."""
        assert self.outcome.artifact is not None
        return self.outcome.artifact


def train(
    ws: Workspace,
    declared: Declared,
    *,
    judge: Trained | None = None,
    fresh: bool = False,
    again: Run | None = None,
    allow_missing: tuple[str, ...] = (),
    profile: Path | None = None,
) -> Trained:
    """The finished run of what was declared, or its refit on all rows when `judge` is given.

    Args:
        again: the run that this one reproduces.
        allow_missing: what a checkpoint may lack (`velodrome.training.work.ITEMS`).
        profile: where a trace of some steps goes.

    Raises:
        NotFound: `allow_missing` names what no checkpoint has.
        DataError, TrainingError, ArtifactError: the run is recorded as failed, with the reason; what is earlier stays.
    """
    require_items(allow_missing)
    key = declared.key if judge is None else declared.refit_key(judge.outcome.steps)
    if again:
        key = digest_json({"kind": "reproduction", "run": again.id, "key": key})
    run = None if fresh else find_by_key(ws, key)
    outcome = outcome_of(ws, run.id) if run else None
    if run and outcome:
        _tag(ws, declared, run)
        return Trained(run, outcome, found=True)
    run = run or _start(ws, declared, key, judge, again)
    _tag(ws, declared, run)
    assignment = Assignment(ws, declared, run, judge, allow_missing, profile)
    while True:
        try:
            return Trained(run, assignment.attempt(), found=False)
        except RollBack as wanted:
            if len(assignment.passed_over) == _ROLLBACKS:
                fail(ws, run.id, Diverged.__name__, wanted.problem)
                raise Diverged(
                    f"{wanted.problem}, after {_ROLLBACKS} others that the run rolled back for",
                    received=wanted.received,
                    remedy=wanted.remedy,
                ) from wanted
            assignment = replace(assignment, passed_over=(*assignment.passed_over, wanted.step))


def _start(ws: Workspace, declared: Declared, key: Digest, judge: Trained | None, again: Run | None) -> Run:
    provenance = collect_provenance(ws, declared.source.root)
    ws.commit(Put(provenance))
    recipe = declared.recipe
    run = Run(
        id=ws.new_id(),
        name=recipe.name,
        key=key,
        type="reproduction" if again else "refit" if judge else "train",
        snapshot=declared.taken.digest,
        code=declared.code.code,
        entry=declared.source.entry,
        environment=declared.environment,
        provenance=digest_record(provenance),
        recipe=describe(recipe),
        seed=declared.seed,
        owner=recipe.owner,
        judge=judge.run.id if judge else None,
        reproduces=again.id if again else None,
    )
    return start(ws, run)


def _tag(ws: Workspace, declared: Declared, run: Run) -> None:
    if declared.tags:
        tag(ws, run.id, declared.tags)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A run that is to be executed: everything that its learner needs to be told."""

    ws: Workspace
    declared: Declared
    run: Run
    judge: Trained | None = None
    allow_missing: tuple[str, ...] = ()
    profile: Path | None = None
    passed_over: tuple[int, ...] = ()

    def attempt(self) -> Outcome:
        """One more attempt, recorded whatever becomes of it."""
        attempt, watch = begin_attempt(self.ws, self.run.id), Stopwatch(self.ws.clock.monotonic)
        with bind(run=self.run.id, attempt=attempt):
            try:
                return self._execute(attempt, watch)
            except RollBack:
                self._account(attempt, watch)
                raise
            except Exception as error:
                record_failure(self.ws, self.run.id, error)
                with suppress(StorageError):  # the error that is on its way is the cause
                    self._account(attempt, watch)
                raise

    def rows(self) -> TrainingSet:
        """The prepared rows that the run learns from."""
        return prepared_rows(self.ws, self.declared, everything=self.judge is not None)

    def work(self, rows: TrainingSet, attempt: int, recorder: Histories, watch: Stopwatch) -> Work:
        """What the learner is given."""
        ws, declared, judge = self.ws, self.declared, self.judge
        return Work(
            ws=ws,
            run=self.run.id,
            attempt=attempt,
            seed=declared.seed,
            learner=declared.recipe.learner,
            layout=rows.layout,
            train=rows.train,
            validation=rows.validation,
            device=ws.config.device,
            task=rows.coding.task,
            classes=len(rows.coding.classes),
            recorder=recorder,
            watch=watch,
            tell=partial(_tell, ws, self.run.id),
            steps=judge.outcome.steps if judge else None,
            planned_steps=judge.outcome.planned_steps if judge else None,
            passed_over=self.passed_over,
            allow_missing=self.allow_missing,
            profile=self.profile,
        )

    def _account(self, attempt: int, watch: Stopwatch) -> None:
        watch.lap(Spent.OTHER)
        _tell(self.ws, self.run.id, TIME, {"attempt": attempt, "seconds": watch.spent()})

    def _execute(self, attempt: int, watch: Stopwatch) -> Outcome:
        ws, declared, run = self.ws, self.declared, self.run
        begun, rows = ws.clock.monotonic(), self.rows()
        _check_plan(declared.recipe, rows.coding)
        recorder = SeriesWriter(ws, run.id, attempt)
        try:
            fitted = load(f"learner:{learner_kind(declared.recipe.learner)}").fit(
                self.work(rows, attempt, recorder, watch)
            )
        finally:
            report = recorder.close()
        report.require_whole()
        artifact = save(ws, _manifest(declared, run, rows, fitted), fitted.files)
        outcome = Outcome(
            run=run.id,
            artifact=artifact,
            steps=fitted.steps,
            planned_steps=fitted.planned_steps,
            rows=len(rows.train),
            seconds=ws.clock.monotonic() - begun,
            weights=fitted.weights,
            history=history_digest(ws, run.id),
            samples=fitted.samples or None,
            missing=missing_of(ws, run.id),
        )
        self._account(attempt, watch)
        finish(ws, run.id, outcome)
        return outcome


def prepared_rows(ws: Workspace, declared: Declared, *, everything: bool = False) -> TrainingSet:
    """The prepared rows of what was declared, whether of files or of data of one's own.

    Args:
        everything: train on all rows, as a refit does.
    """
    taken, made_from = declared.taken, declared.ingredients(everything=everything)
    if isinstance(taken, OwnTaken):
        return build_own_set(ws, taken, made_from)
    return build_training_set(ws, taken.snapshot, made_from)


def _tell(ws: Workspace, run_id: str, type_: str, body: dict[str, Any]) -> None:
    ws.commit(Append(f"run:{run_id}", type_, body))


def _manifest(declared: Declared, run: Run, rows: TrainingSet, fitted: Fitted) -> Manifest:
    return Manifest(
        family=fitted.family,
        task=rows.coding.task,
        classes=rows.coding.classes,
        preparation=rows.preparation,
        inputs=() if rows.preparation else rows.layout.fields,
        environment=declared.environment,
        run=run.id,
        snapshot=declared.taken.digest,
        extra=fitted.extra,
    )


def _check_plan(recipe: Recipe, coding: LabelCoding) -> None:
    """Refuse metrics and gates that could never be judged, before anything is trained.

    Raises:
        NotFound, RecipeError: a metric that does not exist or does not fit, a gate on what the report will not hold.
    """
    plan = recipe.evaluation or Evaluation()
    metrics = list(plan_metrics(plan, coding.task))
    check_gates(recipe.gates, metrics=metrics, primary=metrics[0], cohorts=plan.cohorts)
