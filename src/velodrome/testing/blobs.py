"""What every blob store must do. Subclass `BlobsConformance` and give a fixture `blobs` that makes an empty store."""

import io
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from velodrome.core.clock import SystemClock
from velodrome.core.digest import CHUNK, digest_bytes
from velodrome.core.errors import IntegrityError, MissingBlob, SourceError, StorageError
from velodrome.store.blobs import Blobs

__all__ = ["BlobsConformance"]

_ABSENT = digest_bytes(b"never stored")


class BlobsConformance:
    """The contract of `Blobs`, one test a sentence. A subclass also says how bytes are damaged behind the store's back.

    Attributes:
        tick: how exactly the store tells times. Tests wait for it to pass.
    """

    tick = timedelta(seconds=1)

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

    def test_a_copy_begins_where_the_file_stands(self, blobs: Blobs) -> None:
        out = io.BytesIO()
        out.write(b"head ")
        assert blobs.copy_to(blobs.put(b"tail").digest, out) == 4
        assert out.getvalue() == b"head tail"

    def test_a_source_that_is_not_there_is_named(self, blobs: Blobs, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="nowhere"):
            blobs.put(tmp_path / "nowhere")

    def test_the_list_holds_each_blob_once(self, blobs: Blobs) -> None:
        digests = sorted(blobs.put(bytes([number])).digest for number in (1, 2, 3, 2, 1))
        assert sorted(blobs.list()) == sorted(set(digests))

    def test_absence_is_an_error_not_none(self, blobs: Blobs) -> None:
        assert not blobs.has(_ABSENT)
        assert not blobs.keep(_ABSENT)
        for read in (blobs.read, blobs.local, lambda digest: blobs.copy_to(digest, io.BytesIO())):
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
        for read in (blobs.read, blobs.local, lambda digest: blobs.copy_to(digest, io.BytesIO())):
            with pytest.raises(IntegrityError, match=digest[:12]):
                read(digest)

    def test_putting_again_mends_a_damaged_blob(self, blobs: Blobs) -> None:
        digest = blobs.put(b"precious" * 1000).digest
        self.damage(blobs, digest)
        blobs.put(b"precious" * 1000)
        assert blobs.read(digest) == b"precious" * 1000

    @pytest.mark.parametrize("name", ["", "../escape", "/etc/passwd", "ab", "G" * 64])
    def test_a_name_that_is_no_digest_is_refused(self, blobs: Blobs, name: str) -> None:
        late = SystemClock().now()
        for call in (blobs.read, blobs.has, blobs.keep, blobs.delete, lambda name: blobs.collect(name, late)):
            with pytest.raises(StorageError, match="64 hexadecimal"):
                call(name)

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

    # -------------------------------------------------------------------------------------------------------- collection

    def test_entries_tell_size_and_time_of_each_blob(self, blobs: Blobs) -> None:
        sizes = {blobs.put(b"x" * size).digest: size for size in (0, 10, 1000)}
        entries = {entry.digest: entry for entry in blobs.entries()}
        assert {digest: entries[digest].size >= size for digest, size in sizes.items()} == dict.fromkeys(sizes, True)
        assert len(entries) == len(sizes)
        times = [entry.time for entry in entries.values()]
        assert all(moment.utcoffset() == timedelta(0) for moment in times)
        assert max(times) - min(times) < timedelta(hours=1)

    def test_what_is_old_goes_and_what_is_not_stays(self, blobs: Blobs) -> None:
        old = blobs.put(b"old").digest
        put = _time(blobs, old)
        assert not blobs.collect(old, put)
        assert not blobs.collect(_ABSENT, _later(put))
        assert blobs.read(old) == b"old"
        assert [blobs.collect(old, _later(put)) for _ in range(2)] == [True, False]
        assert not blobs.has(old)
        assert [*blobs.list(), *blobs.entries()] == []
        assert blobs.read(blobs.put(b"old").digest) == b"old"

    def test_to_keep_is_to_put_now(self, blobs: Blobs) -> None:
        """Also to put again what is there."""
        again, kept, old = (blobs.put(data).digest for data in (b"again", b"kept", b"old"))
        before = max(_time(blobs, digest) for digest in (again, kept, old)) + self.tick
        time.sleep(1.1 * self.tick.total_seconds())
        assert blobs.put(b"again").digest == again
        assert blobs.keep(kept)
        assert [blobs.collect(digest, before) for digest in (again, kept, old)] == [False, False, True]
        assert blobs.read(again) + blobs.read(kept) == b"againkept"
        assert _time(blobs, again) >= before
        assert _time(blobs, kept) >= before

    def test_a_sweep_takes_no_blob(self, blobs: Blobs) -> None:
        digests = {blobs.put(data).digest for data in (b"one", b"two", b"two")}
        assert blobs.sweep(_later(_time(blobs, min(digests)))) == 0
        assert set(blobs.list()) == digests
        assert {digest_bytes(blobs.read(digest)) for digest in digests} == digests

    def test_nothing_is_left_of_what_was_collected(self, blobs: Blobs) -> None:
        """Also where it was kept many times."""
        digests = [blobs.put(bytes([number])).digest for number in range(3)]
        assert all(blobs.keep(digest) for digest in digests * 2)
        late = _later(max(entry.time for entry in blobs.entries()))
        assert [blobs.collect(digest, late) for digest in digests] == [True] * 3
        assert blobs.sweep(late) == 0
        assert [*blobs.list(), *blobs.entries()] == []

    def test_threads_put_keep_and_collect_at_once(self, blobs: Blobs) -> None:
        """What is put while collectors work, with a `before` from before it was, is there until it was used."""
        begun = SystemClock().now() - timedelta(hours=1)
        failures: list[Exception] = []

        def write(number: int) -> None:
            try:
                for turn in range(5):
                    digest = blobs.put(bytes([turn])).digest
                    assert blobs.has(digest)
                    assert blobs.read(digest) == bytes([turn])
                    assert blobs.keep(digest)
            except Exception as error:  # noqa: BLE001 - reported by the assertion below
                failures.append(error)

        def collect(number: int) -> None:
            try:
                for _ in range(5):
                    assert not any(blobs.collect(entry.digest, begun) for entry in blobs.entries())
                    blobs.sweep(begun)
            except Exception as error:  # noqa: BLE001 - the same
                failures.append(error)

        threads = [threading.Thread(target=act, args=(number,)) for number in range(2) for act in (write, collect)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def _time(blobs: Blobs, digest: str) -> datetime:
    (entry,) = (entry for entry in blobs.entries() if entry.digest == digest)
    return entry.time


def _later(moment: datetime) -> datetime:
    """When what was written then is old, however inexactly that is told."""
    return moment + timedelta(seconds=3)
