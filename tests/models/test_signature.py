"""Inputs without a preparation: what a frame may look like, and what is refused."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from velodrome.core.errors import SchemaError
from velodrome.data.fields import Field
from velodrome.models.signature import read_inputs

NUMBER, CODE, ROW = Field("x", "float32"), Field("x", "int64"), Field("x", "float32", (2,))


@pytest.mark.parametrize(
    "values",
    [[1, 2], [1.0, 2.0], pl.Series([1, 2], dtype=pl.UInt8), pl.Series([1, 2], dtype=pl.Float32)],
    ids=["int64", "float64", "uint8", "float32"],
)
@pytest.mark.parametrize("field", [NUMBER, CODE], ids=["number", "code"])
def test_a_column_of_numbers(field: Field, values: Any) -> None:
    array = read_inputs([field], pl.DataFrame({"x": values, "other": ["a", "b"]}))["x"]
    assert array.tolist() == [1, 2]
    assert array.dtype == field.dtype


def test_booleans_are_numbers() -> None:
    assert read_inputs([NUMBER], pl.DataFrame({"x": [True, False]}))["x"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"x": [[1, 2], [3, 4]]}),
        pl.DataFrame({"x": np.array([[1.0, 2.0], [3.0, 4.0]])}),
        pl.DataFrame({"first": [1, 3], "second": [2.0, 4.0]}),
        pl.DataFrame({"x": [[1, 2], [3, 4]], "other": ["a", "b"]}),
    ],
    ids=["lists", "arrays", "side by side", "among others"],
)
def test_a_row_of_numbers(frame: pl.DataFrame) -> None:
    array = read_inputs([ROW], frame)["x"]
    assert array.tolist() == [[1, 2], [3, 4]]
    assert array.dtype == np.float32
    assert array.flags.c_contiguous


def test_images() -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    assert np.array_equal(read_inputs([Field("x", "float32", (3, 2, 2))], pl.DataFrame({"x": images}))["x"], images)


@pytest.mark.parametrize("field", [NUMBER, CODE, ROW], ids=["number", "code", "row"])
def test_no_rows(field: Field) -> None:
    column = pl.Series([], dtype=pl.Array(pl.Float32, 2) if field.shape else pl.Int32)
    assert read_inputs([field], pl.DataFrame({"x": column}))["x"].shape == (0, *field.shape)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (NUMBER, ["1", "2"]),
        (NUMBER, [1.0, None]),
        (NUMBER, [1.0, float("nan")]),
        (NUMBER, [1.0, 1e39]),
        (NUMBER, [[1.0], [2.0]]),
        (NUMBER, [None, None]),
        (NUMBER, [True, None]),
        (CODE, [1, None]),
        (CODE, [1.5, 2.0]),
        (CODE, [1.0, float("inf")]),
        (ROW, [[1, 2], [3]]),
        (ROW, [[1, 2, 3], [3, 4, 5]]),
        (ROW, [[1, None], [3, 4]]),
        (ROW, [["1", "2"], ["3", "4"]]),
        (ROW, [1.0, 2.0]),
    ],
)
def test_what_does_not_fit_is_refused_with_its_column_and_type(field: Field, values: Any) -> None:
    with pytest.raises(SchemaError, match=r"(?s)'x'.*received: "):
        read_inputs([field], pl.DataFrame({"x": values, "other": [0, 0]}))


@pytest.mark.parametrize("fields", [[NUMBER], [ROW], [NUMBER, Field("y", "float32")]], ids=["number", "row", "two"])
def test_a_missing_column_is_named(fields: list[Field]) -> None:
    with pytest.raises(SchemaError, match=r"(?s)takes a column '(x|y)'"):
        read_inputs(fields, pl.DataFrame({"z": [1.0], "w": [1.0], "v": [1.0]}))


@pytest.mark.parametrize("frame", [{"other": ["a"]}, {"image": ["[[1, 2], [3, 4]]"]}, {"image": [[[1.0, 2.0]] * 500]}])
def test_what_no_csv_file_can_hold_is_asked_for_as_an_array(frame: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match=r"\(rows, 1, 2, 2\).*predict\(\{'image': array\}\)") as said:
        read_inputs([Field("image", "float32", (1, 2, 2))], pl.DataFrame(frame))
    assert len(str(said.value)) < 500
