import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from velodrome.core.clock import ManualClock
from velodrome.core.errors import SourceError
from velodrome.data.deliveries import look, require_unchanged
from velodrome.store.files import digest_file
from velodrome.store.workspace import Workspace, open_folder


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    opened = open_folder(tmp_path)
    later = ManualClock(datetime.now(UTC) + timedelta(hours=1))
    return Workspace(opened.root, opened.store, opened.ledger, opened.blobs, opened.actor, clock=later)


def memory(ws: Workspace) -> Path:
    return ws.cache / "deliveries.json"


def test_files_are_named_by_their_bytes_in_the_given_order(ws: Workspace) -> None:
    for name in ("b.csv", "a.csv"):
        (ws.root / name).write_text(name)
    found = look(ws, [ws.root / "b.csv", ws.root / "a.csv"])
    assert [one.name for one in found] == ["b.csv", "a.csv"]
    assert [one.digest for one in found] == [digest_file(one.path) for one in found]


def test_a_known_file_is_not_read_again(ws: Workspace) -> None:
    path = ws.root / "a.csv"
    path.write_text("one")
    (first,) = look(ws, [path])
    memory(ws).write_bytes(memory(ws).read_bytes().replace(first.digest.encode(), b"f" * 64))
    assert look(ws, [path])[0].digest == "f" * 64


def test_a_change_that_keeps_size_and_time_is_seen(ws: Workspace) -> None:
    path = ws.root / "a.csv"
    path.write_text("one")
    (first,) = look(ws, [path])
    kept = path.stat()
    path.write_text("two")
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    (second,) = look(ws, [path])
    assert second.digest == digest_file(path) != first.digest


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    ws = open_folder(tmp_path)
    (tmp_path / "a.csv").write_text("one")
    look(ws, [tmp_path / "a.csv"])
    assert not memory(ws).exists()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"a": 1}', b"\xff"])
def test_a_damaged_memory_costs_a_hash_and_nothing_else(ws: Workspace, damage: bytes) -> None:
    path = ws.root / "a.csv"
    path.write_text("one")
    look(ws, [path])
    memory(ws).write_bytes(damage)
    assert look(ws, [path])[0].digest == digest_file(path)


def test_a_file_that_changes_while_it_is_read_is_refused(ws: Workspace) -> None:
    path = ws.root / "a.csv"
    path.write_text("one")
    (delivery,) = look(ws, [path])
    require_unchanged(delivery)
    path.write_text("two!")
    with pytest.raises(SourceError, match=r"a\.csv changed while it was read"):
        require_unchanged(delivery)


def test_a_file_that_is_gone_is_named(ws: Workspace) -> None:
    with pytest.raises(SourceError, match=r"cannot read .*gone\.csv"):
        look(ws, [ws.root / "gone.csv"])
