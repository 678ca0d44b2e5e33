"""`velodrome.toml` as a typed value. An unknown key is an error that names the nearest one.

The file is committed beside the code, so it names secrets and never holds one: `$NAME` stands for a variable of the
environment, and a password written out is refused. What stands under an unknown key is not shown: it may be a secret.
"""

import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from velodrome.core.errors import ConfigurationError, nearest
from velodrome.core.units import parse_bytes, parse_duration

__all__ = ["CONFIG_NAME", "Config", "Limits", "Retention", "expand_variables", "parse_config", "read_config"]

CONFIG_NAME = "velodrome.toml"

_LONGEST = timedelta(days=36_500)

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_PASSWORD = re.compile(r"\w+://[^/@\s]*:[^$\s]\S*@|[?&](?:ssl)?password=[^$]")


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of one sort of things; whatever is beyond one of the limits goes. docs/collection.md says how each counts."""

    age: str | None = None
    """A duration, such as "90d"."""
    count: int | None = None
    """The newest so many of each name."""
    size: str | None = None
    """The newest of each name that take no more than this together, such as "50GB"."""


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `velodrome gc` keeps of what no version rests on; without limits, all of it."""

    runs: Limits = Limits()
    snapshots: Limits = Limits()
    checkpoints: Limits = Limits()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a workspace. docs/configuration.md lists each with its effect."""

    store: str = ".velodrome"
    """Folder of the locks and caches, and of the ledger and the blobs while these are local; relative to velodrome.toml."""
    ledger: str = ""
    """postgresql://user@host/database, or empty: SQLite in the store's folder. `$NAME` is a variable of the environment."""
    blobs: str = ""
    """s3://bucket/prefix, gs:// or az://, or a folder; empty: in the store's folder. `$NAME` as for the ledger."""
    blob_options: dict[str, str | bool] = {}
    """What reaching the bucket takes beside credentials, which come from the environment: endpoint, region, ..."""
    cache_bytes: str = "10GB"
    """Most that copies of a bucket's blobs may take on this machine."""
    encryption_key: str = ""
    """Where the key is that blobs are encrypted under: file:PATH, env:NAME or command:WORDS; empty: plain blobs."""
    actor: str = ""
    """Name that events carry; empty means the name of the operating system's user."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept for a run, beside its best."""
    device: str = "cpu"
    """What networks are trained on: cpu, cuda, or cuda:1 and so on."""
    threads: int = 0
    """Threads that a training computes with, which its bits depend on; 0 means as many as its libraries choose."""
    gc_grace: str = "1d"
    """How long `velodrome gc` leaves what nothing names, since another machine may be about to; at least as long as a run."""
    retention: Retention = Retention()
    """Limits to what `velodrome gc` keeps: docs/collection.md."""


def parse_config(text: str, where: str = CONFIG_NAME) -> Config:
    """The configuration in a TOML text.

    Raises:
        ConfigurationError: not TOML, an unknown key, a value of another type or out of range.
    """
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is not TOML: {error}", remedy="mend the line it names") from error
    for key in table:
        if key not in Config.__struct_fields__:
            raise ConfigurationError(
                f"{where} has no setting {key!r}",
                remedy=nearest(key, Config.__struct_fields__),
            )
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {error}", remedy="docs/configuration.md lists the settings") from error
    _require_sense(config, where)
    return config


def expand_variables(setting: str) -> str:
    """The setting with `$NAME` and `${NAME}` replaced by what the environment says.

    Raises:
        ConfigurationError: there is no such variable, or it is empty, where a default would silently take its place.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            found = f"the variable {name} is empty" if name in os.environ else f"there is no variable {name}"
            raise ConfigurationError(f"{found} in the environment", remedy="set it, or change velodrome.toml")
        return os.environ[name]

    return _VARIABLE.sub(value, setting)


def read_config(root: Path) -> Config:
    """The configuration of the folder `root`: its velodrome.toml, or the defaults where there is none.

    Raises:
        ConfigurationError: as `parse_config`, or the file cannot be read.
    """
    path = root / CONFIG_NAME
    if not path.exists():
        return Config()
    try:
        return parse_config(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text in UTF-8", remedy="save it as UTF-8, as TOML is") from error
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}", remedy="check what it is, and its permissions"
        ) from error


def _limits(config: Config) -> tuple[Limits, ...]:
    return (config.retention.runs, config.retention.snapshots, config.retention.checkpoints)


def _require_sense(config: Config, where: str) -> None:
    if config.keep_checkpoints < 1:
        raise ConfigurationError(f"{where}: keep_checkpoints is at least 1", received=config.keep_checkpoints)
    if config.threads < 0:
        raise ConfigurationError(f"{where}: threads is 0 or more", received=config.threads)
    parse_bytes(config.cache_bytes)
    for duration in (config.gc_grace, *(limits.age for limits in _limits(config) if limits.age is not None)):
        if parse_duration(duration) > _LONGEST:
            raise ConfigurationError(f"{where}: nobody waits for that long", received=duration, remedy="write less")
    for limits in _limits(config):
        if limits.count is not None and limits.count < 0:
            raise ConfigurationError(f"{where}: retention counts from 0", received=limits.count)
        if limits.size is not None:
            parse_bytes(limits.size)
    if config.actor.startswith("policy:"):
        raise ConfigurationError(
            f"{where}: a person's name does not begin with 'policy:'",
            received=config.actor,
            remedy="decisions of policies are recorded under such names",
        )
    _require_places(config, where)


def _require_places(config: Config, where: str) -> None:
    for name in Config.__struct_fields__:
        if "\0" in str(getattr(config, name)):
            raise ConfigurationError(f"{where}: there is a NUL in {name}", remedy="take the character out")
    if config.store.startswith("~"):
        raise ConfigurationError(
            f"{where}: `~` stands for no folder here", received=config.store, remedy="write it out"
        )
    for name in ("ledger", "blobs"):
        if _PASSWORD.search(getattr(config, name)):
            raise ConfigurationError(
                f"{where}: a password stands in {name}; it is not shown",
                remedy="write $NAME in its place and set that variable; for PostgreSQL, PGPASSWORD or a pgpass file do too",
            )
