"""Every ledger with every place of blobs, as a project's settings name them: both contracts, and the loop on top of them."""

import base64
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from world import World

from velodrome.control.checkup import examine
from velodrome.core.config import Config
from velodrome.serving.batch import load_model
from velodrome.store.blobs import Blobs, FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.encryption import EncryptedObjects
from velodrome.store.ledger import Ledger
from velodrome.store.named import AddressedBlobs, Content, FolderObjects, Objects
from velodrome.store.workspace import Workspace, open_folder
from velodrome.testing.blobs import BlobsConformance
from velodrome.testing.ledger import LedgerConformance

pytestmark = pytest.mark.slow

PLACES = ("folder", "S3", "encrypted folder", "encrypted S3")
COMBINATIONS = [f"{ledger} × {place}" for ledger, place in product(("SQLite", "PostgreSQL"), PLACES)]


@pytest.fixture
def config(combination: str, request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    ledger, _, place = combination.partition(" × ")
    settings: dict[str, Any] = {}
    if ledger == "PostgreSQL":
        settings["ledger"] = request.getfixturevalue("postgres").url()
    if place.endswith("S3"):
        s3 = request.getfixturevalue("s3")
        settings["blobs"] = s3.url
        settings["blob_options"] = {"endpoint": f"http://127.0.0.1:{s3.server.port}", "region": "us-east-1"}
    if place.startswith("encrypted"):
        key = tmp_path / "key"
        key.write_bytes(base64.b64encode(bytes(range(32))))
        key.chmod(0o600)
        settings["encryption_key"] = "file:key"
    return Config(**settings)


@pytest.fixture
def ws(config: Config, tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path, config) as opened:
        yield opened


@pytest.mark.parametrize("combination", COMBINATIONS)
class TestCombination(BlobsConformance, LedgerConformance):
    @pytest.fixture
    def blobs(self, ws: Workspace) -> Blobs:
        return ws.blobs

    @pytest.fixture
    def ledger(self, ws: Workspace) -> Ledger:
        self.ws = ws
        return ws.ledger

    def reopen(self, ledger: Ledger) -> Ledger:
        return open_folder(self.ws.root, self.ws.config).ledger

    def damage(self, blobs: Blobs, digest: str) -> None:
        objects = place_of(blobs)
        (name,) = (name for name in objects.list() if len(name.partition("/")[0]) == 2)
        data = bytearray(b"".join(objects.get(name)))
        data[len(data) // 2] ^= 1
        objects.put(name, Content(len(data), lambda: iter([bytes(data)])))


def place_of(blobs: Blobs) -> Objects:
    """Where the bytes lie as they are stored."""
    inner = blobs.remote if isinstance(blobs, CachedBlobs) else blobs
    if isinstance(inner, FolderBlobs):
        return FolderObjects(inner.root)
    assert isinstance(inner, AddressedBlobs)
    return inner.objects._inner if isinstance(inner.objects, EncryptedObjects) else inner.objects


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_loop_goes_round(config: Config, tmp_path: Path) -> None:
    world = World(tmp_path, config)
    with world.ws as ws:
        for month in (1, 2):
            world.deliver(month)
            world.retrain(month, asked=True)
        assert load_model(ws, "buyers@champion").predict(world.frame(3)).height == 400
        assert examine(ws).problems == ()
        first = {stored.digest for stored in ws.ledger.scan()}
    with world.using(open_folder(tmp_path, config)).ws as again:
        assert {stored.digest for stored in again.ledger.scan()} == first
        assert load_model(again, "buyers@champion").predict(world.frame(3)).height == 400


@pytest.mark.parametrize("combination", [name for name in COMBINATIONS if "encrypted" in name])
def test_nothing_at_rest_can_be_read(config: Config, ws: Workspace) -> None:
    secret = b"nobody but us reads this " * 100
    ws.blobs.put(secret)
    objects = place_of(ws.blobs)
    assert all(secret[:20] not in b"".join(objects.get(name)) for name in objects.list())
