"""A trace of some steps by PyTorch's profiler, in the form that Perfetto and Chrome's tracing page open."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from velodrome.core.errors import ConfigurationError
from velodrome.core.logging import logger
from velodrome.store.files import temporary_file, temporary_folder, write_atomic

__all__ = ["profiled"]

_WAIT, _WARM, _ACTIVE = 5, 5, 20
"""Steps that are let go by, that warm the profiler up, and that are in the trace."""


@contextmanager
def profiled(path: Path | None) -> Iterator[Callable[[], None]]:
    """During the block, `step()` after each step: steps 11 to 30 of this attempt are written to `path`, where it is given.

    A training that ends before leaves what there is by then.

    Raises:
        ConfigurationError, StorageError: no file can be written there; before the first step.
    """
    if path is None:
        yield lambda: None
        return
    if path.is_dir():
        raise ConfigurationError(
            "a trace is a file", received=f"the folder {path}", remedy=f"--profile {path / 'trace.json'}"
        )
    with temporary_file(path.parent):  # so that a training does not end for what could be seen before
        pass
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    written: list[int] = []

    def write(done: profile) -> None:
        with temporary_folder(path.parent) as folder:
            trace = folder / "trace.json"
            done.export_chrome_trace(str(trace))
            write_atomic(path, trace.read_bytes())
        written.append(1)

    with profile(
        activities=activities,
        schedule=schedule(wait=_WAIT, warmup=_WARM, active=_ACTIVE, repeat=1),
        record_shapes=True,
        on_trace_ready=write,
    ) as profiler:
        yield profiler.step
    if not written:
        logger().warning("profile.not_written", path=str(path), steps=_WAIT + _WARM)
