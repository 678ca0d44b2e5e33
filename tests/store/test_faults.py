"""The wrappers keep every contract while they do no harm, and do each harm exactly where they were told to."""

import inspect
import io
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from velodrome.core.clock import ManualClock
from velodrome.core.digest import digest_bytes
from velodrome.core.errors import IntegrityError, MissingBlob, StorageError
from velodrome.store.blobs import Blobs, FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.encryption import EncryptedBlobs
from velodrome.store.faults import Fault, FaultPlan, FaultyBlobs, FaultyLedger, FaultyObjects
from velodrome.store.keys import KEY_BYTES, WrappingKey
from velodrome.store.ledger import Append, Block, Ledger, Link, Move, Put, digest_record, verify_chain
from velodrome.store.named import AddressedBlobs, FolderObjects, Objects
from velodrome.store.sqlite import SqliteLedger
from velodrome.testing.blobs import BlobsConformance
from velodrome.testing.ledger import LedgerConformance, Sample

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DATA = b"precious" * 1000
DIGEST = digest_bytes(DATA)
KINDS = {
    "refused": Fault(kind="fail", call=1),
    "unanswered": Fault(kind="fail", call=1, after=True),
    "torn": Fault(kind="tear", call=1),
}


class TestFaultyBlobs(BlobsConformance):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FaultyBlobs:
        return FaultyBlobs(FolderBlobs(tmp_path / "blobs"), FaultPlan())

    def damage(self, blobs: Blobs, digest: str) -> None:
        assert isinstance(blobs, FaultyBlobs)
        spoiling = FaultyBlobs(blobs.inner, FaultPlan(Fault(kind="corrupt", call=1)))
        with pytest.raises(IntegrityError):
            spoiling.read(digest)


class TestBlobsOverFaultyObjects(TestFaultyBlobs):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FaultyBlobs:
        objects = FaultyObjects(FolderObjects(tmp_path / "blobs"), FaultPlan())
        return FaultyBlobs(AddressedBlobs(objects), FaultPlan())


class TestFaultyLedger(LedgerConformance):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Iterator[FaultyLedger]:
        self.path = tmp_path / "ledger.db"
        made = FaultyLedger(SqliteLedger(self.path), FaultPlan())
        yield made
        made.close()

    def reopen(self, ledger: Ledger) -> Ledger:
        return SqliteLedger(self.path)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    made = SqliteLedger(tmp_path / "ledger.db")
    yield made
    made.close()


def places(tmp_path: Path) -> dict[str, Blobs]:
    folder = FolderBlobs(tmp_path / "plain")
    encrypted = EncryptedBlobs(FolderBlobs(tmp_path / "encrypted"), WrappingKey(bytes(KEY_BYTES)))
    remote = AddressedBlobs(FolderObjects(tmp_path / "remote"))
    return {"folder": folder, "encrypted": encrypted, "cached": CachedBlobs(remote, tmp_path / "cache", 1 << 20)}


# ---------------------------------------------------------------------------------------------------------------- plans


def test_a_plan_counts_the_calls_of_all_its_wrappers(ledger: SqliteLedger, tmp_path: Path) -> None:
    plan = FaultPlan()
    blobs, books = FaultyBlobs(FolderBlobs(tmp_path / "blobs"), plan), FaultyLedger(ledger, plan)
    blobs.put(DATA)
    books.commit([Append("s", "t")], actor="ann", now=NOW)
    blobs.read(DIGEST)
    assert plan.calls == ["blobs.put", "ledger.commit", "blobs.read"]


def test_the_n_th_call_of_a_name_is_harmed_as_often_as_asked(tmp_path: Path) -> None:
    plan = FaultPlan(Fault(kind="fail", call=2, of="blobs.has", times=2))
    blobs = FaultyBlobs(FolderBlobs(tmp_path), plan)
    answers = []
    for _ in range(5):
        blobs.put(DATA)
        try:
            answers.append(blobs.has(DIGEST))
        except StorageError as error:
            answers.append(error.received)
    assert answers == [True, "call 4", "call 6", True, True]


def test_threads_share_a_plan_and_one_of_them_is_harmed(tmp_path: Path) -> None:
    plan = FaultPlan(Fault(kind="fail", call=37))
    blobs = FaultyBlobs(FolderBlobs(tmp_path), plan)
    failures = []

    def work() -> None:
        for _ in range(25):
            try:
                blobs.has(DIGEST)
            except StorageError as error:
                failures.append(error.received)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == ["call 37"]
    assert len(plan.calls) == 100


def test_a_delay_is_waited_and_then_nothing_is_wrong(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    blobs = FaultyBlobs(FolderBlobs(tmp_path), FaultPlan(Fault(kind="delay", call=1, seconds=30.0), clock=clock))
    assert blobs.put(DATA).digest == DIGEST
    assert clock.now() - NOW == timedelta(seconds=30)


def test_a_fault_says_that_it_is_one(tmp_path: Path) -> None:
    for said, fault in {"was refused": "refused", "has no answer": "unanswered", "was torn": "torn"}.items():
        with pytest.raises(StorageError, match=rf"blobs\.put {said}: a fault on purpose"):
            FaultyBlobs(FolderBlobs(tmp_path), FaultPlan(KINDS[fault])).put(DATA)


@pytest.mark.slow
@pytest.mark.parametrize(("after", "left"), [(False, 0), (True, 1)])
def test_a_kill_ends_the_process_before_or_after_the_call(tmp_path: Path, after: bool, left: int) -> None:
    program = f"""
        from pathlib import Path
        from velodrome.store.blobs import FolderBlobs
        from velodrome.store.faults import Fault, FaultPlan, FaultyBlobs
        blobs = FaultyBlobs(FolderBlobs(Path({str(tmp_path)!r})), FaultPlan(Fault(kind="kill", call=2, after={after})))
        print(list(blobs.list()), flush=True)
        blobs.put(b"too late")
        print("still here")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "[]\n")
    assert len(list(FolderBlobs(tmp_path).list())) == left


# ---------------------------------------------------------------------------------------------------------------- blobs


@pytest.mark.parametrize("place", ["folder", "encrypted", "cached"])
@pytest.mark.parametrize("make", [bytes, io.BytesIO, memoryview], ids=["bytes", "stream", "view"])
def test_a_torn_put_leaves_half_a_blob_that_the_next_put_mends(
    tmp_path: Path, place: str, make: Callable[[bytes], Any]
) -> None:
    blobs = places(tmp_path)[place]
    with pytest.raises(StorageError, match="torn"):
        FaultyBlobs(blobs, FaultPlan(KINDS["torn"])).put(make(DATA))
    with pytest.raises(IntegrityError, match=DIGEST[:12]):
        blobs.read(DIGEST)
    assert FaultyBlobs(blobs, FaultPlan()).put(make(DATA)).digest == DIGEST
    assert blobs.read(DIGEST) == DATA


def test_a_torn_put_of_what_is_there_harms_nothing(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    blobs.put(DATA)
    with pytest.raises(StorageError, match="torn"):
        FaultyBlobs(blobs, FaultPlan(KINDS["torn"])).put(DATA)
    assert blobs.read(DIGEST) == DATA


@pytest.mark.parametrize("place", ["folder", "encrypted", "cached"])
def test_what_is_corrupted_as_it_is_put_is_found_by_whoever_reads_it(tmp_path: Path, place: str) -> None:
    blobs = places(tmp_path)[place]
    source = tmp_path / "source"
    source.write_bytes(DATA)
    assert FaultyBlobs(blobs, FaultPlan(Fault(kind="corrupt", call=1))).put(source).digest == DIGEST
    for read in (blobs.read, blobs.local):
        with pytest.raises(IntegrityError, match=DIGEST[:12]):
            read(DIGEST)


def test_what_is_corrupted_before_it_is_read_stays_so(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    blobs.put(DATA)
    faulty = FaultyBlobs(blobs, FaultPlan(Fault(kind="corrupt", call=1)))
    for _ in range(2):
        with pytest.raises(IntegrityError):
            faulty.read(DIGEST)


def test_a_blob_that_is_not_there_cannot_be_corrupted(tmp_path: Path) -> None:
    for blobs in places(tmp_path).values():
        with pytest.raises(MissingBlob):
            FaultyBlobs(blobs, FaultPlan(Fault(kind="corrupt", call=1))).local(DIGEST)


@pytest.mark.parametrize(("kind", "there"), [("refused", False), ("unanswered", True)])
def test_a_failed_put_was_made_or_not_as_asked(tmp_path: Path, kind: str, there: bool) -> None:
    blobs = FolderBlobs(tmp_path)
    with pytest.raises(StorageError):
        FaultyBlobs(blobs, FaultPlan(KINDS[kind])).put(DATA)
    assert blobs.has(DIGEST) is there


# -------------------------------------------------------------------------------------------------------------- objects


def over(tmp_path: Path, *faults: Fault) -> AddressedBlobs:
    return AddressedBlobs(FaultyObjects(FolderObjects(tmp_path), FaultPlan(*faults)))


def test_one_damaged_transfer_is_made_again(tmp_path: Path) -> None:
    over(tmp_path).put(DATA)
    assert over(tmp_path, Fault(kind="corrupt", call=1, of="objects.get")).read(DIGEST) == DATA
    with pytest.raises(IntegrityError):
        over(tmp_path, Fault(kind="corrupt", call=1, of="objects.get", times=2)).read(DIGEST)


@pytest.mark.parametrize("kind", ["tear", "corrupt"])
def test_half_or_spoilt_objects_are_found_and_mended_under_encryption_too(tmp_path: Path, kind: Any) -> None:
    key = WrappingKey(bytes(KEY_BYTES))
    EncryptedBlobs(over(tmp_path), key).put(b"so that there are keys")
    faulty = EncryptedBlobs(over(tmp_path, Fault(kind=kind, call=1, of="objects.put")), key)
    try:
        assert faulty.put(DATA).digest == DIGEST
    except StorageError:
        assert kind == "tear"
    with pytest.raises(IntegrityError):
        EncryptedBlobs(over(tmp_path), key).read(DIGEST)
    EncryptedBlobs(over(tmp_path), key).put(DATA)
    assert EncryptedBlobs(over(tmp_path), key).read(DIGEST) == DATA


@pytest.mark.parametrize("call", ["put", "get", "has", "delete", "list"])
def test_each_call_of_a_place_can_fail(tmp_path: Path, call: str) -> None:
    objects = FaultyObjects(FolderObjects(tmp_path), FaultPlan(Fault(kind="fail", call=1, of=f"objects.{call}")))
    blobs = AddressedBlobs(objects)
    calls: list[Callable[[], object]] = [
        lambda: blobs.put(DATA),
        lambda: blobs.read(DIGEST),
        lambda: blobs.has(DIGEST),
        lambda: list(blobs.list()),
        lambda: blobs.delete(DIGEST),
    ]
    failures = []
    for action in calls:
        try:
            action()
        except StorageError as error:
            failures.append(error.problem)
    assert f"objects.{call} was refused: a fault on purpose" in failures


# --------------------------------------------------------------------------------------------------------------- ledger

WRITES = [Put(Sample(number=1)), Link("a", "b", "c"), Append("s", "t", {"much": "text"}), Move("p", None, "1", "m")]


def kept(ledger: Ledger) -> tuple[int, ...]:
    return len(list(ledger.scan())), len(ledger.edges("a")), len(ledger.events("s")), len(ledger.events("p"))


@pytest.mark.parametrize(
    ("kind", "left"), [("refused", (0, 0, 0, 0)), ("torn", (0, 0, 0, 0)), ("unanswered", (1, 1, 1, 1))]
)
def test_a_harmed_commit_is_there_whole_or_not_at_all(ledger: SqliteLedger, kind: str, left: tuple[int, ...]) -> None:
    faulty = FaultyLedger(ledger, FaultPlan(KINDS[kind]))
    with pytest.raises(StorageError, match="on purpose"):
        faulty.commit(WRITES, actor="ann", now=NOW)
    assert kept(ledger) == left
    assert ledger.events("fault:tear") == []


def test_a_record_that_was_corrupted_is_never_read(ledger: SqliteLedger) -> None:
    FaultyLedger(ledger, FaultPlan(Fault(kind="corrupt", call=1))).commit(WRITES, actor="ann", now=NOW)
    with pytest.raises(IntegrityError, match="changed after it was written"):
        ledger.get(digest_record(Sample(number=1)))
    verify_chain("s", ledger.events("s"))


def test_an_event_that_was_corrupted_breaks_its_chain(ledger: SqliteLedger) -> None:
    faulty = FaultyLedger(ledger, FaultPlan(Fault(kind="corrupt", call=2)))
    for _ in range(2):
        faulty.commit([Append("s", "t", {"text": "to be spoilt"})], actor="ann", now=NOW)
    with pytest.raises(IntegrityError, match="broken at event 2"):
        verify_chain("s", ledger.events("s"))


def test_a_record_is_corrupted_before_it_is_got(ledger: SqliteLedger) -> None:
    ledger.commit(WRITES, actor="ann", now=NOW)
    faulty = FaultyLedger(ledger, FaultPlan(Fault(kind="corrupt", call=1, of="ledger.get", times=2)))
    assert faulty.get("0" * 64) is None
    with pytest.raises(IntegrityError):
        faulty.get(digest_record(Sample(number=1)))


def test_a_block_can_be_corrupted_and_what_has_no_bytes_cannot(ledger: SqliteLedger) -> None:
    faulty = FaultyLedger(ledger, FaultPlan(Fault(kind="corrupt", call=1, times=2)))
    faulty.commit([Block("r", "loss", 1, 0, 1, 2, b"abc"), Link("a", "b", "c")], actor="ann", now=NOW)
    faulty.commit([Link("a", "b", "d")], actor="ann", now=NOW)
    assert [block.data for block in ledger.blocks("r")] == [b"acc"]
    assert len(ledger.edges("a")) == 2


@pytest.mark.parametrize("fault", [Fault(kind="fail", call=1), Fault(kind="tear", call=1)], ids=["fail", "tear"])
def test_each_read_of_a_ledger_can_fail(ledger: SqliteLedger, fault: Fault) -> None:
    reads: list[Callable[[Ledger], object]] = [
        lambda books: books.get("0" * 64),
        lambda books: books.records("sample"),
        lambda books: books.edges("a"),
        lambda books: books.events("s"),
        lambda books: books.pointer("p"),
        lambda books: books.pointers("p"),
        lambda books: books.blocks("r"),
        lambda books: books.subjects(),
        lambda books: books.scan(),
        lambda books: books.check(),
    ]
    for read in reads:
        faulty = FaultyLedger(ledger, FaultPlan(fault))
        with pytest.raises(StorageError, match="on purpose"):
            read(faulty)
        read(faulty)


def test_the_wrappers_are_told_apart(ledger: SqliteLedger, tmp_path: Path) -> None:
    assert repr(FaultyLedger(ledger, FaultPlan())) == f"FaultyLedger({ledger.name!r})"
    assert repr(FaultyBlobs(over(tmp_path), FaultPlan())) == f"FaultyBlobs(AddressedBlobs({str(tmp_path)!r}))"


@pytest.mark.parametrize(
    ("interface", "wrapper"), [(Blobs, FaultyBlobs), (Objects, FaultyObjects), (Ledger, FaultyLedger)]
)
def test_every_call_of_an_interface_goes_through_its_wrapper(interface: type, wrapper: type) -> None:
    """One that the wrapper inherits would never be harmed."""
    calls = {name: value for name, value in vars(interface).items() if not name.startswith("_")}
    assert calls.keys() <= vars(wrapper).keys()
    for name, call in calls.items():
        if callable(call):
            assert inspect.signature(call) == inspect.signature(vars(wrapper)[name]), name


def test_only_blobs_of_ours_can_be_spoilt() -> None:
    strange = type("Strange", (Blobs,), {name: lambda *_: None for name in Blobs.__abstractmethods__})()
    with pytest.raises(StorageError, match="only blobs of velodrome"):
        FaultyBlobs(strange, FaultPlan(Fault(kind="corrupt", call=1))).read(DIGEST)


def test_a_closed_wrapper_has_closed_its_ledger(tmp_path: Path) -> None:
    FaultyLedger(SqliteLedger(tmp_path / "ledger.db"), FaultPlan()).close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
