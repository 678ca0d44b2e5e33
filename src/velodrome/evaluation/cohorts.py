"""The metric in each part of the rows: a model that is good on average may fail one carrier.

Design: a cohort is the rows with one value of one column. Each is judged by itself, by `bootstrap.estimate` on its
own rows, so a cohort's numbers do not depend on which others there are. One that cannot be judged says why; none is
left out.
Cost: all cohorts of one column together cost about one estimate on all rows.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from velodrome.core.errors import DataError, LabelError
from velodrome.evaluation.bootstrap import Estimate, estimate, unit_codes
from velodrome.evaluation.metrics import Metric, checked_rows

__all__ = ["CohortEstimate", "cohort_estimates"]


class CohortEstimate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metric where `column` is `value`.

    Attributes:
        share: of all rows, 0 to 1.
        estimate: None where the cohort was not judged; then `skipped` says why.
    """

    column: str
    value: str
    rows: int
    share: float
    estimate: Estimate | None
    skipped: str | None


def cohort_estimates(
    metric: Metric,
    target: ArrayLike,
    prediction: ArrayLike,
    cohorts: Mapping[str, ArrayLike],
    *,
    seed: int,
    smallest: int = 50,
    resamples: int = 1000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> tuple[CohortEstimate, ...]:
    """Every value of every column, in the order of the columns and of the text.

    Args:
        cohorts: for each column a text for each row.
        smallest: cohorts with fewer rows are skipped.

    Raises:
        LabelError, DataError, RecipeError: as `bootstrap.estimate`, but for a cohort of one class, which is skipped;
            DataError also for a column that is not one text for each row.
    """
    labels, predicted = checked_rows(metric.task, target, prediction)
    units = unit_codes(len(labels), groups)

    def judge(rows: NDArray[np.intp]) -> Estimate:
        if len(rows) < smallest:
            raise LabelError(f"fewer than {smallest} rows")
        return estimate(
            metric, labels[rows], predicted[rows], seed=seed, resamples=resamples, level=level, groups=units[rows]
        )

    return tuple(
        _cohort(column, value, rows, len(labels), judge)
        for column, texts in cohorts.items()
        for value, rows in _parts(column, texts, len(labels))
    )


def _cohort(
    column: str, value: str, rows: NDArray[np.intp], total: int, judge: Callable[[NDArray[np.intp]], Estimate]
) -> CohortEstimate:
    found, why = None, None
    try:
        found = judge(rows)
    except LabelError as error:
        why = error.problem
    return CohortEstimate(
        column=column, value=value, rows=len(rows), share=len(rows) / total, estimate=found, skipped=why
    )


def _parts(column: str, texts: ArrayLike, total: int) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """Each text of the column with the numbers of its rows, ascending."""
    given = np.asarray(texts, dtype=object)
    if given.shape != (total,) or not all(isinstance(text, str) for text in given):
        raise DataError(
            f"the cohort column {column!r} must be {total} texts, one for each row",
            received=f"an array of shape {given.shape} that begins with {given.ravel()[:3].tolist()}",
            remedy="write missing values as a text of their own, and numbers as ranges",
        )
    code_of = {value: code for code, value in enumerate(sorted(set(given)))}
    codes = np.fromiter((code_of[text] for text in given), dtype=np.intp, count=total)
    order, ends = codes.argsort(kind="stable"), np.bincount(codes).cumsum()
    return zip(code_of, np.split(order, ends[:-1]), strict=True)
