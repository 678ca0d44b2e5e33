"""What a store has to live with: full disks, flipped bits, clocks that go backwards, and secrets that nobody may see."""

import json
import os
import random
import resource
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from project import LINEAR, Project, customers
from servers import POSTGRES_PASSWORD, S3_SECRET, PostgresServer, S3Place
from world import World

from velodrome.control.auditing import anchor, verify
from velodrome.control.checkup import examine
from velodrome.core.clock import SystemClock
from velodrome.core.errors import VelodromeError
from velodrome.registry.anchors import AUDIT
from velodrome.registry.versions import CHAMPION, find_alias, rollback
from velodrome.store.health import tally

pytestmark = pytest.mark.slow


@pytest.fixture
def linear(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    customers(300).write_csv(tmp_path / "customers.csv")
    project.write("recipe.py", LINEAR)
    return project


# ------------------------------------------------------------------------------------------------------------ a full disk


@pytest.mark.parametrize("size", [0, 20_000, 150_000])
def test_a_full_disk_is_named_and_harms_nothing(linear: Project, size: int) -> None:
    """No file can be written beyond a size, as if the disk ended there."""
    full = subprocess.run(
        [*linear.command("run", "recipe.py", "--json")],
        cwd=linear.folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert full.returncode == 4, full.stdout + full.stderr
    said = json.loads(full.stderr.splitlines()[-1])
    assert "Traceback" not in full.stderr
    assert said["remedy"]
    assert linear.call("doctor").returncode == 0
    assert linear.json("run", "recipe.py")["champion"]


# ----------------------------------------------------------------------------------------------------------- flipped bits


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world with a champion, half of whose story came after the newest anchor; its ledger is in one file."""
    world = World(tmp_path_factory.mktemp("whole"))
    world.deliver(1, rows=120)
    world.retrain(1)
    anchor(world.ws)
    world.deliver(2, rows=120)
    world.retrain(2, asked=True)
    assert len(world.ws.ledger.events(AUDIT)) == 2
    world.ws.close()
    return world.root


@pytest.mark.parametrize("seed", range(16))
def test_a_bit_of_the_ledger_is_missed_by_nobody(whole: Path, tmp_path: Path, seed: int) -> None:
    """Wherever it flips in the file: it is told, or it was of no meaning."""
    rng = random.Random(seed)
    root = tmp_path / "copy"
    subprocess.run(["cp", "-r", whole, root], check=True)
    path = root / ".velodrome" / "ledger.db"
    with World(root).ws as ws:
        before = tally(ws.ledger)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    try:
        with World(root).ws as ws:
            told: list[object] = [*examine(ws).problems, *verify(ws).damages]
            assert told or tally(ws.ledger) == before
    except VelodromeError as error:  # it cannot even be opened
        told = [error.remedy]
    assert told != [None]


# ---------------------------------------------------------------------------------------------- a clock that goes backwards


class LateClock(SystemClock):
    def now(self) -> datetime:
        return super().now() - timedelta(days=400)


def test_a_clock_that_is_set_back_makes_no_history_ambiguous(tmp_path: Path) -> None:
    world = World(tmp_path)
    with world.ws as ws:
        for month in (1, 2):
            world.deliver(month)
            world.retrain(month, asked=True)
        late = world.using(replace(ws, clock=LateClock()))
        world.deliver(3)
        late.retrain(3, asked=True)
        assert find_alias(ws, "buyers", CHAMPION).number == 3
        moves = ws.ledger.events("alias:buyers@champion")
        assert [event.body["to"] for event in moves] == ["buyers/1", "buyers/2", "buyers/3"]
        assert [event.time for event in moves] == sorted(event.time for event in moves)
        assert rollback(late.ws, "buyers", reason="as before", actor="ann").number == 2
        assert examine(ws).problems == ()
        assert verify(ws).damages == ()


# ----------------------------------------------------------------------------------------------------------------- secrets


@pytest.fixture
def servers(postgres: PostgresServer, s3: S3Place, linear: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project on PostgreSQL and S3, whose password stands in a URL in the environment."""
    monkeypatch.setenv("LEDGER", postgres.url())
    endpoint = f"http://127.0.0.1:{s3.server.port}"
    linear.write(
        "velodrome.toml",
        f'ledger = "$LEDGER"\nblobs = "{s3.url}"\nblob_options = {{endpoint = "{endpoint}", region = "us-east-1"}}\n',
    )
    return linear


def secrets() -> list[str]:
    return [text for secret in (POSTGRES_PASSWORD, S3_SECRET) for text in (secret, quote(secret, safe=""))]


def test_a_secret_is_nowhere_in_what_is_said_or_kept(servers: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a run's whole life at the most talkative level, and where it goes wrong in every way that an address can.

    The backup that is made has all that the ledger and the blobs hold.
    """
    right = os.environ["LEDGER"]
    password = quote(POSTGRES_PASSWORD, safe="")
    said = []
    commands = [
        ("run", "recipe.py"), ("trace", "churn@champion"), ("doctor",), ("audit", "anchor"), ("backup", "backups"), ("gc",),
    ]  # fmt: skip
    for command in commands:
        done = servers.call("--log-level", "debug", *command)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    wrong = {
        "another port": right.replace("127.0.0.1:", "127.0.0.1:1"),
        "another user": right.replace("velodrome:", "nobody:"),
        "no such database": right.replace("/postgres?", "/absent?"),
        "no such host": right.replace("127.0.0.1", "host.invalid"),
        "a password that is not encoded": right.replace(password, POSTGRES_PASSWORD),
        "no such scheme": right.replace("postgresql://", "mysql://"),
        "no such option": f"{right}&sslmode=nonsense",
        "no such port": right.replace("127.0.0.1:", "127.0.0.1:port"),
    }
    for number, (why, url) in enumerate(wrong.items()):
        monkeypatch.setenv("LEDGER", url)
        done = servers.call("--log-level", "debug", "runs", "list", *(("--json",) if number % 2 else ()))
        assert done.returncode in (2, 4), f"{why}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, why
        said.append(done.stdout + done.stderr)
    monkeypatch.setenv("LEDGER", right)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"not {S3_SECRET}")
    done = servers.call("--log-level", "debug", "predict", "churn@champion", "customers.csv", "--out", "scored.csv")
    assert done.returncode == 4
    said.append(done.stdout + done.stderr)
    for secret in secrets():
        assert secret not in "".join(said)
        kept = [path for path in servers.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
        assert kept == []
