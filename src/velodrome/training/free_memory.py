"""How much memory this process may still take: what the machine has, or what the container that it runs in leaves.

A container's limit is that of its control group (Linux, both versions). Of what the group uses, files that nobody has looked at for
a while are not counted, as Kubernetes does it, since the system gives them up first.
"""

from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["free_memory"]

_GROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def free_memory(groups: Path = _GROUPS) -> int:
    """Bytes."""
    return min(int(psutil.virtual_memory().available), *_left(groups), 1 << 62)


def _left(groups: Path) -> list[int]:
    """What each control group that sets a limit leaves."""
    found = []
    for limit, used, details, idle in _FILES:
        with suppress(FileNotFoundError, PermissionError, ValueError):  # no such group, or "max": no limit
            most = int((groups / limit).read_text())
            facts = dict(line.split() for line in (groups / details).read_text().splitlines())
            found.append(max(0, most - int((groups / used).read_text()) + int(facts.get(idle, 0))))
    return found
