"""What the machine does while it trains: a thread that looks every few seconds and logs series of the run.

`host.cpu_percent` (of all cores, of the whole machine), `host.memory_bytes` (resident, of this process), and where NVIDIA's
library is installed and finds a device `gpu.<n>.utilization_percent`, `gpu.<n>.memory_bytes` and `gpu.<n>.power_watts`. They are
marked as timing, so no digest depends on them. Cost: a tenth of a millisecond each time, outside of the training thread.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from velodrome.core.extras import load_optional
from velodrome.training.work import Histories

__all__ = ["telemetry"]


@contextmanager
def telemetry(recorder: Histories, step: Callable[[], int], seconds: float = 10.0) -> Iterator[None]:
    """Log what the machine does, every so many seconds and once at the end, during the block.

    Args:
        step: the step that the training has done, under which the points are logged.
    """
    ended = threading.Event()

    def look() -> None:
        looks, last = [_host(), *_devices()], 0  # here, since psutil measures from the last call of the same thread
        while True:
            stop = ended.wait(seconds)
            if (now := step()) > last:  # a series has one point for a step
                last = now
                for each in looks:
                    with suppress(Exception):  # a device that goes away ends its series, not the training
                        recorder.log(now, **each())
            if stop:
                return

    thread = threading.Thread(target=look, name="telemetry", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _host() -> Callable[[], dict[str, float]]:
    process = psutil.Process()
    psutil.cpu_percent(None)  # the first call begins the measurement
    return lambda: {"host.cpu_percent": psutil.cpu_percent(None), "host.memory_bytes": float(process.memory_info().rss)}


def _devices() -> list[Callable[[], dict[str, float]]]:
    nvml = load_optional("telemetry:nvidia")
    if nvml is None:
        return []
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:  # the library is installed, the driver is not
        return []
    return [_device(nvml, index, handle) for index, handle in enumerate(handles)]


def _device(nvml: Any, index: int, handle: Any) -> Callable[[], dict[str, float]]:
    return lambda: {
        f"gpu.{index}.utilization_percent": float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        f"gpu.{index}.memory_bytes": float(nvml.nvmlDeviceGetMemoryInfo(handle).used),
        f"gpu.{index}.power_watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0,
    }
