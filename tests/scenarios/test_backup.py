"""Backup, restore and doctor on the command line."""

import json
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from project import LINEAR, Project, customers

from velodrome.cli.main import app
from velodrome.core.errors import VelodromeError

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Quick(Project):
    """The program in this process, which spares its start."""

    patch: pytest.MonkeyPatch
    output: pytest.CaptureFixture[str]

    def told(self, *words: str) -> str:
        self.patch.chdir(self.folder)
        try:
            app(words, standalone_mode=False)
        finally:
            out = self.output.readouterr().out
        return out

    def json(self, *words: str) -> Any:
        return json.loads(self.told(*words, "--json"))

    def error(self, *words: str) -> Any:
        with pytest.raises(VelodromeError) as caught:
            self.told(*words)
        error = caught.value
        return {"error": type(error).__name__, "problem": error.problem, "received": error.received, "text": str(error)}

    def elsewhere(self, settings: str = "") -> "Quick":
        """A folder with the project's files and nothing that it has recorded."""
        other = Quick(self.folder / "elsewhere", self.patch, self.output)
        other.folder.mkdir()
        for name in ("customers.csv", "recipe.py"):
            shutil.copy(self.folder / name, other.folder / name)
        other.write("velodrome.toml", settings)
        return other


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion."""
    project = Project(tmp_path_factory.mktemp("template"))
    customers(400).write_csv(project.folder / "customers.csv")
    project.write("recipe.py", LINEAR)
    project.json("run", "recipe.py")
    return project.folder


@pytest.fixture
def trained(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Quick:
    """A copy of it, for its backups to go to a folder in it."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return Quick(tmp_path, monkeypatch, capsys)


def predictions(project: Quick) -> bytes:
    project.json("predict", "churn@champion", "customers.csv", "--out", "scored.csv")
    return (project.folder / "scored.csv").read_bytes()


def test_a_project_goes_on_from_its_backup(trained: Quick) -> None:
    where = str(trained.folder / "backups")
    trained.json("run", "recipe.py")  # in the environment of the commands below
    first = trained.json("backup", where)
    assert first["carried"] == first["backup"]["blobs"] > 10
    assert trained.json("backup", where)["carried"] == 0
    assert [each["id"] for each in trained.json("backup", where, "--list")][-1] == first["backup"]["id"]
    assert first["backup"]["id"] in trained.told("backup", where, "--list")
    other = trained.elsewhere()
    assert "is whole" in other.told("restore", where, "--check")
    assert other.json("runs", "list")["runs"] == []
    assert other.json("restore", where)["carried"] == first["carried"]
    assert other.json("doctor") == trained.json("doctor")
    assert other.json("audit", "verify", "--anchor", first["backup"]["anchor"])["damages"] == []
    assert predictions(other) == predictions(trained)
    again = other.json("run", "recipe.py")
    assert again["run"] == trained.json("run", "recipe.py")["run"]
    assert other.json("restore", where)["carried"] == 0  # it holds just that
    other.json("runs", "tag", again["run"], "team=x")
    assert other.error("restore", where)["error"] == "StateError"


def test_from_a_laptop_to_a_database_and_a_bucket(
    trained: Quick, postgres: Any, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = str(trained.folder / "backups")
    trained.json("backup", where)
    options = f'blob_options = {{endpoint = "http://127.0.0.1:{s3.server.port}", region = "us-east-1"}}'
    other = trained.elsewhere(f'ledger = "$LEDGER"\nblobs = "{s3.url}"\nencryption_key = "file:key"\n{options}')
    other.write("key", "0f" * 32).chmod(0o600)
    monkeypatch.setenv("LEDGER", postgres.url())
    other.json("restore", where)
    assert other.json("doctor")["problems"] == []
    assert predictions(other) == predictions(trained)
    back = f"{s3.url}-backups"
    assert other.json("backup", back)["carried"] > 10
    other.write("velodrome.toml", f'store = "home"\n{options}')
    assert "--key file:PATH" in other.error("restore", back)["text"]
    other.json("restore", back, "--key", "file:key")
    assert other.json("doctor")["problems"] == []
    assert predictions(other) == predictions(trained)


def test_doctor_says_what_brings_a_lost_model_back(trained: Quick) -> None:
    where = str(trained.folder / "backups")
    trained.json("backup", where)
    artifact = trained.json("models", "trace", "churn@champion")["artifact"]
    path = trained.folder / ".velodrome" / "blobs" / artifact[:2] / artifact
    path.unlink()
    assert "velodrome restore BACKUP --mend" in trained.error("doctor", "--quick")["text"]
    assert trained.error("backup", where)["error"] == "IntegrityError"
    assert trained.json("restore", where, "--mend")["mended"] == 1
    assert trained.told("doctor", "--mend").startswith("healthy: ")
    path.unlink()
    shutil.rmtree(trained.folder / "backups" / artifact[:2])
    lost = trained.error("restore", where, "--mend")
    assert artifact in lost["received"]


def test_mistakes_are_named(trained: Quick) -> None:
    assert trained.error("backup", ".velodrome/backups")["problem"].startswith("a backup inside of the workspace")
    assert trained.error("backup", ".")["problem"] == "a place of backups holds nothing else"
    assert trained.error("restore", "nowhere")["error"] == "NotFound"
    assert trained.error("backup", "nowhere", "--list")["error"] == "NotFound"
    assert not (trained.folder / "nowhere").exists()
    assert trained.error("restore", "backups", "--mend", "--check")["error"] == "ConfigurationError"
    assert "s3cret" not in json.dumps(trained.error("backup", "s3://me:s3cret@bucket/x"))
    trained.json("backup", "backups")
    assert trained.error("restore", "backups", "--backup", "zzz")["error"] == "NotFound"
    for manifest in (trained.folder / "backups" / "backups").iterdir():
        manifest.chmod(0o644)
        manifest.write_text("{}")
    assert trained.error("backup", "backups", "--list")["error"] == "IntegrityError"


def test_a_backup_that_is_killed_counts_for_nothing_and_the_next_goes_on(trained: Quick) -> None:
    place = trained.folder / "backups"
    for blobs in (1, 8):
        process = trained.start("backup", "backups")
        while process.poll() is None and len(list(place.glob("[0-9a-f][0-9a-f]/*"))) < blobs:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(list(place.glob("backups/*"))) <= 2
    trained.json("backup", "backups")
    other = trained.elsewhere()
    other.json("restore", str(trained.folder / "backups"))
    assert other.json("doctor")["problems"] == []
