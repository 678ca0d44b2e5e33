"""Networks in ONNX: scores of each kind, and bytes that reach outside themselves."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.special import expit, softmax

from velodrome.core.errors import ArtifactError, UnsafeArtifact
from velodrome.data.fields import Field
from velodrome.models.manifest import Manifest
from velodrome.models.onnx import ACTIVATION, ONNX_FILE, Network, read, vet

X = np.linspace(-4, 4, 12, dtype=np.float32).reshape(6, 2)


def network(weights: Any, *nodes: onnx.NodeProto, initializer: TensorProto | None = None) -> onnx.ModelProto:
    """y = x @ weights, with further nodes in front."""
    weights = np.asarray(weights, dtype=np.float32)
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", *weights.shape[1:]])],
        [initializer or numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def manifest(task: str, classes: tuple[Any, ...], activation: Any) -> Manifest:
    return Manifest(
        family="torch",
        task=task,
        classes=classes,
        inputs=(Field("x", "float32", (2,)),),
        extra={ACTIVATION: activation},
    )  # type: ignore[arg-type]


ONE, ONE_WIDE, TWO, THREE = [1, 20], [[1], [20]], [[1, 20], [3, -40]], [[1, 20, 3], [3, -4, 5]]


@pytest.mark.parametrize(
    ("task", "classes", "activation", "weights", "oracle"),
    [
        ("binary", 2, "sigmoid", ONE, expit),
        ("binary", 2, "sigmoid", ONE_WIDE, lambda raw: expit(raw)[:, 0]),
        ("binary", 2, "softmax", TWO, lambda raw: softmax(raw, axis=1)[:, 1]),
        ("binary", 2, "identity", ONE, lambda raw: raw),
        ("multiclass", 3, "softmax", THREE, lambda raw: softmax(raw, axis=1)),
        ("multiclass", 3, "identity", THREE, lambda raw: raw),
        ("regression", 0, "identity", ONE, lambda raw: raw),
        ("regression", 0, "identity", ONE_WIDE, lambda raw: raw[:, 0]),
    ],
)
def test_scores_are_the_activation_of_the_raw_output_in_float64(
    task: str, classes: int, activation: str, weights: Any, oracle: Any
) -> None:
    scorer = read({ONNX_FILE: network(weights).SerializeToString()}, manifest(task, tuple(range(classes)), activation))
    scores = scorer({"x": X, "unused": X})
    expected = oracle((X @ np.asarray(weights, dtype=np.float32)).astype(np.float64))
    assert scores.dtype == np.float64
    assert scores.shape == expected.shape
    np.testing.assert_allclose(scores, expected, rtol=1e-5)  # a sum in float32 may be in another order


@pytest.mark.parametrize("activation", [None, "exec", ["softmax"]])
def test_an_unknown_activation_is_refused(activation: Any) -> None:
    with pytest.raises(ArtifactError, match="activation"):
        read({ONNX_FILE: network(ONE).SerializeToString()}, manifest("binary", (0, 1), activation))


def test_an_input_that_the_manifest_does_not_name_is_refused() -> None:
    scorer = read({ONNX_FILE: network(ONE).SerializeToString()}, manifest("binary", (0, 1), "sigmoid"))
    for inputs in ({"z": X}, {"x": X.astype(np.float64)}, {"x": X[:, :1]}):
        with pytest.raises(ArtifactError, match="inputs"):
            scorer(inputs)


# ------------------------------------------------------------------------------------------------------ crafted bytes


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "8"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def hidden(tensor: TensorProto) -> list[onnx.ModelProto]:
    """Networks with the tensor in each place where one can stand."""
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [2])])
    condition = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    inside = helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch)
    call = helper.make_node("Weigh", [], ["z"], domain="own")
    function = helper.make_function("own", "Weigh", [], ["c"], [constant], [helper.make_opsetid("", 18)])
    with_function = network(ONE, call)
    with_function.functions.append(function)
    sparse = network(ONE)
    sparse.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, dims=[2]))
    unflagged = TensorProto()
    unflagged.CopyFrom(tensor)
    unflagged.ClearField("data_location")
    return [
        network(ONE, initializer=tensor),
        network(ONE, constant),
        network(ONE, condition, inside),
        with_function,
        sparse,
        network(ONE, initializer=unflagged),
    ]


@pytest.mark.parametrize(
    "location", ["{folder}/secret.bin", "../secret.bin", "sub/../../secret.bin", "secret.bin", "/etc/passwd"]
)
def test_weights_in_another_file_are_refused_wherever_they_hide(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.bin").write_bytes(np.float32([1, 2]).tobytes())
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for model in hidden(external(location.format(folder=tmp_path))):
        with pytest.raises(UnsafeArtifact, match=r"(?s)another file.*received: "):
            Network(model.SerializeToString())


def test_an_operator_that_onnx_does_not_define_is_refused() -> None:
    node = helper.make_node("EPContext", [], ["z"], domain="com.microsoft", ep_cache_context="../secret.bin")
    with pytest.raises(UnsafeArtifact, match=r"com\.microsoft\.EPContext"):
        vet(network(ONE, node).SerializeToString())


def test_a_function_of_its_own_is_fine() -> None:
    model = network(ONE, helper.make_node("Twice", ["x"], ["z"], domain="own"))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert Network(model.SerializeToString())({"x": X}).shape == (6,)


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_truncated_bytes_are_a_named_error(cut: int) -> None:
    with pytest.raises(ArtifactError):
        Network(network(ONE).SerializeToString()[:cut])


def test_empty_bytes_and_a_missing_file_are_named_errors() -> None:
    with pytest.raises(ArtifactError):
        Network(b"")
    with pytest.raises(ArtifactError, match=ONNX_FILE):
        read({}, manifest("binary", (0, 1), "sigmoid"))


def test_a_network_of_two_outputs_is_a_named_error() -> None:
    model = network(ONE)
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"]))
    with pytest.raises(ArtifactError):
        Network(model.SerializeToString())({"x": X})


def test_predicting_needs_no_torch() -> None:
    program = "import sys, velodrome.models.onnx, velodrome.models.predictor; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
