"""Predicts with an ONNX network through ONNX Runtime: no torch, no code, no file but the one it is given.

The network gives raw outputs; the activation that makes probabilities of them is applied here, in float64, so that a great
logit does not become a certainty. A session runs on one thread: a small batch takes 10 to 50 µs, which waking a second
thread would double, and callers who want more run chunks side by side. Before ONNX Runtime sees the bytes they are vetted:
ONNX can name files to read weights from, and operators that come from libraries.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from velodrome.core.errors import ArtifactError, UnsafeArtifact
from velodrome.models.manifest import Manifest

__all__ = ["ACTIVATION", "ONNX_FILE", "Activation", "Network", "messages", "read", "vet"]

ONNX_FILE = "model.onnx"
ACTIVATION = "activation"
"""The key of the manifest's `extra` that says how raw outputs become scores."""

Activation: TypeAlias = Literal["sigmoid", "softmax", "identity"]

_STANDARD = {"", "ai.onnx"}
_FAILURES: tuple[type[Exception], ...] = (
    KeyError,
    ValueError,
    *(value for value in vars(failures).values() if isinstance(value, type) and issubclass(value, Exception)),
)


class Network:
    """A vetted ONNX network of one output.

    Raises:
        ArtifactError: the bytes are no network that ONNX Runtime can run.
        UnsafeArtifact: see `vet`.
    """

    def __init__(self, data: bytes) -> None:
        vet(data)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except _FAILURES as error:
            raise ArtifactError(
                f"ONNX Runtime cannot run the network: {error}",
                remedy="export it again, or install a newer onnxruntime",
            ) from error
        self._names = [node.name for node in self._session.get_inputs()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The raw output, (rows, ...). Inputs that the network does not use are left aside."""
        try:
            (output,) = self._session.run(None, {name: inputs[name] for name in self._names})
        except _FAILURES as error:
            raise ArtifactError(
                f"the network does not take the inputs that its manifest names: {error}", remedy="export it again"
            ) from error
        return np.asarray(output)


def read(files: Mapping[str, bytes], manifest: Manifest) -> Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float64]]:
    """The scorer of a network's artifact; see `velodrome.models.predictor.Scorer`.

    Raises:
        ArtifactError: a file or the activation is missing, or the network does not read.
        UnsafeArtifact: see `vet`.
    """
    activation = manifest.extra.get(ACTIVATION)
    if ONNX_FILE not in files or activation not in ("sigmoid", "softmax", "identity"):
        raise ArtifactError(
            f"a network's artifact has {ONNX_FILE} and says its activation",
            received=f"{', '.join(sorted(files))}; {activation!r}",
        )
    return partial(_scores, Network(files[ONNX_FILE]), activation, manifest.task)


def vet(data: bytes) -> None:
    """Refuse a network that reaches outside its own bytes.

    A path inside the artifact is refused as well: nothing that velodrome writes has one.

    Raises:
        ArtifactError: the bytes are no ONNX model.
        UnsafeArtifact: weights in another file, or operators that ONNX itself does not define.
    """
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own error, which onnx does not hand on
        raise ArtifactError(
            f"{ONNX_FILE} is no ONNX model: {error}", remedy="restore it from a backup, or train again"
        ) from error
    own = {(function.domain, function.name) for function in model.functions}
    for message in messages(model):
        if isinstance(message, onnx.TensorProto):
            _vet_tensor(message)
        elif isinstance(message, onnx.NodeProto) and not (
            message.domain in _STANDARD or (message.domain, message.op_type) in own
        ):
            raise UnsafeArtifact(
                "a network uses an operator that ONNX does not define",
                received=f"{message.domain}.{message.op_type}",
                remedy="do not use this artifact",
            )


def messages(root: Any) -> Iterator[Any]:
    """Every protobuf message inside `root`, wherever it hides: initialisers, attributes, bodies of loops, functions."""
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)


def _vet_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise UnsafeArtifact(
            f"the weight {tensor.name!r} of a network is to be read from another file",
            received=", ".join(entry.value for entry in tensor.external_data if entry.key == "location"),
            remedy="do not use this artifact",
        )


def _scores(
    network: Network, activation: Activation, task: str, inputs: Mapping[str, NDArray[Any]]
) -> NDArray[np.float64]:
    raw = network(inputs).astype(np.float64)
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if activation == "sigmoid":
        raw = np.exp(-np.logaddexp(0.0, -raw))
    elif activation == "softmax":
        raw = np.exp(raw - raw.max(axis=-1, keepdims=True))
        raw = raw / raw.sum(axis=-1, keepdims=True)
    return raw[:, 1] if task == "binary" and raw.shape[1:] == (2,) else raw
