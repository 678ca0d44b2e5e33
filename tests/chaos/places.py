"""Where the project of a seed is, and the real servers that all seeds share."""

import base64
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from servers import S3_ACCESS, S3_SECRET, PostgresServer, S3Place, S3Server, Wire

from velodrome.core.config import Config, Retention
from velodrome.store.workspace import Workspace, open_folder

COMBINATIONS = tuple(itertools.product(("SQLite", "PostgreSQL"), ("folder", "S3", "encrypted folder", "encrypted S3")))


@dataclass(frozen=True)
class Place:
    """A project's folder, and the settings that say where its ledger and blobs are."""

    root: Path
    ledger: str
    blobs: str
    config: Config

    def __str__(self) -> str:
        return f"{self.ledger} + {self.blobs}"

    @property
    def ports(self) -> list[int]:
        """Those of the servers that it uses."""
        texts = [self.config.ledger, str(self.config.blob_options.get("endpoint", ""))]
        return [int(text.rpartition("127.0.0.1:")[2].partition("/")[0]) for text in texts if text]

    def by_way_of(self, port: int, other: int) -> "Place":
        """The same place, one of its servers reached at another port."""

        def moved(text: str) -> str:
            return text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{other}")

        options = {name: moved(str(value)) for name, value in self.config.blob_options.items()}
        config = msgspec.structs.replace(self.config, ledger=moved(self.config.ledger), blob_options=options)
        return replace(self, config=config)

    def open(self) -> Workspace:
        return open_folder(self.root, self.config)


class Servers:
    """PostgreSQL and S3, as the tests of the store use them, and a folder for all that the storm leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._postgres = PostgresServer(_made(folder / "postgres"))
        os.environ.update({"AWS_ACCESS_KEY_ID": S3_ACCESS, "AWS_SECRET_ACCESS_KEY": S3_SECRET})
        self._s3 = S3Server(_rclone(), _made(folder / "s3") / "data")
        self._numbers = itertools.count(1)

    def start(self) -> None:
        self._postgres.start()
        self._s3.start()

    def stop(self) -> None:
        self._s3.kill()
        self._postgres.stop()

    def place(self, ledger: str, blobs: str, retention: Retention) -> Place:
        """A new project."""
        name = f"project{next(self._numbers)}"
        root = _made(self.folder / name)
        settings: dict[str, Any] = {"actor": "chaos", "cache_bytes": "1MB", "gc_grace": "0s", "retention": retention}
        if ledger == "PostgreSQL":
            settings["ledger"] = self._postgres.url()
        if blobs.endswith("S3"):
            settings["blobs"] = S3Place(self._s3, name).url
            settings["blob_options"] = {"endpoint": f"http://127.0.0.1:{self._s3.port}", "region": "us-east-1"}
        if blobs.startswith("encrypted"):
            settings["encryption_key"] = "file:key"
            (root / "key").write_bytes(base64.b64encode(bytes(range(32))))
            (root / "key").chmod(0o600)
        return Place(root, ledger, blobs, Config(**settings))


@contextmanager
def servers() -> Iterator[Servers]:
    """Started, and ended with all that they hold."""
    folder = Path(tempfile.mkdtemp(prefix="velodrome-chaos-"))
    folder.chmod(0o711)  # PostgreSQL runs as another user below it
    made = None
    try:
        made = Servers(folder)
        made.start()
        yield made
    finally:
        if made:
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def wired(place: Place, rng: random.Random) -> Iterator[tuple[Place, str]]:
    """The place with a wire before one of its servers, which cuts some connections; and what it does, in words."""
    wire = Wire(port := rng.choice(place.ports))
    side, after, times = rng.choice(("up", "down")), int(2 ** rng.uniform(0, 16)), rng.randint(1, 4)
    wire.cut(side, after, times)
    try:
        yield place.by_way_of(port, wire.port), f"cut {times}× after {after} bytes {side}"
    finally:
        wire.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _rclone() -> Path:
    found = find_spec("rclone_api")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "bin" / "rclone"
