"""Saves and reads scikit-learn's estimators with skops, without pickle, for the types on a list of our own.

skops describes an object as JSON and arrays, and makes only objects of types that it is told to trust. It trusts
scikit-learn's estimators; `TRUSTED` adds the private types inside the estimators that we have tested. Anything else is
refused when it is saved, where its owner can still choose. Arrays that compiled code follows without looking (the nodes of
trees, say) are checked by `bounds.py` after reading. Files are made anew without the memory addresses, random names, padding
and times that skops leaves in them, so that equal estimators give equal bytes. Cost: as the arrays; a forest of 100 trees
takes tenths of a second.
"""

import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.base import is_classifier
from skops.io.exceptions import UntrustedTypesFoundException

from velodrome.core.errors import ArtifactError, UnsafeArtifact
from velodrome.models.bounds import check_bounds
from velodrome.models.manifest import Manifest
from velodrome.models.matrix import as_matrix

__all__ = ["SKOPS_FILE", "TRUSTED", "dump", "load", "read"]

SKOPS_FILE = "model.skops"

TRUSTED = (
    "functools.partial",  # histogram boosting keeps one, of check_array; the function inside must be trusted as well
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.DotProduct",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.RationalQuadratic",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.metrics._dist_metrics.ChebyshevDistance64",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
    "sklearn.utils.validation.check_array",
)
"""Types that skops does not trust by itself. None of them does anything when it is made but hold what it is given."""

_SCHEMA = "schema.json"
_ENDINGS = (".npy", ".npz", ".bin")
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
)


def dump(estimator: Any) -> dict[str, bytes]:
    """The files of a fitted estimator; equal estimators have equal files.

    Raises:
        ArtifactError: a part of it is of a type that is not known to be safe to read back, or it classifies without
            probabilities.
    """
    name = type(estimator).__name__
    if is_classifier(estimator) and not hasattr(estimator, "predict_proba"):
        raise ArtifactError(
            f"{name} has no predict_proba, and a model answers with probabilities",
            remedy=f"wrap it: CalibratedClassifierCV({name}(...))",
        )
    try:
        data = skops.io.dumps(estimator)
    except (TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(
            f"{name} cannot be saved without pickle: {error}", remedy="use another estimator"
        ) from error
    strange = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))
    if strange:
        raise ArtifactError(
            f"{name} holds what is not known to be safe to read back",
            received=", ".join(strange),
            remedy="use estimators and transformers of scikit-learn, without functions of your own",
        )
    return {SKOPS_FILE: _canonical(data)}


def load(files: Mapping[str, bytes]) -> Any:
    """The estimator in an artifact's files.

    Raises:
        ArtifactError: the file is missing or damaged.
        UnsafeArtifact: it asks for types that are not trusted, hides a pickle, or points outside its arrays.
    """
    if SKOPS_FILE not in files:
        raise ArtifactError(f"an estimator's artifact has {SKOPS_FILE}", received=", ".join(sorted(files)))
    data = files[SKOPS_FILE]
    try:
        _check_members(data)
        estimator = skops.io.loads(data, trusted=TRUSTED)
    except UntrustedTypesFoundException as error:
        raise UnsafeArtifact(str(error).splitlines()[0], remedy="do not use this artifact") from error
    except (BadZipFile, *_DAMAGE) as error:
        if "allow_pickle" in str(error):
            raise UnsafeArtifact(
                "an array of an estimator is a pickle", received=str(error), remedy="do not use this artifact"
            ) from error
        raise ArtifactError(
            f"{SKOPS_FILE} does not read: {type(error).__name__}: {error}",
            remedy="restore it from a backup, or train again",
        ) from error
    check_bounds(estimator)
    return estimator


def read(files: Mapping[str, bytes], manifest: Manifest) -> Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]:
    """The scorer of an estimator's artifact; see `velodrome.models.predictor.Scorer`. Raises as `load` does."""
    estimator = load(files)
    wanted = "predict" if manifest.task == "regression" else "predict_proba"
    if not hasattr(estimator, wanted):
        raise ArtifactError(
            f"the estimator of a {manifest.task} artifact has {wanted}", received=type(estimator).__name__
        )
    return partial(_scores, estimator, manifest)


def _scores(estimator: Any, manifest: Manifest, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    matrix = as_matrix(manifest.fields, inputs)
    if manifest.task == "regression":
        return np.asarray(estimator.predict(matrix)).reshape(len(matrix))
    probabilities = np.zeros((len(matrix), len(manifest.classes)))
    # An estimator knows the classes of the rows that it was fitted on; a rare one may not be among them.
    probabilities[:, estimator.classes_.astype(int)] = estimator.predict_proba(matrix)
    return probabilities[:, 1] if manifest.task == "binary" else probabilities


def _check_members(data: bytes) -> None:
    with ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name != _SCHEMA and not name.endswith(_ENDINGS):
                raise UnsafeArtifact(
                    f"{SKOPS_FILE} holds a file that skops does not write",
                    received=name,
                    remedy="do not use this artifact",
                )


def _canonical(data: bytes) -> bytes:
    """The same archive with objects and files numbered in the order in which they occur."""
    names: dict[str, str] = {}
    buffer = io.BytesIO()
    with ZipFile(io.BytesIO(data)) as source, ZipFile(buffer, "w") as target:
        schema = _numbered(json.loads(source.read(_SCHEMA)), {}, names)
        for old, new in names.items():
            target.writestr(
                ZipInfo(new), _without_padding(source.read(old)) if new.endswith(".npy") else source.read(old)
            )
        target.writestr(ZipInfo(_SCHEMA), json.dumps(schema, separators=(",", ":")))
    return buffer.getvalue()


def _numbered(node: Any, ids: dict[int, int], names: dict[str, str]) -> Any:
    if isinstance(node, list):
        return [_numbered(item, ids, names) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _numbered(value, ids, names) for key, value in node.items()}
    if "__loader__" in node and isinstance(node.get("__id__"), int):
        if node["__loader__"] == "JsonNode":
            del plain["__id__"]  # which equal numbers and texts are one object is chance
        else:
            plain["__id__"] = ids.setdefault(node["__id__"], len(ids) + 1)
        if isinstance(node.get("file"), str):
            plain["file"] = names.setdefault(node["file"], f"{len(names) + 1}.{node['file'].rpartition('.')[2]}")
    return plain


def _without_padding(data: bytes) -> bytes:
    """An array's file with zeros in the gaps of its records, where memory left what was there."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype.names is None:
        return data
    clean = np.zeros(array.shape, array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, clean, allow_pickle=False)
    return buffer.getvalue()
