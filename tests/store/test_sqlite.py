import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from velodrome.core.clock import SystemClock
from velodrome.core.errors import IntegrityError, LedgerVersionError, StorageError
from velodrome.store import schema
from velodrome.store.ledger import Ledger, Put
from velodrome.store.sqlite import SqliteLedger
from velodrome.testing.ledger import LedgerConformance, Sample


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    made = SqliteLedger(tmp_path / "ledger.db")
    yield made
    made.close()


class TestSqliteLedger(LedgerConformance):
    def reopen(self, ledger: Ledger) -> Ledger:
        assert isinstance(ledger, SqliteLedger)
        return SqliteLedger(ledger.path)


def test_it_is_as_durable_as_it_says(ledger: SqliteLedger) -> None:
    with ledger._connection() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "user_version")
        }
    assert values == {"journal_mode": "wal", "synchronous": 2, "user_version": schema.VERSION}


def test_a_newer_ledger_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    SqliteLedger(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerVersionError, match="newer velodrome"):
        SqliteLedger(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StorageError, match="not a database"):
        SqliteLedger(path)


def test_a_full_disk_is_told_with_what_helps(ledger: SqliteLedger) -> None:
    with ledger._connection() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # no page beyond those that are there
    kept = len(list(ledger.scan()))
    with pytest.raises(StorageError, match="full") as caught:
        ledger.commit([Put(Sample(number=n), "x" * 9000) for n in range(99)], actor="ann", now=SystemClock().now())
    assert "make room" in str(caught.value.remedy)
    assert len(list(ledger.scan())) == kept


def test_a_record_edited_by_hand_is_found(ledger: SqliteLedger) -> None:
    ledger.commit([Put(Sample(number=1))], actor="ann", now=SystemClock().now())
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("UPDATE record SET payload = replace(payload, '1', '2')")
    connection.close()
    digest = next(iter(ledger.scan())).digest
    with pytest.raises(IntegrityError, match="changed after it was written"):
        ledger.get(digest)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "smbfs"])
def test_a_network_file_system_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What counts is the innermost mount that the folder lies in."""

    def mounted(**kinds: str) -> None:
        found = [psutil._ntuples.sdiskpart("device", str(tmp_path / path), kind, "rw") for path, kind in kinds.items()]
        monkeypatch.setattr(psutil, "disk_partitions", lambda **_: found)

    (tmp_path / "share" / "local").mkdir(parents=True)
    mounted(**{"": "ext4", "share": kind, "share/local": "xfs"})
    with pytest.raises(StorageError, match="network file system") as caught:
        SqliteLedger(tmp_path / "share" / "ledger.db")
    assert caught.value.received == f"{tmp_path / 'share'} ({kind})"
    assert list((tmp_path / "share").iterdir()) == [tmp_path / "share" / "local"]
    for folder in ("", "share/local"):
        SqliteLedger(tmp_path / folder / "ledger.db").close()


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "100%25 of #1?"
    folder.mkdir()
    SqliteLedger(folder / "ledger.db").close()
    assert [path.name for path in folder.iterdir()] == ["ledger.db"]
