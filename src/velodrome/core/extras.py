"""The table of what needs an optional dependency: one of the two places that import late.

A kind names a module and the extra that brings what the module imports, so that a scikit-learn user needs no torch and a
missing dependency is an error that says what to install.
"""

import importlib
from types import ModuleType

from velodrome.core.errors import ConfigurationError, MissingExtra, nearest

__all__ = ["KINDS", "load", "load_optional"]

KINDS: dict[str, tuple[str, str]] = {
    "learner:torch": ("velodrome.training.torch_learner", "torch"),
    "learner:sklearn": ("velodrome.training.sklearn_learner", ""),
    "machine:torch": ("velodrome.training.torch_machine", "torch"),
    "machine:sklearn": ("velodrome.training.sklearn_learner", ""),
    "state:torch": ("velodrome.training.torch_state", "torch"),
    "optimizers:torch": ("velodrome.training.torch_optimizers", "torch"),
    "trials:torch": ("velodrome.training.torch_trials", "torch"),
    "export:torch": ("velodrome.models.torch", "torch"),
    "model:torch": ("velodrome.models.onnx", "torch"),
    "model:sklearn": ("velodrome.models.sklearn", ""),
    "telemetry:nvidia": ("pynvml", "torch"),
    "ledger:migrations": ("velodrome.store.migrations.way", ""),
    "ledger:postgresql": ("velodrome.store.postgres", "postgres"),
    "blobs:bucket": ("velodrome.store.objects", ""),
    "blobs:cached": ("velodrome.store.cache", ""),
    "blobs:encrypted": ("velodrome.store.encryption", ""),
    "keys": ("velodrome.store.keys", ""),
}
"""kind → (module, extra that it needs, or nothing)."""


def load(kind: str) -> ModuleType:
    """The module of `kind`, imported now.

    Raises:
        ConfigurationError: no such kind.
        MissingExtra: what the module needs is not installed.
    """
    if kind not in KINDS:
        raise ConfigurationError("there is no such kind", received=kind, remedy=nearest(kind, KINDS))
    module, extra = KINDS[kind]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("velodrome"):
            raise
        raise MissingExtra(
            f"{kind} needs the package {error.name!r}", remedy=f"pip install 'velodrome[{extra}]'"
        ) from error


def load_optional(kind: str) -> ModuleType | None:
    """The module of `kind`, or None where what it needs is not installed."""
    try:
        return load(kind)
    except MissingExtra:
        return None
