from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from velodrome.core.errors import StateError
from velodrome.data.contracts import Between, Contract, Unique
from velodrome.data.dataset import Dataset
from velodrome.data.profile import Profile, sketch_frame
from velodrome.data.sketching import snapshot_sketches, window_sketches
from velodrome.data.snapshots import Snapshot, fragments_of, scan, scan_use, take_snapshot
from velodrome.data.sources import Files
from velodrome.evaluation.sketches import ColumnSketch
from velodrome.store.blobs import Blob, Blobs
from velodrome.store.ledger import Put, digest_record, read_record
from velodrome.store.workspace import Workspace, open_folder

FILES = {"a": "id,x,word\n1,1.5,u\n2,,v\n3,-1,\n", "b": "id,x,word\n4,2,u\n1,7,w\n", "c": "id,x,word\n5,,\n6,,\n"}


class Watched(Blobs):
    """Real blobs, and a list of those that were read."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs, self.seen = blobs, list[str]()

    def put(self, source: Any) -> Blob:
        return self.blobs.put(source)

    def read(self, digest: str) -> bytes:
        self.seen.append(digest)
        return self.blobs.read(digest)

    def local(self, digest: str) -> Path:
        self.seen.append(digest)
        return self.blobs.local(digest)

    def has(self, digest: str) -> bool:
        return self.blobs.has(digest)

    def delete(self, digest: str) -> None:
        self.blobs.delete(digest)

    def list(self) -> Iterator[Any]:
        return self.blobs.list()

    def copy_to(self, digest: str, out: Any) -> int:
        self.seen.append(digest)
        return self.blobs.copy_to(digest, out)

    def keep(self, digest: str) -> bool:
        return self.blobs.keep(digest)

    def entries(self) -> Iterator[Any]:
        return self.blobs.entries()

    def collect(self, digest: str, before: Any) -> bool:
        return self.blobs.collect(digest, before)

    def sweep(self, before: Any) -> int:
        return self.blobs.sweep(before)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    opened = open_folder(tmp_path)
    return replace(opened, blobs=Watched(opened.blobs))


def take(ws: Workspace, *rules: Any) -> Snapshot:
    for name, text in FILES.items():
        (ws.root / f"{name}.csv").write_text(text, encoding="utf-8")
    return take_snapshot(ws, Dataset("d", Files("*.csv"), contract=Contract(rules))).snapshot


def rows_read(ws: Workspace, snapshot: Snapshot) -> list[str]:
    """The files whose rows were read since the last look."""
    assert isinstance(ws.blobs, Watched)
    contents = {fragment.content: fragment.file for fragment in fragments_of(ws, snapshot)}
    found = [contents[digest] for digest in ws.blobs.seen if digest in contents]
    ws.blobs.seen.clear()
    return found


def typed(sketches: tuple[ColumnSketch, ...], snapshot: Snapshot) -> tuple[ColumnSketch, ...]:
    """Columns without a value have the type that the snapshot gives them."""
    types = {column.name: column.dtype for column in snapshot.columns}
    return tuple(msgspec.structs.replace(sketch, dtype=types[sketch.name]) for sketch in sketches)


@pytest.mark.parametrize("rules", [(), (Between("x", 0),), (Unique("id"),)], ids=["all", "quarantine", "excluded"])
def test_the_sketches_of_a_snapshot_are_those_of_its_rows(ws: Workspace, rules: tuple[Any, ...]) -> None:
    snapshot = take(ws, *rules)
    rows_read(ws, snapshot)
    found = snapshot_sketches(ws, snapshot)
    assert rows_read(ws, snapshot) == []
    assert found == sketch_frame(scan(ws, snapshot).collect())


@pytest.mark.parametrize("window", [slice(0, 1), slice(1, 3), slice(0, 3), slice(2, 3)])
def test_the_sketches_of_a_window_are_those_of_its_rows(ws: Workspace, window: slice) -> None:
    snapshot = take(ws, Between("x", 0))
    uses = snapshot.fragments[window]
    rows_read(ws, snapshot)
    found = window_sketches(ws, snapshot, uses)
    assert rows_read(ws, snapshot) == []
    rows = pl.concat([scan_use(ws, snapshot, use) for use in uses]).collect()
    assert found == typed(sketch_frame(rows), snapshot)


def test_only_the_rows_of_a_fragment_that_is_not_whole_are_read(ws: Workspace) -> None:
    snapshot = take(ws, Unique("id"))
    rows_read(ws, snapshot)
    found = window_sketches(ws, snapshot, snapshot.fragments[1:])
    assert rows_read(ws, snapshot) == ["b.csv"]
    rows = pl.concat([scan_use(ws, snapshot, use) for use in snapshot.fragments[1:]]).collect()
    assert found == typed(sketch_frame(rows), snapshot)


def test_sketches_are_reached_from_the_records_that_name_them(ws: Workspace) -> None:
    snapshot = take(ws)
    profile = read_record(ws.ledger, snapshot.profile, Profile)
    assert [edge.dst for edge in ws.ledger.edges(snapshot.profile, role="sketches")] == [profile.sketches]
    for fragment in fragments_of(ws, snapshot):
        assert [edge.dst for edge in ws.ledger.edges(digest_record(fragment), role="sketches")] == [fragment.sketches]


def test_what_an_older_velodrome_took_has_no_sketches_and_says_what_to_do(ws: Workspace) -> None:
    snapshot = take(ws)
    profile = msgspec.structs.replace(read_record(ws.ledger, snapshot.profile, Profile), sketches=None)
    ws.commit(Put(profile))
    older = msgspec.structs.replace(snapshot, profile=digest_record(profile))
    with pytest.raises(StateError, match="'d' are distributed: an older velodrome read it") as caught:
        snapshot_sketches(ws, older)
    assert "velodrome data snapshot" in str(caught.value)
    fragment = msgspec.structs.replace(fragments_of(ws, snapshot)[0], sketches=None, ingest=snapshot.contract)
    ws.commit(Put(fragment, fragment.name))
    use = msgspec.structs.replace(snapshot.fragments[0], fragment=fragment.name)
    with pytest.raises(StateError, match=r"'a\.csv' are distributed"):
        window_sketches(ws, snapshot, [use])
