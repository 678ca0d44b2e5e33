import numpy as np

from velodrome.data.fields import Field
from velodrome.models.matrix import as_matrix


def test_inputs_stand_side_by_side_in_the_order_of_the_fields() -> None:
    fields = (Field("carrier", "int64", cardinality=4), Field("origin", "float32", (2,)), Field("distance", "float32"))
    inputs = {"distance": np.float32([7, 8]), "origin": np.float32([[1, 0], [0, 1]]), "carrier": np.int64([3, 0])}
    matrix = as_matrix(fields, inputs)
    assert matrix.tolist() == [[3, 1, 0, 7], [0, 0, 1, 8]]
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous


def test_no_rows_make_an_empty_matrix() -> None:
    assert as_matrix(
        (Field("a", "float32"), Field("b", "float32", (3,))), {"a": np.empty(0), "b": np.empty((0, 3))}
    ).shape == (0, 4)
