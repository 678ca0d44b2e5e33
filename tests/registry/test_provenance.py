import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from velodrome.core.digest import Digest
from velodrome.registry import provenance
from velodrome.registry.provenance import Repository, collect_provenance
from velodrome.store.workspace import Workspace


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "init.defaultBranch=trunk")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "recipe.py").write_text("epochs = 6\n")
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    return folder


def repository(ws: Workspace, folder: Path) -> Repository:
    found = collect_provenance(ws, folder).repository
    assert found is not None
    return found


def test_a_clean_project_is_its_commit(ws: Workspace, project: Path) -> None:
    found = repository(ws, project)
    assert (found.commit, found.branch) == (git(project, "rev-parse", "HEAD"), "trunk")
    assert (found.dirty, found.diff, found.diff_cut) == (False, None, False)


def test_the_uncommitted_difference_brings_the_project_back(ws: Workspace, project: Path, tmp_path: Path) -> None:
    (project / "recipe.py").write_text("epochs = 7\n")
    (project / "weights.bin").write_bytes(bytes(range(256)))
    git(project, "add", "weights.bin")
    found = repository(ws, project)
    assert found.dirty
    assert found.diff is not None
    copy = tmp_path / "copy"
    git(tmp_path, "clone", str(project), str(copy))
    git(copy, "apply", "--binary", str(ws.blobs.local(found.diff)))
    assert (copy / "recipe.py").read_text() == "epochs = 7\n"
    assert (copy / "weights.bin").read_bytes() == bytes(range(256))


def test_a_long_difference_is_cut_and_says_so(ws: Workspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "DIFF_LIMIT", 100)
    (project / "recipe.py").write_text("epochs = 7\n" * 1000)
    found = repository(ws, project)
    assert found.diff_cut
    assert len(ws.blobs.read(Digest(str(found.diff)))) == 100


def test_a_project_before_its_first_commit_has_none(ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    git(folder, "init")
    found = repository(ws, folder)
    assert (found.commit, found.branch, found.dirty) == (None, "trunk", True)


def test_without_a_repository_or_without_git_the_reason_is_kept(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = collect_provenance(ws, tmp_path)
    assert found.repository is None
    assert found.repository_missing.startswith("not a git repository")
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert collect_provenance(ws, tmp_path).repository_missing == "git is not installed"


def test_the_lock_names_every_distribution_once_in_order(ws: Workspace, tmp_path: Path) -> None:
    lines = ws.blobs.read(collect_provenance(ws, tmp_path).lock).decode().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert {"numpy", "polars", "pytest"} <= set(names)
    assert all(line.partition("==")[2] for line in lines)


def test_the_hardware_is_this_machine(ws: Workspace, tmp_path: Path) -> None:
    hardware = collect_provenance(ws, tmp_path).hardware
    assert hardware.memory == psutil.virtual_memory().total
    assert hardware.threads == psutil.cpu_count()
    assert hardware.cpu
    assert hardware.cores >= 1


def test_the_command_line_is_kept_without_its_secrets(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--api-key", "k1", "--seed", "7"])
    assert collect_provenance(ws, tmp_path).command == ("run.py", "--api-key", "[redacted]", "--seed", "7")
