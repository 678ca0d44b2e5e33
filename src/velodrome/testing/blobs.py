"""What every blob store must do. Subclass `BlobsConformance` and give a fixture `blobs` that makes an empty store."""

import io
import threading
from pathlib import Path

import pytest

from velodrome.core.digest import CHUNK, digest_bytes
from velodrome.core.errors import IntegrityError, MissingBlob, StorageError
from velodrome.store.blobs import Blobs

__all__ = ["BlobsConformance"]

_ABSENT = digest_bytes(b"never stored")


class BlobsConformance:
    """The contract of `Blobs`, one test a sentence. A subclass also says how bytes are damaged behind the store's back."""

    def damage(self, blobs: Blobs, digest: str) -> None:
        """Flip a bit of a stored blob without the store's knowledge."""
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, 4096, CHUNK, 3 * CHUNK + 17])
    def test_what_was_put_is_read(self, blobs: Blobs, tmp_path: Path, size: int) -> None:
        data = (b"velodrome" * (size // 9 + 1))[:size]
        file = tmp_path / "source"
        file.write_bytes(data)
        put = [blobs.put(data), blobs.put(memoryview(data)), blobs.put(io.BytesIO(data)), blobs.put(file)]
        assert {(blob.digest, blob.size) for blob in put} == {(digest_bytes(data), size)}
        assert blobs.read(put[0].digest) == data
        assert blobs.local(put[0].digest).read_bytes() == data

    def test_the_list_holds_each_blob_once(self, blobs: Blobs) -> None:
        digests = sorted(blobs.put(bytes([number])).digest for number in (1, 2, 3, 2, 1))
        assert sorted(blobs.list()) == sorted(set(digests))

    def test_absence_is_an_error_not_none(self, blobs: Blobs) -> None:
        assert not blobs.has(_ABSENT)
        for read in (blobs.read, blobs.local):
            with pytest.raises(MissingBlob):
                read(_ABSENT)

    def test_delete_forgets_and_may_be_repeated(self, blobs: Blobs) -> None:
        digest = blobs.put(b"to forget").digest
        for _ in range(2):
            blobs.delete(digest)
        assert not blobs.has(digest)

    def test_a_flipped_bit_is_never_read(self, blobs: Blobs) -> None:
        digest = blobs.put(b"precious" * 1000).digest
        self.damage(blobs, digest)
        for read in (blobs.read, blobs.local):
            with pytest.raises(IntegrityError, match=digest[:12]):
                read(digest)

    def test_putting_again_mends_a_damaged_blob(self, blobs: Blobs) -> None:
        digest = blobs.put(b"precious" * 1000).digest
        self.damage(blobs, digest)
        blobs.put(b"precious" * 1000)
        assert blobs.read(digest) == b"precious" * 1000

    @pytest.mark.parametrize("name", ["", "../escape", "/etc/passwd", "ab", "G" * 64])
    def test_a_name_that_is_no_digest_is_refused(self, blobs: Blobs, name: str) -> None:
        with pytest.raises(StorageError):
            blobs.read(name)

    def test_a_source_that_breaks_leaves_nothing(self, blobs: Blobs) -> None:
        class Breaking(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                raise OSError(5, "Input/output error")

        with pytest.raises(StorageError):
            blobs.put(Breaking())
        assert list(blobs.list()) == []

    def test_threads_put_and_delete_at_once(self, blobs: Blobs) -> None:
        failures: list[Exception] = []

        def work(number: int) -> None:
            try:
                for turn in range(10):
                    shared = blobs.put(b"shared" * 100)
                    own = blobs.put(f"{number}/{turn}".encode())
                    assert blobs.read(own.digest) == f"{number}/{turn}".encode()
                    blobs.delete(own.digest)
                    assert blobs.has(shared.digest)
            except Exception as error:  # noqa: BLE001 - reported by the assertion below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
