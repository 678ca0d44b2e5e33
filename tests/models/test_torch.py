"""Modules through export and back: what predicts is what was trained."""

import logging
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from velodrome.core.errors import ArtifactError
from velodrome.data.fields import Field
from velodrome.models.manifest import Manifest, read_files, read_manifest, save
from velodrome.models.onnx import ONNX_FILE, Network
from velodrome.models.torch import WEIGHTS_FILE, export, load_module
from velodrome.store.workspace import Workspace

ROWS = 5


class Late(torch.nn.Module):
    """Embeddings, batch norm, dropout: inputs by name, one of them unused."""

    def __init__(self) -> None:
        super().__init__()
        self.carrier = torch.nn.Embedding(6, 3)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8),
            torch.nn.ReLU(),
            torch.nn.BatchNorm1d(8),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(8, 1),
        )

    def forward(self, distance: torch.Tensor, carrier: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([self.carrier(carrier), distance[:, None]], dim=1)).squeeze(-1)


def late() -> tuple[Late, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    module = Late()
    module.layers[2](torch.randn(9, 8))  # statistics that are not the first ones
    return module, {"distance": torch.randn(ROWS), "carrier": torch.randint(0, 6, (ROWS,)), "unused": torch.randn(ROWS)}


def answer(data: bytes, inputs: dict[str, torch.Tensor]) -> Any:
    return Network(data)({name: tensor.numpy() for name, tensor in inputs.items()})


def test_the_export_answers_any_batch_as_the_module_does() -> None:
    module, example = late()
    exported = export(module, example, activation="sigmoid")
    assert module.training, "the module goes on training"
    assert exported.extra == {"activation": "sigmoid"}
    assert exported.inputs == (Field("distance", "float32"), Field("carrier", "int64"), Field("unused", "float32"))
    module.eval()
    for rows in (1, 2, 33):
        inputs = {"distance": torch.randn(rows), "carrier": torch.randint(0, 6, (rows,)), "unused": torch.randn(rows)}
        np.testing.assert_allclose(
            answer(exported.files[ONNX_FILE], inputs), module(**inputs).detach().numpy(), rtol=1e-4, atol=1e-5
        )


def test_the_module_is_left_as_it_was() -> None:
    module, example = late()
    module.carrier.eval()
    modes = [part.training for part in module.modules()]
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export(module, example, activation="sigmoid")
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


def test_the_quick_exporter_suffices_for_a_usual_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("velodrome.models.torch._compiled", None)
    assert ONNX_FILE in export(*late(), activation="sigmoid").files


def test_equal_modules_have_equal_bytes_that_tell_nothing_of_the_machine() -> None:
    first, second = (export(*late(), activation="sigmoid").files for _ in range(2))
    assert first == second
    assert b".py" not in first[ONNX_FILE]


def test_an_example_of_one_row_is_enough() -> None:
    module, example = late()
    exported = export(module, {name: tensor[:1] for name, tensor in example.items()}, activation="sigmoid")
    assert answer(exported.files[ONNX_FILE], example).shape == (ROWS,)


def test_one_tensor_is_named_by_forward() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, table: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
            return self.layer(table) * scale

    exported = export(Plain(), torch.randn(ROWS, 4), activation="softmax")
    assert exported.inputs == (Field("table", "float32", (4,)),)
    assert answer(exported.files[ONNX_FILE], {"table": torch.randn(2, 4)}).shape == (2, 3)
    assert export(torch.nn.Linear(4, 3), torch.randn(ROWS, 4), activation="softmax").inputs == (
        Field("input", "float32", (4,)),
    )


def test_names_need_not_be_words_of_python() -> None:
    class Anything(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.stack([inputs["dep delay"], inputs["late/µs"]], dim=1))

    example = {"dep delay": torch.randn(ROWS), "late/µs": torch.randn(ROWS)}
    assert answer(export(Anything(), example, activation="sigmoid").files[ONNX_FILE], example).shape == (ROWS, 1)


class Branching(torch.nn.Module):
    """A branch on values, which a trace would bake in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if bool(x.sum() > 0) else -x


class Looping(torch.nn.Module):
    """The number of rows in a Python loop, which a trace would bake in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([row * 2 for row in x])


class Noisy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.slow
@pytest.mark.parametrize("module", [Branching(), Looping(), Noisy()], ids=lambda module: type(module).__name__)
def test_what_would_answer_otherwise_is_refused_with_the_reason(module: torch.nn.Module) -> None:
    with pytest.raises(ArtifactError, match=r"(?s)does not export to ONNX.*received: .+to mend: "):
        export(module, torch.ones(ROWS), activation="identity")


@pytest.mark.slow
def test_the_new_exporter_does_what_the_old_one_cannot(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def gone(*arguments: Any) -> bytes:
        raise TypeError("export() got an unexpected keyword argument 'dynamo'")

    monkeypatch.setattr("velodrome.models.torch._traced", gone)
    module, example = late()
    data = export(module, example, activation="sigmoid").files[ONNX_FILE]
    np.testing.assert_allclose(answer(data, example), module.eval()(**example).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert b".py" not in data
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch.onnx._internal.exporter._registration").level == logging.NOTSET


@pytest.mark.parametrize(
    ("example", "named"),
    [
        (torch.randn(ROWS, 4, dtype=torch.float64), "float64"),
        (torch.randn(0, 4), r"\(0, 4\)"),
        (torch.tensor(1.0), r"\(\)"),
        ({"input": torch.randn(ROWS, 4), "other": torch.zeros(ROWS)}, "refuses the example"),
        (torch.randn(ROWS, 3), "refuses the example"),
    ],
    ids=["dtype", "no rows", "scalar", "unknown name", "shape"],
)
def test_an_example_that_does_not_fit_is_a_named_error(example: Any, named: str) -> None:
    with pytest.raises(ArtifactError, match=rf"(?s){named}"):
        export(torch.nn.Linear(4, 1), example, activation="sigmoid")


@pytest.mark.parametrize(
    "module",
    [torch.nn.LSTM(4, 2), torch.nn.Unflatten(1, (2, 2)), torch.nn.Flatten(0)],
    ids=lambda module: type(module).__name__,
)
def test_an_output_that_is_not_one_row_for_each_row_is_a_named_error(module: torch.nn.Module) -> None:
    with pytest.raises(ArtifactError, match="one tensor"):
        export(module, torch.randn(ROWS, 4), activation="sigmoid")


# ------------------------------------------------------------------------------------------------------------ weights


def tied() -> torch.nn.Module:
    module = torch.nn.Sequential(
        OrderedDict(first=torch.nn.Linear(4, 4), middle=torch.nn.BatchNorm1d(4), last=torch.nn.Linear(4, 4))
    )
    module.last.weight = module.first.weight
    return module


def saved(ws: Workspace, module: torch.nn.Module) -> str:
    exported = export(module, torch.randn(ROWS, 4), activation="softmax")
    return save(
        ws,
        Manifest(family="torch", task="multiclass", classes=(1, 2, 3, 4), inputs=exported.inputs, extra=exported.extra),
        exported.files,
    )


def test_weights_come_back_and_tied_ones_are_stored_once(ws: Workspace) -> None:
    module = tied()
    module(torch.randn(20, 4))
    digest = saved(ws, module)
    back = load_module(ws, digest, tied())
    for name, there in module.state_dict().items():
        assert torch.equal(there, back.state_dict()[name]), name
    assert back.last.weight is back.first.weight
    stored = safetensors.torch.load(read_files(ws, read_manifest(ws, digest))[WEIGHTS_FILE])
    assert module.state_dict().keys() - stored.keys() == {"last.weight"}


@pytest.mark.parametrize(
    "other",
    [torch.nn.Linear(4, 4), torch.nn.Sequential(OrderedDict(first=torch.nn.Linear(5, 4)))],
    ids=["names", "shapes"],
)
def test_weights_of_another_module_are_refused(ws: Workspace, other: torch.nn.Module) -> None:
    with pytest.raises(ArtifactError, match="do not fit the module"):
        load_module(ws, saved(ws, tied()), other)


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04N.", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}"], ids=["empty", "pickle", "noise", "no aliases"]
)
def test_weights_that_do_not_read_are_a_named_error(ws: Workspace, data: bytes) -> None:
    manifest = Manifest(family="torch", task="regression", inputs=(Field("x", "float32"),))
    with pytest.raises(ArtifactError, match="do not fit"):
        load_module(ws, save(ws, manifest, {WEIGHTS_FILE: data}), torch.nn.Linear(1, 1))
    with pytest.raises(ArtifactError, match="no weights"):
        load_module(ws, save(ws, manifest, {"other": data}), torch.nn.Linear(1, 1))


def test_bytes_are_an_input() -> None:
    """As images are: the network makes numbers of them."""

    class Bright(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = torch.nn.Linear(4, 2)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.out(image.flatten(1).float() / 255)

    module = Bright()
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 1, 2, 2)).astype(np.uint8))
    exported = export(module, {"image": image}, activation="softmax")
    assert exported.inputs == (Field("image", "uint8", (1, 2, 2)),)
    answered = Network(exported.files[ONNX_FILE])({"image": image.numpy()})
    np.testing.assert_allclose(answered, module(image).detach().numpy(), rtol=1e-4, atol=1e-5)
