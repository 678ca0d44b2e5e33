"""What is wrong with a place is found, named, and gone when it was mended as it says; ledgers are compared by their tallies."""

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from velodrome.store.blobs import FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.encryption import EncryptedBlobs
from velodrome.store.health import (
    Finding,
    damaged_copies,
    examine_access,
    examine_space,
    keyring,
    local_places,
    tally,
)
from velodrome.store.keys import KEY_BYTES, WrappingKey
from velodrome.store.ledger import Append, Block, Link, Move, Put
from velodrome.store.named import AddressedBlobs, FolderObjects
from velodrome.store.postgres import PostgresLedger
from velodrome.store.sql import SqlLedger
from velodrome.store.sqlite import SqliteLedger
from velodrome.store.workspace import open_folder
from velodrome.testing.ledger import Sample

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GIB = 1 << 30


def write_something(ledger: SqlLedger) -> None:
    ledger.commit([Put(Sample(number=number), "é") for number in range(5)], actor="ann", now=NOW)
    ledger.commit([Move("p", None, "1", "m"), Move("p", "1", "2", "m"), Link("a", "b", "r")], actor="ann", now=NOW)
    later = NOW + timedelta(hours=1)
    ledger.commit([Append("q", "t", {"x": 1.5}), Block("r", "loss", 1, 0, 1, 2, b"\0\xff")], actor="bob", now=later)


@pytest.mark.slow
def test_both_databases_tally_alike(tmp_path: Path, new_address: Callable[[], str]) -> None:
    address = new_address()
    second = PostgresLedger(address) if "://" in address else SqliteLedger(Path(address))
    with closing(SqliteLedger(tmp_path / "one.db")) as one, closing(second) as other:
        write_something(one)
        assert tally(one) != tally(other)
        other.fill(one.dump())
        assert tally(one) == tally(other)


def test_what_everybody_may_change_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    (folder / "blobs").mkdir(parents=True)
    for name in ("ledger.db", "blobs/one", "blobs/two"):
        (folder / name).touch(0o644)
    (folder / "link").symlink_to("ledger.db")
    assert examine_access([folder]) == []
    (folder / "blobs").chmod(0o777)
    (folder / "ledger.db").chmod(0o666)
    (found,) = examine_access([folder])
    assert "everybody may change" in found.finding
    assert "and 1 more" in found.finding
    assert found.severity == "problem"
    assert mended(found) == 0
    assert examine_access([folder]) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_a_note_as_long_as_they_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 65534, -1)
    (found,) = examine_access([tmp_path])
    assert found.severity == "note"
    assert "owns" in found.finding
    assert mended(found) == 0
    assert examine_access([tmp_path]) == []


def mended(finding: Finding) -> int:
    """Do what a finding says, as far as it is a command."""
    return os.system(finding.remedy.partition(",")[0])


@pytest.mark.parametrize(
    ("total", "free", "severity"),
    [
        (100 * GIB, 6 * GIB, None),
        (100 * GIB, 4 * GIB, "note"),
        (100 * GIB, GIB // 4, "problem"),
        (10_000 * GIB, 11 * GIB, None),
        (10_000 * GIB, 9 * GIB, "note"),
        (4 * GIB, 2 * GIB, None),
        (4 * GIB, GIB // 2, "note"),
        (4 * GIB, GIB // 20, "problem"),
    ],
)
def test_a_disk_with_little_room_is_told_once(tmp_path: Path, total: int, free: int, severity: str | None) -> None:
    (tmp_path / "other").mkdir()
    folders = [tmp_path, tmp_path / "other"]
    found = examine_space(folders, lambda _: (total, total - free, free))
    assert [finding.severity for finding in found] == ([severity] if severity else [])


def test_a_folder_that_changes_meanwhile_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "gone").mkdir()
    scandir = os.scandir

    def scan(path: Path) -> object:
        if path.name == "gone":
            path.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert examine_access([tmp_path]) == []
    assert not (tmp_path / "gone").exists()


def test_the_places_of_a_workspace_are_each_named_once(tmp_path: Path) -> None:
    with open_folder(tmp_path) as ws:
        assert local_places(ws) == [tmp_path / ".velodrome"]
        assert local_places(replace(ws, blobs=FolderBlobs(tmp_path / "blobs"))) == [ws.store, tmp_path / "blobs"]
        encrypted = EncryptedBlobs(FolderBlobs(tmp_path / "secret"), WrappingKey(bytes(KEY_BYTES)))
        assert local_places(replace(ws, blobs=encrypted)) == [ws.store, tmp_path / "secret"]
    with closing(SqliteLedger(tmp_path / "other.db")) as ledger:
        write_something(ledger)
        assert local_places(replace(ws, ledger=ledger)) == [
            ws.store,
            *(tmp_path / f"other.db{rest}" for rest in ("", "-wal", "-shm")),
        ]


@pytest.mark.parametrize("copy", ["a", "b"])
def test_a_lost_or_damaged_copy_of_a_key_is_named_and_made_again(tmp_path: Path, copy: str) -> None:
    master = WrappingKey(bytes(KEY_BYTES))
    blob = EncryptedBlobs(FolderBlobs(tmp_path), master).put(b"secret")
    (path,) = (tmp_path / "keyring").glob(f"*-{copy}")
    for damage in (path.unlink, lambda: path.write_bytes(b"x" * 124)):
        keys = keyring(EncryptedBlobs(FolderBlobs(tmp_path), master))
        assert keys is not None
        assert keys.damaged_keys() == []
        path.chmod(0o644)
        damage()
        assert keys.damaged_keys() == [f"keyring/{path.name}"]
        assert keys.mend_keys() == 1
        assert (keys.damaged_keys(), keys.mend_keys()) == ([], 0)
    for other in (tmp_path / "keyring").glob("*"):
        if other != path:
            other.unlink()
    assert EncryptedBlobs(FolderBlobs(tmp_path), master).read(blob.digest) == b"secret"


def test_only_encrypted_blobs_have_keys(tmp_path: Path) -> None:
    assert keyring(FolderBlobs(tmp_path)) is None
    remote = EncryptedBlobs(FolderBlobs(tmp_path / "remote"), WrappingKey(bytes(KEY_BYTES)))
    assert keyring(CachedBlobs(remote, tmp_path / "copies", 1 << 30)) is not None


def test_damaged_copies_of_a_cache_are_found(tmp_path: Path) -> None:
    remote = AddressedBlobs(FolderObjects(tmp_path / "remote"))
    cached = CachedBlobs(remote, tmp_path / "copies", 1 << 30)
    digests = [cached.put(text).digest for text in (b"one", b"two")]
    paths = [cached.local(digest) for digest in digests]
    assert damaged_copies(cached) == damaged_copies(remote) == []
    paths[0].chmod(0o644)
    paths[0].write_bytes(b"eno")
    assert damaged_copies(cached) == [paths[0]]
