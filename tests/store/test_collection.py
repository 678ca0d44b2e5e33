import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.clock import ManualClock
from velodrome.core.digest import Digest, digest_bytes, digest_json
from velodrome.core.errors import IntegrityError, MissingBlob, StorageError
from velodrome.core.values import Record
from velodrome.store.blobs import Entry
from velodrome.store.collection import Kinds, find_horizon, leads, reach, read_graph, sweep
from velodrome.store.ledger import Append, Link, Move, Put, digest_record
from velodrome.store.trees import put_tree
from velodrome.store.workspace import Workspace, open_folder

KINDS = Kinds(
    trees={"whole": ("tree",), "part": ()},
    parts=frozenset(["part"]),
    passive=("asides:",),
    roles=frozenset(["before"]),
    told=("alias:",),
)
HOUR = timedelta(hours=1)


class Whole(Record, frozen=True, kw_only=True, tag="whole"):
    names: tuple[str, ...] = ()
    tree: Digest | None = None


class Part(Record, frozen=True, kw_only=True, tag="part"):
    blob: str


class Stranger(Record, frozen=True, kw_only=True, tag="stranger"):
    """Of a kind that this program does not know."""

    says: dict[str, str]


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path) as opened:
        yield opened


# ----------------------------------------------------------------------------------------------------------------- reach


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, str], str, str]:
    """What each of some letters leads to, where to start, and what to cut."""
    letters = st.text("abcdefgh", max_size=5)
    return draw(st.dictionaries(st.sampled_from("abcdefgh"), letters)), draw(letters), draw(letters)


@given(graphs())
def test_reach_is_the_smallest_set_that_is_closed(graph: tuple[dict[str, str], str, str]) -> None:
    names, starts, cut = graph
    found = set(starts) - set(cut)
    for _ in "abcdefgh":
        found |= {end for node in found for end in names.get(node, "")} - set(cut)
    assert reach(starts, lambda node: names.get(node, ""), cut) == found


# ----------------------------------------------------------------------------------------------------------------- graph


def reached(ws: Workspace, *starts: str) -> set[str]:
    """All that the starts lead to, or the graph's own roots."""
    graph = read_graph(ws.ledger, KINDS)
    sizes = {entry.digest: entry.size for entry in ws.blobs.entries()}
    return reach(starts or graph.roots, leads(graph, ws.blobs, sizes))


def test_a_record_leads_to_what_its_payload_names_wherever_it_does(ws: Workspace) -> None:
    near, far = digest_json(1), digest_json(2)
    whole = Whole(names=(near, f"report:7:{far}", far + "0", "x" * 64))
    ws.commit(Put(whole))
    assert reached(ws) >= {digest_record(whole), near, far}
    assert far + "0" not in reached(ws)


def test_a_part_is_needed_only_if_something_leads_to_it(ws: Workspace) -> None:
    lone, named = Part(blob=digest_json(1)), Part(blob=digest_json(2))
    ws.commit(Put(lone), Put(named), Put(Whole(names=(digest_record(named),))))
    assert digest_json(2) in reached(ws)
    assert digest_json(1) not in reached(ws)


def test_a_name_leads_to_the_records_that_have_it(ws: Workspace) -> None:
    name = digest_json("name")
    ws.commit(Put(Part(blob=digest_json(1)), name), Put(Part(blob=digest_json(2)), name), Put(Whole(names=(name,))))
    assert reached(ws) >= {digest_json(1), digest_json(2)}


def test_edges_lead_but_for_those_that_mean_something_else(ws: Workspace) -> None:
    ws.commit(Link("run:1", "run:2", "judge"), Link("run:2", "run:3", "before"))
    assert reached(ws, "run:1") == {"run:1", "run:2"}


def test_a_subject_leads_to_what_its_events_name_unless_they_are_asides(ws: Workspace) -> None:
    ws.commit(
        Append("new-noun:1", "made", {"deep": [{"of": digest_json(1)}]}),
        Append("asides:1", "made", {"of": digest_json(2)}),
    )
    assert digest_json(1) in reached(ws)
    assert digest_json(2) not in reached(ws)
    assert digest_json(2) in reached(ws, "asides:1")


def test_only_the_events_that_were_asked_for_are_told(ws: Workspace) -> None:
    ws.commit(Move("alias:a", None, "1", "moved"), Move("other:a", None, "2", "moved"))
    graph = read_graph(ws.ledger, KINDS)
    assert list(graph.events) == ["alias:a"]
    assert graph.pointers["other:a"].value == "2"


def test_a_tree_leads_to_its_leaves(ws: Workspace) -> None:
    tree = put_tree(ws.blobs, {"a": b"1", "b": b"2"})
    ws.commit(Put(Whole(tree=tree)))
    assert reached(ws) >= {tree, digest_bytes(b"1"), digest_bytes(b"2")}


def test_of_what_is_not_known_every_name_may_be_a_tree(ws: Workspace) -> None:
    first, second = (put_tree(ws.blobs, {"a": data}) for data in (b"1", b"2"))
    ws.commit(Put(Stranger(says={"somewhere": first})), Append("new-noun:1", "made", {"of": second}))
    assert reached(ws) >= {digest_bytes(b"1"), digest_bytes(b"2")}


def test_what_a_known_kind_names_besides_its_trees_is_not_opened(ws: Workspace) -> None:
    ws.commit(Put(Whole(names=(put_tree(ws.blobs, {"a": b"1"}),))))
    assert digest_bytes(b"1") not in reached(ws)


def test_a_tree_that_cannot_be_read_stops_whoever_comes_to_it(ws: Workspace) -> None:
    tree = put_tree(ws.blobs, {"a": b"1"})
    whole = Whole(tree=tree)
    ws.commit(Put(whole))
    ws.blobs.delete(tree)
    with pytest.raises(MissingBlob):
        reached(ws)
    graph = read_graph(ws.ledger, KINDS)
    assert reach(graph.roots, leads(graph, ws.blobs, {}, lenient=True)) >= {digest_record(whole), tree}


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE record SET payload = replace(payload, '7', '8')",
        "UPDATE event SET body = replace(body, '7', '8')",
        "DELETE FROM event WHERE seq = 1",
    ],
)
def test_a_damaged_ledger_is_refused(ws: Workspace, damage: str) -> None:
    ws.commit(Put(Whole(names=("7",))), Append("s", "t", {"n": "7"}), Append("s", "t", {"n": "7"}))
    with closing(sqlite3.connect(ws.store / "ledger.db")) as connection:
        connection.execute(damage)
        connection.commit()
    with pytest.raises(IntegrityError):
        read_graph(ws.ledger, KINDS)


# --------------------------------------------------------------------------------------------------------------- horizon


def test_without_holds_the_horizon_is_grace_ago_by_both_clocks(ws: Workspace) -> None:
    before, kept = ws.clock.now(), ws.blobs.put(b"before")
    entries, horizon = find_horizon(ws, HOUR)
    after = ws.blobs.put(b"after")
    times = {entry.digest: entry.time for entry in ws.blobs.entries()}
    assert before - HOUR <= horizon.ledger <= ws.clock.now() - HOUR
    assert times[kept.digest] <= horizon.blobs + HOUR <= times[after.digest]
    assert entries.keys() == {kept.digest}
    assert times.keys() == {kept.digest, after.digest}


def test_the_horizon_lies_before_everything_that_a_holder_puts(ws: Workspace) -> None:
    with ws.writing():
        put = ws.blobs.put(b"held")
        entries, horizon = find_horizon(ws, timedelta(0))
    assert horizon.blobs <= entries[put.digest].time


@pytest.mark.parametrize("days", [-3000, -1, 1, 3000])
def test_the_clock_of_the_machine_may_be_wrong(ws: Workspace, days: int) -> None:
    """The folder's times are those of the real clock, as a bucket's are of another."""
    wrong = replace(ws, clock=ManualClock(ws.clock.now().replace(microsecond=0) + timedelta(days=days)))
    with wrong.writing():
        wrong.clock.advance(timedelta(minutes=2))  # type: ignore[attr-defined]
        held = ws.blobs.put(b"held")
        entries, horizon = find_horizon(wrong, timedelta(minutes=1))
    assert entries[held.digest].time - timedelta(minutes=3) < horizon.blobs <= entries[held.digest].time
    assert horizon.ledger == wrong.clock.now() - timedelta(minutes=2)


def test_when_the_clock_was_set_back_under_a_hold_nothing_is_old(ws: Workspace) -> None:
    future = replace(ws, clock=ManualClock(ws.clock.now() + HOUR))
    with future.writing():
        _, horizon = find_horizon(ws, timedelta(0))
    assert horizon.blobs == horizon.ledger == datetime.min.replace(tzinfo=UTC)


def test_a_dry_look_writes_nothing(ws: Workspace) -> None:
    kept = ws.blobs.put(b"before")
    files = sorted(ws.store.rglob("*"))
    entries, horizon = find_horizon(ws, HOUR, dry=True)
    assert sorted(ws.store.rglob("*")) == files
    assert entries.keys() == {kept.digest}
    assert horizon.blobs == horizon.ledger


def test_a_store_that_hides_what_was_put_is_refused(ws: Workspace) -> None:
    class Hiding:
        def __getattr__(self, name: str) -> Any:
            return getattr(ws.blobs, name)

        def entries(self) -> Iterator[Entry]:
            yield from ()

    with pytest.raises(StorageError, match="do not list"):
        find_horizon(replace(ws, blobs=Hiding()), HOUR)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------- sweep


def test_what_was_put_or_kept_since_stays(ws: Workspace) -> None:
    digests = [ws.blobs.put(bytes([number])).digest for number in range(5)]
    entries, horizon = find_horizon(ws, timedelta(0))
    ws.blobs.keep(digests[1])
    ws.blobs.put(bytes([2]))
    ticks: list[int] = []
    went = [entry.digest for entry in sweep(ws.blobs, entries.values(), horizon.blobs, lambda: ticks.append(1))]
    assert set(went) == {digests[0], digests[3], digests[4]}
    assert set(ws.blobs.list()) == {digests[1], digests[2]}
    assert len(ticks) == 5


def test_a_sweep_that_is_broken_off_raises_what_broke_it(ws: Workspace) -> None:
    entries = [Entry(ws.blobs.put(bytes([number])).digest, 1, ws.clock.now()) for number in range(3)]

    class Breaking:
        def collect(self, digest: str, before: datetime) -> bool:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(sweep(Breaking(), entries, ws.clock.now()))  # type: ignore[arg-type]
    assert len(list(ws.blobs.list())) == 3
