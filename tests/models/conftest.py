"""A workspace in an empty folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from velodrome.store.workspace import Workspace, open_folder


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path) as workspace:
        yield workspace
