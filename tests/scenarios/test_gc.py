"""`velodrome gc` as a person and a scheduler call it: beside runs that write, and killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from project import LINEAR, Project, customers

from velodrome.control.checkup import examine
from velodrome.control.collecting import collect
from velodrome.core.config import Config, Limits, Retention
from velodrome.registry.search import list_runs
from velodrome.registry.versions import list_versions
from velodrome.store.workspace import Workspace, open_folder

pytestmark = pytest.mark.slow  # real processes

EVERYTHING = Retention(runs=Limits(count=0), snapshots=Limits(count=0), checkpoints=Limits(count=0))
RULES = """
gc_grace = "0s"

[retention.runs]
count = 0
"""
TAKING = """
import itertools
import pathlib

import velodrome as vd

root = pathlib.Path(__file__).parent
with vd.open(root) as ws:
    for turn in itertools.count():
        if turn >= 60 and (root / "enough").exists():
            break
        (root / "part.csv").write_text(f"key,value\\n{turn % 3},{turn % 2}.5\\n")
        data = vd.Dataset("parts", source=vd.Files("part.csv"), contract=vd.Contract([vd.NotNull("value")]))
        taken = vd.snapshot(data, ws=ws)
        from velodrome.data.snapshots import scan
        assert scan(ws, taken.snapshot).collect().rows() == [(turn % 3, turn % 2 + 0.5)], turn
print("all were whole")
"""
REFUSING = LINEAR.replace('vd.AtLeast("roc_auc", 0.6)', 'vd.AtLeast("roc_auc", 0.999)')


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    customers(600).write_csv(tmp_path / "customers.csv")
    made.write("recipe.py", LINEAR)
    return made


def opened(project: Project, config: Config | None = None) -> Workspace:
    return open_folder(project.folder, config or Config(gc_grace="0s", retention=EVERYTHING))


def test_a_rejected_model_is_collected_and_trained_anew(project: Project) -> None:
    project.json("run", "recipe.py")
    project.write("refusing.py", REFUSING)
    assert project.error("run", "refusing.py", "--seed", "1")["error"] == "Refused"
    project.write("velodrome.toml", RULES)
    assert "would go" in project.call("gc", "--dry-run").stdout
    collected = project.json("gc")
    assert [given["kind"] for given in collected["given"]] == ["run"]
    assert project.call("gc").stdout == "nothing to collect\n"
    said = project.error("predict", "churn/2", "customers.csv", "--out", "scored.csv")
    assert (said["error"], said["received"]) == ("Gone", "by the rule retention.runs.count = 0")
    project.json("predict", "churn@champion", "customers.csv", "--out", "scored.csv")
    assert project.error("run", "refusing.py", "--seed", "1")["error"] == "Refused"
    with opened(project) as ws:
        states = [version.state.value for version in list_versions(ws)]
        assert states == ["rejected", "archived", "approved"]
        assert [run.state.value for run in list_runs(ws)].count("collected") == 1
        assert examine(ws).problems == ()


def test_a_rule_that_says_nothing_is_refused(project: Project) -> None:
    project.write("velodrome.toml", "[retention.runs]\nagee = '1d'\n")
    assert project.error("gc")["error"] == "ConfigurationError"


MORTAL = """
import os, signal, sys

left = int(os.environ["REMOVALS"])


def removes(event, _):
    global left
    if event == "os.remove":
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(removes)
"""


def test_a_collector_that_is_killed_is_finished_by_the_next(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed again and again, at some file or other."""
    project.json("run", "recipe.py")
    with opened(project) as ws:
        collect(ws)
        before = set(ws.blobs.list())
        for number in range(1500):
            ws.blobs.put(b"lost %d" % number)
    project.write("velodrome.toml", RULES)
    project.write("sitecustomize.py", MORTAL)
    for removals in (1, 100, 300, 700):
        left = _lost(project, before)
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(project.folder))
            patch.setenv("REMOVALS", str(removals))
            assert project.call("gc").returncode == -signal.SIGKILL
        assert left > _lost(project, before) > 0 or removals == 1
        with opened(project) as ws:
            assert examine(ws, quick=True).problems == ()
    with opened(project) as ws:
        collect(ws)
        assert collect(ws).went.blobs == 0
        assert before <= set(ws.blobs.list())
        assert examine(ws).problems == ()


def test_runs_go_on_beside_a_collector_that_waits_for_nobody(project: Project) -> None:
    """Training after training, while everything that may go goes at once."""
    command = " && ".join(f"{' '.join(project.command('run', 'recipe.py', '--seed', str(seed)))}" for seed in range(2))
    trainer = subprocess.Popen(
        ["bash", "-c", command], cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    collections = went = 0
    while trainer.poll() is None:
        with opened(project) as ws:
            went += collect(ws).went.blobs
            collections += 1
    out = trainer.communicate()[0].decode()
    assert trainer.returncode == 0, out
    assert collections > 2
    with opened(project) as ws:
        assert examine(ws).problems == ()
        assert [version.state for version in list_versions(ws)] == ["approved"] * 2
        collect(ws)
        assert collect(ws).went.blobs == 0
        assert examine(ws).problems == ()


def test_snapshots_are_whole_beside_a_collector_that_waits_for_nobody(project: Project) -> None:
    """Files come and go, so that fragments are remembered that are just being collected."""
    program = project.write("taking.py", TAKING)
    taker = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    went = 0
    with opened(project) as ws:
        while taker.poll() is None:
            went += collect(ws).went.blobs
            if went:
                (project.folder / "enough").touch()
        out = taker.communicate()[0]
        assert (taker.returncode, out.splitlines()[-1:]) == (0, ["all were whole"])
        assert went > 0
        assert examine(ws).problems == ()


def _lost(project: Project, before: set[str]) -> int:
    """How many blobs are there beside the old ones, told by their names alone."""
    return sum(path.name not in before for path in (project.folder / ".velodrome" / "blobs").glob("??/*"))
