"""The first thirty seeds of `make chaos`, as a person runs them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from servers import PostgresServer

STORM = Path(__file__).with_name("storm.py")


@pytest.mark.slow
def test_thirty_storms_leave_nothing_missing(s3_program: Path, postgres: PostgresServer) -> None:
    """The fixtures say whether there are servers; the storm starts its own."""
    done = subprocess.run([sys.executable, STORM, "--seeds", "30"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = re.search(
        r"^chaos: 30 seeds, (\d+) kills, (\d+) faults, 0 lost, 0 dangling, 0 wrong$", done.stdout, re.MULTILINE
    )
    assert found
    assert int(found[1]) > 20
    assert int(found[2]) > 20
