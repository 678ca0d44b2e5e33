"""A frame in, predictions out, for every family and task, from an artifact in a workspace."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge

from velodrome.core.errors import ArtifactError, DataError, IntegrityError, SchemaError
from velodrome.data.fields import Field
from velodrome.data.steps import Encode, Impute, Scale
from velodrome.data.transforms import Preparation, apply, fit_preparation
from velodrome.models import predictor
from velodrome.models.manifest import Manifest, save
from velodrome.models.matrix import as_matrix
from velodrome.models.onnx import ONNX_FILE
from velodrome.models.predictor import load_artifact
from velodrome.models.sklearn import SKOPS_FILE, dump
from velodrome.models.torch import export
from velodrome.store.trees import read_tree
from velodrome.store.workspace import Workspace

RNG = np.random.default_rng(0)
FRAME = pl.DataFrame(
    {"carrier": RNG.choice(["AA", "UA", "DL"], 90), "distance": RNG.normal(500, 100, 90), "ignored": ["x"] * 90}
)
LABELS = (FRAME["carrier"] == "UA").cast(pl.Int64).to_numpy() + (FRAME["distance"] > 500).cast(pl.Int64).to_numpy()


class Net(torch.nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.carrier = torch.nn.Embedding(4, 2)
        self.last = torch.nn.Linear(3, outputs)

    def forward(self, carrier: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.carrier(carrier), distance[:, None]], dim=1))


@pytest.fixture(scope="module")
def preparation() -> Preparation:
    return fit_preparation([Impute(), Scale(), Encode()], FRAME, ["carrier", "distance"], "codes")


def network(
    ws: Workspace, preparation: Preparation, task: Any, classes: tuple[Any, ...], outputs: int, activation: Any
) -> tuple[str, Any]:
    torch.manual_seed(0)
    module = Net(outputs)
    inputs = {name: torch.from_numpy(array) for name, array in apply(preparation, FRAME).items()}
    exported = export(module, inputs, activation=activation)
    digest = save(
        ws,
        Manifest(family="torch", task=task, classes=classes, preparation=preparation, extra=exported.extra),
        exported.files,
    )
    return digest, module(**inputs).detach()


def test_a_binary_network(ws: Workspace, preparation: Preparation) -> None:
    digest, logits = network(ws, preparation, "binary", ("no", "yes"), 1, "sigmoid")
    model = load_artifact(ws, digest)
    answers = model.predict(FRAME)
    assert answers.schema == {"prediction": pl.String, "probability": pl.Float64}
    np.testing.assert_allclose(answers["probability"], torch.sigmoid(logits[:, 0]), atol=1e-6)
    assert ((answers["prediction"] == "yes") == (answers["probability"] > 0.5)).all()
    assert answers["prediction"].n_unique() == 2, "both classes are there, or the line above shows little"
    assert np.array_equal(model.score(FRAME), answers["probability"])


def test_a_multiclass_network(ws: Workspace, preparation: Preparation) -> None:
    digest, logits = network(ws, preparation, "multiclass", (10, 20, 30), 3, "softmax")
    answers = load_artifact(ws, digest).predict(FRAME)
    assert answers.columns == ["prediction", "probability_10", "probability_20", "probability_30"]
    np.testing.assert_allclose(answers.drop("prediction"), torch.softmax(logits, 1), atol=1e-6)
    assert answers["prediction"].to_list() == [(10, 20, 30)[code] for code in logits.argmax(1)]


def test_a_regression_network(ws: Workspace, preparation: Preparation) -> None:
    digest, values = network(ws, preparation, "regression", (), 1, "identity")
    answers = load_artifact(ws, digest).predict(FRAME)
    assert answers.schema == {"prediction": pl.Float64}
    np.testing.assert_allclose(answers["prediction"], values[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "multiclass"])
def test_an_estimator(ws: Workspace, preparation: Preparation, binary: bool) -> None:
    matrix = as_matrix(preparation.outputs, apply(preparation, FRAME))
    labels, classes = (LABELS > 0, (False, True)) if binary else (LABELS, ("a", "b", "c"))
    forest = RandomForestClassifier(5, random_state=0).fit(matrix, labels)
    manifest = Manifest(
        family="sklearn", task="binary" if binary else "multiclass", classes=classes, preparation=preparation
    )
    model = load_artifact(ws, save(ws, manifest, dump(forest)))
    wanted = forest.predict_proba(matrix)
    assert np.array_equal(model.score(FRAME), wanted[:, 1] if binary else wanted)
    assert model.predict(FRAME)["prediction"].to_list() == [classes[code] for code in wanted.argmax(1)], (
        "ties go to the first class"
    )


def model_of(ws: Workspace, preparation: Preparation) -> predictor.Model:
    return load_artifact(ws, network(ws, preparation, "multiclass", ("a", "b", "c"), 3, "softmax")[0])


def test_chunks_do_not_show(ws: Workspace, preparation: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(ws, preparation)
    whole = model.predict(FRAME)
    monkeypatch.setattr(predictor, "_CHUNK", 7)
    assert_frame_equal(model.predict(FRAME), whole, rel_tol=1e-6)


def test_no_rows_have_no_predictions(ws: Workspace, preparation: Preparation) -> None:
    model = model_of(ws, preparation)
    assert model.predict(FRAME.clear()).schema == model.predict(FRAME).schema
    assert model.score(FRAME.clear()).shape == (0, 3)


def test_one_row_as_a_mapping(ws: Workspace, preparation: Preparation) -> None:
    model = model_of(ws, preparation)
    row = FRAME.row(3, named=True)
    assert_frame_equal(model.predict({name: [value] for name, value in row.items()}), model.predict(FRAME[3:4]))


def test_input_that_does_not_fit_is_a_named_error(ws: Workspace, preparation: Preparation) -> None:
    model = model_of(ws, preparation)
    with pytest.raises(SchemaError, match="carrier"):
        model.predict(FRAME.rename({"carrier": "airline"}))
    with pytest.raises(SchemaError, match=r"(?s)distance.*String"):
        model.predict(FRAME.with_columns(distance=pl.lit("far")))
    with pytest.raises(DataError, match="distance"):
        model.predict(FRAME.with_columns(distance=pl.lit(float("inf"))))
    for strange in ([1, 2], {"carrier": ["AA", "UA"], "distance": [1.0, 2.0, 3.0]}, 5):
        with pytest.raises(SchemaError, match="Polars frame"):
            model.predict(strange)  # type: ignore[arg-type]


def test_a_model_of_a_loop_of_ones_own(ws: Workspace) -> None:
    module, table = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid()), torch.randn(20, 2)
    exported = export(module, table, activation="identity")
    model = load_artifact(
        ws,
        save(
            ws,
            Manifest(family="torch", task="binary", classes=(0, 1), inputs=exported.inputs, extra=exported.extra),
            exported.files,
        ),
    )
    wanted = module(table).detach().numpy()[:, 0]
    for frame in (pl.DataFrame(table.numpy(), schema=["a", "b"]), {"input": table.numpy()}):
        np.testing.assert_allclose(model.predict(frame)["probability"], wanted, atol=1e-6)


def ridge() -> Any:
    return Ridge().fit(RNG.normal(size=(9, 2)), RNG.normal(size=9))


PLAIN = Manifest(family="sklearn", task="regression", inputs=(Field("x", "float32"), Field("y", "float32")))


def test_an_answer_that_is_not_finite_is_a_named_error(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Logarithm(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(x)

    exported = export(Logarithm(), torch.ones(3), activation="identity")
    model = load_artifact(
        ws,
        save(
            ws,
            Manifest(family="torch", task="regression", inputs=exported.inputs, extra=exported.extra),
            exported.files,
        ),
    )
    monkeypatch.setattr(predictor, "_CHUNK", 2)
    assert model.score({"x": [1.0]}).tolist() == [0.0]
    with pytest.raises(ArtifactError, match=r"(?s)NaN or infinity.*2 rows, the first 3"):
        model.predict({"x": [1.0, 2.0, 3.0, 0.0, -1.0]})


def test_a_network_of_another_shape_than_its_task_is_a_named_error(ws: Workspace, preparation: Preparation) -> None:
    digest, _ = network(ws, preparation, "multiclass", ("a", "b", "c"), 2, "softmax")
    with pytest.raises(ArtifactError, match="multiclass model"):
        load_artifact(ws, digest).predict(FRAME)


@pytest.mark.parametrize(("family", "path"), [("torch", ONNX_FILE), ("sklearn", SKOPS_FILE)])
def test_a_file_that_was_edited_or_cut_is_refused(
    ws: Workspace, preparation: Preparation, family: str, path: str
) -> None:
    digest = (
        network(ws, preparation, "regression", (), 1, "identity")[0]
        if family == "torch"
        else save(ws, PLAIN, dump(ridge()))
    )
    file = ws.blobs.local(read_tree(ws.blobs, digest)[path].digest)
    data = bytearray(file.read_bytes())
    file.chmod(0o644)
    data[len(data) // 2] ^= 1
    for bad in (bytes(data), bytes(data[:-7])):
        file.write_bytes(bad)
        with pytest.raises(IntegrityError, match="digest"):
            load_artifact(ws, digest)


@pytest.mark.parametrize(("family", "path"), [("torch", ONNX_FILE), ("sklearn", SKOPS_FILE)])
def test_a_pickle_in_the_place_of_the_weights_does_not_run(
    ws: Workspace, tmp_path: Path, family: Any, path: str
) -> None:
    mark = tmp_path / "payload-ran"
    payload = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    digest = save(
        ws,
        Manifest(family=family, task="regression", inputs=PLAIN.inputs, extra={"activation": "identity"}),
        {path: payload},
    )
    with pytest.raises(ArtifactError):
        load_artifact(ws, digest)
    assert not mark.exists()
    pickle.loads(payload)
    assert mark.exists(), "the payload must work, or the lines above show nothing"
