"""The cache of remote blobs: verified at every use, within its limit, and never more than a matter of time."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from velodrome.core.clock import ManualClock
from velodrome.core.digest import CHUNK, digest_bytes
from velodrome.core.errors import IntegrityError, MissingBlob, StorageError
from velodrome.store.blobs import Blobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.named import AddressedBlobs, FolderObjects, Piece, blob_name
from velodrome.testing.blobs import BlobsConformance

pytestmark = pytest.mark.slow  # together more than two seconds

LIMIT = 1 << 20


class CountingObjects(FolderObjects):
    """A remote place that counts what is fetched from it."""

    gets = 0

    def get(self, name: str) -> Iterator[Piece]:
        self.gets += 1
        return super().get(name)


@pytest.fixture
def remote(tmp_path: Path) -> AddressedBlobs:
    return AddressedBlobs(CountingObjects(tmp_path / "remote"), tmp_path / "scratch")


@pytest.fixture
def cached(remote: AddressedBlobs, tmp_path: Path) -> CachedBlobs:
    return CachedBlobs(remote, tmp_path / "cache", LIMIT)


def fetched(cached: CachedBlobs) -> int:
    """How often the remote place was read since the last call."""
    objects = cached.remote.objects
    assert isinstance(objects, CountingObjects)
    gets, objects.gets = objects.gets, 0
    return gets


def copies(cached: CachedBlobs) -> list[Path]:
    return [path for path in cached.folder.glob("*/*") if path.parent.name != "incoming"]


def held(cached: CachedBlobs) -> int:
    return sum(path.stat().st_size for path in cached.folder.rglob("*") if path.is_file())


class TestCachedS3(BlobsConformance):
    @pytest.fixture
    def blobs(self, s3: Any, tmp_path: Path) -> CachedBlobs:
        self.place = s3
        return CachedBlobs(s3.blobs(), tmp_path / "cache", LIMIT)

    def damage(self, blobs: Blobs, digest: str) -> None:
        """On the server, before a copy is made: a copy that was verified would still be right."""
        data = bytearray((self.place.folder / blob_name(digest)).read_bytes())
        data[len(data) // 2] ^= 1
        self.place.overwrite(blob_name(digest), bytes(data))


class TestCachedFolder(BlobsConformance):
    tick = timedelta(milliseconds=10)

    @pytest.fixture
    def blobs(self, cached: CachedBlobs) -> CachedBlobs:
        return cached

    def damage(self, blobs: Blobs, digest: str) -> None:
        assert isinstance(blobs, CachedBlobs)
        assert isinstance(blobs.remote.objects, FolderObjects)
        harm(blobs.remote.objects.root / blob_name(digest), "flipped")


def harm(path: Path, how: str) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flipped": data, "cut": data[:-1], "emptied": b""}[how])


def test_what_was_read_once_is_not_fetched_again(cached: CachedBlobs) -> None:
    digest = cached.put(b"data" * 1000).digest
    fetched(cached)
    assert cached.read(digest) == b"data" * 1000
    assert fetched(cached) == 1
    assert cached.read(digest) == b"data" * 1000
    assert cached.local(digest).read_bytes() == b"data" * 1000
    assert fetched(cached) == 0


def test_a_copy_comes_from_the_cache_and_does_not_fill_it(cached: CachedBlobs) -> None:
    digest = cached.put(os.urandom(3 * CHUNK)).digest
    out = io.BytesIO()
    fetched(cached)
    assert cached.copy_to(digest, out) == 3 * CHUNK
    assert digest_bytes(out.getvalue()) == digest
    assert fetched(cached) == 1
    assert copies(cached) == []
    cached.local(digest)
    fetched(cached)
    assert cached.copy_to(digest, out) == 3 * CHUNK
    assert digest_bytes(out.getvalue()[3 * CHUNK :]) == digest
    assert fetched(cached) == 0


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied"])
def test_a_damaged_copy_is_not_copied_on(cached: CachedBlobs, how: str) -> None:
    digest = cached.put(b"precious" * 1000).digest
    harm(cached.local(digest), how)
    out = io.BytesIO(b"head ")
    out.seek(5)
    assert cached.copy_to(digest, out) == 8000
    assert out.getvalue() == b"head " + b"precious" * 1000


def test_what_is_collected_leaves_the_cache_too(cached: CachedBlobs) -> None:
    digest = cached.put(b"data").digest
    path = cached.local(digest)
    long_ago, future = datetime(2026, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(hours=1)
    assert not cached.collect(digest, long_ago)
    assert path.exists()
    assert cached.collect(digest, future)
    assert not path.exists()
    with pytest.raises(MissingBlob):
        cached.read(digest)


def test_what_was_asked_for_as_a_file_is_not_fetched_again(cached: CachedBlobs) -> None:
    digest = cached.put(os.urandom(3 * CHUNK)).digest
    fetched(cached)
    assert cached.local(digest) == cached.local(digest)
    assert digest_bytes(cached.read(digest)) == digest
    assert fetched(cached) == 1


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied"])
@pytest.mark.parametrize("kept_times", [False, True])
def test_damage_in_the_cache_costs_only_a_fetch(cached: CachedBlobs, how: str, kept_times: bool) -> None:
    """Also where the file's times tell nothing."""
    digest = cached.put(b"precious" * 1000).digest
    for read in (cached.read, lambda digest: cached.local(digest).read_bytes()):
        path = cached.local(digest)
        before = path.stat()
        harm(path, how)
        if kept_times:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        fetched(cached)
        assert read(digest) == b"precious" * 1000
        assert fetched(cached) == 1
        assert path.read_bytes() == b"precious" * 1000


def test_damage_of_the_blob_itself_is_never_cached(cached: CachedBlobs) -> None:
    digest = cached.put(b"precious" * 1000).digest
    assert isinstance(cached.remote.objects, FolderObjects)
    harm(cached.remote.objects.root / blob_name(digest), "flipped")
    for read in (cached.read, cached.local):
        with pytest.raises(IntegrityError):
            read(digest)
    assert copies(cached) == []
    assert list((cached.folder / "incoming").iterdir()) == []


def test_a_cache_that_vanishes_costs_only_time(cached: CachedBlobs) -> None:
    digest = cached.put(b"data").digest
    for _ in range(2):
        assert cached.read(digest) == b"data"
        assert cached.local(digest).read_bytes() == b"data"
        shutil.rmtree(cached.folder)


def test_a_cache_that_cannot_be_written_is_done_without(cached: CachedBlobs) -> None:
    digest = cached.put(b"data").digest
    shutil.rmtree(cached.folder)
    cached.folder.touch()
    with capture_logs() as lines:
        assert cached.read(digest) == b"data"
    assert [line["event"] for line in lines] == ["cache.not_filled"]
    with pytest.raises(StorageError, match=str(cached.folder)):
        cached.local(digest)


def test_has_and_delete_mean_the_blob_itself(cached: CachedBlobs) -> None:
    digest = cached.put(b"data").digest
    path = cached.local(digest)
    cached.remote.delete(digest)
    assert not cached.has(digest)
    assert list(cached.list()) == []
    cached.delete(digest)
    assert not path.exists()
    with pytest.raises(MissingBlob):
        cached.read(digest)


def test_copies_are_private(cached: CachedBlobs) -> None:
    path = cached.local(cached.put(b"data").digest)
    assert cached.folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o400


# ----------------------------------------------------------------------------------------------------------------- the limit


def aged(remote: AddressedBlobs, folder: Path, limit: int, grace: float = 0.0) -> tuple[CachedBlobs, ManualClock]:
    """A cache whose clock is told what time it is; it begins a minute from now, so that nothing is as young as now."""
    clock = ManualClock(datetime.now(UTC) + timedelta(minutes=1))
    return CachedBlobs(remote, folder, limit, grace=grace, clock=clock), clock


def used(cached: CachedBlobs, digest: str, minutes_ago: int) -> None:
    now = datetime.now(UTC).timestamp()
    os.utime(cached.folder / blob_name(digest), (now - 60 * minutes_ago,) * 2)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=30))
def test_the_limit_is_kept(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("limit")
    cached, _ = aged(AddressedBlobs(FolderObjects(folder / "remote")), folder / "cache", 100_000)
    for number, size in enumerate(sizes):
        data = number.to_bytes(4, "big") + bytes(size)
        assert cached.read(cached.put(data).digest) == data
        assert held(cached) <= 100_000


def test_what_was_used_longest_ago_goes_first(remote: AddressedBlobs, tmp_path: Path) -> None:
    cached, _ = aged(remote, tmp_path / "cache", 1000)
    digests = [cached.put(bytes([number]) * 200).digest for number in range(4)]
    for minutes, digest in zip((30, 40, 10, 20), digests, strict=True):
        cached.read(digest)
        used(cached, digest, minutes)
    cached.read(digests[1])  # which was the oldest
    cached.read(cached.put(b"x" * 200).digest)
    assert {path.parent.name + path.name for path in copies(cached)} >= {digests[1], digests[2], digests[3]}
    assert not (cached.folder / blob_name(digests[0])).exists()


def test_what_was_asked_for_lately_stays_above_the_limit(remote: AddressedBlobs, tmp_path: Path) -> None:
    cached, clock = aged(remote, tmp_path / "cache", 1000, grace=3600)
    paths = [cached.local(cached.put(bytes([number]) * 400).digest) for number in range(6)]
    assert all(path.exists() for path in paths)
    clock.advance(timedelta(hours=1))
    cached.local(cached.put(b"y" * 400).digest)
    assert held(cached) <= 1000


def test_a_copy_that_is_open_outlives_its_removal(remote: AddressedBlobs, tmp_path: Path) -> None:
    cached, _ = aged(remote, tmp_path / "cache", 1000)
    path = cached.local(cached.put(b"x" * 900).digest)
    with path.open("rb") as stream:
        cached.read(cached.put(b"y" * 900).digest)
        assert not path.exists()
        assert stream.read() == b"x" * 900


def test_what_a_killed_process_left_goes_like_the_rest(remote: AddressedBlobs, tmp_path: Path) -> None:
    cached, _ = aged(remote, tmp_path / "cache", 1000)
    (cached.folder / "incoming").mkdir()
    old, young = cached.folder / "incoming" / ".old", cached.folder / "incoming" / ".young"
    for path, minutes in ((old, 90), (young, 10)):
        path.write_bytes(bytes(900))
        os.utime(path, (datetime.now(UTC).timestamp() - 60 * minutes,) * 2)
    cached.read(cached.put(b"x" * 100).digest)
    assert not old.exists()
    assert young.exists()


READER = """
import random, sys
from pathlib import Path
from velodrome.store.cache import CachedBlobs
from velodrome.store.named import AddressedBlobs, FolderObjects, blob_name
remote, folder = map(Path, sys.argv[1:3])
cached = CachedBlobs(AddressedBlobs(FolderObjects(remote)), folder, 300_000)
digests = list(cached.list())
rng, vandal = random.Random(int(sys.argv[3])), sys.argv[4] == "vandals"
for turn in range(150):
    digest = rng.choice(digests)
    assert len(cached.read(digest)) == 20_000
    if not vandal:
        assert len(cached.local(digest).read_bytes()) == 20_000
    elif turn % 5 == 0:
        (cached.folder / blob_name(digest)).unlink(missing_ok=True)
        goal, made = cached.folder / blob_name(rng.choice(digests)), cached.folder / f"damage-{sys.argv[3]}"
        made.write_bytes(b"damage")
        goal.parent.mkdir(exist_ok=True)
        made.rename(goal)
"""


@pytest.mark.parametrize("manners", ["guests", "vandals"])
def test_processes_share_a_cache(remote: AddressedBlobs, tmp_path: Path, manners: str) -> None:
    """Also while they remove and overwrite each other's copies."""
    for _ in range(30):
        remote.put(os.urandom(20_000))
    command = [sys.executable, "-c", READER, str(tmp_path / "remote"), str(tmp_path / "cache")]
    readers = [subprocess.Popen([*command, str(number), manners]) for number in range(3)]
    assert [reader.wait() for reader in readers] == [0] * 3
