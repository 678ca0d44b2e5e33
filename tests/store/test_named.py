"""Blobs over named bytes: the contract over a folder, and sources that are not what they seem."""

import gc
import io
import os
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from velodrome.core.digest import CHUNK, digest_bytes
from velodrome.core.errors import MissingBlob, SourceError, StorageError
from velodrome.store.blobs import Blobs
from velodrome.store.named import AddressedBlobs, Content, FolderObjects, Piece, blob_name
from velodrome.testing.blobs import BlobsConformance


def flip(path: Path, place: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


class TestAddressedBlobs(BlobsConformance):
    tick = timedelta(milliseconds=10)

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> AddressedBlobs:
        return AddressedBlobs(FolderObjects(tmp_path / "objects"), tmp_path / "scratch")

    def damage(self, blobs: Blobs, digest: str) -> None:
        assert isinstance(blobs, AddressedBlobs)
        assert isinstance(blobs.objects, FolderObjects)
        flip(blobs.objects.root / blob_name(digest))


@pytest.fixture
def blobs(tmp_path: Path) -> AddressedBlobs:
    return AddressedBlobs(FolderObjects(tmp_path / "objects"))


class Endless(io.RawIOBase):
    """So many zeros, none of them in memory."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = min(self.left, CHUNK if size < 0 else size)
        self.left -= size
        return bytes(size)


def test_memory_stays_bounded_for_a_stream_and_a_copy(blobs: AddressedBlobs, tmp_path: Path) -> None:
    size = 64 * CHUNK
    tracemalloc.start()
    try:
        blob = blobs.put(Endless(size))
        with (tmp_path / "copy").open("wb+") as out:
            assert blobs.copy_to(blob.digest, out) == size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert blob.size == size
    assert peak < size // 3


def test_a_file_that_changes_while_it_is_stored_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"before")

    class Meddling(FolderObjects):
        def put(self, name: str, content: Content) -> None:
            source.write_bytes(b"after!")
            super().put(name, content)

    blobs = AddressedBlobs(Meddling(tmp_path / "objects"))
    with pytest.raises(StorageError, match="changed while it was stored"):
        blobs.put(source)
    assert list(blobs.list()) == []
    assert not any(path.is_file() for path in (tmp_path / "objects").rglob("*"))


def test_a_file_that_is_not_there_is_named(blobs: AddressedBlobs, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        blobs.put(tmp_path / "nowhere")


def test_a_transfer_that_was_damaged_once_is_done_again(tmp_path: Path) -> None:
    class Noisy(FolderObjects):
        reads = 0

        def get(self, name: str) -> Iterator[Piece]:
            self.reads += 1
            for piece in super().get(name):
                yield bytes(len(piece)) if self.reads == 1 else piece

    objects = Noisy(tmp_path)
    blobs = AddressedBlobs(objects)
    digest = AddressedBlobs(FolderObjects(tmp_path)).put(b"precious").digest
    assert blobs.read(digest) == b"precious"
    assert objects.reads == 2


def test_what_is_there_whole_is_not_written_again(blobs: AddressedBlobs, tmp_path: Path) -> None:
    path = tmp_path / "objects" / blob_name(blobs.put(b"data").digest)
    before = path.stat().st_ino
    blobs.put(b"data")
    assert path.stat().st_ino == before


def test_a_copy_begins_where_the_file_stands(blobs: AddressedBlobs) -> None:
    out = io.BytesIO()
    out.write(b"head ")
    assert blobs.copy_to(blobs.put(b"tail").digest, out) == 4
    assert out.getvalue() == b"head tail"


def test_local_copies_are_private_and_go_with_their_store(tmp_path: Path) -> None:
    blobs = AddressedBlobs(FolderObjects(tmp_path / "objects"), tmp_path / "scratch")
    path = blobs.local(blobs.put(b"data").digest)
    folder = next((tmp_path / "scratch").iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o400
    del blobs
    gc.collect()
    assert not folder.exists()


def test_a_local_copy_that_was_damaged_is_made_again(blobs: AddressedBlobs) -> None:
    digest = blobs.put(b"precious" * 1000).digest
    flip(blobs.local(digest))
    assert blobs.local(digest).read_bytes() == b"precious" * 1000


def test_what_is_no_blob_is_not_listed(blobs: AddressedBlobs, tmp_path: Path) -> None:
    digest = blobs.put(b"data").digest
    for name in ("ab/note.txt", f"{digest[:2]}/{digest[2:-1]}", "incoming/.half", f"x/{'0' * 64}"):
        (tmp_path / "objects" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "objects" / name).touch()
    assert list(blobs.list()) == [digest]


def test_an_object_of_a_folder_is_read_only_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path)
    objects.put("ab/cd", Content(4, lambda: iter([b"da", memoryview(b"ta")])))
    assert (tmp_path / "ab" / "cd").stat().st_mode & 0o777 == 0o444
    assert os.listdir(tmp_path / "incoming") == []
    assert list(objects.list()) == list(objects.list("ab")) == ["ab/cd"]
    assert list(objects.list("keys")) == []


def test_an_error_names_the_place(blobs: AddressedBlobs, tmp_path: Path) -> None:
    with pytest.raises(MissingBlob, match=str(tmp_path / "objects")):
        blobs.read(digest_bytes(b"never stored"))
    assert repr(blobs) == f"AddressedBlobs({str(tmp_path / 'objects')!r})"
