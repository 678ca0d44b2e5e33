"""Estimators whose indices were changed after they were saved: refused before anything follows them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.neighbors import KDTree, KNeighborsRegressor
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeRegressor
from sklearn.tree._tree import Tree

from velodrome.core.errors import UnsafeArtifact
from velodrome.models.bounds import check_bounds
from velodrome.models.sklearn import dump, load

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 3)).astype(np.float32)
X[:, 0] = RNG.integers(0, 5, 100)
Y = X[:, 0] + X[:, 1]


def changed_tree(tree: Any, **nodes: tuple[int, int]) -> Any:
    """A copy of a tree with other values in some nodes: field=(node, value)."""
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    for name, (node, value) in nodes.items():
        state["nodes"][name][node] = value
    copy = Tree(tree.n_features, np.array([1]), 1)
    copy.__setstate__(state)
    return copy


def tree(**nodes: tuple[int, int]) -> Any:
    forest = RandomForestRegressor(2, random_state=0).fit(X, Y)
    forest.estimators_[1].tree_ = changed_tree(forest.estimators_[1].tree_, **nodes)
    return forest


def boosted() -> Any:
    """A tree grown on more columns than the ensemble is given: the ensemble follows it without asking."""
    ensemble = GradientBoostingRegressor(n_estimators=2, random_state=0).fit(X[:, :2], Y)
    ensemble.estimators_[1, 0] = DecisionTreeRegressor().fit(X, Y)
    return ensemble


def histogram(name: str, node: int, value: int) -> Any:
    ensemble = HistGradientBoostingRegressor(max_iter=2, categorical_features=[0], random_state=0).fit(X, Y)
    nodes = ensemble._predictors[0][0].nodes
    nodes[name][node] = value
    if name == "bitset_idx":
        nodes["is_categorical"][node] = 1
    return ensemble


def neighbours(place: int, value: Any) -> Any:
    estimator = KNeighborsRegressor(algorithm="kd_tree").fit(X, Y)
    state = list(estimator._tree.__getstate__())
    state[place] = value(state[place].copy()) if callable(value) else value
    estimator._tree = KDTree.__new__(KDTree)
    estimator._tree.__setstate__(tuple(state))
    return estimator


def first(value: int) -> Callable[[Any], Any]:
    def change(rows: Any) -> Any:
        rows[0] = value
        return rows

    return change


def machine(name: str, change: Callable[[Any], Any]) -> Any:
    estimator = SVC().fit(X, Y > 2)
    setattr(estimator, name, change(getattr(estimator, name)))
    return estimator


CRAFTED = {
    "child beyond the nodes": lambda: tree(left_child=(0, 10**6)),
    "child before its parent": lambda: tree(right_child=(1, 0)),
    "negative child": lambda: tree(left_child=(0, -5)),
    "column beyond the input": lambda: tree(feature=(0, 3)),
    "negative column": lambda: tree(feature=(0, -7)),
    "tree of more columns than its ensemble": boosted,
    "histogram child": lambda: histogram("left", 0, 10**6),
    "histogram circle": lambda: histogram("right", 0, 0),
    "histogram column": lambda: histogram("feature_idx", 0, 99),
    "histogram bitset": lambda: histogram("bitset_idx", 0, 99),
    "neighbours' row": lambda: neighbours(1, first(10**6)),
    "neighbours' levels": lambda: neighbours(5, 30),
    "too few vectors": lambda: machine("support_vectors_", lambda vectors: vectors[:5]),
    "more vectors than there are": lambda: machine("_n_support", lambda counts: counts + 1000),
    "coefficients of other vectors": lambda: machine("_dual_coef_", lambda values: values[:, :5]),
    "a part that is missing": lambda: machine("_intercept_", lambda values: None),
}


@pytest.mark.parametrize("make", CRAFTED.values(), ids=CRAFTED)
def test_an_index_that_points_outside_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(UnsafeArtifact, match="outside"):
        check_bounds(make())


def test_it_is_refused_when_an_artifact_is_read() -> None:
    files = dump(tree(left_child=(0, 10**6)))
    with pytest.raises(UnsafeArtifact, match="outside"):
        load(files)


@pytest.mark.parametrize(
    "estimator",
    [
        SVR(),
        KNeighborsRegressor(algorithm="ball_tree"),
        GradientBoostingRegressor(n_estimators=3),
        HistGradientBoostingRegressor(max_iter=3),
    ],
    ids=lambda it: type(it).__name__,
)
def test_an_honest_estimator_passes(estimator: Any) -> None:
    check_bounds(estimator)
    check_bounds(estimator.fit(X, Y))
    check_bounds([{"deep": (estimator, estimator)}])
