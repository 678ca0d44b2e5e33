"""What holds on both databases alike, and what many processes may do to one ledger."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise, product
from pathlib import Path

import pytest
import sqlalchemy as sa

from velodrome.core.errors import PointerMoved, StorageError
from velodrome.store import schema
from velodrome.store.ledger import Append, Block, Link, Move, Put, Write, digest_record, verify_chain
from velodrome.store.postgres import PostgresLedger
from velodrome.store.sql import SqlLedger
from velodrome.store.sqlite import SqliteLedger
from velodrome.testing.ledger import Sample

pytestmark = pytest.mark.slow  # together more than two seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def ledger(address: str) -> Iterator[SqlLedger]:
    made = PostgresLedger(address) if "://" in address else SqliteLedger(Path(address))
    yield made
    made.close()


def positions(ledger: SqlLedger) -> list[int]:
    with ledger._connection() as connection:
        return list(
            connection.execute(sa.select(schema.record.c.position).order_by(schema.record.c.position)).scalars()
        )


def test_positions_have_no_gaps(ledger: SqlLedger) -> None:
    for number in range(10):
        present = ledger.pointer("p")
        put: list[Write] = [Put(Sample(number=number)), Put(Sample(number=number)), Put(Sample(number=100 + number))]
        for expected in ("somebody else's", present and present.value):
            try:
                ledger.commit([*put, Move("p", expected, str(number), "m")], actor="ann", now=NOW)
            except PointerMoved:
                continue
            ledger.commit(put, actor="ann", now=NOW)
    assert positions(ledger) == list(range(1, 21))


def test_writes_take_effect_in_their_order(ledger: SqlLedger) -> None:
    blocks = [Block("r", "loss", 1, 1, last, 1, b"x") for last in (5, 9, 7)]
    writes: list[Write] = [
        Append("s", "a"),
        *blocks[:2],
        Move("s", None, "1", "b"),
        blocks[2],
        Move("s", "1", "2", "c"),
    ]
    ledger.commit([*writes, Append("s", "d")], actor="ann", now=NOW)
    assert [event.type for event in ledger.events("s")] == ["a", "b", "c", "d"]
    assert ledger.blocks("r") == [blocks[2]]


@pytest.mark.parametrize("bad", ["a\0b", "half \ud83d"], ids=["nul", "surrogate"])
def test_a_text_that_some_database_cannot_keep_is_refused_by_name(ledger: SqlLedger, bad: str) -> None:
    refused: list[tuple[Write, str]] = [
        (Put(Sample(number=1), bad), "Put.name"),
        (Link("a", bad, "r"), "Link.dst"),
        (Append(bad, "t"), "Append.subject"),
        (Move("s", None, bad, "t"), "Move.value"),
        (Block("r", bad, 1, 1, 1, 1, b"\0"), "Block.series"),
    ]
    for write, name in refused:
        with pytest.raises(StorageError, match=name):
            ledger.commit([Append("s", "t"), write], actor="ann", now=NOW)
    with pytest.raises(StorageError, match="this actor"):
        ledger.commit([Append("s", "t")], actor=bad, now=NOW)
    assert ledger.subjects() == []


def test_a_body_may_have_any_text(ledger: SqlLedger) -> None:
    body = {"why": "nul \0, quote ' and 🚲"}
    ledger.commit([Append("s", "t", body)], actor="ann", now=NOW)
    assert ledger.events("s")[0].body == body


def test_a_chain_verifies_wherever_its_writer_lives(ledger: SqlLedger) -> None:
    ledger.commit([Append("s", "t")], actor="ann", now=NOW.astimezone(timezone(timedelta(hours=5))))
    verify_chain("s", ledger.events("s"))


def test_texts_are_ordered_and_found_by_their_code_points(ledger: SqlLedger) -> None:
    subjects = ["".join(letters) for size in (1, 2, 3) for letters in product("aA_%é🚲", repeat=size)]
    ledger.commit([Move(subject, None, "1", "m") for subject in subjects], actor="ann", now=NOW)
    for prefix in ["", *subjects]:
        expected = sorted(subject for subject in subjects if subject.startswith(prefix))
        assert ledger.subjects(prefix) == expected
    assert [pointer.subject for pointer in ledger.pointers("a")] == ledger.subjects("a")


def test_large_numbers_and_blocks_come_back(ledger: SqlLedger) -> None:
    block = Block("r", "loss", 1, 2**40, 2**62, 2**33, bytes(range(256)) * 4096)
    ledger.commit([block], actor="ann", now=NOW)
    assert ledger.blocks("r") == [block]


# ---------------------------------------------------------------------------------------------------- many processes

PREAMBLE = """
import os, random, sys, time, traceback
from datetime import UTC, datetime
from pathlib import Path
from velodrome.core.errors import PointerMoved
from velodrome.store.ledger import Append, Block, Link, Move, Put
from velodrome.store.postgres import PostgresLedger
from velodrome.store.sqlite import SqliteLedger
from velodrome.testing.ledger import Sample

address, count = sys.argv[1], int(sys.argv[2])
now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

def open_at(address):
    return PostgresLedger(address) if "://" in address else SqliteLedger(Path(address))
"""

CROWD = (
    PREAMBLE
    + """
def register(ledger, me):
    counter, champion = ledger.pointer("model:m"), ledger.pointer("alias:m@champion")
    before, stands = counter and counter.value, champion and champion.value
    number = int(before or 0) + 1
    ledger.commit(
        [
            Put(Sample(number=number, weight=me), "m"),
            Link(f"version:m/{number}", str(me), "process"),
            Move("model:m", before, str(number), "version-added", {"process": me}),
            Move("alias:m@champion", stands, f"m/{number}", "promoted", {"process": me}),
        ],
        actor=f"process-{me}",
        now=now,
    )

def work(me):
    ledger = open_at(address)
    while True:
        try:
            return register(ledger, me)
        except PointerMoved:
            time.sleep(random.random())

for me in range(count):
    if os.fork() == 0:
        code = 1
        try:
            work(me)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
failed = sum(os.wait()[1] != 0 for _ in range(count))
sys.exit(failed)
"""
)


@pytest.mark.slow
def test_64_processes_at_once_register_and_promote_without_gap_or_fork(ledger: SqlLedger, address: str) -> None:
    subprocess.run([sys.executable, "-c", CROWD, address, "64"], check=True)
    for subject in ("model:m", "alias:m@champion"):
        events = ledger.events(subject)
        verify_chain(subject, events)
        assert all(event.body["to"] == later.body["from"] for event, later in pairwise(events))
    assert [event.body["to"] for event in ledger.events("model:m")] == [str(number) for number in range(1, 65)]
    by_process = [event.body["process"] for event in ledger.events("alias:m@champion")]
    assert sorted(by_process) == list(range(64))
    assert positions(ledger) == list(range(1, 65))
    assert ledger.check() == []
    ledger.close()


KILLED = (
    PREAMBLE
    + """
def write(ledger, number):
    ledger.commit(
        [
            Put(Sample(number=number)),
            Link(str(number), "a", "role"),
            Append("events", "t", {"number": number}),
            Move("pointer", str(number - 1) if number else None, str(number), "m"),
            Block("run", "loss", 1, number, number, 1, b"x" * 5000),
        ],
        actor="ann",
        now=now,
    )

def work(told):
    ledger = open_at(address)
    with ledger._transaction():
        pass  # after the commit that the server may still be at for the one who was killed
    pointer = ledger.pointer("pointer")
    number = int(pointer.value) + 1 if pointer else 0
    while True:
        write(ledger, number)
        os.write(told, b"%d\\n" % number)
        number += 1

heard, told = os.pipe()
said = b""
for _ in range(count):
    child = os.fork()
    if child == 0:
        work(told)
    said += os.read(heard, 100)  # its first number: it has begun
    time.sleep(random.random() / 5)
    os.kill(child, 9)
    os.waitpid(child, 0)
os.close(told)
while data := os.read(heard, 1 << 16):
    said += data
print(said.split()[-1].decode())
"""
)


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_nothing_half_written(ledger: SqlLedger, address: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, address, "20"], check=True, capture_output=True, text=True)
    with ledger._transaction():
        pass  # the same
    numbers = [event.body["number"] for event in ledger.events("events")]
    assert numbers == list(range(len(numbers)))
    assert numbers[-1] in {int(done.stdout), int(done.stdout) + 1}  # the last may not have been told
    kept: list[Callable[[int], object]] = [
        lambda number: ledger.get(digest_record(Sample(number=number))),
        lambda number: ledger.edges(str(number)),
    ]
    assert all(find(number) for find in kept for number in numbers)
    assert positions(ledger) == [number + 1 for number in numbers]
    assert [event.body["to"] for event in ledger.events("pointer")] == [str(number) for number in numbers]
    assert [block.first_step for block in ledger.blocks("run")] == numbers
    for subject in ledger.subjects():
        verify_chain(subject, ledger.events(subject))
    assert ledger.check() == []
