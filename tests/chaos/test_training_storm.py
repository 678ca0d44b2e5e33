"""Some of each storm over trainings, as `make chaos` raises them in full."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

STORM = Path(__file__).with_name("training_storm.py")


@pytest.mark.slow
def test_trainings_end_with_the_same_bits_after_some_of_each_storm() -> None:
    done = subprocess.run([sys.executable, STORM, "--few"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"^training: 43 experiments, 0 lost or wrong$", done.stdout, re.MULTILINE)
    for words in (
        r"kills: 2/2: 3 kills, .* 2 equal, 3 resumed",
        r"damage: 30/30: 30 found before use, 30 the one before restored",
        r"whole runs: 1/1: 1 equal",
        r"failpoints: 6/6: .* 6 equal, [1-6] resumed, .* [1-4] named",
        r"leaves: 4/4: .* 3 left, 4 equal, 1 stall told",
    ):
        assert re.search(words, done.stdout), f"{words}\n{done.stdout}"
