import logging
import select
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self
from urllib.parse import quote

import psycopg
import pytest

from velodrome.core.errors import ConfigurationError, IntegrityError, PointerMoved, StorageError
from velodrome.store.ledger import Append, Block, Ledger, Link, Move, Put, Write, digest_record, verify_chain
from velodrome.store.postgres import PostgresLedger
from velodrome.testing.ledger import LedgerConformance, Sample

pytestmark = pytest.mark.slow  # together more than two seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SHORT = 3.0  # seconds of patience where it ends: a single statement of a busy server takes no longer
Server = Any  # that of servers.py
Open = Callable[..., PostgresLedger]


class TestPostgresLedger(LedgerConformance):
    @pytest.fixture
    def ledger(self, postgres: Server) -> Iterator[PostgresLedger]:
        self.url = postgres.url()
        made = PostgresLedger(self.url)
        yield made
        made.close()

    def reopen(self, ledger: Ledger) -> Ledger:
        return PostgresLedger(self.url)


class Proxy:
    """Stands between a ledger and the server, and cuts connections.

    Attributes:
        cuts: how the next connections are cut when `at` passes: "before" the server has it, or "after" it has answered.
        meanwhile: what happens after a cut, before the ledger may connect again.
        down: whether new connections are refused.
    """

    def __init__(self, port: int) -> None:
        self.cuts: list[str] = []
        self.at = b"COMMIT\0"  # not that of READ COMMITTED
        self.meanwhile: Callable[[], object] = lambda: None
        self.down = False
        self._goal = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.down:
                    client.close()
                else:
                    threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._goal)) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if source is client and self.at in data and self.cuts:
                        return self._cut(server, data)
                    if not data:
                        return None
                    (server if source is client else client).sendall(data)

    def _cut(self, server: socket.socket, data: bytes) -> None:
        if self.cuts.pop(0) == "after":
            server.sendall(data)
            server.recv(1 << 16)
        server.close()
        self.meanwhile()


@pytest.fixture
def url(postgres: Server) -> str:
    return str(postgres.url())


@pytest.fixture
def proxy(postgres: Server) -> Iterator[Proxy]:
    with Proxy(postgres.port) as made:
        yield made


@pytest.fixture
def open_at() -> Iterator[Open]:
    """Opens ledgers, and closes them at the end."""
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(closing(PostgresLedger(url, **options)))


def by_way_of(proxy: Proxy, url: str) -> str:
    before, _, after = url.rpartition("127.0.0.1:")
    return f"{before}127.0.0.1:{proxy.port}/{after.partition('/')[2]}"


CUTS = [["before"], ["after"], ["before", "after"], ["after", "after", "before"]]


@pytest.mark.parametrize("cuts", CUTS, ids="-".join)
@pytest.mark.parametrize("at", [b"COMMIT\0", b"INSERT INTO event"], ids=["commit", "statement"])
def test_a_commit_whose_connection_was_lost_is_made_once(
    open_at: Open, proxy: Proxy, url: str, cuts: list[str], at: bytes
) -> None:
    ledger = open_at(by_way_of(proxy, url))
    proxy.cuts, proxy.at = list(cuts), at
    writes: list[Write] = [Put(Sample(number=1)), Append("s", "t", {"a": 1}), Move("p", None, "1", "m")]
    ledger.commit(writes, actor="ann", now=NOW)
    assert proxy.cuts == []
    assert [event.body for event in ledger.events("s")] == [{"a": 1}]
    assert [event.body["to"] for event in ledger.events("p")] == ["1"]
    assert len(ledger.records("sample")) == 1


@pytest.mark.parametrize("cuts", CUTS, ids="-".join)
def test_a_commit_without_events_is_made_once_too(open_at: Open, proxy: Proxy, url: str, cuts: list[str]) -> None:
    ledger = open_at(by_way_of(proxy, url))
    proxy.cuts = list(cuts)
    block = Block("r", "loss", 1, 1, 2, 2, b"x")
    ledger.commit([Put(Sample(number=1)), Link("a", "b", "c"), block], actor="ann", now=NOW)
    assert (len(list(ledger.scan())), len(ledger.edges("a")), ledger.blocks("r")) == (1, 1, [block])


def test_who_won_is_told_although_somebody_moved_on_meanwhile(open_at: Open, proxy: Proxy, url: str) -> None:
    ledger, other = open_at(by_way_of(proxy, url)), open_at(url)
    proxy.cuts = ["after"]
    proxy.meanwhile = lambda: other.commit([Move("p", "1", "2", "m")], actor="bob", now=NOW)
    ledger.commit([Move("p", None, "1", "m")], actor="ann", now=NOW)
    assert [(event.actor, event.body["to"]) for event in ledger.events("p")] == [("ann", "1"), ("bob", "2")]
    verify_chain("p", ledger.events("p"))


def test_who_lost_is_told_although_the_first_try_went_unanswered(open_at: Open, proxy: Proxy, url: str) -> None:
    ledger, other = open_at(by_way_of(proxy, url)), open_at(url)
    proxy.cuts = ["before"]
    proxy.meanwhile = lambda: other.commit([Move("p", None, "2", "m")], actor="bob", now=NOW)
    with pytest.raises(PointerMoved):
        ledger.commit([Append("s", "t"), Move("p", None, "1", "m")], actor="ann", now=NOW)
    assert (len(ledger.events("p")), ledger.events("s")) == (1, [])


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_commit_that_stays_unanswered_is_named(open_at: Open, proxy: Proxy, url: str, cut: str) -> None:
    _, ledger = open_at(url), open_at(by_way_of(proxy, url), patience=SHORT)
    proxy.cuts, proxy.meanwhile = [cut], lambda: setattr(proxy, "down", True)
    with pytest.raises(StorageError, match="whether it was made is not known") as caught:
        ledger.commit([Append("s", "t")], actor="ann", now=NOW)
    proxy.down = False
    events = ledger.events("s")
    assert len(events) == (cut == "after")
    assert all(event.digest in str(caught.value.received) for event in events)
    assert "event 1 of 's'" in str(caught.value)


def test_a_server_that_was_never_asked_to_commit_wrote_nothing(open_at: Open, proxy: Proxy, url: str) -> None:
    _, ledger = open_at(url), open_at(by_way_of(proxy, url), patience=SHORT)
    proxy.cuts, proxy.at, proxy.meanwhile = ["before"], b"INSERT", lambda: setattr(proxy, "down", True)
    with pytest.raises(StorageError, match="cannot be reached"):
        ledger.commit([Append("s", "t")], actor="ann", now=NOW)
    proxy.down = False
    assert ledger.events("s") == []


def test_a_restart_of_the_server_is_survived(open_at: Open, postgres: Server, url: str) -> None:
    ledger = open_at(url)
    append = partial(ledger.commit, [Append("s", "t")], actor="ann", now=NOW)
    append()
    postgres.stop()
    postgres.start()
    assert len(ledger.events("s")) == 1
    postgres.stop()
    asking = threading.Thread(target=append)
    asking.start()
    postgres.start()
    asking.join()
    assert len(ledger.events("s")) == 2


def test_a_flipped_bit_in_a_page_is_found(open_at: Open, postgres: Server, url: str) -> None:
    ledger = open_at(url)
    ledger.commit([Put(Sample(number=number)) for number in range(100)], actor="ann", now=NOW)
    with ledger._connection() as connection:
        path = connection.exec_driver_sql("SELECT pg_relation_filepath('record')").scalar_one()
    assert ledger.check() == []
    postgres.stop()
    page = postgres.folder / "data" / path
    data = bytearray(page.read_bytes())
    data[5000] ^= 1
    page.write_bytes(data)
    postgres.start()
    problems = ledger.check()
    assert len(problems) == 1
    assert "invalid page" in problems[0]


def test_a_server_that_may_lose_what_it_says_is_told(open_at: Open, postgres: Server, url: str) -> None:
    open_at(url)
    with postgres.connect() as session:

        def until(setting: str) -> None:
            """Whoever connects from then on finds it so; sessions that are open are told one after the other."""
            session.execute("SELECT pg_reload_conf()")
            while session.execute("SHOW full_page_writes").fetchone() != (setting,):
                pass

        session.execute("ALTER SYSTEM SET full_page_writes = off")
        try:
            until("off")
            assert "full_page_writes off" in open_at(url).check()[0]
        finally:
            session.execute("ALTER SYSTEM RESET full_page_writes")
            until("on")


def test_a_record_edited_by_hand_is_found(open_at: Open, url: str) -> None:
    ledger = open_at(url)
    ledger.commit([Put(Sample(number=1))], actor="ann", now=NOW)
    with ledger._connection() as connection:
        connection.exec_driver_sql("UPDATE record SET payload = set_byte(payload, 3, 65)")
    with pytest.raises(IntegrityError, match="changed after it was written"):
        ledger.get(digest_record(Sample(number=1)))


@pytest.mark.parametrize(("default", "used"), [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")])
def test_a_session_commits_synchronously_and_reads_what_is_committed(
    open_at: Open, postgres: Server, url: str, default: str, used: str
) -> None:
    with postgres.connect() as session:
        session.execute(f"ALTER ROLE velodrome SET synchronous_commit = '{default}'")
        session.execute("ALTER ROLE velodrome SET default_transaction_isolation = 'repeatable read'")
        try:
            ledger = open_at(url)
        finally:
            session.execute("ALTER ROLE velodrome RESET ALL")
    names = ("synchronous_commit", "transaction_isolation", "statement_timeout", "lock_timeout")
    with ledger._transaction() as connection:
        settings = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
    assert settings == [used, "read committed", "1min", "1min"]


def test_texts_are_compared_by_their_bytes(open_at: Open, url: str) -> None:
    ledger = open_at(url)
    query = """SELECT DISTINCT collname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
               JOIN pg_collation ON pg_collation.oid = attcollation
               WHERE relnamespace = current_schema()::regnamespace AND attnum > 0"""
    with ledger._connection() as connection:
        assert connection.exec_driver_sql(query).scalars().all() == ["C"]


def test_another_writer_is_not_waited_for_for_ever(open_at: Open, url: str) -> None:
    other, ledger = open_at(url), open_at(url, patience=SHORT)
    with other._transaction(), pytest.raises(StorageError, match=r"due to (lock|statement) timeout") as caught:
        ledger.commit([Append("s", "t")], actor="ann", now=NOW)
    assert "pg_stat_activity" in str(caught.value)
    ledger.commit([Append("s", "t")], actor="ann", now=NOW)


FULL = """
CREATE FUNCTION {schema}.full() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file: No space left on device'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON {schema}.event EXECUTE FUNCTION {schema}.full();
"""


def test_a_full_disk_of_the_server_is_named_and_nothing_is_half_written(
    open_at: Open, postgres: Server, url: str
) -> None:
    """As the server answers when it has no room: in the middle of a commit whose record and edge it has taken."""
    ledger = open_at(url)
    writes = [Put(Sample(number=1)), Link("a", "b", "r"), Append("s", "t")]
    with postgres.connect() as session:
        session.execute(FULL.format(schema=ledger._schema))
        with pytest.raises(StorageError, match="No space left on device") as caught:
            ledger.commit(writes, actor="ann", now=NOW)
        assert "make room" in str(caught.value)
        assert (list(ledger.scan()), ledger.edges("a"), ledger.events("s")) == ([], [], [])
        session.execute(f"DROP TRIGGER full_disk ON {ledger._schema}.event")
    ledger.commit(writes, actor="ann", now=NOW)
    assert (len(list(ledger.scan())), len(ledger.edges("a")), len(ledger.events("s"))) == (1, 1, 1)


def test_a_writer_that_fell_asleep_in_a_transaction_holds_nobody_up(open_at: Open, url: str) -> None:
    ledger, sleeper = open_at(url), open_at(url, patience=SHORT)
    with pytest.raises(StorageError), sleeper._transaction():
        ledger.commit([Append("s", "t")], actor="ann", now=NOW)
    assert len(ledger.events("s")) == 1


def test_each_schema_is_a_ledger(open_at: Open, postgres: Server) -> None:
    first, second = (open_at(postgres.url()) for _ in range(2))
    first.commit([Append("s", "t")], actor="ann", now=NOW)
    assert second.events("s") == []


def test_a_database_of_another_encoding_is_refused(open_at: Open, postgres: Server) -> None:
    with postgres.connect() as session:
        session.execute("CREATE DATABASE latin ENCODING LATIN1 TEMPLATE template0")
        with pytest.raises(StorageError, match="UTF8") as caught:
            open_at(postgres.url("latin"))
        assert caught.value.received == "LATIN1"
        session.execute("DROP DATABASE latin WITH (FORCE)")


def test_a_user_who_may_not_make_the_schema_is_told_what_to_ask_for(open_at: Open, postgres: Server) -> None:
    with postgres.connect() as session:
        session.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        url = postgres.url().replace(f"velodrome:{quote(session.info.password, safe='')}", "guest:guest")
        with pytest.raises(StorageError, match="permission denied") as caught:
            open_at(url)
        assert "grant the user" in str(caught.value)
        session.execute("DROP ROLE guest")


SECRET = "hush-h/sh"
NO_URLS = [
    f"postgresql://ann:{SECRET}@host:port/db",
    f"postgresql://ann:{SECRET}/db",
    f"postgresql://ann:x@{SECRET}@host/db",
    f"mysql://ann:{SECRET}@host/db",
    f"ann:{SECRET}@host",
    f"postgresql://ann:{SECRET}@host/db?schema=Not-A-Name",
    f"postgresql://ann:{SECRET}@host/db?schema=a&schema=b",
]


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_of_a_ledger_is_refused_without_being_shown(open_at: Open, url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_at(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_a_password_is_never_told(
    open_at: Open, postgres: Server, proxy: Proxy, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    right = psycopg.conninfo.conninfo_to_dict(url.partition("?")[0])["password"]
    _, ledger = open_at(url), open_at(by_way_of(proxy, url), patience=SHORT)
    said = [repr(ledger), ledger.name, repr(vars(ledger))]
    proxy.meanwhile = lambda: setattr(proxy, "down", True)
    proxy.cuts = ["after"]
    attempts: list[Callable[[], object]] = [
        lambda: ledger.commit([Append("s", "t")], actor="ann", now=NOW),
        lambda: ledger.events("s"),
        lambda: open_at(by_way_of(proxy, url)),
        lambda: open_at(f"postgresql://velodrome:{quote(SECRET, safe='')}@127.0.0.1:{postgres.port}/postgres"),
        lambda: open_at(f"postgresql://127.0.0.1:{postgres.port}/postgres?user=velodrome&password={SECRET}"),
        lambda: open_at(url.replace("/postgres?", "/absent?")),
        lambda: open_at(f"postgresql://ann:{quote(SECRET, safe='')}@host.invalid/db"),
        lambda: open_at(f"{url}&sslmode=nonsense"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError) as caught:
            attempt()
        said += traceback.format_exception(caught.value)
    text = "".join(said) + caplog.text
    assert "cannot be reached" in text
    assert "password authentication failed" in text
    for secret in (right, quote(right, safe=""), SECRET, quote(SECRET, safe="")):
        assert secret not in text
