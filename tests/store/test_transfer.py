"""Many blobs: carried between any two stores, verified, and read through where they lie."""

import os
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from velodrome.core.digest import Digest, digest_bytes
from velodrome.core.errors import IntegrityError, MissingBlob, StorageError
from velodrome.store.blobs import Blob, Blobs, FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.encryption import EncryptedBlobs
from velodrome.store.keys import KEY_BYTES, WrappingKey
from velodrome.store.named import AddressedBlobs, FolderObjects
from velodrome.store.transfer import Carried, carry, unreadable

KINDS = ("folder", "objects", "encrypted", "S3")
LARGE = (8 << 20) + 17


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], Blobs]:
    def make(kind: str, name: str) -> Blobs:
        root = tmp_path / name
        if kind == "S3":
            place = request.getfixturevalue("s3")
            place.prefix += f"/{name}"
            return place.blobs()
        if kind == "encrypted":
            return EncryptedBlobs(FolderBlobs(root), WrappingKey(bytes(KEY_BYTES)))
        return FolderBlobs(root) if kind == "folder" else AddressedBlobs(FolderObjects(root))

    return make


def filled(blobs: Blobs, sizes: tuple[int, ...] = (0, 1, 5000, LARGE)) -> list[Blob]:
    return [blobs.put(os.urandom(size)) for size in sizes]


@pytest.mark.parametrize(
    ("source", "target"),
    [pytest.param(*pair, marks=[pytest.mark.slow] if "S3" in pair else []) for pair in product(KINDS, repeat=2)],
)
def test_any_store_fills_any_other(
    store: Callable[[str, str], Blobs], tmp_path: Path, source: str, target: str
) -> None:
    one, other = store(source, "one"), store(target, "other")
    blobs = filled(one)
    seen: list[None] = []
    assert carry(blobs, one, other, tmp_path / "scratch", lambda: seen.append(None)) == Carried(4)
    assert len(seen) == 4
    for blob in blobs:
        assert other.read(blob.digest) == one.read(blob.digest)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_is_gone_or_damaged_is_told_and_the_rest_goes_over(tmp_path: Path) -> None:
    one, other = FolderBlobs(tmp_path / "one"), FolderBlobs(tmp_path / "other")
    small, large, whole = filled(one, (10, LARGE, 20))
    damage(one, small.digest)
    damage(one, large.digest)
    gone = digest_bytes(b"never put")
    carried = carry([small, Blob(gone, 1), large, whole], one, other, tmp_path)
    assert carried == Carried(1, (gone,), (small.digest, large.digest))
    assert list(other.list()) == [whole.digest]


def test_what_is_damaged_at_its_goal_is_mended(store: Callable[[str, str], Blobs], tmp_path: Path) -> None:
    one, other = FolderBlobs(tmp_path / "one"), FolderBlobs(tmp_path / "other")
    blobs = filled(one)
    carry(blobs, one, other, tmp_path)
    damage(other, blobs[2].digest)
    carry(blobs, one, other, tmp_path)
    assert unreadable([blob.digest for blob in blobs], other) == {}


def test_the_first_refusal_of_the_target_ends_it(tmp_path: Path) -> None:
    one, other = FolderBlobs(tmp_path / "one"), FolderBlobs(tmp_path / "other")
    blobs, before = filled(one, (3,) * 10), threading.active_count()
    (tmp_path / "other" / "incoming").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="cannot"):
        carry(blobs, one, other, tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert threading.active_count() == before


def test_what_cannot_be_read_is_told_with_the_reason(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    whole, damaged = (blob.digest for blob in filled(blobs, (100, LARGE)))
    damage(blobs, damaged)
    gone = digest_bytes(b"never put")
    found = unreadable([whole, damaged, gone], blobs)
    assert {digest: type(error) for digest, error in found.items()} == {damaged: IntegrityError, gone: MissingBlob}


def test_a_cache_hides_no_damage_and_is_not_filled(tmp_path: Path) -> None:
    remote = AddressedBlobs(FolderObjects(tmp_path / "remote"))
    cached = CachedBlobs(remote, tmp_path / "cache", 1 << 30)
    (blob,) = filled(cached, (100,))
    cached.read(blob.digest)
    remote.delete(blob.digest)
    assert cached.read(blob.digest)
    assert list(unreadable([blob.digest], cached)) == [blob.digest]
    (other,) = filled(cached, (100,))
    carry([other], cached, FolderBlobs(tmp_path / "other"), tmp_path / "scratch")
    assert not (tmp_path / "cache" / other.digest[:2] / other.digest[2:]).exists()


def test_many_blobs_keep_their_order(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    digests = [blobs.put(bytes([number % 256, number // 256])).digest for number in range(600)]
    asked = [
        Digest(digest) for pair in zip(digests, (digest[::-1] for digest in digests), strict=True) for digest in pair
    ]
    assert list(unreadable(asked, blobs)) == [digest for digest in asked if digest not in set(digests)]


def damage(blobs: FolderBlobs, digest: str) -> None:
    path = blobs.root / digest[:2] / digest
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)
