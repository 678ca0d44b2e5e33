from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from velodrome.core.digest import canonical, decode
from velodrome.core.errors import DataError, RecipeError, SchemaError
from velodrome.data.fields import Field
from velodrome.data.steps import MAXIMUM_ONEHOT, Calendar, Encode, Encoding, Impute, Scale, Step
from velodrome.data.transforms import Preparation, apply, fit_preparation

STEPS: list[Step] = [Calendar(), Encode(columns=["seats"]), Impute(indicator=True), Scale(), Encode()]
FEATURES = ["distance", "seats", "carrier", "scheduled", "day", "rain"]

ROW = st.fixed_dictionaries(
    {
        "distance": st.none() | st.floats(-1e6, 1e6) | st.just(float("nan")),
        "seats": st.none() | st.integers(-3, 3),
        "carrier": st.none() | st.sampled_from(["", "AA", "UA", "é", "MQ"]),
        "scheduled": st.none()
        | st.datetimes(datetime.fromisoformat("1960-01-01"), datetime.fromisoformat("2040-01-01")),
        "day": st.none() | st.dates(date(1960, 1, 1), date(2040, 1, 1)),
        "rain": st.none() | st.booleans(),
    }
)
SCHEMA = {
    "distance": pl.Float64,
    "seats": pl.Int64,
    "carrier": pl.String,
    "scheduled": pl.Datetime("us"),
    "day": pl.Date,
    "rain": pl.Boolean,
}
WHOLE: dict[str, Any] = {
    "distance": 10.0,
    "seats": 1,
    "carrier": "AA",
    "scheduled": datetime.fromisoformat("2013-01-01 05:15"),
    "day": date(2013, 1, 1),
    "rain": True,
}


def frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA)


def one(column: list[Any], steps: list[Step], encoding: Encoding = "codes") -> tuple[Preparation, dict[str, Any]]:
    """The preparation of a frame of one column `x`, and what it makes of that frame."""
    frame = pl.DataFrame({"x": column})
    preparation = fit_preparation(steps, frame, ["x"], encoding)
    return preparation, apply(preparation, frame)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=25)
@given(
    train=st.lists(ROW, min_size=1, max_size=12),
    later=st.lists(ROW, min_size=1, max_size=6),
    encoding=st.sampled_from(["codes", "onehot"]),
)
def test_a_preparation_survives_json_and_gives_each_row_what_it_gives_it_alone(
    train: list[dict[str, Any]], later: list[dict[str, Any]], encoding: Encoding
) -> None:
    preparation = fit_preparation(STEPS, frame_of([WHOLE, *train]), FEATURES, encoding)
    again = decode(canonical(preparation), Preparation)
    assert again == preparation
    assert canonical(again) == canonical(preparation)
    frame = frame_of(later)
    together = apply(again, frame)
    assert list(together) == [field.name for field in preparation.outputs]
    for field in preparation.outputs:
        values = together[field.name]
        assert values.dtype == field.dtype
        assert values.shape == (frame.height, *field.shape)
        alone = np.concatenate([apply(preparation, frame[i : i + 1])[field.name] for i in range(frame.height)])
        assert values.tobytes() == alone.tobytes()
        if field.cardinality is not None:
            assert values.min() >= 0
            assert values.max() < field.cardinality


@given(train=st.lists(ROW, min_size=1, max_size=12), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_columns_that_are_no_features_cannot_change_a_fit(train: list[dict[str, Any]], seed: int) -> None:
    frame = frame_of([WHOLE, *train])
    noise = pl.Series("label", np.random.default_rng(seed).normal(size=frame.height))
    fitted = fit_preparation(STEPS, frame, FEATURES, "codes")
    assert fit_preparation(STEPS, frame.insert_column(0, noise), FEATURES, "codes") == fitted


def test_applying_to_other_rows_teaches_a_preparation_nothing() -> None:
    preparation = fit_preparation(STEPS, frame_of([WHOLE, WHOLE]), FEATURES, "codes")
    before = canonical(preparation)
    apply(preparation, frame_of([WHOLE | {"carrier": "ZZ", "distance": -1e9, "seats": 99}]))
    assert canonical(preparation) == before


def test_fitting_does_not_depend_on_how_the_frame_is_chunked() -> None:
    values = np.random.default_rng(0).normal(size=10_000) * 1e5
    whole = pl.DataFrame({"x": values})
    pieces = pl.concat([whole[i : i + 777] for i in range(0, 10_000, 777)], rechunk=False)
    assert pieces.n_chunks() > 1
    assert fit_preparation([Scale()], whole, ["x"], "codes") == fit_preparation([Scale()], pieces, ["x"], "codes")


def test_impute_and_scale_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(5, 3, size=500)
    values[::7] = np.nan
    for strategy in ("median", "mean"):
        _, arrays = one(values.tolist(), [Impute(numeric=strategy), Scale()])
        filled = SimpleImputer(strategy=strategy).fit_transform(values[:, None])
        np.testing.assert_allclose(arrays["x"], StandardScaler().fit_transform(filled)[:, 0], rtol=1e-5, atol=1e-6)


def test_onehot_agrees_with_scikit_learn() -> None:
    values = np.random.default_rng(2).choice(["a", "b", "c"], size=50)
    _, arrays = one(values.tolist(), [Encode()], "onehot")
    np.testing.assert_array_equal(arrays["x"], OneHotEncoder(sparse_output=False).fit_transform(values[:, None]))


def test_ties_for_the_most_frequent_value_go_to_the_first_in_order() -> None:
    preparation, _ = one(["b", "a", "b", "a", None, "c"], [Impute(), Encode()])
    assert preparation.steps[0].texts == {"x": "a"}


def test_impute_takes_values_of_ones_own_and_flags_what_was_missing() -> None:
    frame = pl.DataFrame({"x": [1.0, None], "c": ["a", None], "full": [1, 2]})
    steps = [Impute(numeric=-1, categorical="?", indicator=True), Encode()]
    preparation = fit_preparation(steps, frame, frame.columns, "codes")
    arrays = apply(preparation, frame)
    assert arrays["x"].tolist() == [1.0, -1.0]
    assert arrays["c"].tolist() == [2, 1]
    assert arrays["x_missing"].tolist() == arrays["c_missing"].tolist() == [0.0, 1.0]
    assert list(arrays) == ["x", "c", "full", "x_missing", "c_missing"]


def test_a_constant_column_is_scaled_to_zeros() -> None:
    _, arrays = one([0.1] * 7, [Scale()])
    assert np.abs(arrays["x"]).max() < 1e-6


def test_unknown_rare_and_missing_categories_are_zero() -> None:
    preparation, arrays = one(["a", "a", "b", None], [Encode(minimum_count=2)])
    assert arrays["x"].tolist() == [1, 1, 0, 0]
    assert preparation.outputs == (Field("x", "int64", cardinality=2),)
    onehot, _ = one(["a", "b"], [Encode(to="onehot")])
    assert apply(onehot, pl.DataFrame({"x": ["z", None, "b"]}))["x"].tolist() == [[0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("count", [254, 255, 256, 257, 70_000])
def test_codes_do_not_overflow_at_the_borders_of_small_integers(count: int) -> None:
    names = [f"k{i:06d}" for i in range(count)]
    _, arrays = one(names, [Encode()])
    assert arrays["x"].tolist() == list(range(1, count + 1))


def test_whole_numbers_are_encoded_in_the_order_of_their_values() -> None:
    preparation, arrays = one([10, 9, -1, None], [Encode(columns=["x"])])
    assert preparation.steps[0].categories == {"x": ("-1", "9", "10")}
    assert arrays["x"].tolist() == [3, 2, 1, 0]


def test_calendar_gives_days_months_weekdays_and_hours() -> None:
    frame = pl.DataFrame(
        {
            "t": [datetime.fromisoformat("2013-03-01 23:00"), datetime.fromisoformat("2013-02-28 05:00")],
            "d": [date(1969, 12, 31), date(1970, 1, 2)],
        }
    )
    preparation = fit_preparation([Calendar()], frame, ["t", "d"], "codes")
    arrays = apply(preparation, frame)
    assert {name: values.tolist() for name, values in arrays.items()} == {
        "t_day": [1, 0],
        "t_month": [3, 2],
        "t_weekday": [5, 4],
        "d_day": [0, 2],
        "d_month": [12, 1],
        "d_weekday": [3, 5],
        "t_hour": [23, 5],
    }


def test_calendar_reads_other_zones_on_the_clock_of_training() -> None:
    times = pl.Series(
        [datetime.fromisoformat("2024-07-01 22:00"), datetime.fromisoformat("2024-07-02 03:00")]
    ).dt.replace_time_zone("UTC")
    paris = pl.DataFrame({"t": times.dt.convert_time_zone("Europe/Paris")})
    preparation = fit_preparation([Calendar()], paris, ["t"], "codes")
    assert preparation.columns[0].dtype == "datetime[Europe/Paris]"
    here, there = apply(preparation, paris), apply(preparation, pl.DataFrame({"t": times}))
    assert here["t_hour"].tolist() == there["t_hour"].tolist() == [0.0, 5.0]
    with pytest.raises(SchemaError, match="held datetime"):
        apply(preparation, pl.DataFrame({"t": times.dt.replace_time_zone(None)}))


def test_booleans_count_as_numbers() -> None:
    _, arrays = one([True, False, None], [Impute(numeric=0.5)])
    assert arrays["x"].tolist() == [1.0, 0.0, 0.5]


def test_codes_for_those_who_want_codes_and_onehot_for_those_who_want_that() -> None:
    assert one(["a", "b"], [Encode()], "onehot")[0].outputs[0].shape == (2,)
    assert one(["a", "b"], [Encode(to="codes")], "onehot")[0].outputs[0].cardinality == 3


@pytest.mark.parametrize(
    ("column", "steps", "error", "words"),
    [
        (["a", "b"], [], RecipeError, "add vd.Encode()"),
        ([date(2024, 1, 1)], [], RecipeError, "add vd.Calendar()"),
        ([1.0, None], [], DataError, "add vd.Impute()"),
        ([1.0, float("nan")], [Scale()], DataError, "add vd.Impute()"),
        ([1.0, float("inf")], [Scale()], DataError, "Between"),
        ([1.0, float("inf")], [], DataError, "infinite or beyond float32"),
        ([1.0, 1e300], [], DataError, "infinite or beyond float32"),
        ([None, float("nan")], [Impute()], DataError, "no value in the training rows"),
        (["a", "b"], [Encode(minimum_count=2)], DataError, "no category"),
        ([f"k{i}" for i in range(MAXIMUM_ONEHOT + 1)], [Encode(to="onehot")], DataError, "minimum_count"),
        ([1.0], [Scale(columns=["y"])], RecipeError, "known: x"),
        (["a"], [Scale(columns=["x"])], RecipeError, "'x' holds text"),
        ([1], [Scale(), Encode(columns=["x"])], RecipeError, "before scaling"),
        (["a"], [Encode(), Encode(columns=["x"])], RecipeError, "holds codes"),
        ([[1], [2]], [], SchemaError, "neither numbers, text nor times"),
        ([], [], DataError, "no training rows"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_the_remedy(
    column: list[Any], steps: list[Step], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        one(column, steps)
    assert words in str(caught.value)


def test_a_part_that_would_hide_a_column_is_refused() -> None:
    frame = pl.DataFrame({"t": [date(2024, 1, 1)], "t_day": [1]})
    with pytest.raises(RecipeError, match="there already"):
        fit_preparation([Calendar()], frame, ["t", "t_day"], "codes")


def test_a_column_named_like_the_counts_is_encoded_too() -> None:
    frame = pl.DataFrame({"rows": ["a", None], "value": ["b", None]})
    arrays = apply(fit_preparation([Impute(), Encode()], frame, frame.columns, "codes"), frame)
    assert {name: values.tolist() for name, values in arrays.items()} == {"rows": [1, 1], "value": [1, 1]}


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"n": [1.0], "x": [2], "c": pl.Series(["a"], dtype=pl.Categorical)}, [1.0, 2.0, 1]),
        ({"n": [True], "x": [False], "c": ["b"]}, [1.0, 0.0, 0]),
        ({"n": pl.Series([3], dtype=pl.Int8), "x": pl.Series([2.5], dtype=pl.Float32), "c": [None]}, [3.0, 2.5, 0]),
    ],
)
def test_columns_may_come_in_any_order_and_in_a_type_that_holds_the_same(
    given_: dict[str, Any], expected: list[float]
) -> None:
    train = pl.DataFrame({"n": [1, 2], "x": [0.5, 1.5], "c": ["a", "a"]})
    preparation = fit_preparation([Encode()], train, ["n", "x", "c"], "codes")
    arrays = apply(preparation, pl.DataFrame({"further": ["?"], **dict(reversed(given_.items()))}))
    assert [arrays[name].item() for name in ("n", "x", "c")] == expected


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"n": [1], "c": ["a"]}, "no column 'x'"),
        ({"n": [1], "xs": [1.0], "c": ["a"]}, "did you mean 'xs'"),
        ({"n": ["1"], "x": [1.0], "c": ["a"]}, "'n' held int64 in training"),
        ({"n": [1.5], "x": [1.0], "c": ["a"]}, "'n' held int64 in training"),
        ({"n": [float("inf")], "x": [1.0], "c": ["a"]}, "'n' held int64 in training"),
        ({"n": [1], "x": ["one"], "c": ["a"]}, "'x' held float64 in training"),
        ({"n": [1], "x": [1.0], "c": [7]}, "'c' held string in training"),
    ],
)
def test_a_missing_or_mistyped_column_is_named(given_: dict[str, Any], words: str) -> None:
    train = pl.DataFrame({"n": [1, 2], "x": [0.5, 1.5], "c": ["a", "a"]})
    preparation = fit_preparation([Encode()], train, ["n", "x", "c"], "codes")
    with pytest.raises(SchemaError) as caught:
        apply(preparation, pl.DataFrame(given_))
    assert words in str(caught.value)


def test_a_value_missing_for_the_first_time_is_refused_unless_a_step_fills_it() -> None:
    train, later = pl.DataFrame({"x": [1.0, 3.0]}), pl.DataFrame({"x": [None, 1.0]}, schema={"x": pl.Float64})
    with pytest.raises(DataError, match="misses 1 of 2 values"):
        apply(fit_preparation([], train, ["x"], "codes"), later)
    assert apply(fit_preparation([Impute()], train, ["x"], "codes"), later)["x"].tolist() == [2.0, 1.0]


def test_a_column_of_nothing_but_nulls_reads_as_missing() -> None:
    train = frame_of([WHOLE, WHOLE])
    preparation = fit_preparation(STEPS, train, FEATURES, "codes")
    nothing = pl.DataFrame({name: [None] for name in FEATURES})
    assert apply(preparation, nothing)["carrier"].tolist() == [1]


def test_no_rows_give_arrays_without_rows() -> None:
    preparation = fit_preparation(STEPS, frame_of([WHOLE, WHOLE]), FEATURES, "onehot")
    arrays = apply(preparation, frame_of([]))
    assert {values.shape[0] for values in arrays.values()} == {0}


def test_the_arrays_may_be_written_to() -> None:
    _, arrays = one([1.0, 2.0], [])
    assert arrays["x"].flags.writeable


def test_times_keep_their_day_over_many_years() -> None:
    start = datetime.fromisoformat("2013-01-01")
    times = [start + timedelta(hours=37 * i) for i in range(2000)]
    _, arrays = one(times, [Calendar()])
    assert arrays["x_day"].tolist() == [(t.date() - start.date()).days for t in times]
    assert arrays["x_weekday"].tolist() == [t.isoweekday() for t in times]
