"""Fits an estimator with scikit-learn's API on the prepared rows.

An estimator has no steps to resume: a fit that was killed is done again, and ends the same, since its random state is the
run's seed. Input is one float32 matrix, categories as codes or one-hot columns.
"""

import platform
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn.base
import threadpoolctl

from velodrome.core.digest import Hasher
from velodrome.core.errors import OutOfMemory, TrainingError
from velodrome.data.fields import Field
from velodrome.models.matrix import as_matrix
from velodrome.models.sklearn import dump
from velodrome.training.learners import Sklearn
from velodrome.training.own_code import is_out_of_memory, mistake
from velodrome.training.work import Fitted, Work

__all__ = ["fit", "machine"]


def machine(threads: int = 0, device: str = "cpu") -> tuple[str, str, int]:
    """What the bits of a fit depend on beside the versions: the kernels that BLAS chose, and how many threads it uses.

    Args:
        threads: how many this process computes with from now on; 0: as many as the libraries chose.
        device: scikit-learn computes on the CPU whatever it is.

    Returns:
        The device, what it is capable of, and the threads.
    """
    if threads:
        threadpoolctl.threadpool_limits(threads)
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    kernels = sorted({f"{pool['internal_api']}:{pool.get('architecture') or platform.machine()}" for pool in pools})
    most = max((int(pool["num_threads"]) for pool in pools), default=1)
    return "cpu", ",".join(kernels) or platform.machine(), most


def fit(work: Work) -> Fitted:
    """Fit a clone of the recipe's estimator.

    Raises:
        TrainingError: the estimator does not fit the task, or refuses the data; its own words are given.
        ArtifactError: an estimator that cannot be saved without pickle.
    """
    assert isinstance(work.learner, Sklearn)
    estimator = _prepared(work.learner.estimator, work)
    with work.ws.progress.task("fit", None) as task:
        matrix, target = as_matrix(work.layout.fields, work.layout.take(work.train)), work.layout.target[work.train]
        try:
            estimator.fit(matrix, target)
        except (ValueError, TypeError) as error:
            raise TrainingError(
                f"{type(estimator).__name__} refuses the data: {error}",
                remedy="see the estimator's documentation, or prepare the columns otherwise",
            ) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(
                    f"memory does not suffice to fit {type(estimator).__name__}",
                    received=f"{len(target)} rows, {matrix.shape[1]} columns",
                    remedy="give it fewer rows or columns, or an estimator that needs less",
                ) from error
            raise mistake(error, f"{type(estimator).__name__}.fit") from error
        task.advance(1)
    files = dump(estimator)
    hasher = Hasher()
    for path in sorted(files):
        hasher.update(files[path])
    steps = int(getattr(estimator, "n_iter_", 1) if np.ndim(getattr(estimator, "n_iter_", 1)) == 0 else 1)
    return Fitted(family="sklearn", files=files, extra={}, steps=steps, planned_steps=steps, weights=hasher.digest())


def _prepared(estimator: sklearn.base.BaseEstimator, work: Work) -> Any:
    wanted = sklearn.base.is_regressor if work.task == "regression" else sklearn.base.is_classifier
    if not wanted(estimator):
        raise TrainingError(
            f"the label is for {'a regressor' if work.task == 'regression' else 'a classifier'}",
            received=type(estimator).__name__,
            remedy="choose another estimator, or set task=",
        )
    clone = sklearn.base.clone(estimator)
    parameters = clone.get_params()
    seeded: dict[str, Any] = {
        name: work.seed % 2**32
        for name, value in parameters.items()
        if name.split("__")[-1] == "random_state" and value is None
    }
    if parameters.get("categorical_features") == "from_dtype":
        seeded["categorical_features"] = _categorical(work.layout.fields)
    return clone.set_params(**seeded)


def _categorical(fields: tuple[Field, ...]) -> npt.NDArray[np.bool_] | None:
    """Which columns of the matrix are codes; histogram boosting takes categories of up to 255 values as such."""
    flags = np.array([bool(field.cardinality and field.cardinality <= 255) for field in fields])
    return flags if flags.any() else None
