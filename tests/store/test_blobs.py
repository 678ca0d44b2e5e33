import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from velodrome.core.errors import MissingBlob, StorageError
from velodrome.store.blobs import Blobs, FolderBlobs
from velodrome.testing.blobs import BlobsConformance


class TestFolderBlobs(BlobsConformance):
    tick = timedelta(milliseconds=10)

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FolderBlobs:
        return FolderBlobs(tmp_path / "blobs")

    def damage(self, blobs: Blobs, digest: str) -> None:
        assert isinstance(blobs, FolderBlobs)
        path = blobs.root / digest[:2] / digest
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)


def test_a_blob_is_read_only_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    digest = blobs.put(b"data").digest
    assert (tmp_path / digest[:2] / digest).stat().st_mode & 0o777 == 0o444
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_read_of_what_is_no_file_is_named(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    (tmp_path / "ab" / ("ab" * 32)).mkdir(parents=True)
    for read in (blobs.read, blobs.local):
        with pytest.raises(StorageError, match=str(tmp_path)) as failure:
            read("ab" * 32)
        assert not isinstance(failure.value, MissingBlob)


def test_what_is_no_blob_is_not_listed(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    digest = blobs.put(b"data").digest
    for name in ("ab/note.txt", f"00/{digest}", f"{digest[:2]}/.{digest}", "incoming/.half", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(blobs.list()) == [entry.digest for entry in blobs.entries()] == [digest]


FULL = """
import os, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from velodrome.core.errors import StorageError
from velodrome.store.blobs import FolderBlobs
from velodrome.store.encryption import EncryptedBlobs
from velodrome.store.keys import WrappingKey
from velodrome.store.named import AddressedBlobs, FolderObjects
root = Path(sys.argv[1])
blobs = {
    "plain": lambda: FolderBlobs(root),
    "objects": lambda: AddressedBlobs(FolderObjects(root)),
    "encrypted": lambda: EncryptedBlobs(FolderBlobs(root), WrappingKey(bytes(32))),
}[sys.argv[2]]()
kept, going = (blobs.put(os.urandom(1 << 20)).digest for _ in range(2))
try:
    while True:
        blobs.put(os.urandom(3 << 20))
except StorageError as error:
    assert "No space left" in error.problem and str(root) in error.problem, error
stored = set(blobs.list())
assert {kept, going} < stored
assert all(blobs.read(digest) for digest in stored)
assert os.listdir(root / "incoming") == []
assert blobs.keep(kept)
future = datetime.now(UTC) + timedelta(hours=1)
assert all(blobs.collect(digest, future) for digest in stored - {kept})
assert blobs.put(blobs.read(kept) + b"more").size == (1 << 20) + 4
print("fine")
"""


@pytest.mark.parametrize("kind", ["plain", "objects", "encrypted"])
def test_a_full_disk_is_named_harms_nothing_and_can_be_cleared(tmp_path: Path, kind: str) -> None:
    mount = f'mount -t tmpfs -o size=8m tmpfs {tmp_path} || exit 77; exec "$@"'
    alone = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c", mount, "sh"]
    ended = subprocess.run(
        [*alone, sys.executable, "-c", FULL, str(tmp_path), kind], capture_output=True, text=True, check=False
    )
    if ended.returncode == 77 or ended.stderr.startswith("unshare"):
        pytest.skip("file systems cannot be mounted here")
    assert ended.stdout == "fine\n", ended.stderr
