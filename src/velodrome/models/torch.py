"""Turns a module into an artifact's files, and fills a module from them; predicting itself needs no torch (see `onnx.py`).

Two files: `weights.safetensors`, each storage once with an alias map for tied weights, from which training can go on; and
`model.onnx`, which predicts. The export is believed only after ONNX Runtime has answered the example, its first row, and its
rows in another order and number as the module does. Torch has two exporters: the old one traces a run and takes 0.1 s, the
new one reads the program and takes 1 to 4 s. The old one comes first, with its warning that a branch depends on values made
an error; what it cannot do (or no longer can, when torch drops it) the new one does.
"""

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import numpy as np
import onnx
import safetensors
import safetensors.torch
import torch

from velodrome.core.digest import canonical
from velodrome.core.errors import ArtifactError, VelodromeError
from velodrome.data.fields import Field
from velodrome.models.manifest import read_files, read_manifest
from velodrome.models.onnx import ACTIVATION, ONNX_FILE, Activation, Network, messages
from velodrome.store.workspace import Workspace

__all__ = ["WEIGHTS_FILE", "Exported", "export", "load_module", "unique_tensors"]

WEIGHTS_FILE = "weights.safetensors"

_OUTPUT = "output"
_DTYPES = {torch.float32: "float32", torch.int64: "int64", torch.uint8: "uint8"}
_ALIASES = "aliases"
_BAKED_IN = torch.jit._trace.TracerWarning
"""What the old exporter says when it takes a value for a constant, as in `if x.sum() > 0`."""
_EXPORTER_LOG = "torch.onnx._internal.exporter._registration"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an artifact keeps of a module.

    Attributes:
        files, extra: for the manifest and `save`.
        inputs: names, types and shapes of the example, for a manifest without a preparation.
    """

    files: dict[str, bytes]
    extra: dict[str, Any]
    inputs: tuple[Field, ...]


def export(
    module: torch.nn.Module, example: Mapping[str, torch.Tensor] | torch.Tensor, *, activation: Activation
) -> Exported:
    """The files of a module.

    Args:
        example: a batch, (rows, ...) each: by the names under which `forward` takes them, or the one tensor that it takes.
        activation: what makes scores of the module's output; "identity" where the module does that itself.

    Raises:
        ArtifactError: an input that is neither float32 nor int64 nor uint8, an output that is not one row for each row, or a module
            that does not export, with the reason.
    """
    name = None if isinstance(example, Mapping) else _parameter(module)
    batch = dict(example) if isinstance(example, Mapping) else {str(name): example}
    fields = tuple(_field(key, tensor) for key, tensor in batch.items())
    with _evaluating(module), torch.no_grad():
        # In evaluation itself, because an exporter gives every part the mode of the whole when it is done.
        wrapped = _Wrapped(module, None if name else tuple(batch)).eval()
        data = _export(wrapped, _at_least_two(tuple(batch.values())), [field.name for field in fields])
    files = {WEIGHTS_FILE: _weights(module), ONNX_FILE: data}
    return Exported(files, {ACTIVATION: activation}, fields)


def load_module(ws: Workspace, digest: str, module: torch.nn.Module) -> torch.nn.Module:
    """Fill `module`, built by the caller as the saved one was, with the weights of an artifact.

    Raises:
        ArtifactError: the artifact holds no weights of a module, or those of another one.
    """
    files = read_files(ws, read_manifest(ws, digest))
    if WEIGHTS_FILE not in files:
        raise ArtifactError("the artifact holds no weights of a module", received=", ".join(sorted(files)))
    try:
        module.load_state_dict(_tensors(files[WEIGHTS_FILE]))
    except (safetensors.SafetensorError, msgspec.DecodeError, RuntimeError, KeyError) as error:
        raise ArtifactError(
            f"the weights of the artifact do not fit the module: {error}",
            received=type(module).__name__,
            remedy="build it as it was when it was saved",
        ) from error
    return module


def unique_tensors(named: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each tensor once, and for every further name the name that it is an alias of (tied weights)."""
    seen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    tensors, aliases = {}, {}
    for name, tensor in named.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
        else:
            seen[place] = name
            tensors[name] = tensor
    return tensors, aliases


class _Header(msgspec.Struct):
    """The part of a safetensors file's header that says what the tensors are not."""

    metadata: dict[str, str] = msgspec.field(name="__metadata__")


class _Wrapped(torch.nn.Module):
    """The module with positional inputs, which both exporters take, whatever its inputs are called."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str] | None) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.module(*inputs) if self.names is None else self.module(**dict(zip(self.names, inputs, strict=True)))


def _export(module: _Wrapped, example: tuple[torch.Tensor, ...], names: list[str]) -> bytes:
    _check_output(module, example)
    reasons = []
    for exporter in (_traced, _compiled):
        try:
            data = _plain(exporter(module, example, names))
            _check_equal(Network(data), module, example, names)
        except VelodromeError as error:
            reasons.append(error.problem)
        except Exception as error:  # noqa: BLE001 - an exporter runs the user's forward, which may raise anything
            reasons.append(f"{type(error).__name__}: {error}")
        else:
            return data
    raise ArtifactError(
        "the network does not export to ONNX, which predictions run on",
        received=_first_lines(reasons[-1]),
        remedy="write forward with tensor operations only, without branches on values; see docs.pytorch.org/docs/stable/onnx.html",
    )


def _traced(module: _Wrapped, example: tuple[torch.Tensor, ...], names: list[str]) -> bytes:
    buffer = io.BytesIO()
    axes = {name: {0: "rows"} for name in (*names, _OUTPUT)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", _BAKED_IN)
        torch.onnx.export(
            module,
            example,
            buffer,  # type: ignore[arg-type]  # the annotation knows paths only
            dynamo=False,
            input_names=names,
            output_names=[_OUTPUT],
            dynamic_axes=axes,
        )
    return buffer.getvalue()


def _compiled(module: _Wrapped, example: tuple[torch.Tensor, ...], names: list[str]) -> bytes:
    rows = torch.export.Dim("rows")
    shapes = (tuple({0: rows} for _ in example),)
    with warnings.catch_warnings(), _quiet(_EXPORTER_LOG):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            input_names=names,
            output_names=[_OUTPUT],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    return cast("bytes", program.model_proto.SerializeToString())


def _plain(data: bytes) -> bytes:
    """Without what tells of the exporting machine (paths, source lines), so that equal modules give equal bytes."""
    model = onnx.ModelProto.FromString(data)
    for message in messages(model):
        for described in ("doc_string", "metadata_props"):
            if described in message.DESCRIPTOR.fields_by_name:
                message.ClearField(described)
    return cast("bytes", model.SerializeToString(deterministic=True))


def _check_output(module: _Wrapped, example: tuple[torch.Tensor, ...]) -> None:
    try:
        output = module(*example)
    except Exception as error:
        raise ArtifactError(
            f"the network refuses the example: {type(error).__name__}: {error}",
            received=", ".join(str(tuple(tensor.shape)) for tensor in example),
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim not in (1, 2) or len(output) != len(example[0]):
        raise ArtifactError(
            "a network answers with one tensor, (rows,) or (rows, classes)",
            received=f"{tuple(output.shape)} for {len(example[0])} rows"
            if isinstance(output, torch.Tensor)
            else type(output).__name__,
        )


def _check_equal(network: Network, module: _Wrapped, example: tuple[torch.Tensor, ...], names: list[str]) -> None:
    for rows in (slice(None), slice(0, 1), [*reversed(range(len(example[0]))), 0]):
        batch = tuple(tensor[rows] for tensor in example)
        wanted = module(*batch).cpu().numpy()
        answered = network({name: tensor.cpu().contiguous().numpy() for name, tensor in zip(names, batch, strict=True)})
        within = 1e-4 * max(1.0, float(np.abs(wanted).max()))
        if answered.shape != wanted.shape or not np.allclose(answered, wanted, rtol=1e-3, atol=within):
            raise ArtifactError(f"ONNX Runtime answers {len(batch[0])} rows otherwise than the module does")


def _field(name: str, tensor: torch.Tensor) -> Field:
    if tensor.dtype not in _DTYPES or not tensor.ndim or not len(tensor):
        raise ArtifactError(
            f"the input {name!r} must be a batch, (rows, ...), of float32, int64 or uint8",
            received=f"{tensor.dtype} {tuple(tensor.shape)}",
            remedy="give tensors made with .float() or .long(), and a module made with .float()",
        )
    return Field(name, cast("Any", _DTYPES[tensor.dtype]), tuple(tensor.shape[1:]))


def _parameter(module: torch.nn.Module) -> str:
    """The name of the one input of `forward`."""
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            return parameter.name
    raise ArtifactError(
        "forward takes no tensor by position",
        received=str(inspect.signature(module.forward)),
        remedy="give the example as a dict of tensors by name",
    )


def _at_least_two(example: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A batch of one would be taken for a network that answers one row only."""
    return example if len(example[0]) > 1 else tuple(torch.cat([tensor, tensor]) for tensor in example)


def _weights(module: torch.nn.Module) -> bytes:
    """Each storage once, and for every further name the name that it is an alias of."""
    unique, aliases = unique_tensors(module.state_dict())
    tensors = {name: each.detach().cpu().clone(memory_format=torch.contiguous_format) for name, each in unique.items()}
    return safetensors.torch.save(tensors, metadata={_ALIASES: canonical(aliases).decode()})


def _tensors(data: bytes) -> dict[str, torch.Tensor]:
    tensors = safetensors.torch.load(data)
    header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")], type=_Header)
    aliases = msgspec.json.decode(header.metadata[_ALIASES], type=dict[str, str])
    return tensors | {name: tensors[original] for name, original in aliases.items()}


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Without dropout and with frozen statistics; every part is as it was afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _first_lines(text: str) -> str:
    return " ".join(text.split())[:200]
