"""What is recorded about where a run happened without being part of its key: commit, uncommitted diff, lock, hardware.

Nobody has to remember it, and nothing of it can keep a run from starting: a project without git, or a git that refuses, is
recorded as such. Cost: four calls of git and one walk over the installed packages, together some 0.1 s, once a run.
"""

import os
import platform
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

from velodrome.core.digest import Digest
from velodrome.core.redaction import redact_arguments
from velodrome.core.values import Record
from velodrome.store.workspace import Workspace

__all__ = ["DIFF_LIMIT", "Hardware", "Provenance", "Repository", "collect_provenance"]

DIFF_LIMIT = 16 << 20
"""Bytes of an uncommitted diff that are kept."""

_GIT_SECONDS = 30


class Repository(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The git repository that the project is in.

    Attributes:
        commit: what is checked out; None before the first commit.
        branch: None when no branch is.
        dirty: tracked files differ from the commit.
        diff: blob of that difference as `git apply` takes it.
        diff_cut: the difference is longer than DIFF_LIMIT, and only its beginning is kept.
    """

    commit: str | None
    branch: str | None
    dirty: bool
    diff: Digest | None
    diff_cut: bool


class Hardware(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine: CPU model, physical and logical cores, bytes of memory, operating system."""

    cpu: str
    cores: int
    threads: int
    memory: int
    platform: str


class Provenance(Record, frozen=True, kw_only=True, tag="provenance"):
    """Where a run happened.

    Attributes:
        repository: None without git; `repository_missing` then says why.
        lock: blob with every installed distribution as name==version, a line each, sorted.
        command: the command line, secrets redacted.
    """

    repository: Repository | None
    repository_missing: str
    lock: Digest
    hardware: Hardware
    host: str
    command: tuple[str, ...]


class _GitRefused(Exception):
    """Git is not there, or says no; the text is its reason."""


def collect_provenance(ws: Workspace, root: Path) -> Provenance:
    """Where this process runs, for the project in `root`. Blobs are stored; the record is the caller's to put."""
    repository, missing = _repository(ws, root)
    return Provenance(
        repository=repository,
        repository_missing=missing,
        lock=ws.blobs.put(_lock()).digest,
        hardware=_hardware(),
        host=socket.gethostname(),
        command=redact_arguments(sys.argv),
    )


def _repository(ws: Workspace, root: Path) -> tuple[Repository | None, str]:
    try:
        _git(root, "rev-parse", "--is-inside-work-tree")
    except _GitRefused as refusal:
        return None, str(refusal)
    commit, branch = _answer(root, "rev-parse", "--verify", "HEAD"), _answer(root, "symbolic-ref", "--short", "HEAD")
    if commit is None:
        return Repository(commit=None, branch=branch, dirty=True, diff=None, diff_cut=False), ""
    try:
        diff = _git(root, "diff", "--binary", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
    except _GitRefused as refusal:
        return None, str(refusal)
    kept = ws.blobs.put(diff[:DIFF_LIMIT]).digest if diff else None
    return Repository(commit=commit, branch=branch, dirty=bool(diff), diff=kept, diff_cut=len(diff) > DIFF_LIMIT), ""


def _answer(root: Path, *arguments: str) -> str | None:
    """What git answers, or None where it has no answer (no commit yet, no branch)."""
    try:
        return _git(root, *arguments).decode(errors="replace").strip()
    except _GitRefused:
        return None


def _git(root: Path, *arguments: str) -> bytes:
    """What git says. It takes no lock, so it is never in the way of the user's own."""
    command = ("git", "-C", str(root), *arguments)
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 (no shell; every word is ours but the path)
            command, env=environment, capture_output=True, timeout=_GIT_SECONDS, check=True
        )
    except FileNotFoundError as error:
        raise _GitRefused("git is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise _GitRefused(f"git did not answer within {_GIT_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().removeprefix("fatal: ")  # it is not for the training
        raise _GitRefused(said or f"git exited {error.returncode}") from error
    return done.stdout


def _lock() -> bytes:
    installed = {(item.metadata["Name"] or "").lower(): item.version for item in metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(installed.items())).encode()


def _hardware() -> Hardware:
    logical = psutil.cpu_count() or 1
    return Hardware(
        cpu=_cpu_model(),
        cores=psutil.cpu_count(logical=False) or logical,
        threads=logical,
        memory=psutil.virtual_memory().total,
        platform=platform.platform(),
    )


def _cpu_model() -> str:
    """The name on the package; the architecture where the system does not say."""
    information = Path("/proc/cpuinfo")
    named = re.search(r"(?m)^model name\s*:\s*(.+)$", information.read_text()) if information.exists() else None
    return named[1].strip() if named else platform.processor() or platform.machine()
