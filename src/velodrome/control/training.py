"""One training run, found or done: the run's record, its attempts, its artifact and outcome.

A kill at any point leaves a run that is not finished; the same call finds it by its key and goes on from its newest checkpoint.
"""

from dataclasses import dataclass

from velodrome.control.declaring import Declared
from velodrome.core.digest import Digest
from velodrome.core.errors import VelodromeError
from velodrome.core.extras import load
from velodrome.core.logging import bind
from velodrome.core.values import describe
from velodrome.data.labels import LabelCoding
from velodrome.data.training_set import TrainingSet, build_training_set
from velodrome.evaluation.gates import check_gates
from velodrome.evaluation.report import Evaluation, plan_metrics
from velodrome.models.manifest import Manifest, save
from velodrome.recipe import Recipe
from velodrome.registry.provenance import collect_provenance
from velodrome.registry.runs import Outcome, Run, begin_attempt, fail, find_by_key, finish, outcome_of, start
from velodrome.registry.series import history_digest
from velodrome.registry.series_writer import SeriesWriter
from velodrome.registry.tags import tag
from velodrome.store.ledger import Put, digest_record
from velodrome.store.workspace import Workspace
from velodrome.training.learners import learner_kind
from velodrome.training.work import Fitted, Work

__all__ = ["Trained", "train"]


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


def train(ws: Workspace, declared: Declared, *, judge: Trained | None = None, fresh: bool = False) -> Trained:
    """The finished run of what was declared, or its refit on all rows when `judge` is given.

    Raises:
        DataError, TrainingError, ArtifactError: the run is recorded as failed, with the reason; what is earlier stays.
    """
    key = declared.key if judge is None else declared.refit_key(judge.outcome.steps)
    run = None if fresh else find_by_key(ws, key)
    outcome = outcome_of(ws, run.id) if run else None
    if run and outcome:
        _tag(ws, declared, run)
        return Trained(run, outcome, found=True)
    run = run or _start(ws, declared, key, judge)
    _tag(ws, declared, run)
    attempt = begin_attempt(ws, run.id)
    with bind(run=run.id, attempt=attempt):
        try:
            return Trained(run, _execute(ws, declared, run, attempt, judge), found=False)
        except Exception as error:
            problem = error.problem if isinstance(error, VelodromeError) else str(error)
            fail(ws, run.id, type(error).__name__, problem)
            raise


def _start(ws: Workspace, declared: Declared, key: Digest, judge: Trained | None) -> Run:
    provenance = collect_provenance(ws, declared.source.root)
    ws.commit(Put(provenance))
    recipe = declared.recipe
    run = Run(
        id=ws.new_id(),
        name=recipe.name,
        key=key,
        type="refit" if judge else "train",
        snapshot=declared.taken.digest,
        code=declared.code.code,
        environment=declared.environment,
        provenance=digest_record(provenance),
        recipe=describe(recipe),
        seed=declared.seed,
        owner=recipe.owner,
        judge=judge.run.id if judge else None,
    )
    return start(ws, run)


def _tag(ws: Workspace, declared: Declared, run: Run) -> None:
    if declared.tags:
        tag(ws, run.id, declared.tags)


def _execute(ws: Workspace, declared: Declared, run: Run, attempt: int, judge: Trained | None) -> Outcome:
    begun = ws.clock.monotonic()
    rows = build_training_set(ws, declared.taken.snapshot, declared.ingredients(everything=judge is not None))
    _check_plan(declared.recipe, rows.coding)
    recorder = SeriesWriter(ws, run.id, attempt)
    try:
        fitted = load(f"learner:{learner_kind(declared.recipe.learner)}").fit(
            _work(ws, declared, run, attempt, rows, recorder, judge)
        )
    finally:
        recorder.close()
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
    )
    finish(ws, run.id, outcome)
    return outcome


def _work(
    ws: Workspace,
    declared: Declared,
    run: Run,
    attempt: int,
    rows: TrainingSet,
    recorder: SeriesWriter,
    judge: Trained | None,
) -> Work:
    return Work(
        ws=ws,
        run=run.id,
        attempt=attempt,
        seed=declared.seed,
        learner=declared.recipe.learner,
        layout=rows.layout,
        train=rows.train,
        validation=rows.validation,
        task=rows.coding.task,
        classes=len(rows.coding.classes),
        recorder=recorder,
        steps=judge.outcome.steps if judge else None,
        planned_steps=judge.outcome.planned_steps if judge else None,
    )


def _manifest(declared: Declared, run: Run, rows: TrainingSet, fitted: Fitted) -> Manifest:
    return Manifest(
        family=fitted.family,
        task=rows.coding.task,
        classes=rows.coding.classes,
        preparation=rows.preparation,
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
