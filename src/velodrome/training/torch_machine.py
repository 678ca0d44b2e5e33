"""The machine as torch sees it: device, what the CPU is capable of, threads."""

import os

import torch

from velodrome.core.errors import ConfigurationError

__all__ = ["machine"]

_DISPATCHED = (
    *("avx", "avx2", "fma3", "avx_vnni", "avx_vnni_int8", "avx_ne_convert"),
    *("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "avx10_1", "avx10_2"),
    *("neon", "bf16", "sve", "sve2", "sme", "i8mm"),
)
"""Instructions of x86 and ARM that MKL and oneDNN have kernels of their own for."""

_SETTINGS = (
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
)


def machine(threads: int = 0, device: str = "cpu") -> tuple[str, str, int]:
    """What the bits of a training depend on beside the versions: what torch and its libraries choose their kernels by.

    Args:
        threads: how many this process computes with from now on; 0: as many as torch chose.
        device: "cpu", or "cuda" with or without a number.

    Returns:
        The device as its maker calls it, what it and the CPU are capable of, and the threads.

    Raises:
        ConfigurationError: there is no such device here.
    """
    if threads:
        torch.set_num_threads(threads)
    capability, name = _of_cpu(), "cpu"
    if device != "cpu":
        at = _require_device(device)
        name = f"cuda: {torch.cuda.get_device_name(at)}"
        capability += f", sm_{''.join(map(str, torch.cuda.get_device_capability(at)))}, cuda {torch.version.cuda}"
    return name, capability, torch.get_num_threads()


def _of_cpu() -> str:
    """ATen says what it chose. MKL and oneDNN do not, so what they choose by stands for it: the maker of the processor, its
    instructions, and the settings that forbid some of them."""
    found = torch.cpu.get_capabilities()
    maker = str(found.get("cpu_name", "")).partition(" ")[0] or str(found.get("architecture", ""))
    instructions = [name for name in _DISPATCHED if found.get(name) is True]
    settings = [f"{name}={os.environ[name]}" for name in _SETTINGS if os.environ.get(name)]
    return ", ".join([f"aten:{torch.backends.cpu.get_cpu_capability()}", " ".join([maker, *instructions]), *settings])


def _require_device(device: str) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    count = torch.cuda.device_count()
    if found.type != "cuda" or (found.index or 0) >= count:
        raise ConfigurationError(
            "there is no such device here",
            received=device,
            remedy="known: cpu" + "".join(f", cuda:{index}" for index in range(count)),
        )
    return found
