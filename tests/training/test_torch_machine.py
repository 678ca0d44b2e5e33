import pytest
import torch

from velodrome.core.errors import ConfigurationError
from velodrome.training.torch_machine import machine


def test_what_kernels_are_chosen_by_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_CBWR", raising=False)
    device, before, threads = machine()
    assert (device, threads) == ("cpu", torch.get_num_threads())
    aten, processor = before.split(", ")[:2]
    assert aten == f"aten:{torch.backends.cpu.get_cpu_capability()}"
    assert processor
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert machine()[1] == f"{before}, MKL_CBWR=COMPATIBLE"


def test_a_device_that_is_not_there_is_named() -> None:
    for device in ("cuda:99", "abacus"):
        with pytest.raises(ConfigurationError, match="no such device") as caught:
            machine(0, device)
        assert caught.value.received == device
