"""Structured logs: one JSON object a line on standard error, bound to the ids of what is going on.

`bind(run=...)` puts ids into every line that the present thread or task logs inside the block.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import structlog

__all__ = ["bind", "configure_logging", "logger"]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(level: str = "warning", stream: TextIO | None = None) -> None:
    """Send log lines of at least `level` to `stream` (standard error) as JSON. Called by programs, never at import."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: structlog.WriteLogger(
            stream or sys.stderr
        ),  # that of now, which may be another later
        cache_logger_on_first_use=False,
    )


def logger() -> Any:
    """The logger of the present context; `logger().info("checkpoint.saved", step=100)`.

    Where nobody configured logs, as in a script or notebook, warnings and errors are shown as structlog shows them.
    """
    if structlog.is_configured():
        return structlog.get_logger()
    return structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(_LEVELS["warning"]))


@contextmanager
def bind(**ids: object) -> Iterator[None]:
    """Carry `ids` in every line logged inside the block."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield
