"""Where a ledger and blobs are: settings become the stores that they name.

What needs a driver or a client is loaded only when a setting asks for it. Blobs are put together from the inside out: the
place, then its encryption, then a cache of what is far away.
"""

import re
from pathlib import Path

from velodrome.core.config import Config, expand_variables
from velodrome.core.errors import ConfigurationError
from velodrome.core.extras import load
from velodrome.core.units import parse_bytes
from velodrome.store.blobs import Blobs, FolderBlobs
from velodrome.store.files import make_folder
from velodrome.store.sql import SqlLedger
from velodrome.store.sqlite import SqliteLedger

__all__ = ["local_path", "open_blobs", "open_ledger"]

_LIKE_AN_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*:")


def local_path(root: Path, where: str) -> Path:
    """The path that somebody names for a place; a relative one is meant from `root`.

    Raises:
        ConfigurationError: it is an address with a slip of the pen, and may hold a secret, or it begins with a `~`. A folder of
            such a name would be made without a word, and everything stored where nobody looks for it.
    """
    if _LIKE_AN_ADDRESS.match(where):
        raise ConfigurationError(
            "a place begins like an address, and is none; it is not shown, since it may hold a secret",
            remedy="an address has :// after its scheme; a folder of such a name is ./NAME",
        )
    if where.startswith("~"):
        raise ConfigurationError("`~` stands for no folder here", received=where, remedy="write it out, or $HOME")
    return root / where


def open_ledger(config: Config, root: Path, store: Path) -> SqlLedger:
    """The ledger that the settings name, by default `store`/ledger.db; a relative path is meant from `root`.

    Raises:
        ConfigurationError: the address is not understood. MissingExtra: its driver is not installed.
        StorageError: it cannot be reached or used.
    """
    where = expand_variables(config.ledger)
    scheme, separator, _ = where.partition("://")
    if not separator:
        path = local_path(root, where) if where else store / "ledger.db"
        make_folder(path.parent)
        return SqliteLedger(path)
    if not scheme.startswith("postgres"):
        raise ConfigurationError(
            "a ledger is a file of SQLite, or in PostgreSQL",
            received=f"{scheme}://...",
            remedy="postgresql://user@host/database",
        )
    ledger: SqlLedger = load("ledger:postgresql").PostgresLedger(where)
    return ledger


def open_blobs(config: Config, root: Path, store: Path, *, where: str | None = None) -> Blobs:
    """The blobs that the settings name, by default in `store`/blobs; a relative path is meant from `root`.

    Args:
        where: another place under the same settings and the same key, as for a backup.

    Raises:
        ConfigurationError: an address, option or key that is not understood. StorageError: the folder cannot be used.
    """
    where = expand_variables(config.blobs if where is None else where)
    scratch = store / "scratch"
    distant = "://" in where
    blobs: Blobs
    if distant:
        blobs = load("blobs:bucket").ObjectBlobs(where, config.blob_options, scratch=scratch)
    else:
        blobs = FolderBlobs(local_path(root, where) if where else store / "blobs")
    if config.encryption_key:
        key = load("keys").read_key(config.encryption_key, root)
        blobs = load("blobs:encrypted").EncryptedBlobs(blobs, key, scratch)
    if distant:
        limit = parse_bytes(config.cache_bytes)
        blobs = load("blobs:cached").CachedBlobs(blobs, store / "cache" / "blobs", limit)
    return blobs
