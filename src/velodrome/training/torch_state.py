"""Everything that a step of training depends on, as tensors and facts, and back: what a checkpoint holds.

State = module (parameters and buffers), optimiser, torch's random state, and the loop's own memory (step, early stopping).
The encoded form is one safetensors file: each storage once, with an alias map for tied weights, the facts as JSON in its
header. Data order and learning rate are functions of the step and need no state.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch

from velodrome.core.digest import Digest, Hasher
from velodrome.core.errors import IntegrityError, TrainingError
from velodrome.models.torch import unique_tensors

__all__ = [
    "StateCopy",
    "decode_state",
    "digest_weights",
    "encode_state",
    "restore_state",
    "restore_weights",
]

_RNG = "rng/torch"


class StateCopy:
    """A copy of the state in buffers that are made once and used for every checkpoint."""

    def __init__(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._module, self._optimizer = module, optimizer
        self._buffers: dict[str, torch.Tensor] = {}

    def taken(self, facts: dict[str, Any]) -> Callable[[], bytes]:
        """Copy the state now; what is returned encodes the copy, and may do so in another thread until the next `taken`."""
        unique, aliases = unique_tensors(_live(self._module, self._optimizer))
        if self._buffers.keys() != unique.keys():
            self._buffers = {
                name: torch.empty_like(tensor, memory_format=torch.contiguous_format) for name, tensor in unique.items()
            }
        for name, tensor in unique.items():
            self._buffers[name].copy_(tensor)
        return partial(encode_state, self._buffers, facts | {"aliases": aliases})


def _live(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The tensors of module, optimiser and random state by name, not copied."""
    named = {f"model/{name}": tensor.detach() for name, tensor in module.state_dict(keep_vars=True).items()}
    state = optimizer.state_dict()["state"]
    held = {
        f"optimizer/{index}/{key}": torch.as_tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
        if value is not None
    }
    return named | held | {_RNG: torch.get_rng_state()}


def encode_state(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> bytes:
    """One safetensors file with contiguous tensors of separate storage and, in its header, the facts (plain JSON)."""
    return safetensors.torch.save(tensors, metadata={"facts": msgspec.json.encode(facts, order="sorted").decode()})


def decode_state(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and facts of an encoded state.

    Raises:
        IntegrityError: the bytes are no encoded state.
    """
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        facts: dict[str, Any] = msgspec.json.decode(msgspec.json.decode(data[8 : 8 + length])["__metadata__"]["facts"])
    except (safetensors.SafetensorError, msgspec.DecodeError, KeyError) as error:
        raise IntegrityError(f"a checkpoint does not read: {error}") from error
    for name, original in facts.pop("aliases").items():
        tensors[name] = tensors[original]
    return tensors, facts


def restore_state(tensors: dict[str, torch.Tensor], module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a captured state back: into the very tensors of the module, the optimiser and torch's generator.

    Raises:
        TrainingError: the state belongs to another module or optimiser; the first name that differs is given.
    """
    restore_weights(tensors, module)
    _restore_optimizer(optimizer, tensors)
    torch.set_rng_state(tensors[_RNG])


def restore_weights(tensors: dict[str, torch.Tensor], module: torch.nn.Module) -> None:
    """Put the parameters and buffers of a captured state back into the module.

    Raises:
        TrainingError: as `restore_state`.
    """
    own = module.state_dict(keep_vars=True)
    saved = {name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")}
    for name in sorted(own.keys() | saved.keys()):
        if name not in own or name not in saved or own[name].shape != saved[name].shape:
            raise TrainingError(
                f"the checkpoint and the module differ in {name!r}",
                received=f"checkpoint {_shape(saved.get(name))}, module {_shape(own.get(name))}",
                remedy="restore into the module that was saved, or start anew with --fresh",
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put the optimiser's state back; its groups (learning rate and so on) stay as they are."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            state.setdefault(int(index), {})[key] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def digest_weights(module: torch.nn.Module) -> Digest:
    """The digest of a module's parameters and buffers: names, dtypes, shapes and bits."""
    hasher = Hasher()
    for name, tensor in module.state_dict().items():
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return hasher.digest()


def _shape(tensor: torch.Tensor | None) -> str:
    return "nothing" if tensor is None else str(tuple(tensor.shape))
