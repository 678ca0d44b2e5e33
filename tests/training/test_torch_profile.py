"""A trace goes where it can go, or the training does not begin. What is in it: tests/scenarios/test_prove.py."""

from pathlib import Path

import pytest

from velodrome.core.errors import ConfigurationError, StorageError
from velodrome.training.torch_profile import profiled


def test_a_place_where_no_trace_can_be_written_is_named_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, error, words in (
        (tmp_path, ConfigurationError, "a trace is a file"),
        (tmp_path / "file" / "trace.json", StorageError, "cannot make the folder"),
    ):
        with pytest.raises(error, match=words), profiled(place):
            pytest.fail("it began")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_without_a_place_nothing_is_traced() -> None:
    with profiled(None) as step:
        step()
