"""The place of backups, its manifests, and the copy of a ledger."""

import os
import sqlite3
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count, product
from pathlib import Path

import pytest

from velodrome.core.errors import (
    ConfigurationError,
    IntegrityError,
    LedgerVersionError,
    NotFound,
    StateError,
    StorageError,
    VelodromeError,
)
from velodrome.core.ids import IdFactory
from velodrome.store import schema
from velodrome.store.backup import Backup, BackupPlace, copied_ledger, fill_ledger, open_backups
from velodrome.store.health import tally
from velodrome.store.keys import KEY_BYTES, WrappingKey
from velodrome.store.ledger import Block, Fact, Link, Move, Put, verify_chain
from velodrome.store.postgres import PostgresLedger
from velodrome.store.sql import SqlLedger
from velodrome.store.sqlite import SqliteLedger
from velodrome.testing.ledger import Sample

pytestmark = pytest.mark.slow  # together more than two seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY, OTHER_KEY = (WrappingKey(bytes([number]) * KEY_BYTES) for number in (1, 2))


@pytest.fixture
def new_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], SqlLedger]]:
    """Makes empty ledgers, and closes them in the end."""
    numbers, made = count(1), list[SqlLedger]()

    def make(kind: str = "sqlite") -> SqlLedger:
        if kind == "sqlite":
            made.append(SqliteLedger(tmp_path / f"{next(numbers)}.db"))
        else:
            made.append(PostgresLedger(request.getfixturevalue("postgres").url()))
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()


@pytest.fixture
def ledger(new_ledger: Callable[[], SqlLedger]) -> SqlLedger:
    return filled(new_ledger())


def filled(ledger: SqlLedger) -> SqlLedger:
    """With something in each table, and with what databases like to change: order, infinities, bytes, long texts, no text."""
    ledger.commit([Put(Sample(number=number), name) for number, name in enumerate("zaÄ é")], actor="ann", now=NOW)
    ledger.commit([Move("p", None, "1", "m"), Move("p", "1", None, "m", {"ü": 1.5})], actor="ann", now=NOW)
    facts = [Fact("run:1", "k", 0.1 + 0.2), Fact("run:1", "a", float("-inf")), Fact("run:1", "t", "x" * 1000)]
    ledger.commit([*facts, Link("a", "é", "r"), Link("a", "Z", "r")], actor="bob", now=NOW + timedelta(hours=1))
    ledger.commit([Block("r", "loss", 1, 0, 2**40, 2, bytes(range(256)))], actor="bob", now=NOW)
    return ledger


@pytest.mark.parametrize(("source", "target"), list(product(("sqlite", "postgresql"), repeat=2)))
def test_a_ledger_goes_from_any_database_to_any_other(
    new_ledger: Callable[[str], SqlLedger], source: str, target: str
) -> None:
    one, other = filled(new_ledger(source)), new_ledger(target)
    fill_ledger(one, other)
    assert list(other.dump()) == list(one.dump())
    assert {table for table, each in tally(other).items() if each.rows} == set(schema.metadata.tables)
    other.commit([Put(Sample(number=99)), Move("p", None, "2", "m")], actor="ann", now=NOW)
    verify_chain("p", other.events("p"))


@pytest.mark.parametrize(("kind", "table"), [("sqlite", "record"), ("postgresql", "fact")])
def test_a_ledger_that_holds_anything_is_not_filled(
    new_ledger: Callable[[str], SqlLedger], ledger: SqlLedger, kind: str, table: str
) -> None:
    other = new_ledger(kind)
    other.commit([Put(Sample(number=1)) if table == "record" else Fact("s", "k", 1.0)], actor="ann", now=NOW)
    before = tally(other)
    with pytest.raises(StateError, match="not empty") as caught:
        fill_ledger(ledger, other)
    assert caught.value.received == f"rows in {table}"
    assert tally(other) == before


def test_a_copy_is_made_while_others_write(ledger: SqlLedger, tmp_path: Path) -> None:
    ended = threading.Event()

    def write() -> None:
        for number in range(10_000):
            if ended.is_set():
                return
            present = str(number) if number else None
            moves = [Move(f"w{chain}", present, str(number + 1), "m") for chain in range(3)]
            ledger.commit([Put(Sample(number=1000 + number)), *moves], actor="ann", now=NOW)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen: list[int] = []
        while len(seen) < 5 or seen[0] == seen[-1]:
            assert writer.is_alive()
            with copied_ledger(ledger, tmp_path / "scratch") as copy, copy.opened() as opened:
                assert tally(opened) == copy.tables
                seen.append(len(opened.events("w0")))
                assert len(opened.records("sample")) == 5 + seen[-1]
    finally:
        ended.set()
        writer.join()
    assert seen == sorted(seen)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_copy_is_one_file(ledger: SqlLedger, tmp_path: Path) -> None:
    with copied_ledger(ledger, tmp_path / "scratch") as copy:
        assert [path.name for path in copy.path.parent.iterdir()] == ["ledger.db"]
        with closing(sqlite3.connect(f"file:{copy.path}?mode=ro", uri=True)) as connection:
            assert connection.execute("SELECT count(*) FROM record").fetchone() == (5,)


def test_a_copy_takes_little_memory(new_ledger: Callable[[], SqlLedger], tmp_path: Path) -> None:
    ledger = new_ledger()
    for step in range(30):
        blocks = [Block("r", "loss", step, n, 0, 1, os.urandom(20_000)) for n in range(50)]
        ledger.commit(blocks, actor="ann", now=NOW)
    with copied_ledger(ledger, tmp_path / "warm"):
        pass
    tracemalloc.start()
    try:
        with copied_ledger(ledger, tmp_path / "scratch"):
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * 50 * 20_000 / 2


# --------------------------------------------------------------------------------------------------------------- places


@pytest.fixture(params=["folder", "encrypted", "S3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> BackupPlace:
    if request.param == "S3":
        return open_s3(request)
    return open_backups(str(tmp_path / "place"), key=KEY if request.param == "encrypted" else None, new=True)


def open_s3(request: pytest.FixtureRequest) -> BackupPlace:
    s3 = request.getfixturevalue("s3")
    options = {"endpoint": f"http://127.0.0.1:{s3.server.port}", "region": "us-east-1"}
    return open_backups(s3.url, options=options, new=True)


def publish(place: BackupPlace, ledger: SqlLedger, tmp_path: Path, *, days: int = 0) -> Backup:
    blob = place.blobs.put(b"some bytes")
    moment = NOW + timedelta(days=days)
    with copied_ledger(ledger, tmp_path / "scratch") as copy:
        return place.publish(IdFactory().new(moment), moment, "ann", copy, {blob.digest: blob.size}, "anchor")


def test_a_backup_is_found_with_all_it_holds(place: BackupPlace, ledger: SqlLedger, tmp_path: Path) -> None:
    assert place.ids() == []
    with pytest.raises(NotFound, match="no such backup"):
        place.read()
    made = publish(place, ledger, tmp_path)
    later = publish(place, ledger, tmp_path, days=1)
    assert place.ids() == [later.id, made.id]
    assert (place.read(), place.read(made.id), place.read(made.id[:-3])) == (later, made, made)
    assert (made.actor, made.time, made.blobs, made.bytes, made.anchor) == ("ann", NOW, 1, 10, "anchor")
    assert place.blobs.read(next(iter(place.listing(made)))) == b"some bytes"
    with place.opened_ledger(made, tmp_path / "opened") as opened:
        assert list(opened.dump()) == list(ledger.dump())
        assert tally(opened) == made.tables
    with pytest.raises(NotFound, match="2 backups begin so"):
        place.read(made.id[:2])
    with pytest.raises(NotFound, match="no such backup"):
        place.read("zzz")


def change(place: BackupPlace, name: str, act: Callable[[bytes], bytes]) -> None:
    (path,) = Path(place.where).glob(name)
    path.chmod(0o644)
    path.write_bytes(act(path.read_bytes()))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_any_flipped_bit_of_a_manifest_is_found(ledger: SqlLedger, tmp_path: Path) -> None:
    place = open_backups(str(tmp_path / "place"), new=True)
    made, later = publish(place, ledger, tmp_path), publish(place, ledger, tmp_path, days=1)
    whole = next(Path(place.where).glob(f"backups/{later.id}")).read_bytes()
    for at in range(0, len(whole), 7):
        change(place, f"backups/{later.id}", lambda _, at=at: flipped(whole, at))  # type: ignore[misc]
        with pytest.raises(IntegrityError, match=later.id) as caught:
            place.read()
        assert caught.value.remedy == f"take another: --backup {made.id}"
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        change(place, f"backups/{later.id}", lambda _, cut=cut: whole[:cut])  # type: ignore[misc]
        with pytest.raises(IntegrityError, match=later.id):
            place.read()
    assert place.read(made.id) == made


def test_the_manifest_of_another_backup_or_of_nothing_is_refused(ledger: SqlLedger, tmp_path: Path) -> None:
    place = open_backups(str(tmp_path / "place"), new=True)
    made, later = publish(place, ledger, tmp_path), publish(place, ledger, tmp_path, days=1)
    other = (Path(place.where) / "backups" / made.id).read_bytes()
    for data in (other, b'{"digest":"","backup":{}}', b"[]"):
        change(place, f"backups/{later.id}", lambda _, data=data: data)  # type: ignore[misc]
        with pytest.raises(IntegrityError, match=f"manifest of the backup {later.id} is damaged"):
            place.read()


def test_a_damaged_manifest_is_named_though_it_is_encrypted(ledger: SqlLedger, tmp_path: Path) -> None:
    place = open_backups(str(tmp_path / "place"), key=KEY, new=True)
    made = publish(place, ledger, tmp_path)
    place.blobs.delete(made.ledger.digest)
    place.blobs.delete(made.listing.digest)
    for path in Path(place.where).glob("[0-9a-f][0-9a-f]/*"):
        path.chmod(0o644)
        path.write_bytes(flipped(path.read_bytes(), 90))
    with pytest.raises(IntegrityError, match=f"manifest of the backup {made.id} is damaged"):
        place.read()


def test_a_damaged_or_missing_ledger_is_named(ledger: SqlLedger, tmp_path: Path) -> None:
    place = open_backups(str(tmp_path / "place"), new=True)
    made = publish(place, ledger, tmp_path)
    name = f"{made.ledger.digest[:2]}/{made.ledger.digest[2:]}"
    change(place, name, lambda data: flipped(data, len(data) // 2))
    for problem in ("damaged", "missing"):
        with pytest.raises(IntegrityError, match=f"the ledger of the backup {made.id} is {problem}"):
            place.opened_ledger(made, tmp_path / "opened").__enter__()
        place.blobs.delete(made.ledger.digest)
    place.blobs.delete(made.listing.digest)
    with pytest.raises(IntegrityError, match=f"the list of blobs of the backup {made.id} is missing"):
        place.listing(made)


@pytest.mark.parametrize("newer", [{"format": 2}, {"schema": schema.VERSION + 1}])
def test_a_backup_of_a_newer_program_is_refused_by_name(
    ledger: SqlLedger, tmp_path: Path, newer: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_backups(str(tmp_path / "place"), new=True)
    with copied_ledger(ledger, tmp_path / "scratch") as copy, monkeypatch.context() as patch:
        if "schema" in newer:
            patch.setattr(schema, "VERSION", newer["schema"])
        else:
            patch.setattr("velodrome.store.backup._FORMAT", 2)
        made = place.publish("1", NOW, "ann", copy, {})
    with pytest.raises(LedgerVersionError, match="newer velodrome"):
        place.read(made.id)


def test_a_backup_of_an_older_program_is_migrated(tmp_path: Path) -> None:
    place = open_backups(str(tmp_path / "place"), new=True)
    old = tmp_path / "old.db"
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript(Path(__file__).with_name("ledger-1.sql").read_text(encoding="utf-8"))
    backup = Backup(
        format=1, id="1", time=NOW, actor="ann", velodrome="0.0.1", schema=1, tables={}, ledger=place.blobs.put(old),
        listing=place.blobs.put(b"[]"), blobs=0, bytes=0,
    )  # fmt: skip
    with place.opened_ledger(backup, tmp_path / "opened") as opened:
        assert len(list(opened.scan())) == 2
        assert tally(opened).keys() == schema.metadata.tables.keys()
    assert list((tmp_path / "opened").iterdir()) == []


def test_encrypted_backups_tell_nothing_and_need_their_key(ledger: SqlLedger, tmp_path: Path) -> None:
    where = str(tmp_path / "place")
    made = publish(open_backups(where, key=KEY, new=True), ledger, tmp_path)
    for path in (path for path in Path(where).rglob("*") if path.is_file()):
        assert made.id not in path.name
        assert not {b"sample", b"some bytes", made.ledger.digest.encode()} & {
            text for text in (b"sample", b"some bytes", made.ledger.digest.encode()) if text in path.read_bytes()
        }
    assert open_backups(where, key=KEY).read() == made
    with pytest.raises(ConfigurationError, match="encrypted") as caught:
        open_backups(where)
    assert "--key" in str(caught.value.remedy)
    with pytest.raises(StorageError, match="another master key"):
        open_backups(where, key=OTHER_KEY).ids()


def test_plain_backups_are_read_by_whoever_has_a_key_and_never_mixed(ledger: SqlLedger, tmp_path: Path) -> None:
    where = str(tmp_path / "place")
    made = publish(open_backups(where, new=True), ledger, tmp_path)
    assert open_backups(where, key=KEY).read() == made
    with pytest.raises(ConfigurationError, match="plain backups"):
        open_backups(where, key=KEY, new=True)


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        open_backups(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "recipe.py").touch()
    with pytest.raises(ConfigurationError, match="holds nothing else") as caught:
        open_backups(str(tmp_path), new=True)
    assert "recipe.py" in str(caught.value.received)


@pytest.mark.parametrize("where", ["postgresql://user:s3cret@host/db", "s3://key:s3cret@bucket/x", "s3://b/x?k=s3cret"])
def test_an_address_with_a_secret_is_refused_unseen(where: str) -> None:
    with pytest.raises(VelodromeError) as caught:
        open_backups(where, new=True)
    assert "s3cret" not in str(caught.value)
