import sqlite3
from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

from velodrome.core.clock import ManualClock
from velodrome.core.digest import Digest, digest_bytes
from velodrome.core.errors import IntegrityError
from velodrome.data.dataset import Dataset
from velodrome.data.snapshots import take_snapshot
from velodrome.data.sources import Files
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.report import Report
from velodrome.registry.lineage import Trace, trace
from velodrome.registry.runs import Outcome, Run, begin_attempt, finish, start
from velodrome.registry.versions import Version, VersionState, approve, move_state, promote, register, rollback
from velodrome.store.files import digest_file
from velodrome.store.ledger import Put, digest_record
from velodrome.store.workspace import Workspace

MakeRun = Callable[..., Run]
ARTIFACT = digest_bytes(b"artifact")


def finished(ws: Workspace, run: Run) -> Run:
    start(ws, run)
    begin_attempt(ws, run.id)
    finish(ws, run.id, Outcome(run=run.id, artifact=ARTIFACT, steps=9, planned_steps=9, seconds=1.0, history=ARTIFACT))
    return run


def reported(ws: Workspace) -> Digest:
    estimate = Estimate(value=0.7, low=None, high=None, level=0.95, resamples=0, rows=4)
    report = Report(
        task="binary",
        primary="roc_auc",
        metrics={"roc_auc": estimate},
        cohorts=(),
        rows=4,
        class_counts=(2, 2),
        by="rows",
        seed=0,
    )
    ws.commit(Put(report))
    return digest_record(report)


@pytest.fixture
def version(ws: Workspace, make_run: MakeRun) -> Version:
    """A refit of a judged run on two files, approved by a policy and made champion by a person."""
    for name in ("one", "two"):
        (ws.root / f"{name}.csv").write_text(f"id,late\n{name}1,0\n{name}2,1\n")
    taken = take_snapshot(ws, Dataset("flights", source=Files("*.csv"), key="id"))
    judge = finished(ws, make_run(snapshot=taken.digest, seed=7))
    refit = make_run(snapshot=taken.digest, seed=7, type="refit", judge=judge.id, key=digest_bytes(b"refit"))
    made = register(ws, model="late", run=finished(ws, refit).id, artifact=ARTIFACT, report=reported(ws))
    move_state(ws, made.reference, VersionState.CANDIDATE, reason="passed", actor="policy:gates")
    approve(ws, made.reference, reason="roc_auc 0.70 is at least 0.65", actor="policy:gates")
    promote(ws, made.reference, reason="go", actor="bob")
    return made


def test_a_version_leads_back_to_everything_it_was_made_from(ws: Workspace, version: Version) -> None:
    found = trace(ws, "late@champion")
    assert found.reference == version.reference == "late/1"
    assert (found.state, found.standing_as) == (VersionState.APPROVED, ("champion",))
    assert found.data is not None
    assert found.data.rows == 4
    assert digest_record(found.data) == found.snapshot
    assert {each.file: each.source for each in found.fragments} == {
        name: digest_file(ws.root / name) for name in ("one.csv", "two.csv")
    }
    assert found.code == {"recipe.py": digest_bytes(b"pass")}
    assert [(each.run.type, each.run.seed) for each in found.runs] == [("train", 7), ("refit", 7)]
    assert all(each.outcome and each.environment.packages["numpy"] for each in found.runs)
    assert found.figures is not None
    assert found.figures.metrics["roc_auc"].value == 0.7
    assert found.approval is not None
    assert (found.approval.actor, found.approval.reason) == ("policy:gates", "roc_auc 0.70 is at least 0.65")
    assert [each.what for each in found.decisions] == ["registered", "candidate", "approved"]
    assert [(each.what, each.version, each.actor) for each in found.aliases] == [("champion promoted", "late/1", "bob")]


def test_a_person_can_read_it_and_a_program_too(ws: Workspace, version: Version) -> None:
    found = trace(ws, version.reference)
    lines = dict(found.lines())
    assert lines["state"] == "approved, champion"
    assert str(lines["snapshot"]).startswith(str(found.snapshot))
    assert "2 rows" in str(lines["file one.csv"])
    assert "policy:gates: roc_auc 0.70" in str(lines["approved"])
    assert "late/1" in str(lines["champion promoted"])
    assert {"train run", "refit run", "seed", "environment", "commit", "artifact", "roc_auc"} <= lines.keys()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Trace) == found


def test_the_moves_of_its_aliases_are_told_with_where_they_went(
    ws: Workspace, version: Version, make_run: MakeRun
) -> None:
    run = finished(ws, make_run(seed=8, snapshot=None))
    other = register(ws, model="late", run=run.id, artifact=ARTIFACT, report=None)
    move_state(ws, other.reference, VersionState.CANDIDATE, reason="", actor="ann")
    approve(ws, other.reference, reason="", actor="ann")
    for move in (
        lambda: promote(ws, "late/2", reason="newer", actor="ann"),
        lambda: rollback(ws, "late", reason="worse", actor="ann"),
    ):
        assert isinstance(ws.clock, ManualClock)
        ws.clock.advance(timedelta(hours=1))
        move()
    moves = [(each.what, each.version) for each in trace(ws, version.reference).aliases]
    assert moves == [
        ("champion promoted", "late/1"),
        ("champion promoted", "late/2"),
        ("champion rolled-back", "late/1"),
    ]


def test_a_tracked_run_without_data_or_report_has_a_trace_too(ws: Workspace, make_run: MakeRun) -> None:
    run = finished(ws, make_run(type="track", snapshot=None, seed=3))
    version = register(ws, model="loop", run=run.id, artifact=ARTIFACT, report=None)
    found = trace(ws, version.reference)
    assert (found.data, found.fragments, found.figures, found.approval) == (None, (), None, None)
    assert "snapshot" not in dict(found.lines())


def test_a_record_that_was_changed_by_hand_is_named(ws: Workspace, version: Version) -> None:
    with sqlite3.connect(ws.store / "ledger.db") as ledger:
        ledger.execute("update record set payload = replace(payload, '\"seed\":7', '\"seed\":8') where kind = 'run'")
    ledger.close()
    with pytest.raises(IntegrityError, match="was changed after it was written"):
        trace(ws, version.reference)
