"""Files: digests of files, atomic writes of what the user names, paths that never leave their root, temporary folders.

Every write goes to a temporary name beside its goal, is flushed to the disk, renamed, and the folder is flushed: a reader,
or the next process after a kill, sees the old bytes or the new ones, never a part.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from velodrome.core.digest import Digest, digest_stream
from velodrome.core.errors import SourceError, StorageError, UnsafeArtifact

__all__ = [
    "digest_file",
    "flush_folder",
    "free_bytes",
    "make_folder",
    "publish_folder",
    "remove_tree",
    "temporary_file",
    "temporary_folder",
    "within",
    "write_atomic",
    "write_atomic_with",
]


def digest_file(path: Path) -> Digest:
    """The digest of a file's bytes.

    Raises:
        SourceError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return digest_stream(stream)
    except OSError as error:
        raise SourceError(
            f"cannot read {path}: {error.strerror}", remedy="check the path and its permissions"
        ) from error


def within(root: Path, relative: str) -> Path:
    """`root`/`relative`, for a relative path that came from outside.

    Raises:
        UnsafeArtifact: the path is absolute, climbs out of `root`, or passes through a link that does.
    """
    pure = PurePosixPath(relative)
    joined = root / pure
    if (
        pure.is_absolute()
        or ".." in pure.parts
        or "\\" in relative
        or not joined.resolve().is_relative_to(root.resolve())
    ):
        raise UnsafeArtifact("a path leaves its folder", received=relative, remedy="do not use what names it")
    return joined


def make_folder(path: Path) -> Path:
    """`path`, made with its parents where it is missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make the folder {path}: {error.strerror}", remedy="check the path and its permissions"
        ) from error
    return path


def flush_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path`: all of it or nothing, durable when this returns."""
    write_atomic_with(path, lambda stream: stream.write(data), mode)


def write_atomic_with(path: Path, write: Callable[[BinaryIO], object], mode: int = 0o644) -> None:
    """Let `write` fill a new file, then put it in the place of `path`.

    Raises:
        StorageError: the disk refused; what was at `path` is still there.
    """
    with temporary_file(path.parent) as (temporary, stream):
        write(stream)
        stream.flush()
        os.fchmod(stream.fileno(), mode)
        os.fsync(stream.fileno())
        temporary.replace(path)
        flush_folder(path.parent)


@contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file in `folder`, open for writing; removed at the end of the block unless it was renamed.

    Raises:
        StorageError: the disk refused.
    """
    make_folder(folder)
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=".")
        try:
            with open(handle, "wb") as stream:
                yield Path(name), stream
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
    except OSError as error:
        raise StorageError(
            f"cannot write in {folder}: {error.strerror}", remedy="check the space and the permissions of the folder"
        ) from error


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder below `parent`, removed with all it holds at the end of the block (unless it was published)."""
    path = Path(tempfile.mkdtemp(dir=make_folder(parent), prefix="."))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def publish_folder(temporary: Path, path: Path) -> None:
    """Give a finished temporary folder its name. Where another process was first, its folder stays and ours goes."""
    for file in temporary.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    flush_folder(temporary)
    make_folder(path.parent)
    try:
        temporary.rename(path)
    except OSError as error:
        if not path.is_dir():
            raise StorageError(
                f"cannot make {path}: {error.strerror}", remedy="check the space and the permissions of its folder"
            ) from error
    flush_folder(path.parent)


def free_bytes(path: Path) -> int:
    """How many bytes the file system of a folder has left for this user."""
    return shutil.disk_usage(path).free


def remove_tree(path: Path) -> None:
    """Remove a folder of the caches; a folder that is not there is fine."""
    shutil.rmtree(path, ignore_errors=True)
