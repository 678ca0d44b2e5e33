"""`velodrome.toml` as a typed value. An unknown key is an error that names the nearest one."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from velodrome.core.errors import ConfigurationError, nearest

__all__ = ["CONFIG_NAME", "Config", "parse_config", "read_config"]

CONFIG_NAME = "velodrome.toml"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a workspace. docs/configuration.md lists each with its effect."""

    store: str = ".velodrome"
    """Folder of the ledger, the blobs and the caches; relative to the folder of velodrome.toml."""
    actor: str = ""
    """Name that events carry; empty means the name of the operating system's user."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept for a run, beside its best."""
    threads: int = 0
    """Threads that a training computes with, which its bits depend on; 0 means as many as its libraries choose."""


def parse_config(text: str, where: str = CONFIG_NAME) -> Config:
    """The configuration in a TOML text.

    Raises:
        ConfigurationError: not TOML, an unknown key, a value of another type or out of range.
    """
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is not TOML: {error}", remedy="mend the line it names") from error
    for key, value in table.items():
        if key not in Config.__struct_fields__:
            raise ConfigurationError(
                f"{where} has no setting {key!r}",
                received=repr(value),
                remedy=nearest(key, Config.__struct_fields__),
            )
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {error}", received=repr(table)) from error
    if config.keep_checkpoints < 1:
        raise ConfigurationError(f"{where}: keep_checkpoints is at least 1", received=config.keep_checkpoints)
    if config.threads < 0:
        raise ConfigurationError(f"{where}: threads is 0 or more", received=config.threads)
    if config.actor.startswith("policy:"):
        raise ConfigurationError(
            f"{where}: a person's name does not begin with 'policy:'",
            received=config.actor,
            remedy="decisions of policies are recorded under such names",
        )
    return config


def read_config(root: Path) -> Config:
    """The configuration of the folder `root`: its velodrome.toml, or the defaults where there is none."""
    path = root / CONFIG_NAME
    return parse_config(path.read_text(encoding="utf-8"), str(path)) if path.exists() else Config()
