"""Encryption at rest: the contract, every kind of tampering, the wrong key, and rotations that are killed anywhere."""

import io
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.digest import CHUNK, digest_bytes
from velodrome.core.errors import ConfigurationError, IntegrityError, MissingBlob, StorageError, WrongKey
from velodrome.store.blobs import Blobs, FolderBlobs
from velodrome.store.encryption import EncryptedBlobs, EncryptedObjects
from velodrome.store.keys import KEY_BYTES, WrappingKey
from velodrome.store.named import AddressedBlobs, Content, FolderObjects, blob_name
from velodrome.testing.blobs import BlobsConformance

pytestmark = pytest.mark.slow  # together more than two seconds

OLD, NEW, OTHER = (WrappingKey(bytes([number]) * KEY_BYTES) for number in (1, 2, 3))
HEAD, TAG = 72, 16


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


class TestEncryptedFolder(BlobsConformance):
    tick = timedelta(milliseconds=10)

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> EncryptedBlobs:
        self.root = tmp_path / "blobs"
        return EncryptedBlobs(FolderBlobs(self.root), OLD)

    def damage(self, blobs: Blobs, digest: str) -> None:
        (path,) = objects_in(self.root)
        path.chmod(0o644)
        path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))


class TestEncryptedS3(BlobsConformance):
    @pytest.fixture
    def blobs(self, s3: Any) -> EncryptedBlobs:
        self.place = s3
        return EncryptedBlobs(s3.blobs(), OLD)

    def damage(self, blobs: Blobs, digest: str) -> None:
        (path,) = objects_in(self.place.folder)
        name = path.relative_to(self.place.folder).as_posix()
        self.place.overwrite(name, flipped(path.read_bytes(), path.stat().st_size // 2))


def objects_in(root: Path) -> list[Path]:
    """The files of objects, without the keyring and what lies beside them."""
    return [path for path in root.glob("??/*") if path.is_file()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def blobs(root: Path) -> EncryptedBlobs:
    return opened(root)


def opened(root: Path, key: WrappingKey = OLD) -> EncryptedBlobs:
    return EncryptedBlobs(FolderBlobs(root), key)


def tampered(root: Path, data: bytes) -> None:
    (path,) = objects_in(root)
    path.chmod(0o644)
    path.write_bytes(data)


def revealed(root: Path, digest: str) -> bytes:
    """The bytes of a blob by the encryption alone: no digest is compared."""
    return b"".join(opened(root).objects.get(blob_name(digest)))


def assert_found(root: Path, digest: str) -> None:
    with pytest.raises(IntegrityError):
        revealed(root, digest)
    for read in (opened(root).read, opened(root).local):
        with pytest.raises(IntegrityError, match=digest[:12]):
            read(digest)


# ------------------------------------------------------------------------------------------------------------ what is stored


def test_nothing_of_a_blob_shows(blobs: EncryptedBlobs, root: Path) -> None:
    data = b"a very particular sentence " * 10_000
    digest = blobs.put(data).digest
    for path in root.rglob("*"):
        assert digest not in path.as_posix()
        assert digest[2:] not in path.as_posix()
        if path.is_file():
            assert b"particular" not in path.read_bytes()
            assert bytes.fromhex(digest) not in path.read_bytes()


def test_an_object_is_what_the_documentation_says(root: Path) -> None:
    """Read by hand: format, store key, wrapped data key, chunks with position and last flag."""
    data = os.urandom(2 * CHUNK + 5)
    digest = opened(root).put(data).digest
    name = f"{digest[:2]}/{digest[2:]}".encode()
    entry = min((root / "keyring").iterdir())
    number, master, _ = entry.name.split("-")
    assert master == OLD.id
    store_key = OLD.unwrap(entry.read_bytes(), number.encode())[:32]
    (path,) = objects_in(root)
    stored = path.read_bytes()
    assert len(stored) == HEAD + len(data) + 3 * TAG
    assert stored[:12] == b"VEL1" + bytes.fromhex(number)
    data_key = AESGCM(store_key).decrypt(stored[12:24], stored[24:HEAD], stored[:12] + name)
    chunks = [stored[begin : begin + CHUNK + TAG] for begin in range(HEAD, len(stored), CHUNK + TAG)]
    nonces = [bytes(10) + bytes([index, index == 2]) for index in range(3)]
    plain = [AESGCM(data_key).decrypt(nonce, chunk, None) for nonce, chunk in zip(nonces, chunks, strict=True)]
    assert b"".join(plain) == data


def test_equal_blobs_are_encrypted_differently_each_time(root: Path, tmp_path: Path) -> None:
    opened(root).put(b"data")
    opened(tmp_path / "other").put(b"data")
    one, two = objects_in(root)[0], objects_in(tmp_path / "other")[0]
    assert one.name == two.name  # the same master key, the same digest
    assert one.read_bytes() != two.read_bytes()


def test_a_store_lists_the_digests_that_were_put(blobs: EncryptedBlobs, root: Path) -> None:
    digests = {blobs.put(bytes([number])).digest for number in range(20)}
    (root / "ab").mkdir(exist_ok=True)
    (root / "ab" / "cdef").touch()
    (root / "ab" / "note.txt").touch()
    (root / "keyring" / "note.txt").touch()
    assert sorted(opened(root).list()) == sorted(digests)


class Zeros(io.RawIOBase):
    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = min(self.left, size)
        self.left -= size
        return bytes(size)


def test_memory_stays_bounded(blobs: EncryptedBlobs, tmp_path: Path) -> None:
    size = 64 * CHUNK
    tracemalloc.start()
    try:
        digest = blobs.put(Zeros(size)).digest
        with (tmp_path / "copy").open("wb+") as out:
            assert blobs.copy_to(digest, out) == size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size // 3


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_objects_of_every_size_around_a_chunk(root: Path, size: int) -> None:
    """In whatever pieces they come."""
    objects = EncryptedObjects(FolderObjects(root), OLD)
    data = os.urandom(size)
    for step in (1000, CHUNK, CHUNK + 7):
        pieces = [data[begin : begin + step] for begin in range(0, size, step)]
        objects.put("ab/cd", Content(size, lambda pieces=pieces: iter(pieces)))
        assert b"".join(objects.get("ab/cd")) == data
    assert list(objects.list("ab")) == ["ab/cd"]
    assert list(objects.list("cd")) == []


# ---------------------------------------------------------------------------------------------------------------- tampering


def test_each_flipped_byte_is_found(root: Path) -> None:
    """Of the head, the wrapped key, the chunk and the tag."""
    digest = opened(root).put(b"precious").digest
    (path,) = objects_in(root)
    whole = path.read_bytes()
    for place in range(len(whole)):
        tampered(root, flipped(whole, place))
        with pytest.raises(IntegrityError):
            revealed(root, digest)
    tampered(root, whole)
    assert opened(root).read(digest) == b"precious"


def test_each_cut_is_found(root: Path) -> None:
    digest = opened(root).put(b"precious").digest
    (path,) = objects_in(root)
    whole = path.read_bytes()
    for size in range(len(whole)):
        tampered(root, whole[:size])
        with pytest.raises(IntegrityError):
            revealed(root, digest)


LONG = bytes(3 * CHUNK)
SEAMS = [HEAD + number * (CHUNK + TAG) for number in range(4)]


@pytest.mark.parametrize("size", [*SEAMS, SEAMS[1] - TAG, SEAMS[2] + 1, SEAMS[3] - 1])
def test_a_cut_between_chunks_is_found(root: Path, size: int) -> None:
    digest = opened(root).put(LONG).digest
    (path,) = objects_in(root)
    if size < path.stat().st_size:
        tampered(root, path.read_bytes()[:size])
        assert_found(root, digest)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 2), (0, 2), (2,), (0, 1, 2, 2), (0, 1, 1, 2)])
def test_chunks_in_another_order_are_found(root: Path, order: tuple[int, ...]) -> None:
    digest = opened(root).put(LONG).digest
    (path,) = objects_in(root)
    whole = path.read_bytes()
    tampered(root, whole[:HEAD] + b"".join(whole[SEAMS[number] : SEAMS[number + 1]] for number in order))
    assert_found(root, digest)


def test_bytes_after_the_end_are_found(root: Path) -> None:
    digest = opened(root).put(LONG).digest
    (path,) = objects_in(root)
    for more in (b"x", bytes(TAG), bytes(CHUNK + TAG)):
        tampered(root, path.read_bytes() + more)
        assert_found(root, digest)


def test_objects_that_changed_places_are_found(root: Path) -> None:
    digests = [opened(root).put(text).digest for text in (b"one", b"two")]
    one, two = objects_in(root)
    first, second = one.read_bytes(), two.read_bytes()
    for path, data in ((one, second), (two, first)):
        path.chmod(0o644)
        path.write_bytes(data)
    for digest in digests:
        assert_found(root, digest)


@given(st.integers(0, HEAD + CHUNK + 100 + 2 * TAG - 1), st.integers(1, 255))
def test_any_changed_byte_of_two_chunks_is_found(tmp_path_factory: pytest.TempPathFactory, place: int, by: int) -> None:
    root = tmp_path_factory.getbasetemp() / "two-chunks"
    data = bytes(CHUNK + 100)
    digest = opened(root).put(data).digest
    (path,) = objects_in(root)
    whole = bytearray(path.read_bytes())
    whole[place] ^= by
    tampered(root, bytes(whole))
    with pytest.raises(IntegrityError):
        revealed(root, digest)


def test_the_name_of_an_object_cannot_be_made_up(blobs: EncryptedBlobs, root: Path) -> None:
    blobs.put(b"data")
    (path,) = objects_in(root)
    path.rename(path.with_name(path.name[:-1] + ("0" if path.name[-1] != "0" else "1")))
    assert list(blobs.list()) == []


# ----------------------------------------------------------------------------------------------------------------- the keys


def test_another_key_opens_nothing_and_is_named(root: Path) -> None:
    digest = opened(root).put(b"data").digest
    stranger = opened(root, OTHER)
    for call in (
        lambda: stranger.read(digest),
        lambda: stranger.local(digest),
        lambda: stranger.has(digest),
        lambda: stranger.put(b"more"),
        lambda: stranger.delete(digest),
        lambda: list(stranger.list()),
        lambda: list(stranger.entries()),
        lambda: stranger.keep(digest),
        lambda: stranger.collect(digest, datetime.now(UTC)),
        lambda: stranger.rotate(NEW),
    ):
        with pytest.raises(WrongKey, match=OLD.id) as failure:
            call()
        assert failure.value.received == f"key {OTHER.id}"
        text = str(failure.value) + repr(failure.value)
        assert not any(
            bytes([number] * 8).hex() in text or repr(bytes([number] * 8))[2:-1] in text for number in (1, 2, 3)
        )
    assert opened(root).read(digest) == b"data"


def test_an_empty_place_opens_with_any_key(root: Path) -> None:
    for key in (OLD, OTHER):
        blobs = opened(root, key)
        assert not blobs.has(digest_bytes(b"data"))
        assert list(blobs.list()) == []
        assert list(blobs.entries()) == []
        assert not blobs.keep(digest_bytes(b"data"))
        assert not blobs.collect(digest_bytes(b"data"), datetime.now(UTC))
        blobs.delete(digest_bytes(b"data"))
        with pytest.raises(MissingBlob):
            blobs.read(digest_bytes(b"data"))


def test_plain_blobs_are_not_mixed_with_encrypted_ones(root: Path) -> None:
    plain = FolderBlobs(root).put(b"plain").digest
    for call in (lambda: opened(root).put(b"secret"), lambda: opened(root).has(plain)):
        with pytest.raises(StorageError, match="no keys lie beside"):
            call()


def test_one_of_two_damaged_keyrings_is_enough(root: Path) -> None:
    digest = opened(root).put(b"data").digest
    for path in sorted((root / "keyring").iterdir()):
        whole = path.read_bytes()
        path.chmod(0o644)
        for harm in (flipped(whole, 20), b"", None):
            path.write_bytes(harm) if harm is not None else path.unlink()
            assert opened(root).read(digest) == b"data"
        path.write_bytes(whole)


@pytest.mark.parametrize("place", ["folder", "S3"])
def test_a_collection_takes_no_key(place: str, request: pytest.FixtureRequest, root: Path) -> None:
    """Nor does what a collector does show the name of what it collects."""
    inner = FolderBlobs(root) if place == "folder" else request.getfixturevalue("s3").blobs()
    seen = root if place == "folder" else request.getfixturevalue("s3").folder
    blobs = EncryptedBlobs(inner, OLD)
    going, kept = (blobs.put(data).digest for data in (b"going", b"kept"))
    assert blobs.keep(kept)
    assert {entry.digest: entry.size for entry in blobs.entries()} == {going: HEAD + 5 + TAG, kept: HEAD + 4 + TAG}
    assert not any(digest[2:] in path.as_posix() for digest in (going, kept) for path in seen.rglob("*"))
    future = datetime.now(UTC) + timedelta(hours=1)
    assert blobs.collect(going, future)
    assert blobs.sweep(future) == 0
    blobs.rotate(NEW)
    again = EncryptedBlobs(inner, NEW)
    assert list(again.list()) == [kept]
    assert again.read(kept) == b"kept"
    assert again.collect(kept, future)
    assert len(list((seen / "keyring").iterdir())) == 4


def test_two_damaged_keyrings_are_an_error_and_not_a_new_store(root: Path) -> None:
    digest = opened(root).put(b"data").digest
    for path in (root / "keyring").iterdir():
        path.chmod(0o644)
        path.write_bytes(flipped(path.read_bytes(), 20))
    for call in (lambda: opened(root).read(digest), lambda: opened(root).put(b"more")):
        with pytest.raises(IntegrityError):
            call()
    for path in (root / "keyring").iterdir():
        path.unlink()
    for call in (lambda: opened(root).read(digest), lambda: opened(root).put(b"more")):
        with pytest.raises(StorageError, match="no keys lie beside"):
            call()


def test_those_who_begin_a_store_at_once_lose_nothing(root: Path) -> None:
    barrier = threading.Barrier(3, timeout=300)

    class Together(FolderObjects):
        """Nobody writes a key before everybody has seen that there is none."""

        waiting = True

        def put(self, name: str, content: Content) -> None:
            if self.waiting:
                self.waiting = False
                barrier.wait()
            super().put(name, content)

    stores = [EncryptedBlobs(AddressedBlobs(Together(root)), OLD) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        digests = [blob.digest for blob in pool.map(lambda number: stores[number].put(bytes([number])), range(3))]
    assert len({path.name.split("-")[0] for path in (root / "keyring").iterdir()}) == 3
    for store in [*stores, opened(root)]:
        assert [store.read(digest) for digest in digests] == [b"\0", b"\1", b"\2"]
        assert sorted(store.list()) == sorted(digests)
        assert [store.put(bytes([number])).digest for number in range(3)] == digests
    assert len(objects_in(root)) == 3


# ------------------------------------------------------------------------------------------------------------------ rotation


def test_a_rotation_touches_no_object(root: Path) -> None:
    blobs = opened(root)
    digests = [blobs.put(os.urandom(1000)).digest for _ in range(5)]
    before = {path: (path.read_bytes(), path.stat().st_ino, path.stat().st_ctime_ns) for path in objects_in(root)}
    blobs.rotate(NEW)
    assert {
        path: (path.read_bytes(), path.stat().st_ino, path.stat().st_ctime_ns) for path in objects_in(root)
    } == before
    for store in (blobs, opened(root, NEW)):
        assert [digest_bytes(store.read(digest)) for digest in digests] == digests
        assert sorted(store.list()) == sorted(digests)
    with pytest.raises(WrongKey):
        opened(root, OLD).read(digests[0])


def test_after_a_rotation_new_blobs_have_a_new_store_key(root: Path) -> None:
    """Whoever kept the old master key and the old keyring reads nothing that is stored from now on."""
    opened(root).put(b"before")
    kept = {path.name: path.read_bytes() for path in (root / "keyring").iterdir()}
    opened(root).rotate(NEW)
    after = opened(root, NEW).put(b"after").digest
    for name, data in kept.items():
        (root / "keyring" / name).write_bytes(data)
    with pytest.raises(WrongKey):
        opened(root).read(after)
    assert opened(root).read(digest_bytes(b"before")) == b"before"


def test_a_process_that_runs_on_reads_what_it_could_and_says_why_it_cannot_more(root: Path) -> None:
    running = opened(root)
    before = running.put(b"before").digest
    opened(root).rotate(NEW)
    after = opened(root, NEW).put(b"after").digest
    assert running.read(before) == b"before"
    written = running.put(b"written meanwhile").digest
    with pytest.raises(WrongKey, match=NEW.id):
        running.read(after)
    assert opened(root, NEW).read(written) == b"written meanwhile"


def test_a_key_does_not_take_its_own_place(blobs: EncryptedBlobs) -> None:
    with pytest.raises(ConfigurationError, match="old one"):
        blobs.rotate(OLD)


def test_an_empty_store_rotates_too(root: Path) -> None:
    blobs = opened(root)
    blobs.rotate(NEW)
    digest = blobs.put(b"data").digest
    assert opened(root, NEW).read(digest) == b"data"


class Killed(BaseException):
    pass


class Mortal(FolderObjects):
    """Dies at the n-th write, before or after it."""

    def __init__(self, root: Path, calls: int, after: bool) -> None:
        super().__init__(root)
        self.calls, self.after = calls, after

    def put(self, name: str, content: Content) -> None:
        self._die(not self.after)
        super().put(name, content)
        self._die(self.after)

    def delete(self, name: str) -> None:
        self._die(not self.after)
        super().delete(name)
        self._die(self.after)

    def _die(self, now: bool) -> None:
        self.calls -= now
        if self.calls < 0:
            raise Killed


@pytest.mark.parametrize("after", [False, True])
def test_a_rotation_may_be_killed_at_any_write(tmp_path: Path, after: bool) -> None:
    for calls in range(100):
        root = tmp_path / str(calls)
        digests = [opened(root).put(b"1").digest]
        opened(root).rotate(OTHER)
        digests.append(opened(root, OTHER).put(b"2").digest)
        mortal = EncryptedBlobs(AddressedBlobs(Mortal(root, calls, after)), OTHER)
        try:
            mortal.rotate(NEW)
        except Killed:
            assert any(readable(root, key, digests) for key in (OTHER, NEW))
            opened(root, OTHER).rotate(NEW)
            died = True
        else:
            died = False
        assert readable(root, NEW, digests)
        assert {path.name.split("-")[1] for path in (root / "keyring").iterdir()} == {NEW.id}
        assert len(list((root / "keyring").iterdir())) == 6  # two store keys from before and a new one, each twice
        if not died:
            break
    assert calls == 10  # three keys wrapped twice each, two old ones removed twice each


def readable(root: Path, key: WrappingKey, digests: list[str]) -> bool:
    try:
        return [opened(root, key).read(digest) for digest in digests] == [b"1", b"2"]
    except WrongKey:
        return False


def test_two_rotations_to_different_keys_lose_nothing(root: Path) -> None:
    """Against the rules, but not at the price of the data."""
    digest = opened(root).put(b"data").digest

    class Rival(FolderObjects):
        def delete(self, name: str) -> None:
            rival, self.rival = self.rival, None
            if rival is not None:
                rival.rotate(NEW)
            super().delete(name)

    first = Rival(root)
    first.rival = opened(root)
    EncryptedBlobs(AddressedBlobs(first), OLD).rotate(OTHER)
    for key in (NEW, OTHER):
        assert opened(root, key).read(digest) == b"data"


def test_a_rotation_on_a_bucket(s3: Any) -> None:
    digest = EncryptedBlobs(s3.blobs(), OLD).put(LONG).digest
    EncryptedBlobs(s3.blobs(), OLD).rotate(NEW)
    assert EncryptedBlobs(s3.blobs(), NEW).read(digest) == LONG
    with pytest.raises(WrongKey):
        EncryptedBlobs(s3.blobs(), OLD).read(digest)
