"""Easy rows first: how many of the easiest rows each epoch may draw from, as a function of the epoch and its first step.

Training begins with the easiest fraction of the rows and grows to all of them (Bengio, Louradour, Collobert and Weston,
"Curriculum learning", ICML 2009). The fraction follows the competence of Platanios et al. ("Competence-based curriculum
learning for neural machine translation", NAACL 2019), read once at the beginning of each epoch, so that an epoch is still
a permutation: of the rows that are eligible, each once. Only additions, products and square roots of float64 decide, which
round the same on every machine. Cost: one sort of the difficulties when the order is made; a few numbers for each epoch
until all rows take part.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velodrome.core.errors import DataError, NotFound, RecipeError, nearest
from velodrome.core.values import Value

__all__ = ["Curriculum", "easiest_first"]


class Curriculum(Value, frozen=True, kw_only=True, tag="curriculum"):
    """Train on the easiest rows first.

    Attributes:
        by: how difficult the rows are, larger is harder: a column of numbers, or a function from row ids, int64 (n,), to
            their difficulties (n,).
        start: the fraction of the rows in the first epoch, above 0.
        epochs, steps: after so many, all rows take part; exactly one of them is given. A pace by steps is read at the first
            step of each epoch, since an epoch never changes its rows half-way.
        pace: "root" grows fast first, so that new rows come at a rate inverse to those that are there: the square root of
            t (1 - start²) / T + start²; "linear" grows evenly.
    """

    by: str | Callable[..., Any]
    start: float = 0.1
    epochs: int | None = None
    steps: int | None = None
    pace: Literal["root", "linear"] = "root"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.start <= 1.0:
            raise RecipeError("Curriculum.start is above 0 and at most 1", received=self.start)
        if (self.epochs is None) == (self.steps is None) or self._length < 1:
            raise RecipeError(
                "Curriculum takes either epochs or steps, 1 or more, after which all rows take part",
                received=f"epochs={self.epochs}, steps={self.steps}",
            )

    @property
    def _length(self) -> int:
        return self.epochs if self.epochs is not None else self.steps or 0

    def fraction(self, epoch: int, step: int) -> float:
        """The fraction of rows, in (0, 1], of an epoch whose first step is `step`; never falls, and is 1 in the end.

        >>> Curriculum(by="length", start=0.25, epochs=3, pace="linear").fraction(1, step=40)
        0.5
        """
        passed = epoch if self.epochs is not None else step
        if passed >= self._length:
            return 1.0
        if self.pace == "linear":
            return self.start + (1.0 - self.start) * passed / self._length
        square = self.start * self.start
        return math.sqrt(square + (1.0 - square) * passed / self._length)

    def eligible(self, rows: int, epoch: int, step: int) -> int:
        """How many of `rows` take part in an epoch, 1 .. rows."""
        return min(rows, max(1, math.ceil(self.fraction(epoch, step) * rows)))


def easiest_first(
    curriculum: Curriculum, ids: ArrayLike, columns: Mapping[str, NDArray[Any]] | None = None
) -> NDArray[np.uint32]:
    """The ids ordered by difficulty, uint32 (rows,); of equally difficult rows the smaller id first.

    Args:
        ids: of the rows to train on.
        columns: by name the values of all rows, looked up by id: what a column in `by` may name.

    Raises:
        NotFound: there is no such column.
        DataError: the difficulties are not one real number for each row, or the function fails.
    """
    rows = np.asarray(ids, dtype=np.int64)
    difficulty = _difficulty(curriculum.by, rows, columns or {})
    if difficulty.shape != rows.shape or difficulty.dtype.kind not in "fiub" or np.isnan(difficulty).any():
        raise DataError(
            "a curriculum needs the difficulty of each row as a number",
            received=f"{difficulty.dtype} of shape {difficulty.shape} for {len(rows)} rows{_without(rows, difficulty)}",
            remedy="fill what is missing, or give by= a function from ids to numbers",
        )
    order = np.lexsort((rows, difficulty))
    return rows[order].astype(np.uint32)


def _difficulty(
    by: str | Callable[..., Any], rows: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]
) -> NDArray[Any]:
    if isinstance(by, str):
        if by not in columns:
            raise NotFound("the curriculum names a column that is not there", received=by, remedy=nearest(by, columns))
        return np.asarray(columns[by][rows])
    try:
        return np.asarray(by(rows))
    except Exception as error:
        raise DataError(
            f"the difficulty of the rows cannot be computed: {type(error).__name__}: {error}",
            received=f"{by.__module__}:{by.__qualname__} of {len(rows)} ids",
            remedy="mend the function; it takes row ids, int64 (n,), and returns n numbers",
        ) from error


def _without(rows: NDArray[np.int64], difficulty: NDArray[Any]) -> str:
    if difficulty.shape != rows.shape or difficulty.dtype.kind != "f":
        return ""
    missing = rows[np.isnan(difficulty)]
    return f"; none for rows {', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}"
