"""What a module consists of, as tensors by name, and back: `model/` for what its `state_dict` names, `buffer/` for the buffers
that it leaves out (`persistent=False`), since a forward may change those as well.

Parameters and buffers are taken where they lie and not through `state_dict`, whose hooks may hand out copies: what is put back into
a copy is lost without a word. What the module gives as extra state is taken if it is a tensor. Attributes of its own that are
none of this are not seen.

Buffers may be made, replaced and grow in a forward. So one that is not as it was saved is replaced on the way back; only one
that `state_dict` names must have the shape and type that the module gave it, if it gave it any.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.nn.parameter import is_lazy

from velodrome.core.errors import TrainingError
from velodrome.models.torch import unique_tensors

__all__ = ["DTYPES", "fill", "held", "is_open", "other_ties", "repeats_memory", "require_savable"]

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the types that a checkpoint holds are called in it."""

_EXTRA = "_extra_state"


@dataclass(frozen=True, slots=True)
class _Buffer:
    """A buffer of a part of the module, under the name `key` there; `tensor` is None where it is registered as nothing."""

    name: str
    part: torch.nn.Module
    key: str
    tensor: torch.Tensor | None


def held(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor by its name in a checkpoint, not copied but for extra state."""
    found = {f"model/{name}": each.detach() for name, each in module.named_parameters(remove_duplicate=False)}
    for buffer in _buffers(module):
        if buffer.tensor is not None and (buffer.name.startswith("model/") or _is_savable(buffer.tensor)):
            found[buffer.name] = buffer.tensor.detach()
    for name, part in _with_extra(module):
        found[name] = part.get_extra_state()
    return found


def is_open(module: torch.nn.Module, name: str) -> bool:
    """Whether a name of a checkpoint that the module holds no tensor for, or another one, can be put into it all the same."""
    if name.startswith("buffer/"):
        path = name.removeprefix("buffer/").rpartition(".")[0]
        return path in {path for path, _ in module.named_modules(remove_duplicate=False)}
    return any(buffer.name == name and buffer.tensor is None for buffer in _buffers(module))


def other_ties(module: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The parameters that share their memory with other names here than in the checkpoint, and in which way."""
    names = {f"model/{name}" for name, _ in module.named_parameters(remove_duplicate=False)} & saved.keys()
    here = _ties({name: tensor for name, tensor in held(module).items() if name in names})
    there = _ties({name: saved[name] for name in names})
    return {
        name: f"tied to {_told(there[name] - {name})}, and to {_told(here[name] - {name})} here"
        for name in sorted(names)
        if here[name] != there[name]
    }


def fill(module: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Put back what of the module is in the checkpoint."""
    here, there = _ties(held(module)), _ties(saved)
    copies: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if f"model/{name}" in saved:
                parameter.copy_(saved[f"model/{name}"])
        for buffer in [*_buffers(module), *_unregistered(module, saved)]:
            given, own = saved.get(buffer.name), buffer.tensor
            if given is None:
                continue
            if own is not None and _takes(own, given) and here.get(buffer.name) == there[buffer.name]:
                own.copy_(given)
                continue
            device = next((each.device for each in module.parameters()), given.device) if own is None else own.device
            buffer.part._buffers[buffer.key] = copies.setdefault(id(given), given.to(device, copy=True))
        for name, part in _with_extra(module):
            if name in saved:
                part.set_extra_state(saved[name].clone())


def repeats_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor was expanded: it can be read, but not written element by element."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def require_savable(module: torch.nn.Module) -> None:
    """Refuse what a checkpoint could not hold, before anything is trained.

    Raises:
        TrainingError: names a buffer or an extra state.
    """
    for buffer in _buffers(module):
        if buffer.tensor is not None and buffer.name.startswith("model/") and not _is_savable(buffer.tensor):
            raise TrainingError(
                f"a checkpoint cannot hold the buffer {buffer.name.removeprefix('model/')!r}",
                received="one without a shape (a lazy layer)"
                if is_lazy(buffer.tensor)
                else f"{buffer.tensor.layout}, {buffer.tensor.dtype}",
                remedy="keep dense numbers in it; give a lazy layer its size; a constant may be left out: persistent=False",
            )
    for name, part in _with_extra(module):
        given = part.get_extra_state()
        if not isinstance(given, torch.Tensor) or not _is_savable(given):
            raise TrainingError(
                f"a checkpoint cannot hold the extra state of {type(part).__name__}",
                received=f"{name.removeprefix('model/')}: {type(given).__name__}",
                remedy="let get_extra_state give a tensor, or keep the state in buffers",
            )


def _buffers(module: torch.nn.Module) -> Iterator[_Buffer]:
    for path, part in module.named_modules(remove_duplicate=False):
        for key, tensor in part._buffers.items():
            item = "buffer" if key in part._non_persistent_buffers_set else "model"
            yield _Buffer(f"{item}/{path}{'.' if path else ''}{key}", part, key, tensor)


def _unregistered(module: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> Iterator[_Buffer]:
    """Buffers that a forward had registered, registered again as nothing."""
    known, parts = {buffer.name for buffer in _buffers(module)}, dict(module.named_modules(remove_duplicate=False))
    for name in saved:
        path, _, key = name.removeprefix("buffer/").rpartition(".")
        if name.startswith("buffer/") and name not in known and path in parts:
            parts[path].__dict__.pop(key, None)
            parts[path].register_buffer(key, None, persistent=False)
            yield _Buffer(name, parts[path], key, None)


def _with_extra(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    for path, part in module.named_modules(remove_duplicate=False):
        if type(part).get_extra_state is not torch.nn.Module.get_extra_state:
            yield f"model/{path}{'.' if path else ''}{_EXTRA}", part


def _is_savable(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and tensor.layout == torch.strided and tensor.dtype in DTYPES


def _takes(own: torch.Tensor, given: torch.Tensor) -> bool:
    """Whether a tensor can be filled in place."""
    return own.shape == given.shape and own.dtype == given.dtype and not repeats_memory(own)


def _ties(tensors: Mapping[str, torch.Tensor]) -> dict[str, frozenset[str]]:
    """For each name all those that share its memory."""
    _, aliases = unique_tensors(tensors)
    groups: dict[str, set[str]] = {}
    for name in tensors:
        groups.setdefault(aliases.get(name, name), set()).add(name)
    return {name: frozenset(groups[aliases.get(name, name)]) for name in tensors}


def _told(names: frozenset[str]) -> str:
    return " and ".join(sorted(name.removeprefix("model/") for name in names)) or "nothing"
