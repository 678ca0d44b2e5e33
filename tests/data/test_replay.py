import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import ContractError, NotFound, SourceError, StorageError, VelodromeError
from velodrome.data.contracts import Between, Contract, NotNull, OneOf, Types, Unique
from velodrome.data.dataset import Dataset
from velodrome.data.fragments import Fragment
from velodrome.data.replay import Replayed, replay
from velodrome.data.schema import DTYPES, stored_as
from velodrome.data.snapshots import (
    FragmentUse,
    fragments_of,
    newest_snapshot,
    quarantine,
    row_keys,
    scan,
    take_snapshot,
)
from velodrome.data.sources import Files
from velodrome.store.blobs import Blob, FolderBlobs
from velodrome.store.ledger import Move, Put, Write, digest_record
from velodrome.store.sqlite import SqliteLedger
from velodrome.store.workspace import Workspace, open_folder

MARCH = "id,distance,carrier\n1,100,AA\n2,-5,B6\n3,300,\n4,9000,UA\n"
APRIL = "id,distance,carrier\n5,150,AA\n1,250,UA\n6,-7,DL\n"
NARROW = Contract([Between("distance", 0, 5000), NotNull("carrier"), Unique("id")])
WIDE = Contract([Between("distance", -10), Unique("id")])


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_folder(tmp_path / "project")


def deliver(ws: Workspace, **files: str) -> None:
    (ws.root / "data").mkdir(exist_ok=True)
    for name, text in files.items():
        (ws.root / "data" / f"{name}.csv").write_text(text, encoding="utf-8")


def flights(contract: Contract) -> Dataset:
    return Dataset("flights", Files("data/*"), contract=contract)


def numbers(found: Replayed) -> tuple[int, int, int]:
    return found.released, found.withdrawn, found.kept


def newest(ws: Workspace) -> str:
    snapshot = newest_snapshot(ws, "flights")
    assert snapshot is not None
    return digest_record(snapshot)


def rows_of(ws: Workspace, contract: Contract) -> list[Any]:
    snapshot = newest_snapshot(ws, flights(contract).name)
    assert snapshot is not None
    return scan(ws, snapshot).collect()["id"].to_list()


# ------------------------------------------------------------------------------------------------------- what it promises


def test_rows_leave_quarantine_under_a_wider_contract_without_their_files(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    before = take_snapshot(ws, flights(NARROW))
    shutil.rmtree(ws.root / "data")
    found = replay(ws, flights(WIDE))
    assert numbers(found) == (4, 0, 1)
    assert rows_of(ws, WIDE) == [1, 2, 3, 4, 5, 6]
    assert found.taken.snapshot.rows == before.snapshot.rows + 4
    assert (found.taken.new_fragments, found.taken.reused) == (2, 0)
    assert [edge.dst for edge in ws.ledger.edges(found.taken.digest, role="parent")] == [before.digest]


def test_rows_go_into_quarantine_under_a_stricter_contract(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    take_snapshot(ws, flights(WIDE))
    found = replay(ws, flights(Contract([OneOf("carrier", ["AA", "UA"]), Between("distance", 200), Unique("id")])))
    assert numbers(found) == (1, 4, 0)  # the first row with id 1 goes, so the second is no repetition any more
    assert rows_of(ws, WIDE) == [3, 4, 1]


def test_a_row_that_is_released_may_repeat_one_that_comes_later(ws: Workspace) -> None:
    deliver(ws, a="id,x\n1,-1\n", b="id,x\n1,1\n2,1\n")
    take_snapshot(ws, flights(Contract([Between("x", 0), Unique("id")])))
    assert numbers(replay(ws, flights(Contract([Unique("id")])))) == (1, 1, 0)


def test_whoever_reads_the_files_later_finds_everything_done(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    take_snapshot(ws, flights(NARROW))
    found = replay(ws, flights(WIDE))
    blobs = set(ws.blobs.list())
    later = take_snapshot(ws, flights(WIDE))
    assert (later.digest, later.new_fragments, later.reused) == (found.taken.digest, 0, 2)
    assert set(ws.blobs.list()) == blobs


def test_an_unchanged_contract_changes_nothing(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    before = take_snapshot(ws, flights(NARROW))
    records = list(ws.ledger.scan())
    found = replay(ws, flights(NARROW))
    assert found.taken.digest == before.digest
    assert numbers(found) == (0, 0, before.snapshot.quarantined)
    assert list(ws.ledger.scan()) == records
    assert len(ws.ledger.events("dataset:flights")) == 1


def test_other_rules_for_all_rows_together_judge_no_row_again(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    take_snapshot(ws, flights(WIDE))
    found = replay(ws, flights(Contract(WIDE.row_rules)))
    assert numbers(found) == (1, 0, 0)
    assert found.taken.new_fragments == 0


def test_the_snapshot_before_stays_as_it_was_with_its_quarantine(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    before = take_snapshot(ws, flights(NARROW)).snapshot
    aside, kept = quarantine(ws, before), scan(ws, before).collect()
    after = replay(ws, flights(WIDE)).taken.snapshot
    assert_frame_equal(quarantine(ws, before), aside)
    assert_frame_equal(scan(ws, before).collect(), kept)
    assert quarantine(ws, after).select("file", "row", "id").rows() == [("data/b.csv", 2, 1)]


def test_there_and_back_again_is_the_first_snapshot(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    first = take_snapshot(ws, flights(NARROW))
    replay(ws, flights(WIDE))
    back = replay(ws, flights(NARROW))
    assert (back.taken.digest, back.taken.new_fragments) == (first.digest, 0)
    assert numbers(back) == (0, 4, 1)


def test_a_row_without_a_key_keeps_its_number(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    before = take_snapshot(ws, flights(NARROW)).snapshot
    after = replay(ws, flights(WIDE)).taken.snapshot
    keys = [
        dict(zip(scan(ws, one).collect()["id"].to_list(), row_keys(ws, one).tolist(), strict=True))
        for one in (before, after)
    ]
    assert keys[0].items() <= keys[1].items()
    assert len(set(keys[1].values())) == after.rows


# --------------------------------------------------------------------------------- the same as reading the files again


DAYS = st.datetimes(datetime(2013, 1, 1), datetime(2013, 1, 9))  # noqa: DTZ001 - a column without a zone
WORDS = st.sampled_from(["7", " 7", "007", "1.5", "1e0", "x", "", "true", "no", "2013-01-03", "nan"])
NUMBERS = ("int32", "int64", "float32", "float64")
COLUMNS: dict[pl.DataType, tuple[st.SearchStrategy[Any], Sequence[str]]] = {
    pl.Int64(): (st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 9), (*NUMBERS, "boolean", "string")),
    pl.Int16(): (st.integers(-3, 9), (*NUMBERS, "boolean", "string")),
    pl.UInt64(): (st.integers(0, 2**64 - 1) | st.integers(0, 9), NUMBERS),
    pl.Int128(): (st.integers(-(2**100), 2**100) | st.integers(-3, 9), (*NUMBERS, "string")),
    pl.Float64(): (st.floats() | st.sampled_from([0.0, 7.0, math.nan]), (*NUMBERS, "boolean", "string")),
    pl.Float32(): (st.floats(width=32) | st.sampled_from([0.0, 7.0]), NUMBERS),
    pl.Boolean(): (st.booleans(), (*NUMBERS, "string")),
    pl.String(): (WORDS, tuple(DTYPES)),
    pl.Categorical(): (st.sampled_from(["7", "1.0", "x"]), tuple(DTYPES)),
    pl.Date(): (DAYS.map(datetime.date), ("datetime", "string")),
    pl.Datetime("us"): (DAYS, ("date", "string")),
    pl.Datetime("ns"): (DAYS, ("date", "datetime", "string")),
    pl.Datetime("ms", "Europe/Berlin"): (DAYS.map(lambda day: day.replace(tzinfo=UTC, microsecond=0)), ("date",)),
    pl.Null(): (st.none(), tuple(DTYPES)),
}
ACTIONS = st.sampled_from(["quarantine"] * 8 + ["warn", "stop"])
BOUNDS = dict.fromkeys(NUMBERS, (0, 7)) | dict.fromkeys(("date", "datetime"), ("2013-01-02", "2013-01-07"))
ALLOWED = dict.fromkeys(NUMBERS, (0, 1, 7)) | {"string": ("7", "x", "true"), "boolean": (True,)}
Case = tuple[list[pl.DataFrame], Contract, Contract]


@st.composite
def contracts(draw: st.DrawFn, source: dict[str, pl.DataType]) -> Contract:
    """Rules for columns of these types, most of which fit them."""
    typed = {name: draw(st.sampled_from(COLUMNS[dtype][1])) for name, dtype in source.items() if draw(st.booleans())}
    rules: list[Any] = [Types(typed, draw(ACTIONS))] if typed else []
    for name, dtype in source.items():
        kept = typed.get(name, stored_as(dtype))
        possible = [st.just(None), st.builds(NotNull, st.just(name), ACTIONS), st.builds(Unique, st.just(name))]
        if kept in BOUNDS:
            low, high = BOUNDS[kept]
            possible += [st.builds(Between, st.just(name), st.just(low), st.sampled_from([high, None]), ACTIONS)] * 2
        if kept in ALLOWED:
            possible += [st.builds(OneOf, st.just(name), st.just(ALLOWED[kept]), ACTIONS)]
        rules += filter(None, [draw(st.one_of(possible))])
    return Contract(rules)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One or two files with the same columns, and two contracts for them."""
    source = {name: draw(st.sampled_from(sorted(COLUMNS, key=str))) for name in ("a", "b")}
    frames = []
    for _ in range(draw(st.integers(1, 2))):
        rows = draw(st.integers(0, 8))
        cells = {
            name: st.lists(st.none() | COLUMNS[dtype][0], min_size=rows, max_size=rows)
            for name, dtype in source.items()
        }
        frames.append(pl.DataFrame({name: pl.Series(draw(cells[name]), dtype=dtype) for name, dtype in source.items()}))
    return frames, draw(contracts(source)), draw(contracts(source))


def outcome(verb: Callable[[], Any]) -> Any:
    """What a verb gives, or the error that it ends with."""
    try:
        return verb()
    except VelodromeError as error:
        return type(error), str(error)


@pytest.mark.slow
@settings(max_examples=40)  # each example is some dozen durable writes
@given(cases())
def test_a_replay_is_what_reading_the_files_again_would_be(
    tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    frames, old, new = case
    folder = tmp_path_factory.mktemp("project")
    with open_folder(folder / "here") as here, open_folder(folder / "there") as there:
        for ws, (number, frame) in itertools.product((here, there), enumerate(frames)):
            (ws.root / "data").mkdir(exist_ok=True)
            frame.write_parquet(ws.root / "data" / f"{number}.parquet")
        before = outcome(lambda: take_snapshot(here, flights(old)))
        if isinstance(before, tuple):
            return
        shutil.rmtree(here.root / "data")
        replayed = outcome(lambda: replay(here, flights(new)))
        fresh = outcome(lambda: take_snapshot(there, flights(new)))
        if isinstance(fresh, tuple):
            assert replayed == fresh
            return
        assert replayed.taken.digest == fresh.digest
        assert fragments_of(here, replayed.taken.snapshot) == fragments_of(there, fresh.snapshot)
        everything = before.snapshot.rows + before.snapshot.quarantined
        assert replayed.taken.snapshot.rows - before.snapshot.rows == replayed.released - replayed.withdrawn
        assert replayed.taken.snapshot.rows + replayed.withdrawn + replayed.kept == everything


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6),
    contracts({"a": pl.String(), "b": pl.String()}),
    contracts({"a": pl.String(), "b": pl.String()}),
    st.booleans(),
)
def test_a_replay_of_text_files_reads_them_where_it_must(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], old: Contract, new: Contract, kept: bool
) -> None:
    folder = tmp_path_factory.mktemp("project")
    with open_folder(folder / "here") as here, open_folder(folder / "there") as there:
        for ws in (here, there):
            deliver(ws, one="\n".join(["a,b", *(",".join(row) for row in cells)]))
        if isinstance(outcome(lambda: take_snapshot(here, flights(old))), tuple):
            return
        if not kept:
            shutil.rmtree(here.root / "data")
        replayed = outcome(lambda: replay(here, flights(new)))
        if isinstance(replayed, tuple) and replayed[0] is SourceError:
            assert not kept
            assert set(old.text_columns) != set(new.text_columns)
            return
        fresh = outcome(lambda: take_snapshot(there, flights(new)))
        assert replayed == fresh if isinstance(fresh, tuple) else replayed.taken.digest == fresh.digest


# ------------------------------------------------------------------------------------------------- what it cannot replay


def test_without_a_snapshot_there_is_nothing_to_replay(ws: Workspace) -> None:
    with pytest.raises(NotFound, match="no snapshot of 'flights' was taken"):
        replay(ws, flights(NARROW))


def test_text_that_was_read_as_a_number_needs_its_file(ws: Workspace) -> None:
    deliver(ws, a="id,code\n1,007\n2,008\n", b="id,code\n3,009\n")
    before = take_snapshot(ws, flights(Contract()))
    as_text = Contract([Types({"code": "string"})])
    (ws.root / "data" / "b.csv").rename(ws.root / "b.csv")
    with pytest.raises(SourceError, match=r"data/b\.csv has to be read again.*: code") as caught:
        replay(ws, flights(as_text))
    assert "put it back unchanged" in str(caught.value)
    deliver(ws, b="id,code\n3,010\n")
    with pytest.raises(SourceError, match="no file with the bytes that it had"):
        replay(ws, flights(as_text))
    shutil.rmtree(ws.root / "data")
    with pytest.raises(SourceError, match="no file matches"):
        replay(ws, flights(as_text))
    assert newest_snapshot(ws, "flights") == before.snapshot
    deliver(ws, a="id,code\n1,007\n2,008\n", another_name="id,code\n3,009\n")
    snapshot = replay(ws, flights(as_text)).taken.snapshot
    assert scan(ws, snapshot).collect()["code"].to_list() == ["007", "008", "009"]


def test_a_rule_that_stops_leaves_the_snapshot_before_as_the_newest(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    before = take_snapshot(ws, flights(NARROW))
    for rule in (Between("distance", 0, action="stop"), Unique("id", action="stop")):
        with pytest.raises(ContractError, match="breaks a rule that stops"):
            replay(ws, flights(Contract([rule])))
    assert newest_snapshot(ws, "flights") == before.snapshot


def test_what_an_older_velodrome_read_is_read_again(ws: Workspace) -> None:
    deliver(ws, a=MARCH, b=APRIL)
    now = take_snapshot(ws, flights(NARROW))
    older = [
        msgspec.structs.replace(one, ingest=digest_bytes(b"format 1"), sketches=None, converted=None)
        for one in fragments_of(ws, now.snapshot)
    ]
    uses = zip(now.snapshot.fragments, older, strict=True)
    snapshot = msgspec.structs.replace(
        now.snapshot, fragments=tuple(FragmentUse(one.name, use.rows, use.excluded) for use, one in uses)
    )
    ws.commit(*(Put(one, one.name) for one in older), Put(snapshot))
    ws.commit(Move("dataset:flights", now.digest, digest_record(snapshot), "snapshot.taken"))
    assert replay(ws, flights(NARROW)).taken.digest == now.digest
    ws.commit(Move("dataset:flights", now.digest, digest_record(snapshot), "snapshot.taken"))
    assert numbers(replay(ws, flights(WIDE))) == (4, 0, 1)
    ws.commit(Move("dataset:flights", newest(ws), digest_record(snapshot), "snapshot.taken"))
    shutil.rmtree(ws.root / "data")
    with pytest.raises(SourceError, match="an older velodrome read it"):
        replay(ws, flights(Contract([NotNull("carrier")])))


# ------------------------------------------------------------------------------------------------------------- what kills


@dataclass
class Fuse:
    """Blows at one write of all writes of a workspace: before it happens, or after."""

    burns: int
    late: bool
    writes: int = 0

    def around(self, write: Callable[[], Any]) -> Any:
        self.writes += 1
        blown = self.writes == self.burns
        if blown and not self.late:
            raise StorageError("killed before a write")
        done = write()
        if blown:
            raise StorageError("killed after a write")
        return done


class DyingBlobs(FolderBlobs):
    def __init__(self, root: Path, fuse: Fuse) -> None:
        super().__init__(root)
        self.fuse = fuse

    def put(self, source: Any) -> Blob:
        blob: Blob = self.fuse.around(lambda: super(DyingBlobs, self).put(source))
        return blob


class DyingLedger(SqliteLedger):
    def __init__(self, path: Path, fuse: Fuse) -> None:
        super().__init__(path)
        self.fuse = fuse

    def commit(self, writes: Sequence[Write], *, actor: str, now: datetime) -> None:
        self.fuse.around(lambda: super(DyingLedger, self).commit(writes, actor=actor, now=now))


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_killed_at_any_write_the_same_command_ends_the_same(tmp_path: Path, late: bool) -> None:
    with open_folder(tmp_path / "first") as ws:
        deliver(ws, a=MARCH, b=APRIL)
        before = take_snapshot(ws, flights(NARROW)).snapshot
    shutil.copytree(tmp_path / "first", tmp_path / "whole")
    with open_folder(tmp_path / "whole") as ws:
        expected = replay(ws, flights(WIDE)).taken.digest
    for burns in itertools.count(1):
        shutil.copytree(tmp_path / "first", tmp_path / f"{burns}")
        fuse = Fuse(burns, late)
        with open_folder(tmp_path / f"{burns}") as ws:
            dying = replace(
                ws, ledger=DyingLedger(ws.store / "ledger.db", fuse), blobs=DyingBlobs(ws.store / "blobs", fuse)
            )
            with dying, suppress(StorageError):
                replay(dying, flights(WIDE))
            there = newest_snapshot(ws, "flights")
            assert there is not None
            assert there == before or digest_record(there) == expected
            assert scan(ws, there).collect().height == there.rows
            assert replay(ws, flights(WIDE)).taken.digest == expected
            assert len(ws.ledger.records(Fragment.kind())) == 4
        if fuse.writes < burns:
            break
    assert burns > 10
