"""From a version back to everything it was made from, and to everyone who decided about it.

Reads only: the records that edges and chains lead to. Cost: some dozen small queries, and one for each fragment.
"""

from datetime import datetime

import msgspec

from velodrome.core.digest import Digest
from velodrome.data.fragments import Fragment
from velodrome.data.own_snapshots import AnySnapshot, OwnSnapshot, read_snapshot
from velodrome.data.snapshots import Snapshot, fragments_of
from velodrome.evaluation.report import Report
from velodrome.registry.environment import Environment
from velodrome.registry.provenance import Provenance
from velodrome.registry.runs import Outcome, Run, code_of, get_run, not_reproducible, outcome_of
from velodrome.registry.versions import VersionState, aliases_of, resolve, state_of
from velodrome.store.ledger import Event, read_record
from velodrome.store.workspace import Workspace

__all__ = ["Decision", "RunTrace", "Trace", "trace"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody, or a policy, decided: what, about which version, who, when and why."""

    what: str
    version: str
    actor: str
    time: datetime
    reason: str


class RunTrace(msgspec.Struct, frozen=True, kw_only=True):
    """One training on the way to a version, with its end, its environment and where it ran."""

    run: Run
    outcome: Outcome | None
    environment: Environment
    provenance: Provenance


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version comes from.

    Attributes:
        runs: the run whose artifact it is; before it, for a refit, the run that was judged.
        code: the files of the code with their digests.
        decisions: about this version, oldest first.
        aliases: the moves of the aliases of its model that it took part in, oldest first.
    """

    reference: str
    state: VersionState
    standing_as: tuple[str, ...]
    artifact: Digest
    snapshot: Digest | None
    data: AnySnapshot | None
    fragments: tuple[Fragment, ...]
    code: dict[str, Digest]
    runs: tuple[RunTrace, ...]
    report: Digest | None
    figures: Report | None
    decisions: tuple[Decision, ...]
    aliases: tuple[Decision, ...]

    @property
    def approval(self) -> Decision | None:
        """Who approved it, when and why."""
        return next((each for each in self.decisions if each.what == VersionState.APPROVED), None)

    def lines(self) -> list[tuple[str, object]]:
        """(label, value) pairs for a person."""
        rows: list[tuple[str, object]] = [
            ("state", ", ".join([self.state, *self.standing_as])),
            *self._data_lines(),
            *(line for run in self.runs for line in _run_lines(run)),
            *((f"code {path}", digest[:12]) for path, digest in self.code.items()),
            ("artifact", self.artifact),
            ("report", self.report),
        ]
        if self.figures:
            rows += [(name, estimate.value) for name, estimate in self.figures.metrics.items()]
        rows += [(each.what, _words(each)) for each in self.decisions]
        rows += [(each.what, f"{each.version}, {_words(each)}") for each in self.aliases]
        return [(label, value) for label, value in rows if value is not None]

    def _data_lines(self) -> list[tuple[str, object]]:
        if self.data is None:
            return [("snapshot", self.snapshot)]
        if isinstance(self.data, OwnSnapshot):
            named = f"{self.snapshot}: {self.data.rows} rows of one's own, content {self.data.content[:12]}"
            return [("snapshot", named)]
        rows: list[tuple[str, object]] = [
            ("snapshot", f"{self.snapshot}: {self.data.rows} rows, {self.data.quarantined} in quarantine")
        ]
        return rows + [(f"file {each.file}", f"{each.source[:12]}: {each.rows} rows") for each in self.fragments]


def trace(ws: Workspace, reference: str) -> Trace:
    """Where the version that `reference` names comes from.

    Raises:
        NotFound: no such version, or a record that it leads to belongs to another workspace.
        IntegrityError: a record on the way was changed by hand.
    """
    version = resolve(ws, reference)
    run = get_run(ws, version.run)
    judge = (get_run(ws, run.judge),) if run.judge else ()
    snapshot = read_snapshot(ws, run.snapshot) if run.snapshot else None
    return Trace(
        reference=version.reference,
        state=state_of(ws, version),
        standing_as=aliases_of(ws, version),
        artifact=version.artifact,
        snapshot=run.snapshot,
        data=snapshot,
        fragments=fragments_of(ws, snapshot) if isinstance(snapshot, Snapshot) else (),
        code=code_of(ws, run),
        runs=tuple(_traced(ws, each) for each in (*judge, run)),
        report=version.report,
        figures=read_record(ws.ledger, version.report, Report) if version.report else None,
        decisions=_decisions(ws, version.reference),
        aliases=_alias_moves(ws, version.model, version.reference),
    )


def _traced(ws: Workspace, run: Run) -> RunTrace:
    return RunTrace(
        run=run,
        outcome=outcome_of(ws, run.id),
        environment=read_record(ws.ledger, run.environment, Environment),
        provenance=read_record(ws.ledger, run.provenance, Provenance),
    )


def _decisions(ws: Workspace, reference: str) -> tuple[Decision, ...]:
    """The moves of a version between states; those of aliases stand in the aliases' own chains."""
    events = ws.ledger.events(f"version:{reference}")
    states = {f"version.{state}" for state in VersionState} | {"version.registered"}
    return tuple(_decision(event, reference) for event in events if event.type in states)


def _alias_moves(ws: Workspace, model: str, reference: str) -> tuple[Decision, ...]:
    found = []
    for subject in ws.ledger.subjects(f"alias:{model}@"):
        alias = subject.partition("@")[2]
        for event in ws.ledger.events(subject):
            if reference in (event.body["from"], event.body["to"]):
                moved = _decision(event, event.body["to"])
                found.append(msgspec.structs.replace(moved, what=f"{alias} {moved.what}"))
    return tuple(sorted(found, key=lambda decision: decision.time))


def _decision(event: Event, version: str) -> Decision:
    what, reason = event.type.partition(".")[2], str(event.body.get("reason", ""))
    return Decision(what=what, version=version, actor=event.actor, time=event.time, reason=reason)


def _words(decision: Decision) -> str:
    by = f"{decision.time:%Y-%m-%d %H:%M:%S} by {decision.actor}"
    return f"{by}: {decision.reason}" if decision.reason else by


def _run_lines(traced: RunTrace) -> list[tuple[str, object]]:
    run, environment, repository = traced.run, traced.environment, traced.provenance.repository
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    rows: list[tuple[str, object]] = [(f"{run.type} run", run.id), ("seed", run.seed)]
    if traced.outcome:
        rows.append(("not reproducible", not_reproducible(traced.outcome)))
    rows.append(
        ("environment", f"{environment.python}, {packages}, {environment.device}, {environment.threads} threads")
    )
    if repository is None:
        return [*rows, ("commit", f"none: {traced.provenance.repository_missing}")]
    return [
        *rows,
        ("commit", f"{repository.commit or 'none yet'}{' with uncommitted changes' if repository.dirty else ''}"),
    ]
