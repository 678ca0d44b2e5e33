from pathlib import Path

import psutil
import pytest

from velodrome.training.free_memory import free_memory


def write(folder: Path, limit: str, used: int, idle: int, *, old: bool) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
    place = folder / "memory" if old else folder
    place.mkdir(exist_ok=True)
    for name, text in zip(names, (limit, str(used)), strict=True):
        (place / name).write_text(f"{text}\n")
    prefix = "total_" if old else ""
    (place / "memory.stat").write_text(f"{prefix}active_file 7\n{prefix}inactive_file {idle}\n")


@pytest.mark.parametrize("old", [False, True])
def test_a_container_leaves_what_its_limit_says(tmp_path: Path, old: bool) -> None:
    write(tmp_path, "50000", used=30000, idle=4000, old=old)
    assert free_memory(tmp_path) == 24000
    write(tmp_path, "50000", used=90000, idle=4000, old=old)
    assert free_memory(tmp_path) == 0


@pytest.mark.parametrize(("limit", "old"), [("max", False), (str(2**63 - 4096), True)])
def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path, limit: str, old: bool) -> None:
    write(tmp_path, limit, used=30000, idle=0, old=old)
    for groups in (tmp_path, tmp_path / "nothing"):
        assert 0 < free_memory(groups) < psutil.virtual_memory().total


def test_here_it_is_some_but_not_all(tmp_path: Path) -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total
