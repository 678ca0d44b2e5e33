from pathlib import Path

import pytest

from velodrome.core.digest import canonical, digest_bytes
from velodrome.core.errors import IntegrityError, UnsafeArtifact
from velodrome.store.blobs import FolderBlobs
from velodrome.store.trees import Leaf, put_folder, put_tree, read_tree


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


def test_equal_files_give_an_equal_tree(blobs: FolderBlobs, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "b.txt").write_bytes(b"b")
    (folder / "a.txt").write_bytes(b"a")
    assert put_folder(blobs, folder) == put_tree(blobs, {"deep/b.txt": b"b", "a.txt": b"a"})


def test_a_tree_names_its_files(blobs: FolderBlobs) -> None:
    files = read_tree(blobs, put_tree(blobs, {"a": b"one", "b/c": b"two"}))
    assert files == {"a": Leaf("a", digest_bytes(b"one"), 3), "b/c": Leaf("b/c", digest_bytes(b"two"), 3)}


@pytest.mark.parametrize("path", ["/etc/passwd", "../up"])
def test_a_crafted_tree_is_refused(blobs: FolderBlobs, path: str) -> None:
    crafted = blobs.put(canonical([Leaf(path, digest_bytes(b""), 0)]))
    with pytest.raises(UnsafeArtifact):
        read_tree(blobs, crafted.digest)


def test_bytes_that_are_no_tree_are_refused(blobs: FolderBlobs) -> None:
    with pytest.raises(IntegrityError):
        read_tree(blobs, blobs.put(b"no tree").digest)
