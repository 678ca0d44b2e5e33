"""`Model`: an artifact that has been read and predicts, rows in and rows out.

The same steps for every family: the frame's columns are checked and prepared, the family's module turns arrays into scores,
scores become classes and probabilities. Frames are taken in chunks, so memory stays bounded. Cost: for one row of a small
network about a millisecond, nearly all of it preparation; reading the artifact costs its bytes and an ONNX session.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from velodrome.core.digest import Digest
from velodrome.core.errors import ArtifactError, SchemaError
from velodrome.core.extras import load
from velodrome.data.fields import rows_within
from velodrome.data.labels import LabelCoding, decode_labels
from velodrome.data.transforms import apply
from velodrome.models.manifest import Manifest, read_files, read_manifest
from velodrome.models.signature import read_inputs
from velodrome.store.workspace import Workspace

__all__ = ["Model", "Scorer", "load_artifact"]

Scorer: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]
"""What a family's `read(files, manifest)` returns: from inputs by field name, (rows, *shape) with at least one row, to scores;
binary (rows,) probability of the second class, multiclass (rows, classes), regression (rows,)."""

_CHUNK, _CHUNK_BYTES = 1 << 16, 1 << 28


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is ready to predict; any number of threads may use it at once.

    Attributes:
        digest: the artifact's.
    """

    digest: Digest
    manifest: Manifest
    scorer: Scorer

    def predict(self, frame: pl.DataFrame | Mapping[str, Any]) -> pl.DataFrame:
        """One row for each row of `frame`, in its order.

        Returns:
            `prediction`: the class in the label's own type, or the number. Binary: also `probability`, of the second
            class, which is predicted above 0.5. Multiclass: also `probability_<class>` for each class.

        Raises: as `score`.
        """
        scores = self.score(frame)
        coding = LabelCoding(self.manifest.task, self.manifest.classes)
        if coding.task == "regression":
            return pl.DataFrame({"prediction": scores})
        if coding.task == "binary":
            return pl.DataFrame({"prediction": decode_labels(coding, scores > 0.5), "probability": scores})
        columns = {f"probability_{name}": scores[:, code] for code, name in enumerate(coding.classes)}
        return pl.DataFrame({"prediction": decode_labels(coding, scores.argmax(axis=1)), **columns})

    def score(self, frame: pl.DataFrame | Mapping[str, Any]) -> NDArray[np.float64]:
        """What the model says, as numbers.

        Args:
            frame: the raw columns, among others; a mapping of columns (lists, arrays) does as well. An input of a shape,
                such as an image, is an array (rows, *shape): `{"image": array}`.

        Returns:
            float64. Binary: (rows,) probability of the second class. Multiclass: (rows, classes) probabilities.
            Regression: (rows,) values.

        Raises:
            SchemaError: a column is missing or of another type.
            DataError: values that the preparation cannot take.
            ArtifactError: the model's answer has another shape, or is not finite.
        """
        width = (len(self.manifest.classes),) if self.manifest.task == "multiclass" else ()
        rows = min(_CHUNK, rows_within(self.manifest.fields, _CHUNK_BYTES))
        scores = np.concatenate([self._chunk(chunk, width) for chunk in _chunks(_frame(frame), rows)])
        strange = np.unique(np.nonzero(~np.isfinite(scores))[0])
        if len(strange):
            raise ArtifactError(
                "the model answers with NaN or infinity",
                received=f"{len(strange)} rows, the first {strange[0]}",
                remedy="look at that row's columns, or train again",
            )
        return scores

    def _chunk(self, frame: pl.DataFrame, width: tuple[int, ...]) -> NDArray[np.float64]:
        preparation = self.manifest.preparation
        inputs = read_inputs(self.manifest.inputs, frame) if preparation is None else apply(preparation, frame)
        scores = np.asarray(self.scorer(inputs) if frame.height else np.empty((0, *width)), dtype=np.float64)
        if scores.shape != (frame.height, *width):
            raise ArtifactError(
                f"the model's answer is not one of a {self.manifest.task} model",
                received=f"shape {scores.shape} for {frame.height} rows",
                remedy="train or export it again",
            )
        return scores


def load_artifact(ws: Workspace, digest: str) -> Model:
    """The model in an artifact, every file verified. Nothing in it is executed.

    Raises:
        ArtifactError: no artifact, one of a newer format, or one that does not read.
        UnsafeArtifact: it asks for code or files that it may not have.
        IntegrityError, MissingBlob: its bytes are damaged or gone.
        MissingExtra: what reads it is not installed.
    """
    manifest = read_manifest(ws, digest)
    scorer: Scorer = load(f"model:{manifest.family}").read(read_files(ws, manifest), manifest)
    return Model(Digest(digest), manifest, scorer)


def _frame(frame: pl.DataFrame | Mapping[str, Any]) -> pl.DataFrame:
    if isinstance(frame, pl.DataFrame):
        return frame
    try:
        return pl.DataFrame(dict(frame))
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise SchemaError(
            "a model predicts from a Polars frame or a mapping of columns",
            received=f"{type(frame).__name__}: {error}",
            remedy="pl.from_pandas(frame) makes one",
        ) from error


def _chunks(frame: pl.DataFrame, rows: int) -> Iterator[pl.DataFrame]:
    return frame.iter_slices(rows) if frame.height else iter([frame])
