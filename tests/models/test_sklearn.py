"""Estimators through skops and back, and what is refused on either way."""

import io
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import sklearn.base
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, Matern, WhiteKernel
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
    RidgeCV,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC, NuSVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from velodrome.core.errors import ArtifactError, UnsafeArtifact
from velodrome.data.fields import Field
from velodrome.models.manifest import Manifest
from velodrome.models.sklearn import SKOPS_FILE, dump, load, read

X, CLASSES = make_classification(120, 6, n_informative=4, n_classes=3, random_state=0)
X = np.abs(X).astype(np.float32)
X[:, 0] = X[:, 0] // 1
VALUES = 1.0 + X[:, 1] + X[:, 2] ** 2

ESTIMATORS: list[Any] = [
    AdaBoostClassifier(n_estimators=3, random_state=0),
    AdaBoostRegressor(n_estimators=3, random_state=0),
    BaggingClassifier(n_estimators=3, max_features=0.5, random_state=0),
    BaggingRegressor(n_estimators=3, max_features=0.5, random_state=0),
    BayesianRidge(),
    BernoulliNB(),
    CalibratedClassifierCV(LinearSVC(), cv=2),
    CalibratedClassifierCV(RandomForestClassifier(3, random_state=0), method="isotonic", cv=2),
    CalibratedClassifierCV(LogisticRegression(), method="temperature", cv=2),
    CategoricalNB(),
    ComplementNB(),
    DecisionTreeClassifier(random_state=0),
    DecisionTreeClassifier(max_leaf_nodes=9, random_state=0),
    DecisionTreeRegressor(random_state=0),
    DummyClassifier(),
    DummyRegressor(),
    ElasticNet(),
    ExtraTreesClassifier(3, random_state=0),
    ExtraTreesRegressor(3, random_state=0),
    GammaRegressor(),
    GaussianNB(),
    GaussianProcessClassifier(),
    GaussianProcessRegressor(Matern() + WhiteKernel() + RBF()),
    GradientBoostingClassifier(n_estimators=3, random_state=0),
    GradientBoostingRegressor(n_estimators=3, random_state=0),
    HistGradientBoostingClassifier(max_iter=3, random_state=0),
    HistGradientBoostingClassifier(
        max_iter=3, categorical_features=[True] + [False] * 5, early_stopping=True, random_state=0
    ),
    HistGradientBoostingRegressor(max_iter=3, random_state=0),
    HuberRegressor(max_iter=1000),
    KNeighborsClassifier(),
    KNeighborsClassifier(algorithm="ball_tree", metric="manhattan"),
    KNeighborsClassifier(algorithm="brute"),
    KNeighborsRegressor(algorithm="kd_tree", p=3, weights="distance"),
    KNeighborsRegressor(metric="chebyshev"),
    Lasso(),
    LinearDiscriminantAnalysis(),
    LinearRegression(),
    LinearSVR(random_state=0),
    LogisticRegression(),
    MLPClassifier([5], max_iter=5, random_state=0),
    MLPClassifier([5], solver="sgd", max_iter=5, random_state=0),
    MLPRegressor(hidden_layer_sizes=[5], solver="lbfgs", max_iter=5, random_state=0),
    MultinomialNB(),
    NuSVR(),
    OneVsRestClassifier(LogisticRegression()),
    PoissonRegressor(),
    QuadraticDiscriminantAnalysis(),
    QuantileRegressor(),
    RandomForestClassifier(3, random_state=0),
    RandomForestRegressor(3, random_state=0),
    Ridge(),
    RidgeCV(),
    SGDClassifier(loss="log_loss", random_state=0),
    SGDClassifier(loss="modified_huber", random_state=0),
    SGDRegressor(random_state=0),
    SVR(),
    StackingClassifier([("linear", LogisticRegression()), ("trees", RandomForestClassifier(3, random_state=0))], cv=2),
    VotingClassifier(
        [("linear", LogisticRegression()), ("trees", RandomForestClassifier(3, random_state=0))], voting="soft"
    ),
    CalibratedClassifierCV(SVC(), cv=2),
    CalibratedClassifierCV(NuSVC(), cv=2),
    make_pipeline(StandardScaler(), PolynomialFeatures(), LogisticRegression()),
    make_pipeline(QuantileTransformer(n_quantiles=20), RobustScaler(), Ridge()),
    make_pipeline(KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"), LogisticRegression()),
    make_pipeline(
        ColumnTransformer([("category", OneHotEncoder(handle_unknown="ignore"), [0])], remainder="passthrough"),
        GradientBoostingClassifier(n_estimators=3, random_state=0),
    ),
]


def fitted(estimator: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations are enough here
        return sklearn.base.clone(estimator).fit(X, CLASSES if sklearn.base.is_classifier(estimator) else VALUES)


def answers(estimator: Any) -> Any:
    return estimator.predict_proba(X) if sklearn.base.is_classifier(estimator) else estimator.predict(X)


@pytest.mark.parametrize(
    "estimator",
    [pytest.param(estimator, id=f"{type(estimator).__name__}-{number}") for number, estimator in enumerate(ESTIMATORS)],
)
def test_an_estimator_comes_back_as_it_was(estimator: Any) -> None:
    there = fitted(estimator)
    assert np.array_equal(answers(there), answers(load(dump(there))))


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(3, random_state=0),
        HistGradientBoostingClassifier(max_iter=3, categorical_features=[0], random_state=0),
        KNeighborsRegressor(),
        make_pipeline(StandardScaler(), MLPClassifier([5], max_iter=5, random_state=0)),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_same_fit_has_the_same_bytes(estimator: Any) -> None:
    first, hold = dump(fitted(estimator)), np.full(1 << 16, 255, np.uint8)  # other memory, with other rests in it
    del hold
    assert dump(fitted(estimator)) == first


def test_an_isotonic_regression_comes_back() -> None:
    there = IsotonicRegression(out_of_bounds="clip").fit(X[:, 1], VALUES)
    assert np.array_equal(load(dump(there)).predict(X[:, 1]), there.predict(X[:, 1]))


def own(values: Any) -> Any:
    return values


class Own(sklearn.base.BaseEstimator, sklearn.base.RegressorMixin):  # type: ignore[misc]
    def fit(self, X: Any, y: Any) -> "Own":
        return self


@pytest.mark.parametrize(
    ("estimator", "named"),
    [
        (make_pipeline(FunctionTransformer(own), Ridge()), "own"),
        (Own(), "Own"),
        (KNeighborsRegressor(weights=own), "own"),
    ],
    ids=["function", "class", "weights"],
)
def test_what_could_not_be_read_back_is_refused_when_it_is_saved(estimator: Any, named: str) -> None:
    with pytest.raises(ArtifactError, match=rf"(?s)safe to read back.*{named}"):
        dump(estimator.fit(X, VALUES))


def test_a_classifier_without_probabilities_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"(?s)predict_proba.*CalibratedClassifierCV\(LinearSVC"):
        dump(LinearSVC().fit(X, CLASSES))


# ------------------------------------------------------------------------------------------------------ crafted files


def crafted(estimator: Any, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> dict[str, bytes]:
    """The files of an estimator after `change` of the schema and the members of its archive."""
    with ZipFile(io.BytesIO(dump(estimator)[SKOPS_FILE])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members["schema.json"])
    change(schema, members)
    members["schema.json"] = json.dumps(schema).encode()
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return {SKOPS_FILE: buffer.getvalue()}


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    path = tmp_path / "payload-ran"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists(), "the payload must work, or the tests show nothing"
    path.unlink()
    return path


def test_a_pickle_in_an_array_does_not_run(mark: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(mark)], dtype=object), allow_pickle=True)

    def change(schema: dict[str, Any], members: dict[str, bytes]) -> None:
        members["1.npy"] = buffer.getvalue()

    with pytest.raises(UnsafeArtifact, match="pickle"):
        load(crafted(Ridge().fit(X, VALUES), change))
    assert not mark.exists()


def test_a_pickle_among_the_members_does_not_run(mark: Path) -> None:
    def change(schema: dict[str, Any], members: dict[str, bytes]) -> None:
        members["more.pkl"] = pickle.dumps(Payload(mark))

    with pytest.raises(UnsafeArtifact, match=r"more\.pkl"):
        load(crafted(Ridge().fit(X, VALUES), change))
    assert not mark.exists()


def test_a_pickle_in_the_place_of_the_file_does_not_run(mark: Path) -> None:
    with pytest.raises(ArtifactError, match="does not read"):
        load({SKOPS_FILE: pickle.dumps(Payload(mark))})
    assert not mark.exists()


JSON_NODE = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "is_json": True}


def node(loader: str, name: str, **more: Any) -> dict[str, Any]:
    module, _, last = name.rpartition(".")
    return {"__class__": last, "__module__": module, "__loader__": loader, **more}


def arguments(text: str) -> dict[str, Any]:
    return node("TupleNode", "builtins.tuple", content=[{**JSON_NODE, "content": json.dumps(text)}])


@pytest.mark.parametrize(
    "payload",
    [
        lambda text: node("ConstructorFromReduceNode", "os.system", content=arguments(text)),
        lambda text: node(
            "LossNode",
            "os.system",
            content=node(
                "DictNode", "builtins.dict", content={}, key_types=node("ListNode", "builtins.list", content=[])
            ),
            __reduce__={"args": arguments(text)},
        ),
        lambda text: node("OperatorFuncNode", "operator.methodcaller", attrs=arguments(text)),
        lambda text: node("FunctionNode", "os.system", content={"module_path": "os", "function": "system"}),
        lambda text: node("ObjectNode", "subprocess.Popen", content=arguments(text)),
    ],
    ids=["constructor", "loss", "operator", "function", "object"],
)
def test_a_type_that_is_not_trusted_does_not_run(payload: Callable[[str], dict[str, Any]], mark: Path) -> None:
    def change(schema: dict[str, Any], members: dict[str, bytes]) -> None:
        schema["content"]["content"]["alpha"] = payload(f"touch {mark}")

    with pytest.raises(ArtifactError) as caught:
        load(crafted(Ridge().fit(X, VALUES), change))
    assert isinstance(caught.value, UnsafeArtifact), str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("length", [0, 10, 400, -30])
def test_a_truncated_file_is_a_named_error(length: int) -> None:
    with pytest.raises(ArtifactError, match="does not read"):
        load({SKOPS_FILE: dump(Ridge().fit(X, VALUES))[SKOPS_FILE][:length]})


def test_a_missing_file_is_a_named_error() -> None:
    with pytest.raises(ArtifactError, match=SKOPS_FILE):
        load({})


# ------------------------------------------------------------------------------------------------------------- scores

FIELDS = (Field("code", "int64", cardinality=9), Field("rest", "float32", (5,)))
INPUTS = {"code": X[:, 0].astype(np.int64), "rest": X[:, 1:]}


def test_binary_scores_are_the_probability_of_the_second_class() -> None:
    estimator = LogisticRegression().fit(X, CLASSES > 0)
    scorer = read(dump(estimator), Manifest(family="sklearn", task="binary", classes=("no", "yes"), inputs=FIELDS))
    assert np.array_equal(scorer(INPUTS), estimator.predict_proba(X)[:, 1])


def test_a_class_that_was_not_among_the_rows_of_the_fit_has_no_probability() -> None:
    codes = np.where(CLASSES == 1, 3, CLASSES)
    estimator = LogisticRegression().fit(X, codes)
    scores = read(
        dump(estimator), Manifest(family="sklearn", task="multiclass", classes=("a", "b", "c", "d"), inputs=FIELDS)
    )(INPUTS)
    assert np.array_equal(scores[:, [0, 2, 3]], estimator.predict_proba(X))
    assert not scores[:, 1].any()


def test_regression_scores_are_the_values() -> None:
    estimator = Ridge().fit(X, VALUES[:, None])
    assert np.array_equal(
        read(dump(estimator), Manifest(family="sklearn", task="regression", inputs=FIELDS))(INPUTS),
        estimator.predict(X).ravel(),
    )


def test_an_estimator_for_another_task_is_refused() -> None:
    with pytest.raises(ArtifactError, match="predict_proba"):
        read(
            dump(Ridge().fit(X, VALUES)),
            Manifest(family="sklearn", task="binary", classes=(False, True), inputs=FIELDS),
        )
