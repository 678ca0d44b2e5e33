"""`make demo` unchanged on PostgreSQL and S3: another velodrome.toml, and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from velodrome.control.checkup import examine
from velodrome.control.cycles import cycles
from velodrome.registry.versions import resolve
from velodrome.workspace import open as open_workspace

pytestmark = pytest.mark.slow

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"


def test_the_year_goes_by_on_a_database_and_a_bucket(
    postgres: Any, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "flights"
    shutil.copytree(FLIGHTS, project, ignore=shutil.ignore_patterns(".*", "data", "*.html", "__pycache__"))
    monkeypatch.setenv("LEDGER_URL", postgres.url())
    with (project / "velodrome.toml").open("a") as settings:
        settings.write(f'ledger = "$LEDGER_URL"\nblobs = "{s3.url}"\n')
        settings.write(f'blob_options = {{endpoint = "http://127.0.0.1:{s3.server.port}", region = "us-east-1"}}\n')
    done = subprocess.run(
        [sys.executable, "demo.py"], cwd=project, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "promoted" in done.stdout
    assert not (project / ".velodrome" / "ledger.db").exists()
    assert not (project / ".velodrome" / "blobs").exists()
    with open_workspace(project) as ws:
        assert len(cycles(ws, "late-arrivals")) == 10  # the first champion's, and one for each month but the poisoned
        assert resolve(ws, "late-arrivals@champion").number > 1
        assert examine(ws).problems == ()
