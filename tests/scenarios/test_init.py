"""`init` and `run`, unedited, on files that the program has never seen."""

import datetime as dt
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from project import Project
from sklearn.datasets import load_diabetes, load_iris

pytestmark = pytest.mark.slow


def _houses() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    rows = 600
    area, year = rng.normal(100, 30, rows).clip(20), rng.integers(1900, 2020, rows)
    sold = [dt.date(2024, 1, 1) + dt.timedelta(days=int(day)) for day in rng.integers(0, 365, rows)]
    town = rng.choice(["north", "south", "east"], rows)
    price = area * 3000 + (year - 1900) * 500 + (town == "south") * 50_000 + rng.normal(0, 10_000, rows)
    frame = pl.DataFrame(
        {"House ID": range(1, rows + 1), "area": area, "built": year, "sold": sold, "town": town, "price": price}
    )
    holes = pl.Series(rng.random(rows) < 0.1)
    return frame.with_columns(
        area=pl.when(holes).then(None).otherwise("area"), town=pl.when(holes).then(None).otherwise("town")
    )


def _patients() -> pl.DataFrame:
    data = load_diabetes()
    frame = pl.DataFrame(data.data, schema=list(data.feature_names))
    return frame.with_columns(outcome=pl.Series(np.where(data.target > 140, "worse", "better")))


def _flowers() -> pl.DataFrame:
    data = load_iris()
    frame = pl.DataFrame(data.data, schema=["sepal length", "sepal width", "petal length", "petal width"])
    return frame.with_columns(species=pl.Series(data.target_names[data.target]))


FILES: dict[str, tuple[Callable[[], pl.DataFrame], str, str, str, float]] = {
    "houses.csv": (_houses, "price", "regression", "rmse", 70_000),
    "patients.csv": (_patients, "outcome", "binary", "roc_auc", 0.7),
    "flowers.parquet": (_flowers, "species", "multiclass", "accuracy", 0.85),
}


@pytest.mark.parametrize("name", FILES)
def test_a_first_recipe_runs_unedited(make_project: Callable[..., Project], name: str) -> None:
    make, label, task, metric, bound = FILES[name]
    project = make_project()
    frame = make()
    (frame.write_csv if name.endswith("csv") else frame.write_parquet)(project.folder / name)
    started = project.json("init", name, "--label", label, "--out", "first.py")
    assert started["task"] == task
    assert "House ID" not in started["features"]
    result = project.json("run", "first.py")
    value = result["report"]["metrics"][metric]["value"]
    assert value < bound if task == "regression" else value > bound
    model = name.split(".", maxsplit=1)[0]
    unlabelled = frame.drop(label)
    unlabelled.write_parquet(project.folder / "new.parquet")
    project.json("predict", model, "new.parquet", "--out", "out.csv")
    predicted = pl.read_csv(project.folder / "out.csv")
    assert predicted.height == frame.height
    if task == "regression":
        assert np.corrcoef(predicted["prediction"], frame[label])[0, 1] > 0.9
    else:
        assert (predicted["prediction"] == frame[label]).mean() > 0.75


def test_a_recipe_says_which_class_a_probability_is_of_and_a_prediction_too(project: Project) -> None:
    _patients().write_csv(project.folder / "patients.csv")
    project.json("init", "patients.csv", "--label", "outcome", "--out", "first.py")
    assert "task=\"binary\",  # `probability` is that of 'worse'" in (project.folder / "first.py").read_text()
    project.json("run", "first.py", "--set", "learner.estimator.max_iter=5")
    assert project.json("predict", "patients", "patients.csv", "--out", "out.csv")["probability_of"] == "worse"
    scored = pl.read_csv(project.folder / "out.csv")
    assert scored.filter(pl.col("probability") > 0.5)["prediction"].unique().to_list() == ["worse"]
    told = project.call("predict", "patients", "patients.csv", "--out", "out.csv").stdout
    assert "`probability` is that of 'worse'" in told


def test_names_that_python_would_read_otherwise_are_written_as_they_are(project: Project) -> None:
    rows = 60
    label, feature = 'a\\N"""b', "Größe 'in' \"m\""
    frame = pl.DataFrame({feature: np.arange(rows) % 7 / 2, label: ["x", "y", "z"] * (rows // 3)})
    frame.write_parquet(project.folder / "names.parquet")
    started = project.json("init", "names.parquet", "--label", label, "--out", "first.py")
    assert started["features"] == [feature]
    assert project.json("data", "check", "first.py")["rows"] == rows


def test_a_label_with_a_text_of_its_own_in_each_row_is_refused(project: Project) -> None:
    pl.DataFrame({"x": range(200), "note": [f"note {row}" for row in range(200)]}).write_csv(
        project.folder / "notes.csv"
    )
    said = project.error("init", "notes.csv", "--label", "note", "--out", "first.py")
    assert (said["error"], said["received"]) == ("LabelError", "nearly every row has its own text")
    assert not (project.folder / "first.py").exists()


def test_a_recipe_that_is_there_is_not_replaced(project: Project) -> None:
    said = project.error("init", "customers.csv", "--label", "churned")
    assert (said["error"], said["exit_code"]) == ("ConfigurationError", 2)
    assert "--force" in said["remedy"]


def test_a_label_that_is_not_there_names_the_nearest(project: Project) -> None:
    said = project.error("init", "customers.csv", "--label", "churn", "--out", "other.py")
    assert said["error"] == "NotFound"
    assert "churned" in said["remedy"]
    assert not (project.folder / "other.py").exists()
