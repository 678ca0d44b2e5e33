import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from velodrome.core.logging import bind, configure_logging, logger


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_line_is_json_and_carries_the_ids_of_its_context() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    with bind(run="01abc"):
        logger().info("checkpoint.saved", step=3)
        logger().debug("not.shown")
    logger().warning("outside")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["run"], first["step"], first["level"]) == ("checkpoint.saved", "01abc", 3, "info")
    assert "run" not in second


def test_where_nobody_configured_logs_only_warnings_and_errors_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in a script is no reason for pages of it."""
    logger().debug("run.own_code_failed")
    logger().info("run.began")
    assert capsys.readouterr() == ("", "")
    with bind(run="01abc"):
        logger().warning("run.stalled")
    shown = "".join(capsys.readouterr())
    assert "run.stalled" in shown
    assert "01abc" in shown


def test_lines_go_to_what_is_standard_error_when_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, present = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", closed)
    configure_logging()
    logger().warning("first")
    closed.close()
    monkeypatch.setattr(sys, "stderr", present)
    logger().warning("second")
    assert json.loads(present.getvalue())["event"] == "second"
