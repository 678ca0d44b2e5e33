"""`Workspace`: where one project's records and bytes are, handed to every verb as its first argument."""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import msgspec

from velodrome.core.clock import Clock, SystemClock
from velodrome.core.config import Config
from velodrome.core.errors import Conflict, RunHeld
from velodrome.core.ids import IdFactory
from velodrome.core.progress import Progress, Silent
from velodrome.store.blobs import Blobs
from velodrome.store.files import make_folder
from velodrome.store.holds import writing
from velodrome.store.ledger import Ledger, Write
from velodrome.store.locks import hold
from velodrome.store.places import open_blobs, open_ledger

__all__ = ["Workspace", "open_folder"]


@dataclass(frozen=True, slots=True)
class Workspace:
    """The frozen bundle of everything a verb needs from outside.

    Attributes:
        root: folder of the project: relative paths of data and code are meant from here.
        store: folder of the locks and caches of this machine (and of the ledger and blobs, when these are local).
        actor: who is acting; events carry it.
    """

    root: Path
    store: Path
    ledger: Ledger
    blobs: Blobs
    actor: str
    config: Config = Config()
    clock: Clock = field(default_factory=SystemClock)
    ids: IdFactory = field(default_factory=IdFactory)
    progress: Progress = field(default_factory=Silent)

    @property
    def cache(self) -> Path:
        """Folder of what can be made again: training layouts, remembered fragments."""
        return self.store / "cache"

    def lock(self, name: str) -> Path:
        """Path of the lock file of that name."""
        return self.store / "locks" / f"{name}.lock"

    @property
    def holds(self) -> Path:
        """Folder of the holds of this machine's processes; see `writing`."""
        return self.store / "holds"

    def writing(self) -> AbstractContextManager[None]:
        """A block in which blobs are put, or found, and then named by a row: no collection takes them away meanwhile."""
        return writing(self.holds, self.clock.now())

    @property
    def holder(self) -> str:
        """What a lock tells about this process."""
        return f"process {os.getpid()} of {self.actor} on {socket.gethostname()}, since {self.clock.now().isoformat(timespec='seconds')}"

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """A block in which nobody else on this machine collects blobs, or copies all of them.

        Raises:
            Conflict: somebody does; the message names that process.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(self.lock("collection"), self.holder))
            except RunHeld as error:
                raise Conflict(
                    "blobs of this workspace are being collected or backed up",
                    received=error.received,
                    remedy="wait for its end",
                ) from error
            yield

    def new_id(self) -> str:
        return self.ids.new(self.clock.now())

    def commit(self, *writes: Write, actor: str | None = None) -> None:
        """Commit the writes together, now, as `actor` (the workspace's own actor)."""
        self.ledger.commit(writes, actor=actor or self.actor, now=self.clock.now())

    def acting_as(self, actor: str) -> Self:
        return replace(self, actor=actor)

    def on_device(self, device: str) -> Self:
        return replace(self, config=msgspec.structs.replace(self.config, device=device))

    def reporting_to(self, progress: Progress) -> Self:
        return replace(self, progress=progress)

    def close(self) -> None:
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_folder(root: Path, config: Config | None = None) -> Workspace:
    """The workspace of the project in `root`, on what its settings name; made where it is missing.

    Raises:
        ConfigurationError: a setting that is not understood.
        StorageError: the folder cannot be used.
        LedgerVersionError: it was written by a newer velodrome.
    """
    config = config or Config()
    root = root.resolve()
    store = make_folder(root / config.store)
    blobs = open_blobs(config, root, store)
    return Workspace(
        root=root,
        store=store,
        ledger=open_ledger(config, root, store),
        blobs=blobs,
        actor=config.actor or _user(),
        config=config,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
