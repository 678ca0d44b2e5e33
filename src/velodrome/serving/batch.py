"""Batch prediction: every row of a file, with the prediction beside it."""

from pathlib import Path

import msgspec
import polars as pl

from velodrome.core.errors import ConfigurationError, SchemaError
from velodrome.data.sources import read_user_file
from velodrome.models.predictor import Model, load_artifact
from velodrome.registry.versions import Version, resolve
from velodrome.store.files import write_atomic_with
from velodrome.store.tombstones import require_kept
from velodrome.store.workspace import Workspace

__all__ = ["Predicted", "load_model", "predict_file"]


class Predicted(msgspec.Struct, frozen=True):
    """What was predicted: the version, the number of rows and the file written; of two classes, which one `probability` is of."""

    model: str
    rows: int
    out: str
    probability_of: bool | int | float | str | None = None


def load_model(ws: Workspace, reference: str) -> Model:
    """The model behind `name@alias`, `name/number` or `name`, verified, ready to predict.

    Raises:
        NotFound: no such model or version; the nearest is named. Gone: it was collected.
        IntegrityError, UnsafeArtifact: its bytes are damaged, or ask for what they may not have.
    """
    return _load(ws, resolve(ws, reference))


def predict_file(ws: Workspace, reference: str, source: Path, out: Path) -> Predicted:
    """Write the rows of `source` with the model's predictions to `out` (.csv or .parquet).

    Raises:
        SourceError: the file is missing or cannot be read.
        SchemaError: a column that the model needs is missing or of another type, or is called as a prediction is.
        ConfigurationError: `out` has another ending.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigurationError(
            "predictions are written as .csv or .parquet", received=str(out), remedy="give --out one of these endings"
        )
    version = resolve(ws, reference)
    model = _load(ws, version)
    frame = read_user_file(source, text=_texts(model))
    predictions = model.predict(frame)
    taken = set(frame.columns) & set(predictions.columns)
    if taken:
        raise SchemaError(
            "the input has a column with the name of a prediction",
            received=", ".join(sorted(taken)),
            remedy="rename it",
        )
    whole = pl.concat([frame, predictions], how="horizontal")
    write_atomic_with(out, whole.write_csv if out.suffix == ".csv" else whole.write_parquet)
    second = model.manifest.classes[1] if model.manifest.task == "binary" else None
    return Predicted(version.reference, frame.height, str(out), second)


def _load(ws: Workspace, version: Version) -> Model:
    require_kept(ws.ledger, f"run:{version.run}", version.reference)
    return load_artifact(ws, version.artifact)


def _texts(model: Model) -> list[str]:
    """Columns that held text in training: a CSV file whose values happen to look like numbers is read as text there too."""
    preparation = model.manifest.preparation
    return [column.name for column in preparation.columns if column.dtype == "string"] if preparation else []
