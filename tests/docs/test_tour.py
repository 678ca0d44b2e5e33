"""The tour's blocks, executed in order in an empty folder, and the other pages held to what the program has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from velodrome.core.config import Config

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(sh|python file=(\S+))\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_every_block_of_the_tour_works(tmp_path: Path) -> None:
    blocks = BLOCK.findall((DOCS / "tour.md").read_text())
    assert len(blocks) > 8
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for kind, name, text in blocks:
        if name:
            (tmp_path / name).write_text(text)
            continue
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", text],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{kind}: {text}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "scored.csv").exists()


def test_every_setting_is_documented_with_its_default() -> None:
    text = (DOCS / "configuration.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))
    assert documented.keys() == set(Config.__struct_fields__)
    assert documented["keep_checkpoints"] == f"`{Config().keep_checkpoints}`"
    assert documented["store"] == f'`"{Config().store}"`'


def test_no_decision_note_is_longer_than_eighty_lines() -> None:
    notes = sorted((DOCS / "decisions").glob("*.md"))
    assert notes
    assert [note.name for note in notes if len(note.read_text().splitlines()) > 80] == []
    assert [note.name for note in notes if not re.match(r"\d{3}-[a-z0-9-]+\.md", note.name)] == []
