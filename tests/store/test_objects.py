"""Blobs in a bucket, against a real S3 server: the contract, broken connections, dead servers, and secrets that stay secret."""

import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.digest import CHUNK, digest_bytes
from velodrome.core.errors import ConfigurationError, IntegrityError, MissingBlob, StorageError, VelodromeError
from velodrome.store.blobs import Blobs
from velodrome.store.named import Content, Piece, blob_name
from velodrome.store.objects import OPTIONS, BucketObjects, ObjectBlobs, Patience
from velodrome.testing.blobs import BlobsConformance

pytestmark = pytest.mark.slow  # together more than two seconds

HASTY = Patience(seconds=0.3, silence=30.0, first=0.02, longest=0.1)  # for what fails, and says so
BIG = 20 * CHUNK
ABSENT = digest_bytes(b"never stored")


def noise(size: int) -> bytes:
    return os.urandom(size)


def stored(place: Any, digest: str) -> Path:
    """Where the server keeps a blob."""
    return Path(place.folder / blob_name(digest))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


class TestWary(BlobsConformance):
    """Every object by a multipart upload, and read back: what an endpoint of one's own gets."""

    wary: bool | None = None

    @pytest.fixture
    def blobs(self, s3: Any) -> Iterator[ObjectBlobs]:
        self.place = s3
        return s3.blobs(wary=self.wary)

    def damage(self, blobs: Blobs, digest: str) -> None:
        self.place.overwrite(blob_name(digest), flipped(stored(self.place, digest).read_bytes()))


class TestTrusting(TestWary):
    """Objects up to 8 MiB in one request, large ones not read back: what Amazon itself gets."""

    wary = False
    test_threads_put_and_delete_at_once = None  # this server replaces in place what is put in one request


# -------------------------------------------------------------------------------------------------------------- transfers


@pytest.mark.parametrize("wary", [True, False])
@pytest.mark.parametrize("size", [CHUNK, BIG])
def test_a_source_that_breaks_on_the_way_stores_nothing(s3: Any, size: int, wary: bool) -> None:
    def pieces() -> Iterator[Piece]:
        yield noise(size // 2)
        raise StorageError("the source broke")

    blobs = s3.blobs(wary=wary)
    with pytest.raises(StorageError, match="the source broke"):
        blobs.objects.put(blob_name(ABSENT), Content(size, pieces))
    assert not blobs.has(ABSENT)
    assert list(blobs.list()) == []


def test_a_large_file_travels_in_parts(s3: Any, tmp_path: Path) -> None:
    blobs, data = s3.blobs(), noise(BIG + 17)
    (tmp_path / "file").write_bytes(data)
    blob = blobs.put(tmp_path / "file")
    assert stored(s3, blob.digest).read_bytes() == data
    assert blobs.local(blob.digest).read_bytes() == data


def test_every_page_of_a_listing_is_read(mortal_s3: Any) -> None:
    digests = {digest_bytes(str(number).encode()) for number in range(2100)}
    for digest in digests:
        stored(mortal_s3, digest).parent.mkdir(parents=True, exist_ok=True)
        stored(mortal_s3, digest).touch()
    (mortal_s3.folder / "note.txt").touch()
    found = list(mortal_s3.blobs().list())
    assert len(found) == len(digests)
    assert set(found) == digests


def test_two_prefixes_do_not_see_each_other(s3: Any) -> None:
    other = ObjectBlobs(f"{s3.url}-other", {"endpoint": f"http://127.0.0.1:{s3.server.port}", "region": "us-east-1"})
    digest = s3.blobs().put(b"mine").digest
    assert not other.has(digest)
    assert list(other.list()) == []


@pytest.mark.parametrize("limit", [BIG, CHUNK])
def test_a_copy_is_made_by_the_server_or_where_it_is_too_large_by_us(
    s3: Any, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("velodrome.store.objects._COPIED", limit)
    bucket, data = s3.blobs().objects.requests, noise(BIG)
    bucket.put("ab/cd", Content(BIG, lambda: iter([data])))
    bucket.copy("ab/cd", "kept/ab/cd/copy")
    assert (s3.folder / "kept/ab/cd/copy").read_bytes() == data
    assert [held.size for held in bucket.entries("kept/ab/cd")] == [BIG]
    bucket.delete("ab/cd")
    assert bucket.head("ab/cd") is None
    with pytest.raises(FileNotFoundError):
        bucket.copy("ab/cd", "kept/ab/cd/other")
    assert bucket.head("kept/ab/cd/other") is None


def test_a_collection_outlives_broken_connections(s3: Any) -> None:
    """Each request of it is tried again, and what was promised meanwhile holds."""
    blobs, data = s3.blobs(), noise(CHUNK)
    digest = blobs.put(data).digest
    begun, future = datetime(2026, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(hours=1)
    for side in ("up", "down"):
        for after in (0, 100):
            wire = s3.wire()
            wire.cut(side, after, times=3)
            through = s3.blobs(wire)
            assert [entry.digest for entry in through.entries()] == [digest]
            assert through.keep(digest)
            assert not through.collect(digest, begun)
            assert wire.cuts == 0
    wire = s3.wire()
    wire.cut("down", 100, times=6)
    assert s3.blobs(wire).collect(digest, future)
    assert [*blobs.list(), *blobs.entries()] == []


@pytest.mark.parametrize(("side", "after"), [("up", 0), ("up", 300), ("up", 3 * CHUNK), ("down", 0), ("down", 100)])
def test_a_put_outlives_broken_connections(s3: Any, side: str, after: int) -> None:
    wire, data = s3.wire(), noise(BIG)
    wire.cut(side, after, times=3)
    blob = s3.blobs(wire).put(data)
    assert stored(s3, blob.digest).read_bytes() == data
    assert wire.cuts < 3


@pytest.mark.parametrize("after", [0, 100, 3 * CHUNK])
def test_a_read_outlives_broken_connections(s3: Any, after: int) -> None:
    wire, data = s3.wire(), noise(BIG)
    digest = s3.blobs().put(data).digest
    wire.cut("down", after, times=3)
    assert s3.blobs(wire).read(digest) == data
    assert wire.cuts == 0


def test_a_bit_that_flips_on_the_way_back_is_found(s3: Any) -> None:
    wire, data = s3.wire(), noise(BIG)
    digest = s3.blobs().put(data).digest
    wire.flip_after = 5 * CHUNK
    assert s3.blobs(wire).read(digest) == data
    assert wire.flip_after is None


def test_a_bit_that_flips_on_the_way_there_is_found_and_mended(s3: Any) -> None:
    wire, data = s3.wire(), noise(BIG)
    wire.side, wire.flip_after = "up", 5 * CHUNK
    blob = s3.blobs(wire).put(data)
    assert wire.flip_after is None
    assert stored(s3, blob.digest).read_bytes() == data


def test_a_server_may_be_slow_but_not_silent(s3: Any) -> None:
    wire, data = s3.wire(), noise(2 * CHUNK)
    digest = s3.blobs().put(data).digest
    wire.delay = 0.02
    patience = Patience(seconds=20, silence=0.4, first=0.02, longest=0.1)
    begun = time.perf_counter()
    assert s3.blobs(wire, patience=patience).read(digest) == data
    assert time.perf_counter() - begun > patience.silence


# ------------------------------------------------------------------------------------------------------- when it goes wrong


def operations(blobs: Blobs) -> dict[str, Callable[[], object]]:
    return {
        "store in": lambda: blobs.put(b"new"),
        "read from": lambda: blobs.read(ABSENT),
        "look into": lambda: blobs.has(ABSENT),
        "delete from": lambda: blobs.delete(ABSENT),
        "list": lambda: list(blobs.list()),
        "keep": lambda: blobs.keep(ABSENT),
        "entries": lambda: list(blobs.entries()),
        "collect": lambda: blobs.collect(ABSENT, datetime.now(UTC)),
        "sweep": lambda: blobs.sweep(datetime.now(UTC)),
    }


def test_a_dead_server_is_named_and_not_waited_for_for_ever(s3: Any) -> None:
    wire = s3.wire()
    blobs = s3.blobs(wire, patience=HASTY)
    wire.cut("up", 0, times=10**9)
    for call in operations(blobs).values():
        with pytest.raises(StorageError, match=re.escape(s3.url)) as failure:
            call()
        assert "the connection broke" in failure.value.problem
        assert failure.value.remedy


def test_a_refused_connection_is_told_as_such(s3: Any) -> None:
    wire = s3.wire()
    wire.close()
    with pytest.raises(StorageError, match="connection was refused"):
        s3.blobs(wire, patience=HASTY).read(ABSENT)


def test_a_put_that_fails_harms_nothing(s3: Any) -> None:
    wire, old, new = s3.wire(), noise(CHUNK), noise(BIG)
    blobs = s3.blobs()
    kept = blobs.put(old).digest
    wire.cut("up", 3 * CHUNK, times=10**9)
    with pytest.raises(StorageError):
        s3.blobs(wire, patience=HASTY).put(new)
    assert list(blobs.list()) == [kept]
    assert blobs.read(kept) == old
    assert not blobs.has(digest_bytes(new))
    assert blobs.read(blobs.put(new).digest) == new


def test_a_frozen_server_is_given_up_and_found_again(mortal_s3: Any) -> None:
    blobs = mortal_s3.blobs()
    digest = blobs.put(b"data").digest
    mortal_s3.server.freeze()
    with pytest.raises(StorageError, match="did not answer in time"):
        mortal_s3.blobs(patience=replace(HASTY, silence=0.3)).read(digest)
    mortal_s3.server.thaw()
    assert blobs.read(digest) == b"data"


def reviving(server: Any) -> threading.Thread:
    """Kill the server now; the thread starts it again soon."""
    server.kill()
    starting = threading.Timer(0.3, server.start)
    starting.start()
    return starting


def test_a_put_outlives_a_server_that_is_killed_and_comes_back(mortal_s3: Any) -> None:
    data = noise(BIG)
    revivals: list[threading.Thread] = []

    def pieces() -> Iterator[Piece]:
        for begin in range(0, BIG, CHUNK):
            if begin == 12 * CHUNK and not revivals:
                revivals.append(reviving(mortal_s3.server))
            yield data[begin : begin + CHUNK]

    mortal_s3.blobs().objects.put("ab/cd", Content(BIG, pieces))
    revivals[0].join()
    assert (mortal_s3.folder / "ab" / "cd").read_bytes() == data


def test_a_read_outlives_a_server_that_is_killed_and_comes_back(mortal_s3: Any) -> None:
    blobs, data = mortal_s3.blobs(), noise(2 * BIG)
    pieces = blobs.objects.get(blob_name(blobs.put(data).digest))
    first = bytes(next(pieces))
    revival = reviving(mortal_s3.server)
    assert first + b"".join(pieces) == data
    revival.join()


def test_half_a_put_is_never_seen(mortal_s3: Any) -> None:
    """Not by name, not in the list, when the server dies and stays dead, and when it is there again."""
    blobs, data = mortal_s3.blobs(), noise(BIG)
    kept = blobs.put(b"kept").digest

    def pieces() -> Iterator[Piece]:
        yield data[: 18 * CHUNK]
        mortal_s3.server.kill()
        yield data[18 * CHUNK :]

    with pytest.raises(StorageError):
        mortal_s3.blobs(patience=HASTY).objects.put(blob_name(digest_bytes(data)), Content(BIG, pieces))
    mortal_s3.server.start()
    assert list(blobs.list()) == [kept]
    assert not blobs.has(digest_bytes(data))
    assert blobs.read(blobs.put(data).digest) == data


WRITER = """
import os, sys
from velodrome.store.named import Content
from velodrome.store.objects import ObjectBlobs
url, endpoint, name = sys.argv[1:]
def pieces():
    for number in range(64):
        yield os.urandom(1 << 20)
        if number == 40:
            print("half", flush=True)
            sys.stdin.read()
ObjectBlobs(url, {"endpoint": endpoint, "region": "us-east-1"}).objects.put(name, Content(64 << 20, pieces))
"""


def test_a_writer_that_is_killed_leaves_nothing_to_see(s3: Any) -> None:
    command = [sys.executable, "-c", WRITER, s3.url, f"http://127.0.0.1:{s3.server.port}", blob_name(ABSENT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.kill()
    blobs = s3.blobs()
    assert not blobs.has(ABSENT)
    assert list(blobs.list()) == []


@pytest.mark.parametrize("harm", ["cut", "emptied", "flipped", "longer"])
def test_damage_on_the_server_is_found_and_mended(s3: Any, harm: str) -> None:
    blobs, data = s3.blobs(), noise(3 * CHUNK)
    digest = blobs.put(data).digest
    bad = {"cut": data[:-1], "emptied": b"", "flipped": flipped(data), "longer": data + b"x"}[harm]
    s3.overwrite(blob_name(digest), bad)
    for read in (blobs.read, blobs.local):
        with pytest.raises(IntegrityError, match=re.escape(s3.url)):
            read(digest)
    blobs.put(data)
    assert stored(s3, digest).read_bytes() == blobs.read(digest) == data


def test_a_full_disk_of_the_server_is_an_error_and_harms_nothing(
    s3_program: Path, s3_credentials: None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = _small_server(s3_program, tmp_path, request)
    blobs = place.blobs()
    kept = blobs.put(noise(CHUNK))
    with pytest.raises(StorageError, match=r"disk full|500 \(InternalError\)"):
        place.blobs(patience=HASTY).put(noise(BIG))
    assert list(blobs.list()) == [kept.digest]
    assert digest_bytes(blobs.read(kept.digest)) == kept.digest
    assert blobs.has(blobs.put(noise(CHUNK)).digest)


def _small_server(program: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """A server over a file system in memory of 8 MiB that goes with it."""
    root = tmp_path / "s3" / "data"
    mount = f'mount -t tmpfs -o size=8m tmpfs {root} && mkdir {root}/{servers.S3_BUCKET} && exec "$@"'
    wrap = ("unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c", mount, "sh")
    server = servers.S3Server(program, root, wrap)
    request.addfinalizer(server.kill)
    try:
        server.start()
    except AssertionError:
        pytest.skip("file systems cannot be mounted here")
    return servers.S3Place(server, "small")


def test_a_bucket_that_is_not_there_is_named(s3: Any) -> None:
    options = {"endpoint": f"http://127.0.0.1:{s3.server.port}", "region": "us-east-1"}
    for call in operations(ObjectBlobs("s3://no-such-bucket/x", options, patience=HASTY)).values():
        with pytest.raises(StorageError, match=r"no-such-bucket.*NoSuchBucket") as failure:
            call()
        assert not isinstance(failure.value, MissingBlob)


def _use_in_child(blobs: ObjectBlobs) -> None:
    try:
        blobs.has(ABSENT)
    except StorageError as error:
        os._exit(7 if "fork" in error.problem else 8)


def test_use_after_a_fork_is_refused(s3: Any) -> None:
    blobs = s3.blobs()
    blobs.has(ABSENT)
    child = multiprocessing.get_context("fork").Process(target=_use_in_child, args=(blobs,))
    child.start()
    child.join(timeout=300)
    assert child.exitcode == 7


PUTTER = """
import sys
from velodrome.store.objects import ObjectBlobs
blobs = ObjectBlobs(sys.argv[1], {"endpoint": sys.argv[2], "region": "us-east-1"})
for number in range(15):
    shared = blobs.put(b"shared" * 20000)
    own = blobs.put(f"{sys.argv[3]}/{number}".encode())
    assert blobs.read(shared.digest) == b"shared" * 20000
    blobs.delete(own.digest)
"""


def test_processes_put_and_delete_at_once(s3: Any) -> None:
    address = [s3.url, f"http://127.0.0.1:{s3.server.port}"]
    workers = [subprocess.Popen([sys.executable, "-c", PUTTER, *address, str(number)]) for number in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert list(s3.blobs().list()) == [digest_bytes(b"shared" * 20000)]


# ----------------------------------------------------------------------------------------------------------------- secrets

SECRET = "Zq9sEcReT/KeY+7w"


def told(call: Callable[[], object]) -> str:
    """All that an error tells: its text, repr and traceback, with what it was raised from."""
    with pytest.raises(VelodromeError) as failure:
        call()
    error = failure.value
    return "\n".join([str(error), repr(error), repr(error.received), *traceback.format_exception(error)])


def test_a_wrong_secret_is_an_error_that_does_not_tell_it(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    blobs = s3.blobs(patience=HASTY)
    for call in operations(blobs).values():
        text = told(call)
        assert "403" in text
        assert "AWS_" in text
        assert SECRET not in text
    assert SECRET not in repr(blobs) + repr(blobs.objects) + str(vars(blobs)) + str(vars(blobs.objects))


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKID:{SECRET}@bucket/x",
        f"s3://AKID:{SECRET.replace('/', '')}/bucket",
        f"s3://bucket/x?X-Amz-Signature={SECRET}",
        f"az://container/x?sig={SECRET}",
        f"gs://bucket/x#{SECRET}",
        f"https://AKID:{SECRET}@host/bucket",
        f"s3://[{SECRET}",
    ],
)
def test_an_address_with_a_credential_is_refused_and_not_shown(url: str) -> None:
    text = told(lambda: ObjectBlobs(url))
    assert SECRET.split("/", maxsplit=1)[0] not in text


@pytest.mark.parametrize(
    "options",
    [
        {"secret_access_key": SECRET},
        {"token": SECRET},
        {"endpoint": f"https://u:{SECRET.replace('/', '')}@host"},
        {"endpoint": f"https://host/?sig={SECRET}"},
        {"endpoint": SECRET},
    ],
)
def test_an_option_with_a_credential_is_refused_and_not_shown(options: dict[str, str | bool]) -> None:
    text = told(lambda: ObjectBlobs("s3://bucket/x", options))
    assert SECRET.split("/", maxsplit=1)[0] not in text
    assert "environment" in text


@pytest.mark.parametrize("url", ["", "bucket/x", "ftp://host/x", "s3:///x", "memory://", "file:///tmp/x"])
def test_an_address_that_is_not_understood_says_what_is(url: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix"):
        ObjectBlobs(url)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'region'"):
        ObjectBlobs("s3://bucket/x", {"regoin": "eu-central-1"})


# ------------------------------------------------------------------------------------------------------------- other places


def test_the_other_clouds_are_accepted() -> None:
    assert repr(ObjectBlobs("gs://bucket/x", {"skip_signature": True})) == "ObjectBlobs('gs://bucket/x')"
    assert repr(ObjectBlobs("az://container/x", {"account_name": "acme"})) == "ObjectBlobs('az://container/x')"
    with pytest.raises(ConfigurationError, match="account_name"):
        ObjectBlobs("az://container/x")
    with pytest.raises(ConfigurationError, match="gs://bucket/x"):
        ObjectBlobs("gs://bucket/x", {"region": "eu"})


def test_each_option_is_one_that_the_client_knows() -> None:
    for name in OPTIONS.keys() - {"account_name", "endpoint"}:
        BucketObjects("s3://bucket", {name: "true"})


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_waits_grow_up_to_a_limit(failures: int, draw: float) -> None:
    patience = Patience(first=0.1, longest=10.0)
    wait = patience.wait(failures, draw)
    assert 0 <= wait <= 10.0
    assert patience.wait(failures, 0.0) == 0.0
    assert patience.wait(failures + 1, draw) >= wait
