import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder

from velodrome.core.digest import canonical, decode
from velodrome.core.errors import LabelError
from velodrome.data.labels import MAXIMUM_INTEGER_CLASSES, LabelCoding, decode_labels, encode_labels, fit_labels

CLASSES = st.one_of(
    st.lists(st.booleans(), min_size=2),
    st.lists(st.integers(-(2**62), 2**62), min_size=2, max_size=MAXIMUM_INTEGER_CLASSES),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), min_size=2),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=2),
).filter(lambda values: len(set(values)) > 1)


@given(CLASSES)
def test_classes_go_there_and_back_through_json(values: list[object]) -> None:
    labels = pl.Series("late", values)
    coding = decode(canonical(fit_labels(labels)), LabelCoding)
    assert coding == fit_labels(labels)
    codes = encode_labels(coding, labels)
    assert codes.dtype == np.int64
    assert list(coding.classes) == sorted(set(values))
    assert decode_labels(coding, codes).to_list() == values
    assert decode_labels(coding, codes).dtype == labels.dtype


def test_codes_are_scikit_learns() -> None:
    values = ["b", "c", "a", "b"]
    coding = fit_labels(pl.Series(values))
    np.testing.assert_array_equal(encode_labels(coding, pl.Series(values)), LabelEncoder().fit_transform(values))


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([True, False], "binary"),
        (["a", "b"], "binary"),
        (["a", "b", "c"], "multiclass"),
        ([3, 7], "binary"),
        (list(range(MAXIMUM_INTEGER_CLASSES)), "multiclass"),
        (list(range(MAXIMUM_INTEGER_CLASSES + 1)), "regression"),
        ([0.0, 1.0], "binary"),
        ([0.0, 1.0, 2.0], "regression"),
    ],
)
def test_auto_reads_the_task_off_the_label(values: list[object], task: str) -> None:
    assert fit_labels(pl.Series(values)).task == task


def test_the_task_can_be_said() -> None:
    assert fit_labels(pl.Series([0, 1, 2]), "regression") == LabelCoding("regression")
    assert fit_labels(pl.Series([0.0, 1.0, 2.0]), "multiclass").classes == (0.0, 1.0, 2.0)


def test_regression_keeps_the_values() -> None:
    labels = pl.Series([1.5, -2.0, 1e9])
    coding = fit_labels(labels)
    np.testing.assert_array_equal(encode_labels(coding, labels), [1.5, -2.0, 1e9])
    assert decode_labels(coding, np.array([1.5])).to_list() == [1.5]


@pytest.mark.parametrize(
    ("labels", "task", "problem"),
    [
        (
            pl.Series("y", [1.0, None, float("nan"), float("inf")]),
            "auto",
            "'y' is missing or not finite in 3 of 4 rows",
        ),
        (pl.Series("y", ["a", None]), "auto", "in 1 of 2 rows"),
        (pl.Series("y", ["a", "a"]), "auto", "two or more distinct values"),
        (pl.Series("y", [2.5, 2.5]), "auto", "two or more distinct values"),
        (pl.Series("y", [], dtype=pl.Int64), "auto", "two or more distinct values"),
        (pl.Series("y", [0, 1, 2]), "binary", "has two classes"),
        (pl.Series("y", ["a", "b"]), "regression", "needs numbers"),
        (pl.Series("y", [[1], [2]]), "auto", "neither classes nor numbers"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(labels: pl.Series, task: str, problem: str) -> None:
    with pytest.raises(LabelError, match=problem):
        fit_labels(labels, task)


def test_integers_and_floats_stand_for_each_other_when_encoding() -> None:
    coding = fit_labels(pl.Series([0, 1]))
    assert encode_labels(coding, pl.Series([1.0, 0.0])).tolist() == [1, 0]
    with pytest.raises(LabelError, match="of no class") as caught:
        encode_labels(coding, pl.Series([1.0, 0.5]))
    assert caught.value.received == "0.5"


def test_a_class_that_was_not_there_in_training_is_refused() -> None:
    coding = fit_labels(pl.Series(["a", "b"]))
    with pytest.raises(LabelError, match="in 2 rows"):
        encode_labels(coding, pl.Series(["a", "z", "z"]))
    with pytest.raises(LabelError, match="another type"):
        encode_labels(coding, pl.Series([1, 2]))
    with pytest.raises(LabelError, match="missing"):
        encode_labels(coding, pl.Series(["a", None]))
