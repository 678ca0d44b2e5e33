"""Checks the numbers that scikit-learn's compiled code follows without looking.

A tree's nodes name their children and the column that they ask for; neighbours' trees name rows; a support vector machine
names how many vectors each class has. scikit-learn trusts them, so a crafted file could make a prediction read memory that is
not its own, or never end. An honest estimator passes untouched. Cost: a few array comparisons per tree.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.neighbors import BallTree, KDTree
from sklearn.svm._base import BaseLibSVM
from sklearn.tree import BaseDecisionTree

from velodrome.core.errors import UnsafeArtifact

__all__ = ["check_bounds"]


def check_bounds(estimator: Any) -> None:
    """Look at everything inside `estimator`.

    Raises:
        UnsafeArtifact: an index points outside what it is an index of, or the parts do not fit each other.
    """
    for part in _parts(estimator):
        try:
            sound = _sound(part)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            sound = False  # what an honest estimator has is missing here, or of another kind
        if not sound:
            raise UnsafeArtifact(
                "an estimator holds numbers that point outside its own arrays",
                received=type(part).__name__,
                remedy="do not use this artifact",
            )


def _parts(root: Any) -> Iterator[Any]:
    """Every object inside `root`, each once."""
    waiting, seen = [root], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | None):
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple | set):
            waiting.extend(part)
        elif isinstance(part, np.ndarray):
            waiting.extend(part.ravel() if part.dtype == object else ())
        else:
            yield part
            waiting.extend(getattr(part, "__dict__", {}).values())


def _sound(part: Any) -> bool:
    if isinstance(part, BaseDecisionTree):
        return not hasattr(part, "tree_") or _tree(part.tree_, part.n_features_in_)
    if isinstance(part, BaseGradientBoosting):
        return not hasattr(part, "estimators_") or all(
            tree.n_features_in_ == part.n_features_in_ for tree in part.estimators_.flat
        )
    if isinstance(part, BaseHistGradientBoosting):
        return not hasattr(part, "_predictors") or all(
            _histogram_tree(tree, part) for stage in part._predictors for tree in stage
        )
    if isinstance(part, KDTree | BallTree):
        return _neighbours(part)
    if isinstance(part, BaseLibSVM):
        return not hasattr(part, "support_vectors_") or _vectors(part)
    return True


def _tree(tree: Any, features: int) -> bool:
    inner = tree.children_left != -1
    return (
        tree.n_features == features
        and _downwards(inner, tree.children_left, tree.children_right)
        and _within(tree.feature[inner], features)
    )


def _histogram_tree(tree: Any, owner: BaseEstimator) -> bool:
    nodes = tree.nodes
    inner = nodes["is_leaf"] == 0
    categorical = inner & (nodes["is_categorical"] != 0)
    bitsets = min(len(tree.raw_left_cat_bitsets), len(tree.binned_left_cat_bitsets))
    return (
        _downwards(inner, nodes["left"].astype(np.int64), nodes["right"].astype(np.int64))
        and _within(nodes["feature_idx"][inner], owner.n_features_in_)
        and _within(nodes["bitset_idx"][categorical], bitsets)
    )


def _downwards(inner: NDArray[np.bool_], left: NDArray[np.int64], right: NDArray[np.int64]) -> bool:
    """Whether there are nodes, and the children of each inner one come after it, as in every tree that was grown."""
    places = np.flatnonzero(inner)
    return len(inner) > 0 and all(
        bool(np.all((side[places] > places) & (side[places] < len(inner)))) for side in (left, right)
    )


def _neighbours(tree: KDTree | BallTree) -> bool:
    data, rows, nodes, bounds, _, levels, count, *_ = tree.__getstate__()
    return (
        len(rows) == len(data)
        and _within(rows, len(data))
        and count == len(nodes) == 2**levels - 1
        and bounds.shape[1:] == (count, data.shape[1])
        and _within(nodes["idx_start"], len(data) + 1)
        and _within(nodes["idx_end"], len(data) + 1)
    )


def _vectors(machine: Any) -> bool:
    vectors = len(machine.support_vectors_)
    classes = len(machine.classes_) if hasattr(machine, "classes_") else 2  # regression is laid out as two classes are
    counts = machine._n_support
    counted = len(counts) == classes and _within(counts, vectors + 1) and counts.sum() == vectors
    return bool(
        (counted or not hasattr(machine, "classes_"))
        and machine.support_vectors_.shape == (vectors, machine.n_features_in_)
        and machine.support_.shape == (vectors,)
        and machine._dual_coef_.shape == (classes - 1, vectors)
        and machine._intercept_.shape == (classes * (classes - 1) // 2,)
    )


def _within(indices: NDArray[Any], length: int) -> bool:
    return bool(np.all((indices >= 0) & (indices < length)))
