"""Lineage of anything, up and down, beside a brute-force oracle, and on what older programs have left."""

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import IntegrityError, NotFound
from velodrome.data.dataset import Dataset
from velodrome.data.snapshots import take_snapshot
from velodrome.data.sources import Files
from velodrome.registry.graph import Lineage, walk
from velodrome.registry.runs import Outcome, Run, begin_attempt, fail, finish, start
from velodrome.registry.versions import Version, VersionState, move_state, promote, register
from velodrome.store.files import digest_file
from velodrome.store.ledger import Edge, Link, Put, digest_record
from velodrome.store.workspace import Workspace, open_folder
from velodrome.testing.ledger import Sample

MakeRun = Callable[..., Run]
FLIGHTS = Dataset("flights", source=Files("*.csv"), key="id")


def learned(ws: Workspace, run: Run) -> Version:
    """An approved version of a run that trained."""
    artifact = digest_bytes(run.id.encode())
    start(ws, run)
    begin_attempt(ws, run.id)
    finish(ws, run.id, Outcome(run=run.id, artifact=artifact, steps=9, planned_steps=9, seconds=1.0, history=artifact))
    version = register(ws, model="late", run=run.id, artifact=artifact, report=None)
    for state in (VersionState.CANDIDATE, VersionState.APPROVED):
        move_state(ws, version.reference, state, reason="good enough", actor="policy:gates")
    return version


def deliver(ws: Workspace, name: str) -> None:
    (ws.root / f"{name}.csv").write_text(f"id,late\n{name}1,0\n{name}2,1\n")


@pytest.fixture
def versions(ws: Workspace, make_run: MakeRun) -> list[Version]:
    """One from the files one and two; one from these and three; one from three alone, since the others were taken away."""
    made = []
    for seed, (come, go) in enumerate([("one two", ""), ("three", ""), ("", "one two")]):
        for name in come.split():
            deliver(ws, name)
        for name in go.split():
            (ws.root / f"{name}.csv").unlink()
        taken = take_snapshot(ws, FLIGHTS)
        made.append(learned(ws, make_run(snapshot=taken.digest, seed=seed)))
    promote(ws, made[1].reference, reason="best", actor="bob")
    return made


def names(lineage: Lineage, kind: str) -> set[str]:
    return {node.name for node in lineage.nodes.values() if node.kind == kind}


def execute(ws: Workspace, *statements: str) -> None:
    with closing(sqlite3.connect(ws.store / "ledger.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


# ----------------------------------------------------------------------------------------------------------- up, down


def test_a_champion_leads_up_to_each_file_the_code_the_environment_and_who_approved_it(
    ws: Workspace, versions: list[Version]
) -> None:
    found = walk(ws, "late@champion")
    champion = found.nodes[found.start]
    assert (champion.id, champion.state, champion.aliases) == ("version:late/2", "approved", ("champion",))
    assert names(found, "file") == {"one.csv", "two.csv", "three.csv"}
    assert names(found, "code") == {"recipe.py"}
    assert len(names(found, "environment")) == len(names(found, "snapshot")) == 1
    assert names(found, "decision") == {
        "registered by ann",
        "candidate by policy:gates: good enough",
        "approved by policy:gates: good enough",
        "promoted to champion by bob: best",
    }
    assert {node.state for node in found.nodes.values() if node.kind == "run"} == {"finished"}


def test_a_file_leads_down_to_every_version_that_learned_from_it_and_to_no_other(
    ws: Workspace, versions: list[Version]
) -> None:
    for file, expected in (("one.csv", {"late/1", "late/2"}), ("three.csv", {"late/2", "late/3"})):
        found = walk(ws, file, down=True)
        assert names(found, "version") == expected
        standing = [node.name for node in found.nodes.values() if "champion" in node.aliases]
        assert standing == ["late/2"]


def test_a_refit_leads_up_to_its_judge_and_what_a_run_made_leads_up_to_the_run(
    ws: Workspace, versions: list[Version], make_run: MakeRun
) -> None:
    version = learned(ws, make_run(type="refit", judge=versions[0].run, seed=9, snapshot=None))
    found = walk(ws, version.artifact)
    runs = [node.id for node in found.nodes.values() if node.kind == "run"]
    assert runs == [f"run:{version.run}", f"run:{versions[0].run}"]
    assert walk(ws, versions[0].run, down=True).nodes.keys() > {f"run:{version.run}", version.artifact}


def test_a_run_leads_down_to_what_it_came_to(ws: Workspace, make_run: MakeRun) -> None:
    run = start(ws, make_run())
    begin_attempt(ws, run.id)
    fail(ws, run.id, "ValueError", "no luck")
    found = walk(ws, run.id, down=True)
    assert names(found, "failure") == {"ValueError: no luck"}
    assert found.nodes[found.start].state == "failed"
    assert names(walk(ws, next(node for node in found.nodes if node != found.start)), "run") != set()


def test_a_walk_ends_at_the_depth_that_was_asked_for(ws: Workspace, versions: list[Version]) -> None:
    found = walk(ws, "late/1", depth=1)
    assert {node.kind for node in found.nodes.values()} == {"version", "artifact", "run", "decision"}
    assert set(found.ends) == found.nodes.keys() - {found.start}
    assert walk(ws, "late/1", depth=99).ends == ()


def test_a_program_can_read_it(ws: Workspace, versions: list[Version]) -> None:
    found = walk(ws, "late/1")
    assert msgspec.json.decode(msgspec.json.encode(found), type=Lineage) == found
    assert all(edge.src in found.nodes and edge.dst in found.nodes for edge in found.edges)


# ------------------------------------------------------------------------------------------------------- what is meant


def test_everything_is_found_by_what_people_call_it(ws: Workspace, versions: list[Version]) -> None:
    (run,) = (node for node in walk(ws, "late/1").nodes if node == f"run:{versions[0].run}")
    record, (code,) = (
        ws.ledger.edges(run, role="record")[0].dst,
        ws.ledger.edges(ws.ledger.edges(run, role="record")[0].dst, role="code"),
    )
    snapshot = ws.ledger.edges(record, role="snapshot")[0].dst
    source = digest_file(ws.root / "three.csv")
    meant = {
        "late/1": "version:late/1",
        "late@champion": "version:late/2",
        "late": "version:late/2",
        "champion": "version:late/2",
        versions[0].run: run,
        versions[0].run[:-1]: run,
        record[:12]: run,
        digest_record(versions[0]): "version:late/1",
        "flights": ws.ledger.pointer("dataset:flights").value,  # type: ignore[union-attr]
        snapshot[:8]: snapshot,
        versions[0].artifact[:20]: versions[0].artifact,
        code.dst: code.dst,
        "three.csv": source,
        source[:9]: source,
    }
    assert {reference: walk(ws, reference).start for reference in meant} == meant


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("late/9", "its newest is late/3"),
        ("late@champ", "did you mean 'champion'"),
        ("lates", "did you mean 'late'"),
        ("flight", "did you mean 'flights'"),
        ("tree.csv", "did you mean 'three.csv'"),
        ("0" * 64, "nothing is called so"),
        ("", "nothing is called so"),
    ],
)
def test_what_nothing_is_called_is_told_the_nearest(
    ws: Workspace, versions: list[Version], reference: str, message: str
) -> None:
    with pytest.raises(NotFound, match=message):
        walk(ws, reference)


def test_what_several_things_are_called_is_refused_with_all_of_them(ws: Workspace, versions: list[Version]) -> None:
    with pytest.raises(NotFound, match="3 things are called so") as caught:
        walk(ws, versions[0].run[:6])
    assert str(caught.value).count("(run)") == 3
    deliver(ws, "one")
    (ws.root / "one.csv").write_text("id,late\nother,1\n")
    take_snapshot(ws, FLIGHTS)
    with pytest.raises(NotFound, match=r"2 things are called so.*\n.*\n.* \(file\)"):
        walk(ws, "one.csv")


def test_a_model_and_a_dataset_of_one_name_are_told_apart_by_who_asks(ws: Workspace, versions: list[Version]) -> None:
    take_snapshot(ws, Dataset("late", source=Files("*.csv"), key="id"))
    with pytest.raises(NotFound, match="2 things are called so") as caught:
        walk(ws, "late")
    assert "late/2 (version)" in str(caught.value)


# -------------------------------------------------------------------------------------------------------- the unusual


def test_records_from_before_an_edge_was_written_are_understood(ws: Workspace, versions: list[Version]) -> None:
    before = {down: walk(ws, reference, down=down) for reference, down in (("late/2", False), ("one.csv", True))}
    execute(ws, "DELETE FROM edge WHERE role = 'source'")
    after = {down: walk(ws, reference, down=down) for reference, down in (("late/2", False), ("one.csv", True))}
    for down in (False, True):
        assert after[down].nodes == before[down].nodes
        assert set(after[down].edges) == set(before[down].edges)


def test_edges_in_a_circle_end(ws: Workspace) -> None:
    first, second = (digest_record(Sample(number=number)) for number in (1, 2))
    ws.commit(Put(Sample(number=1)), Put(Sample(number=2)), Link(first, second, "input"), Link(second, first, "input"))
    for down in (False, True):
        assert walk(ws, first, down=down).nodes.keys() == {first, second}


@pytest.mark.slow
def test_a_long_way_is_walked(ws: Workspace) -> None:
    digests = [digest_bytes(str(number).encode()) for number in range(3000)]
    ws.commit(*(Link(digest, later, "input") for digest, later in pairwise(digests)))
    assert len(walk(ws, digests[1500]).nodes) == 1500
    assert len(walk(ws, digests[1500], down=True).nodes) == 1501


def test_a_record_that_was_changed_by_hand_is_named(ws: Workspace, versions: list[Version]) -> None:
    execute(ws, "UPDATE record SET payload = replace(payload, '\"seed\":0', '\"seed\":8') WHERE kind = 'run'")
    with pytest.raises(IntegrityError, match=r"the run .* was changed after it was written"):
        walk(ws, "late/1")


def test_code_that_is_gone_has_its_digest_for_a_name(ws: Workspace, versions: list[Version]) -> None:
    (code,) = (node.id for node in walk(ws, "late/1").nodes.values() if node.kind == "code")
    ws.blobs.delete(code)
    assert names(walk(ws, "late/1"), "code") == {code[:12]}


_EDGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(pairs=_EDGES, begin=st.integers(0, 9), depth=st.none() | st.integers(1, 4))
def test_a_walk_is_what_a_search_by_hand_finds(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]], begin: int, depth: int | None
) -> None:
    digests = [digest_record(Sample(number=number)) for number in range(10)]
    with open_folder(tmp_path_factory.mktemp("ws")) as ws:
        ws.commit(*(Put(Sample(number=number)) for number in range(10)))
        ws.commit(*(Link(digests[src], digests[dst], "input") for src, dst in pairs))
        for down in (False, True):
            found = walk(ws, digests[begin], down=down, depth=depth)
            steps = [(dst, src) if down else (src, dst) for src, dst in pairs]
            reached = {digests[node] for node in search(begin, steps, depth)}
            assert found.nodes.keys() == reached
            inner = search(begin, steps, None if depth is None else depth - 1)
            expected = {
                Edge(digests[src], digests[dst], "input") for src, dst in pairs if (dst if down else src) in inner
            }
            assert set(found.edges) == expected


def search(begin: int, steps: Iterable[tuple[int, int]], depth: int | None) -> set[int]:
    reached, rounds = {begin}, 10 if depth is None else depth
    for _ in range(rounds):
        reached |= {there for here, there in steps if here in reached}
    return reached


def test_many_things_take_few_reads(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred snapshots of a hundred files: reads grow with the depth, not with the number of things."""
    files = [Sample(number=number) for number in range(100)]
    snapshots = [Sample(number=number, weight=2.0) for number in range(100)]
    ws.commit(*map(Put, [*files, *snapshots]))
    ws.commit(*(Link(digest_record(one), digest_record(file), "input") for one in snapshots for file in files))
    reads: list[Any] = []
    plain = type(ws.ledger).rows

    def counting(*arguments: Any) -> Any:
        reads.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(type(ws.ledger), "rows", counting)
    assert len(walk(ws, digest_record(files[0]), down=True).nodes) == 101
    assert len([arguments for arguments in reads if arguments[3]]) < 15
