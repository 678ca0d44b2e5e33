"""Everything that a step of training depends on, as tensors and facts, and back: what a checkpoint holds.

The inventory: `model/` (parameters and buffers), `buffer/` (those that `state_dict` leaves out), `optimizer/`, `ema/`, `rng/`
(torch, numpy, Python, CUDA) as tensors; the loop's memory (step, early stopping, plateau, scaler, batches passed over, sample
ledger) and the digest of the order of rows as facts. Schedule, freezing, curriculum, augmentation and dropout are functions of
seed and step and need no state. Restoring looks at all of it before the first tensor is touched: what is missing, extra, tied
otherwise or of another shape or type is refused by name.

The encoded form is one safetensors file: each storage once, with an alias map for tied weights, the facts as JSON in its header.
A copy is made into the very bytes of that file, in a buffer that is used again and again: training waits for one pass over
memory, and what is hashed and written later is not copied once more.
"""

import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import torch

from velodrome.core.digest import Digest, Hasher
from velodrome.core.errors import IntegrityError, TrainingError
from velodrome.models.torch import unique_tensors
from velodrome.training.torch_module import DTYPES, fill, held, is_open, other_ties, require_savable
from velodrome.training.torch_optimizers import Average, Stepper
from velodrome.training.work import ITEMS

__all__ = ["State", "StateCopy", "decode_state", "digest_weights", "restore_weights"]

_FORMAT, _FIRST = 2, 1
"""Since format 2 buffers that `state_dict` leaves out are there, and the settings of an optimiser of one's own."""

_OF_MODULE = ("model", "buffer")
_SPARE = 4096
_LARGE = 1 << 16


class State:
    """The state of a training: what `tensors` names is read and written in place.

    Args:
        average: of the weights, where one is kept.

    Raises:
        TrainingError: the module has a buffer or a state of its own that a checkpoint could not hold.
    """

    def __init__(self, module: torch.nn.Module, stepper: Stepper, average: Average | None = None) -> None:
        require_savable(module)
        self.module, self.stepper, self.average = module, stepper, average

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor by name; those of module, optimiser and average are not copied."""
        named = held(self.module)
        named |= {f"optimizer/{name}": tensor for name, tensor in self.stepper.state().items()}
        if self.average:
            named |= {f"ema/{name}": tensor for name, tensor in self.average.state().items()}
        return named | _random_states()

    def unmoved(self) -> list[str]:
        """The names of the parameters that the optimiser does not know."""
        moved = set(self.stepper.parameters)
        return [name for name, parameter in self.module.named_parameters() if parameter not in moved]

    def restore(
        self,
        tensors: Mapping[str, torch.Tensor],
        facts: Mapping[str, Any],
        expected: Mapping[str, Any],
        allow_missing: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Put a decoded state back.

        Args:
            expected: the facts as they would be written now; `order` must be equal.
            allow_missing: items of `ITEMS` that need not be there.

        Returns:
            The items that were missing.

        Raises:
            TrainingError: names all that is missing, extra or different; nothing was changed.
        """
        own = self.tensors()
        lost = self._compare(own, tensors, facts, expected, allow_missing)
        fill(self.module, {name: tensor for name, tensor in tensors.items() if _item(name) in _OF_MODULE})
        if self.average:
            self.average.load(_below("ema", tensors))
        if "optimizer" not in lost:
            self.stepper.load(_below("optimizer", tensors))
        _restore_random(tensors)
        return lost

    def _compare(
        self,
        own: Mapping[str, torch.Tensor],
        saved: Mapping[str, torch.Tensor],
        facts: Mapping[str, Any],
        expected: Mapping[str, Any],
        allow_missing: Collection[str],
    ) -> tuple[str, ...]:
        """The allowed items that are missing."""
        wrong = {name: _difference(own.get(name), saved.get(name)) for name in sorted(own.keys() | saved.keys())}
        for name in ("memory", "order"):
            wrong[name] = None if name in facts else "missing"
        if facts.get("order") != expected.get("order") and wrong["order"] is None:
            wrong["order"] = "of other rows, batches or seed"
        wrong |= {name: ties for name, ties in other_ties(self.module, saved).items() if wrong[name] is None}
        lazily = all(name.startswith("group") for name in _below("optimizer", own))
        found = {name: each for name, each in wrong.items() if each and not self._is_fine(name, each, lazily, facts)}
        lost = {_item(name) for name, problem in found.items() if problem == "missing"} & set(allow_missing)
        refused = {name: problem for name, problem in found.items() if _item(name) not in lost}
        if refused:
            names = ", ".join(f"{name} ({problem})" for name, problem in list(refused.items())[:8])
            raise TrainingError(
                f"the checkpoint is not of this training: {names}{', ...' if len(refused) > 8 else ''}",
                received=f"{len(saved)} tensors, {len(refused)} of {len(wrong)} items differ",
                remedy="restore into what was saved, start anew with --fresh, or accept a loss with --allow-missing ITEM",
            )
        return tuple(item for item in ITEMS if item in lost)

    def _is_fine(self, name: str, problem: str, lazily: bool, facts: Mapping[str, Any]) -> bool:
        """Whether what differs is no loss: state that an optimiser of one's own makes at its first step, a buffer that a
        forward makes, and one that an earlier format did not hold."""
        if problem == "missing":
            return facts.get("format") == _FIRST and name.startswith(("buffer/", "optimizer/group"))
        if name.startswith("optimizer/"):
            return lazily and problem == "unknown here"
        return is_open(self.module, name)


class StateCopy:
    """A copy of the state in the bytes of a checkpoint, in a buffer that is made once."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._layout: list[tuple[str, torch.dtype, tuple[int, ...]]] = []
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._views: list[torch.Tensor] = []
        self._room = 0

    def taken(self, facts: dict[str, Any]) -> Callable[[], memoryview]:
        """Copy the state now. What is returned gives the bytes of the checkpoint, and may do so in another thread until the
        next `taken`."""
        unique, aliases = unique_tensors(self._state.tensors())
        header = self._header(unique, facts | {"aliases": aliases, "format": _FORMAT})
        if len(header) > self._room or [(n, t.dtype, tuple(t.shape)) for n, t in unique.items()] != self._layout:
            self._make_room(unique, len(header))
        with torch.no_grad():
            for view, tensor in zip(self._views, unique.values(), strict=True):
                _copy(view, tensor)
        head = (self._room).to_bytes(8, "little") + header.ljust(self._room)
        self._buffer[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        whole = self._buffer.numpy().data
        return lambda: whole

    def _header(self, tensors: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> bytes:
        told = msgspec.json.encode(facts, order="sorted").decode()
        header: dict[str, Any] = {"__metadata__": {"facts": told}}
        offset = 0
        for name, tensor in sorted(tensors.items(), key=_place):
            size = tensor.numel() * tensor.element_size()
            header[name] = {
                "dtype": DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + size],
            }
            offset += size
        return msgspec.json.encode(header)

    def _make_room(self, tensors: Mapping[str, torch.Tensor], header: int) -> None:
        self._room = -(-(8 + header + _SPARE) // 64) * 64 - 8
        offset = 8 + self._room
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        self._buffer = torch.from_numpy(np.zeros(offset + size, dtype=np.uint8))  # numpy asks for large pages
        views = {}
        for name, tensor in sorted(tensors.items(), key=_place):
            end = offset + tensor.numel() * tensor.element_size()
            views[name] = self._buffer[offset:end].view(tensor.dtype).view(tensor.shape)
            offset = end
        self._views = [views[name] for name in tensors]
        self._layout = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]


def decode_state(data: bytes | memoryview) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and facts of an encoded state.

    Raises:
        IntegrityError: the bytes are no encoded state. TrainingError: they are in a format of another version.
    """
    data = bytes(data)
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        facts: dict[str, Any] = msgspec.json.decode(msgspec.json.decode(data[8 : 8 + length])["__metadata__"]["facts"])
        _require_format(facts.setdefault("format", _FIRST))
        for name, original in facts.pop("aliases").items():
            tensors[name] = tensors[original]
    except (safetensors.SafetensorError, msgspec.DecodeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"a checkpoint does not read: {error}",
            remedy="go on with the version of velodrome that wrote it, or start anew with --fresh",
        ) from error
    return tensors, facts


def _require_format(format_: object) -> None:
    if format_ not in (_FIRST, _FORMAT):
        raise TrainingError(
            "the checkpoint is in a format that this version does not read",
            received=f"format {format_}, this version reads {_FIRST} and {_FORMAT}",
            remedy="go on with the version of velodrome that wrote it, or start anew with --fresh",
        )


def restore_weights(
    tensors: Mapping[str, torch.Tensor], module: torch.nn.Module, average: Average | None = None
) -> None:
    """Put the parameters and buffers of a decoded state into the module; the averaged ones where an average is kept.

    Raises:
        TrainingError: the state belongs to another module; the first name that differs is given.
    """
    own, saved = held(module), {name: tensor for name, tensor in tensors.items() if _item(name) in _OF_MODULE}
    for name in sorted(own.keys() | saved.keys()):
        problem = _difference(own.get(name), saved.get(name))
        if problem and name.startswith("model/") and not is_open(module, name):
            raise TrainingError(
                f"the checkpoint and the module differ in {name!r}: {problem}", remedy="start anew with --fresh"
            )
    fill(module, saved)
    if average:
        average.load(_below("ema", tensors))


def digest_weights(module: torch.nn.Module) -> Digest:
    """The digest of a module's parameters and buffers: names, dtypes, shapes and bits."""
    hasher = Hasher()
    for name, tensor in module.state_dict().items():
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return hasher.digest()


def _copy(view: torch.Tensor, tensor: torch.Tensor) -> None:
    """Copy a tensor. Large ones that lie in one piece go by memcpy, which does not read what it overwrites: twice as fast."""
    if tensor.is_cpu and tensor.is_contiguous() and tensor.numel() >= _LARGE:
        target = view.view(-1).view(torch.uint8).numpy().data
        target[:] = tensor.reshape(-1).view(torch.uint8).numpy().data
    else:
        view.copy_(tensor)


def _place(item: tuple[str, torch.Tensor]) -> tuple[int, str]:
    """Tensors of wide elements first, so that each begins where its type may."""
    return -item[1].element_size(), item[0]


def _item(name: str) -> str:
    return name if name in ITEMS else name.partition("/")[0]


def _below(item: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{item}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{item}/")}


def _difference(own: torch.Tensor | None, saved: torch.Tensor | None) -> str | None:
    if saved is None:
        return "missing"
    if own is None:
        return "unknown here"
    if own.shape != saved.shape:
        return f"{tuple(saved.shape)} for {tuple(own.shape)}"
    return None if own.dtype == saved.dtype else f"{saved.dtype} for {own.dtype}"


def _random_states() -> dict[str, torch.Tensor]:
    """The states of all generators that a step may draw from."""
    version, state, gauss = random.getstate()
    of_numpy = np.random.get_state(legacy=True)  # noqa: NPY002 - what a user's own step may draw from
    assert isinstance(of_numpy, tuple)
    states = {
        "rng/torch": torch.get_rng_state(),
        "rng/python": torch.tensor([version, *state, gauss is not None, _bits(gauss or 0.0)], dtype=torch.int64),
        "rng/numpy": torch.tensor(
            [*of_numpy[1].tolist(), of_numpy[2], of_numpy[3], _bits(of_numpy[4])], dtype=torch.int64
        ),
    }
    if torch.cuda.is_available():
        states["rng/cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(tensors: Mapping[str, torch.Tensor]) -> None:
    if "rng/torch" in tensors:
        torch.set_rng_state(tensors["rng/torch"])
    if "rng/python" in tensors:
        version, *state, has_gauss, gauss = tensors["rng/python"].tolist()
        random.setstate((version, tuple(state), _number(gauss) if has_gauss else None))
    if "rng/numpy" in tensors:
        *keys, position, has_gauss, gauss = tensors["rng/numpy"].tolist()
        state_of_numpy = ("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, _number(gauss))
        np.random.set_state(state_of_numpy)  # noqa: NPY002
    if "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"])


def _bits(number: float) -> int:
    return int(np.float64(number).view(np.int64))


def _number(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))
