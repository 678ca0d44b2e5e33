"""Folders of local copies, each of one process, which nobody needs once that process is gone.

Such a folder is locked for as long as its owner lives, so what a killed process has left, plain bytes of encrypted blobs
perhaps, can be told from what is in use. The lock is on the folder itself, and it gets its name only when it is locked.
Cost: some 50 µs for a folder.
"""

import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path

from velodrome.core.errors import StorageError
from velodrome.store.locks import is_held

__all__ = ["abandoned_copies", "folder_of"]

_PREFIX = "velodrome-"


def folder_of(owner: object, scratch: Path | None) -> Path:
    """A new folder below `scratch` (the system's folder, where it is None), which only this user can enter; it goes with its
    owner.

    Raises:
        StorageError: the disk refused, or folders cannot be locked there.
    """
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=scratch))
        handle = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path = draft.rename(draft.with_name(draft.name[1:]))
    except OSError as error:
        raise StorageError(
            f"cannot make a folder for copies in {scratch or tempfile.gettempdir()}: {error.strerror}",
            remedy="check the space and the permissions of the folder",
        ) from error
    weakref.finalize(owner, _remove, path, handle, os.getpid())
    return path


def abandoned_copies(scratch: Path) -> list[Path]:
    """The folders whose owners were killed."""
    return sorted(path for path in scratch.glob(f"{_PREFIX}*") if not is_held(path))


def _remove(path: Path, handle: int, pid: int) -> None:
    """A forked child that ends takes nothing of its parent's along."""
    if os.getpid() == pid:
        shutil.rmtree(path, ignore_errors=True)
    os.close(handle)
