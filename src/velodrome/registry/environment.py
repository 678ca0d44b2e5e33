"""What the bits of a training depend on beside its data and code: versions, device, CPU capability, threads.

It is part of the run key, so it holds nothing that may change without changing a result: no host name, no memory, no commit
(those are provenance). Versions are read from installed metadata: milliseconds, and no library is imported for it.
"""

import platform
from importlib import metadata

import numpy as np

from velodrome.core.values import Record

__all__ = ["Environment", "describe_environment"]

_ALWAYS = ("velodrome", "numpy", "polars", "scikit-learn")


class Environment(Record, frozen=True, kw_only=True, tag="environment"):
    """The environment of a run.

    Attributes:
        python: implementation and version, such as "CPython 3.11.7".
        packages: version by distribution; a package that runs without being installed is "not installed".
        capability: the instructions that the learner's library dispatches to, as it says itself.
        simd: the instruction sets that numpy found and dispatches to.
        threads: threads that the learner computes with: sums of floats depend on their number.
    """

    python: str
    packages: dict[str, str]
    device: str
    capability: str
    simd: tuple[str, ...]
    threads: int


def describe_environment(libraries: tuple[str, ...], *, device: str, capability: str, threads: int) -> Environment:
    """The present environment; `libraries` are the distributions that the learner computes with, such as "torch"."""
    return Environment(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages={name: _version(name) for name in sorted({*_ALWAYS, *libraries})},
        device=device,
        capability=capability,
        simd=_simd(),
        threads=threads,
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _simd() -> tuple[str, ...]:
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    return (*extensions.get("baseline", ()), *extensions.get("found", ()))
