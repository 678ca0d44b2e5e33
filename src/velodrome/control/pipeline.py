"""From a recipe to an approved version: declare, train, judge, ask the gates, refit, register, approve, promote.

Each step finds what it did before, so running the same recipe again does nothing, and running it after a kill does what is left.
"""

from pathlib import Path

import msgspec

from velodrome.control.declaring import Declared, Source, declare
from velodrome.control.judging import Judged, judge_run
from velodrome.control.loading import project_root
from velodrome.control.training import Trained, train
from velodrome.core.digest import Digest, digest_json
from velodrome.core.values import describe
from velodrome.evaluation.gates import Verdict
from velodrome.evaluation.report import Report
from velodrome.recipe import Recipe
from velodrome.registry.approvals import PolicyApproval
from velodrome.registry.versions import (
    Version,
    VersionState,
    approve,
    find_alias,
    move_state,
    promote,
    register,
    resolve,
    state_of,
)
from velodrome.store.ledger import Move, read_record
from velodrome.store.locks import hold
from velodrome.store.workspace import Workspace

__all__ = ["Result", "run"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a recipe came to.

    Attributes:
        found: nothing had to be done: the same run, with the same gates, was recorded before.
        run: id of the run that was judged; `artifact_run` is its refit where there is one.
        report: the figures on the test rows, always those of the judged run.
    """

    model: str
    version: str
    state: str
    champion: bool
    found: bool
    run: str
    artifact_run: str
    key: Digest
    snapshot: Digest
    rows: int
    quarantined: int
    steps: int
    report: Report
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures on the test rows by name, without their intervals."""
        return {name: estimate.value for name, estimate in self.report.metrics.items()}


class _Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was decided about a judged run under certain gates, kept so that it need not be decided again."""

    version: str
    report: Digest
    verdicts: tuple[Verdict, ...]


def run(
    ws: Workspace,
    recipe: Recipe,
    *,
    file: Path | None = None,
    cells: tuple[str, ...] = (),
    seed: int = 0,
    fresh: bool = False,
) -> Result:
    """Do what the recipe says, or what of it is not done yet.

    Args:
        file: the recipe's file; its project's modules are part of what the run is named by. In a notebook `cells` instead.
        fresh: train again although the same run is recorded.

    Raises:
        RunHeld: another process executes the same run.
        VelodromeError: see docs/errors.md; nothing earlier is touched.
    """
    begun = ws.clock.monotonic()
    source = Source(project_root(file), file.resolve()) if file else Source(ws.root, None, cells)
    declared = declare(ws, recipe, source, seed)
    with hold(ws.lock(f"run-{declared.key}"), ws.holder):
        judge = train(ws, declared, fresh=fresh)
        decided = _decision(ws, declared, judge)
        found = judge.found and decided is not None
        decision = decided or _decide(ws, declared, judge, fresh)
    return _result(ws, declared, judge, decision, found, ws.clock.monotonic() - begun)


def _decide(ws: Workspace, declared: Declared, judge: Trained, fresh: bool) -> _Decision:
    judged = judge_run(ws, declared, judge)
    final = train(ws, declared, judge=judge, fresh=fresh) if judged.passed and declared.recipe.refit else judge
    version = register(ws, model=declared.recipe.name, run=final.run.id, artifact=final.artifact, report=judged.report)
    _settle(ws, declared, version, judged)
    decision = _Decision(version.reference, judged.report, judged.verdicts)
    subject = _subject(declared, judge)
    ws.commit(Move(subject, None, msgspec.json.encode(decision).decode(), "run.decided"))
    return decision


def _settle(ws: Workspace, declared: Declared, version: Version, judged: Judged) -> None:
    """Bring a version to where the verdicts and the approval policy put it; each move is skipped if it was made before."""
    reasons = "; ".join(verdict.why for verdict in judged.verdicts) or "the recipe has no gates"
    if state_of(ws, version) is VersionState.DRAFT:
        to = VersionState.CANDIDATE if judged.passed else VersionState.REJECTED
        move_state(ws, version.reference, to, reason=reasons, actor="policy:gates")
    approval = declared.recipe.operate.approval
    if not isinstance(approval, PolicyApproval) or not judged.passed:
        return
    actor = f"policy:{approval.name}"
    if state_of(ws, version) is VersionState.CANDIDATE:
        approve(ws, version.reference, reason=reasons, actor=actor)
    champion = find_alias(ws, version.model, "champion")
    if state_of(ws, version) is VersionState.APPROVED and (champion is None or champion.number < version.number):
        promote(ws, version.reference, reason=reasons, actor=actor)


def _subject(declared: Declared, judge: Trained) -> str:
    recipe = declared.recipe
    terms = digest_json(describe([recipe.evaluation, recipe.gates, recipe.operate, recipe.refit]))
    return f"decision:{judge.run.id}:{terms}"


def _decision(ws: Workspace, declared: Declared, judge: Trained) -> _Decision | None:
    pointer = ws.ledger.pointer(_subject(declared, judge))
    return msgspec.json.decode(pointer.value, type=_Decision) if pointer and pointer.value else None


def _result(
    ws: Workspace, declared: Declared, judge: Trained, decision: _Decision, found: bool, seconds: float
) -> Result:
    version = resolve(ws, decision.version)
    champion = find_alias(ws, version.model, "champion")
    snapshot = declared.taken.snapshot
    return Result(
        model=version.model,
        version=version.reference,
        state=state_of(ws, version).value,
        champion=champion is not None and champion.reference == version.reference,
        found=found,
        run=judge.run.id,
        artifact_run=version.run,
        key=declared.key,
        snapshot=declared.taken.digest,
        rows=snapshot.rows,
        quarantined=snapshot.quarantined,
        steps=judge.outcome.steps,
        report=read_record(ws.ledger, decision.report, Report),
        verdicts=decision.verdicts,
        seconds=seconds,
    )
