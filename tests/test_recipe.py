from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression

import velodrome as vd
from velodrome.core.errors import RecipeError
from velodrome.core.values import describe


def load() -> Any:
    raise AssertionError("a recipe loads no data")


def of_own(**changes: Any) -> vd.Recipe:
    given = {
        "data": vd.Dataset("rows", source=vd.Own(load)),
        "label": "y",
        "learner": vd.Sklearn(LogisticRegression()),
    }
    return vd.Recipe("model", **{**given, **changes})


def test_data_of_one_s_own_needs_no_features_and_may_name_some() -> None:
    assert of_own().features == ()
    assert of_own(features=["x"]).training_part()["features"] == ("x",)


def test_how_long_rows_are_waited_for_is_no_part_of_what_a_run_is_named_by() -> None:
    patient = of_own(data=vd.Dataset("rows", source=vd.Own(load, patience="3h")))
    assert describe(patient.training_part()) == describe(of_own().training_part())
    assert describe(patient) != describe(of_own())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prepare": [vd.Impute()]}, "comes prepared"),
        ({"evaluation": vd.Evaluation("roc_auc", cohorts=["city"])}, r"cohorts are taken from columns(.|\n)*city"),
        ({"features": ["x", "x"]}, "named twice"),
        ({"features": ["x", "y"]}, "would leak it"),
        ({"data": vd.Dataset("rows", source=vd.Files("*.csv"))}, "at least one feature"),
    ],
    ids=["prepare", "cohorts", "twice", "leak", "files without features"],
)
def test_what_does_not_fit_the_data_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        of_own(**changes)
