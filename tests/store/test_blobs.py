from pathlib import Path

import pytest

from velodrome.store.blobs import Blobs, FolderBlobs
from velodrome.testing.blobs import BlobsConformance


class TestFolderBlobs(BlobsConformance):
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
