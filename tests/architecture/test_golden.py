"""The golden files of conftest.py: they compare, and only `--golden` writes them."""

from pathlib import Path
from typing import Any

import pytest


def golden_in(folder: Path, like: Any, rewrite: bool) -> Any:
    return type(like)(folder / "golden", rewrite=rewrite)


def test_what_was_written_compares_equal(golden: Any, tmp_path: Path) -> None:
    golden_in(tmp_path, golden, rewrite=True)("a.txt", "one\n")
    golden_in(tmp_path, golden, rewrite=False)("a.txt", "one\n")
    assert (tmp_path / "golden" / "a.txt").read_text() == "one\n"


def test_a_change_is_refused_and_not_written(golden: Any, tmp_path: Path) -> None:
    golden_in(tmp_path, golden, rewrite=True)("a.txt", "one\n")
    with pytest.raises(AssertionError, match="has changed"):
        golden_in(tmp_path, golden, rewrite=False)("a.txt", "two\n")
    assert (tmp_path / "golden" / "a.txt").read_text() == "one\n"


def test_a_file_that_is_not_there_is_not_made_in_passing(golden: Any, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="make golden"):
        golden_in(tmp_path, golden, rewrite=False)("a.txt", "one\n")
    assert not (tmp_path / "golden").exists()
