"""Was it really so? A run's steps, or all of it, done again from its record alone, and compared bit by bit.

Nothing of the present project is used: the code comes from the run's own tree, the rows from its snapshot, the seed and the
settings from its record. `prove` restores a checkpoint and does some steps again; `reproduce` does the whole run again, as a run
of its own that points at the first. What another environment does is another question, so a different one is named, and used
only on request.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from velodrome.control.declaring import Declared
from velodrome.control.recorded import recorded
from velodrome.control.training import train
from velodrome.core.errors import ConfigurationError, NotFound, StateError
from velodrome.core.extras import load
from velodrome.registry.differences import flatten
from velodrome.registry.environment import Environment
from velodrome.registry.runs import Run, get_run, not_reproducible, outcome_of
from velodrome.registry.series import read_histories
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace
from velodrome.training.accounting import Stopwatch
from velodrome.training.checkpoints import Checkpoint, checkpoints_of
from velodrome.training.learners import learner_kind
from velodrome.training.work import Unrecorded, forget

__all__ = ["Proof", "Reproduction", "prove", "reproduce"]

_COMPARED = ("loss", "gradient_norm", "lr", "step_digest")


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What doing steps again said.

    Attributes:
        checkpoint: the step whose state they began from; steps: how many were done again.
        differs: the first step that came out differently, with what it was and what it is now; None: all are equal.
        environment: what is another here than it was, by name: (then, now).
    """

    run: str
    checkpoint: int
    steps: int
    differs: int | None
    then: dict[str, float]
    now: dict[str, float]
    environment: dict[str, tuple[Any, Any]]

    @property
    def holds(self) -> bool:
        return self.differs is None


class Reproduction(msgspec.Struct, frozen=True, kw_only=True):
    """What doing a whole run again said.

    Attributes:
        by: id of the run that did; None where another environment stopped it before.
        differs: what is not the same: "weights", "history", "samples", "steps".
        first: the first step whose figures differ.
        environment: what is another here than it was, by name: (then, now).
    """

    run: str
    by: str | None
    differs: tuple[str, ...]
    first: int | None
    environment: dict[str, tuple[Any, Any]]

    @property
    def identical(self) -> bool:
        return self.by is not None and not self.differs


def prove(ws: Workspace, reference: str, *, steps: int = 20, checkpoint: int | None = None) -> Proof:
    """Do `steps` steps of a run again, from its newest checkpoint before them, and compare each with the record.

    Args:
        checkpoint: the step of the checkpoint to begin from; None: the oldest that is kept and is followed by a step.

    Raises:
        NotFound: no such run, no checkpoint, or none that a step follows. ConfigurationError: no steps are asked for, or the run's
            record does not lead to a recipe.
    """
    if steps < 1:
        raise ConfigurationError("a proof is of 1 step or more", received=steps, remedy="for example --steps 20")
    run = get_run(ws, reference)
    before = {
        name: dict(zip(each.steps.tolist(), each.values.tolist(), strict=True)) for name, each in _values(ws, run)
    }
    begin = _chosen(ws, run, checkpoint, max(before.get("loss", {0: 0.0})))
    with recorded(ws, run) as assignment:
        watch, kept = Stopwatch(ws.clock.monotonic), Unrecorded()
        work = assignment.work(assignment.rows(), 0, kept, watch)
        work = replace(work, passed_over=_rolled_back(ws, run), tell=forget)
        load(f"learner:{learner_kind(work.learner)}").repeat(work, begin.step, steps)
    differs = _first_difference(kept.values, before)
    return Proof(
        run=run.id,
        checkpoint=begin.step,
        steps=len(kept.values),
        differs=differs,
        then={name: before[name][differs] for name in _COMPARED if differs in before.get(name, {})} if differs else {},
        now=kept.values.get(differs, {}) if differs else {},
        environment=_other_environment(ws, run, assignment.declared),
    )


def reproduce(ws: Workspace, reference: str, *, anyway: bool = False) -> Reproduction:
    """Do the whole run again, as a run of its own, and say whether the result is the same.

    A reproduction that was killed is finished; one that is finished is not done once more.

    Args:
        anyway: also where equal bits cannot be expected: in another environment, or of a run that once went on from less
            than its whole state.

    Raises:
        NotFound: no such run. StateError, ConfigurationError: it is not finished, or its record does not lead to a recipe.
    """
    run = get_run(ws, reference)
    outcome = outcome_of(ws, run.id)
    if outcome is None:
        raise ConfigurationError(
            "only a finished run can be reproduced", received=run.id, remedy="finish it: run it again"
        )
    if outcome.missing and not anyway:
        raise StateError(
            f"the run {run.id} cannot be reproduced",
            received=not_reproducible(outcome),
            remedy="train it anew with --fresh, or see how far it differs with --anyway",
        )
    with recorded(ws, run) as assignment:
        other = _other_environment(ws, run, assignment.declared)
        if other and not anyway:
            return Reproduction(run=run.id, by=None, differs=(), first=None, environment=other)
        done = train(ws, assignment.declared, judge=assignment.judge, again=run)
    fields = ("weights", "history", "samples", "steps")
    differs = tuple(name for name in fields if getattr(done.outcome, name) != getattr(outcome, name))
    return Reproduction(
        run=run.id,
        by=done.run.id,
        differs=differs,
        first=_first_of(ws, run, done.run) if differs else None,
        environment=other,
    )


def _chosen(ws: Workspace, run: Run, step: int | None, last: int) -> Checkpoint:
    known = [each for each in checkpoints_of(ws, run.id) if each.step < last]
    found = [each for each in known if step is None or each.step == step]
    if not found:
        steps = ", ".join(str(each.step) for each in known)
        raise NotFound(
            f"the run {run.id} has no {'checkpoint' if step is None else 'such checkpoint'} that a step follows",
            received=step,
            remedy=f"there are those of steps {steps}" if steps else "none is kept: reproduce the whole run instead",
        )
    return found[0]


def _rolled_back(ws: Workspace, run: Run) -> tuple[int, ...]:
    """The steps (from 0) whose batches the run went back for and did without; a checkpoint of before does not know them."""
    told = [event.body for event in ws.ledger.events(f"run:{run.id}") if event.type == "run.diverged"]
    return tuple(sorted({body["step"] - 1 for body in told if body["then"] == "roll back"}))


def _values(ws: Workspace, run: Run) -> list[tuple[str, Any]]:
    return [(name, series) for name, series in read_histories(ws, run.id).items() if name in _COMPARED]


def _first_difference(now: Mapping[int, Mapping[str, float]], then: Mapping[str, Mapping[int, float]]) -> int | None:
    for step in sorted(now):
        for name in _COMPARED:
            if name in now[step] and not _same(now[step][name], then.get(name, {}).get(step)):
                return step
    return None


def _first_of(ws: Workspace, run: Run, other: Run) -> int | None:
    then = {name: dict(zip(each.steps.tolist(), each.values.tolist(), strict=True)) for name, each in _values(ws, run)}
    now: dict[int, dict[str, float]] = {}
    for name, series in _values(ws, other):
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
            now.setdefault(step, {})[name] = value
    return _first_difference(now, then)


def _same(one: float, other: float | None) -> bool:
    return other is not None and (one == other or (math.isnan(one) and math.isnan(other)))


def _other_environment(ws: Workspace, run: Run, declared: Declared) -> dict[str, tuple[Any, Any]]:
    then, now = (
        flatten(msgspec.to_builtins(read_record(ws.ledger, digest, Environment)))
        for digest in (run.environment, declared.environment)
    )
    return {
        name: (then.get(name), now.get(name))
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    }
