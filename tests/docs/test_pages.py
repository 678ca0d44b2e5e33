"""The pages' blocks, executed in order in an empty folder for each page, and what they list held to what the program has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from velodrome.core.config import Config

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(sh|python file=(\S+))\n(.*?)^```$", re.MULTILINE | re.DOTALL)


PAGES = {page.name: BLOCK.findall(page.read_text()) for page in sorted(DOCS.glob("*.md"))}


def test_there_are_pages_with_blocks() -> None:
    assert len(PAGES["tour.md"]) > 8


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, blocks in PAGES.items() if blocks])
def test_every_block_works(page: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for kind, name, text in PAGES[page]:
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
