import os
from pathlib import Path

import pytest

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import SourceError, StorageError, UnsafeArtifact
from velodrome.store.files import digest_file, publish_folder, temporary_folder, within, write_atomic, write_atomic_with


def test_a_written_file_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert digest_file(path) == digest_bytes(b"two")
    assert os.listdir(path.parent) == ["file"]


def test_a_write_that_fails_leaves_the_old_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def break_off(stream: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        write_atomic_with(path, break_off)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        digest_file(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "a/../../b", "link/x", "a\\..\\b"])
def test_a_path_never_leaves_its_root(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(UnsafeArtifact):
        within(root, path)


def test_a_path_inside_is_joined(tmp_path: Path) -> None:
    assert within(tmp_path, "a/b") == tmp_path / "a" / "b"


def test_the_first_folder_of_a_name_stays(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with temporary_folder(tmp_path) as folder:
            (folder / "file").write_text(text)
            publish_folder(folder, tmp_path / "goal")
    assert (tmp_path / "goal" / "file").read_text() == "first"
    assert os.listdir(tmp_path) == ["goal"]
