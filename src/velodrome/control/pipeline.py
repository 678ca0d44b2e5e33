"""From a recipe to an approved version: declare, train, judge, ask the gates, refit, register, approve, promote.

Each step finds what it did before, so running the same recipe again does nothing, and running it after a kill does what is left.
"""

from pathlib import Path

import msgspec

from velodrome.control.auditing import anchor_if_due
from velodrome.control.declaring import Declared, declare, source_of
from velodrome.control.judging import Judged, judge_run
from velodrome.control.training import Trained, train
from velodrome.core.digest import Digest, digest_json
from velodrome.core.errors import PointerMoved
from velodrome.core.values import describe
from velodrome.data.own_snapshots import OwnSnapshot
from velodrome.evaluation.gates import Comparison, Verdict
from velodrome.evaluation.report import Report
from velodrome.recipe import Recipe
from velodrome.registry.approvals import PolicyApproval
from velodrome.registry.tags import Tags, tag
from velodrome.registry.versions import (
    CHAMPION,
    Version,
    VersionState,
    approve,
    find_alias,
    move_state,
    promote,
    register,
    reject,
    resolve,
    state_of,
    stood_as,
)
from velodrome.store.ledger import Move, read_record
from velodrome.store.locks import hold
from velodrome.store.workspace import Workspace

__all__ = ["Result", "Settlement", "execute", "run", "settlement_of"]

_ATTEMPTS = 5
_GATES = "policy:gates"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a recipe came to.

    Attributes:
        found: nothing had to be done: the same run, with the same gates, was recorded before.
        run: id of the run that was judged; `artifact_run` is its refit where there is one.
        report: the figures on the test rows, always those of the judged run; `report_digest` is its name.
        against: the champion that it was compared with, by reference. comparisons: with it, and as the gates asked.
        arrays: inputs of more than one number for each row, which no CSV or Parquet file is predicted from; the shape of one row.
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
    report_digest: Digest
    verdicts: tuple[Verdict, ...]
    against: str | None
    comparisons: tuple[Comparison, ...]
    arrays: dict[str, tuple[int, ...]] = {}
    seconds: float

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures on the test rows by name, without their intervals."""
        return {name: estimate.value for name, estimate in self.report.metrics.items()}


class Settlement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was decided about a judged run under certain gates, kept so that it need not be decided again.

    Attributes:
        terms: digest of what it was judged and settled by.
        settled: the version was brought to where the verdicts put it.
    """

    version: str
    report: Digest
    verdicts: tuple[Verdict, ...]
    against: str | None = None
    comparisons: tuple[Comparison, ...] = ()
    terms: str = ""
    settled: bool = False

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


def run(
    ws: Workspace,
    recipe: Recipe,
    *,
    file: Path | None = None,
    cells: tuple[str, ...] = (),
    seed: int = 0,
    fresh: bool = False,
    allow_missing: tuple[str, ...] = (),
    profile: Path | None = None,
    tags: Tags | None = None,
) -> Result:
    """Do what the recipe says, or what of it is not done yet.

    Args:
        file: the recipe's file; its project's modules are part of what the run is named by. In a notebook `cells` instead.
        fresh: train again although the same run is recorded.
        allow_missing: what a checkpoint that is restored may lack; the run is then recorded as restored in part.
        profile: where a trace of some steps goes, for Perfetto or Chrome; what is found done has none.
        tags: set on the run that is judged, and on its refit, as soon as they are recorded.

    Raises:
        RunHeld: another process executes the same run.
        VelodromeError: see docs/errors.md; nothing earlier is touched.
    """
    with ws.writing():
        declared = declare(ws, recipe, source_of(ws, file, cells), seed, tags=tags)
        result = execute(ws, declared, fresh=fresh, allow_missing=allow_missing, profile=profile)
        if tags:
            tag(ws, result.artifact_run, tags)  # which may have been there before
        anchor_if_due(ws)
        return result


def execute(
    ws: Workspace,
    declared: Declared,
    *,
    fresh: bool = False,
    allow_missing: tuple[str, ...] = (),
    profile: Path | None = None,
) -> Result:
    """Everything after the declaration. Raises as `run`."""
    begun = ws.clock.monotonic()
    with hold(ws.lock(f"run-{declared.key}"), ws.holder):
        judge = train(ws, declared, fresh=fresh, allow_missing=allow_missing, profile=profile)
        known = settlement_of(ws, judge.run.id)
        done = known is not None and known.settled and known.terms == _terms(declared.recipe)
        decision = known if known and done else _decide(ws, declared, judge, known, fresh)
        found = judge.found and done
    return _result(ws, declared, judge, decision, found, ws.clock.monotonic() - begun)


def settlement_of(ws: Workspace, run: str) -> Settlement | None:
    """The newest decision about a judged run."""
    pointer = ws.ledger.pointer(f"decision:{run}")
    return msgspec.json.decode(pointer.value, type=Settlement) if pointer and pointer.value else None


def _decide(ws: Workspace, declared: Declared, judge: Trained, known: Settlement | None, fresh: bool) -> Settlement:
    """Judge, refit, register, and bring the version to where the verdicts put it.

    What was judged is recorded before anything moves, since after a promotion the champion is the run's own version; and it
    is brought to its end by the terms that it was judged by, though the recipe's are others now. When another champion
    comes meanwhile, the version is judged again beside that one.
    """
    decision = known if known and not known.settled else _judge(ws, declared, judge, known, fresh)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _move(ws, declared, decision)
        except PointerMoved:
            if attempt == _ATTEMPTS:
                raise
            decision = _judge_again(ws, declared, judge, decision)
        else:
            break
    return _record(ws, judge, msgspec.structs.replace(decision, settled=True), decision)


def _judge(ws: Workspace, declared: Declared, judge: Trained, before: Settlement | None, fresh: bool) -> Settlement:
    judged = judge_run(ws, declared, judge)
    final = train(ws, declared, judge=judge, fresh=fresh) if judged.passed and declared.recipe.refit else judge
    version = register(ws, model=declared.recipe.name, run=final.run.id, artifact=final.artifact, report=judged.report)
    return _record(ws, judge, _settlement(declared, version.reference, judged), before)


def _judge_again(ws: Workspace, declared: Declared, judge: Trained, before: Settlement) -> Settlement:
    judged = judge_run(ws, declared, judge)
    return _record(ws, judge, _settlement(declared, before.version, judged), before)


def _settlement(declared: Declared, version: str, judged: Judged) -> Settlement:
    terms = _terms(declared.recipe)
    return Settlement(version, judged.report, judged.verdicts, judged.champion, judged.comparisons, terms)


def _record(ws: Workspace, judge: Trained, decision: Settlement, before: Settlement | None) -> Settlement:
    known = _text(before) if before else None
    type_ = "run.decided" if decision.settled else "run.judged"
    ws.commit(Move(f"decision:{judge.run.id}", known, _text(decision), type_))
    return decision


def _text(decision: Settlement) -> str:
    return msgspec.json.encode(decision).decode()


def _move(ws: Workspace, declared: Declared, decision: Settlement) -> None:
    """The moves that are left; each is skipped if it was made before, though somebody took it back since."""
    version = resolve(ws, decision.version)
    reasons = "; ".join(verdict.why.rstrip(".") for verdict in decision.verdicts) or "the recipe has no gates"
    state = state_of(ws, version)
    if not decision.passed:
        if state in (VersionState.DRAFT, VersionState.CANDIDATE):
            reject(ws, version.reference, reason=reasons, actor=_GATES)
        return
    if state is VersionState.DRAFT or (state is VersionState.REJECTED and _rejected_by(ws, version) == _GATES):
        move_state(ws, version.reference, VersionState.CANDIDATE, reason=reasons, actor=_GATES)
    approval = declared.recipe.operate.approval
    if isinstance(approval, PolicyApproval):
        if state_of(ws, version) is VersionState.CANDIDATE:
            approve(ws, version.reference, reason=reasons, actor=approval.actor)
        champion = find_alias(ws, version.model, CHAMPION)
        newer = (champion is None or champion.number < version.number) and not stood_as(ws, version, CHAMPION)
        if newer and state_of(ws, version) is VersionState.APPROVED:
            promote(ws, version.reference, reason=reasons, actor=approval.actor, over=decision.against)


def _rejected_by(ws: Workspace, version: Version) -> str:
    """Who rejected a rejected version: what gates rejected, other gates may accept; a person's word stands."""
    events = ws.ledger.events(f"version:{version.reference}")
    return next(event.actor for event in reversed(events) if event.type == "version.rejected")


def _terms(recipe: Recipe) -> Digest:
    """What a run is judged and settled by; not part of what it is named by."""
    return digest_json(describe([recipe.evaluation, recipe.gates, recipe.operate.approval, recipe.refit]))


def _result(
    ws: Workspace, declared: Declared, judge: Trained, decision: Settlement, found: bool, seconds: float
) -> Result:
    version = resolve(ws, decision.version)
    champion = find_alias(ws, version.model, CHAMPION)
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
        report_digest=decision.report,
        verdicts=decision.verdicts,
        against=decision.against,
        comparisons=decision.comparisons,
        arrays=_arrays(declared),
        seconds=seconds,
    )


def _arrays(declared: Declared) -> dict[str, tuple[int, ...]]:
    snapshot, recipe = declared.taken.snapshot, declared.recipe
    if not isinstance(snapshot, OwnSnapshot):
        return {}
    chosen = recipe.features or [
        each.name for each in snapshot.arrays if each.name not in (recipe.label, snapshot.time)
    ]
    return {each.name: each.shape for each in snapshot.arrays if each.shape and each.name in chosen}
