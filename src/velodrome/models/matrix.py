"""Prepared inputs as the one matrix that scikit-learn's estimators take."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from velodrome.data.fields import Field, width

__all__ = ["as_matrix"]


def as_matrix(fields: Sequence[Field], inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The inputs side by side in the order of the fields.

    Args:
        inputs: by field name, (rows, *shape). Codes must lie below 2**24, where float32 still tells them apart.

    Returns:
        float32, (rows, sum of the fields' widths), in C order.
    """
    rows = len(inputs[fields[0].name])
    matrix = np.empty((rows, sum(map(width, fields))), dtype=np.float32)
    column = 0
    for field in fields:
        matrix[:, column : column + width(field)] = inputs[field.name].reshape(rows, width(field))
        column += width(field)
    return matrix
