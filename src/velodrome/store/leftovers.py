"""What killed processes leave in the folders of a workspace.

Holds and folders of copies are locked by their owners, so what has lost its owner goes at once. Of temporary files and folders,
whose names begin with a dot, nobody can see whether somebody still writes to them: only those go that nobody has touched for
an hour before a moment from which on everybody is known to have begun.
Cost: a `stat` for each file in them.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from velodrome.store.copies import abandoned_copies
from velodrome.store.files import remove_tree
from velodrome.store.holds import ended_holds
from velodrome.store.workspace import Workspace

__all__ = ["abandoned", "find_leftovers", "leftover_folders", "remove_leftovers"]

_IDLE = timedelta(hours=1)


def leftover_folders(ws: Workspace) -> list[Path]:
    """Where they lie; the blobs look after their own."""
    return [ws.store, ws.holds, ws.cache, ws.cache / "layouts", ws.store / "scratch"]


def abandoned(ws: Workspace) -> list[Path]:
    """What was locked by a process that is gone."""
    return [*ended_holds(ws.holds), *abandoned_copies(ws.store / "scratch")]


def find_leftovers(folders: Iterable[Path], before: datetime) -> list[Path]:
    """Those that lie in the folders themselves, not below."""
    latest = (before - _IDLE).timestamp() if before > datetime.min.replace(tzinfo=before.tzinfo) + _IDLE else 0.0
    found = (
        path for folder in folders for path in folder.glob(".*") if path.suffix != ".lock" and path.name != ".lock"
    )
    return sorted(path for path in found if _touched(path) < latest)


def remove_leftovers(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)


def _touched(path: Path) -> float:
    """Seconds of the epoch when a file, or anything in a folder, was last written; for ever, if it goes meanwhile."""
    latest = float("inf")
    with suppress(FileNotFoundError):
        latest = max(each.stat().st_mtime for each in (path, *path.rglob("*")))
    return latest
