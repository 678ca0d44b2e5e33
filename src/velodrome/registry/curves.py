"""Curves for people: a series with no more points than can be seen, and every spike of it.

The steps are cut into equal buckets, and of each the first, the lowest, the highest and the last point are kept, as in
Jugel, Jerzak, Hackenbroich and Markl, "M4: A Visualization-Oriented Time Series Data Aggregation", PVLDB 7(10), 2014, who
show that a line drawn through these is, pixel for pixel, that through all points where a bucket is a column of pixels. What
is no finite number has no place in their order: the first such point of a bucket is kept beside them, so that it is seen.
Cost: a few passes in numpy, 30 ms for a million points, after the blocks of the series were read.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from velodrome.core.errors import ConfigurationError
from velodrome.registry.series import read_series
from velodrome.store.workspace import Workspace

__all__ = ["Curve", "read_curve", "thin"]

_Steps = npt.NDArray[np.int64]
_Values = npt.NDArray[np.float64]


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """A series as it is drawn.

    Attributes:
        steps, values: int64 (m,), strictly increasing, and float64 (m,): points of the series, all or the telling ones.
        recorded: how many points the series has.
    """

    steps: _Steps
    values: _Values
    recorded: int


def read_curve(ws: Workspace, run: str, name: str, points: int = 1000) -> Curve:
    """A series of a run in at most so many points: the first, the last, the extremes and every spike are among them.

    Raises:
        NotFound: the run has no such series; the nearest is named.
        ConfigurationError: fewer than 5 points.
        IntegrityError: a block is not what was written.
    """
    steps, values = read_series(ws, run, name)
    thin_steps, thin_values = thin(steps, values, points)
    return Curve(steps=thin_steps, values=thin_values, recorded=len(steps))


def thin(steps: _Steps, values: _Values, points: int = 1000) -> tuple[_Steps, _Values]:
    """At most so many of the points (steps strictly increase): of each bucket of steps those that tell.

    In a bucket that holds finite numbers the lowest and the highest of them are kept, the earliest of equals.

    Raises:
        ConfigurationError: fewer than 5 points.

    >>> steps, values = thin(np.arange(10_000), np.eye(1, 10_000, 4321)[0], points=8)
    >>> steps.tolist()
    [0, 4321, 4999, 5000, 9999]
    """
    if points < 5:
        raise ConfigurationError("a curve has 5 points or more", received=points)
    if len(steps) <= points:
        return steps, values
    finite = np.isfinite(values)
    bucket = _buckets(steps, points // 4 if finite.all() else points // 5)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    telling = [starts, np.append(starts[1:], len(steps)) - 1, _first_of_each(bucket, ~finite)]
    for extreme, worst in ((np.minimum, np.inf), (np.maximum, -np.inf)):
        ranked = np.where(finite, values, worst)
        best = extreme.reduceat(ranked, starts)
        telling.append(_first_of_each(bucket, ranked == best[bucket]))
    kept = np.unique(np.concatenate(telling))
    return steps[kept], values[kept]


def _buckets(steps: _Steps, count: int) -> _Steps:
    """The bucket of each step, int64 (n,): from 0 on, without those that hold no step."""
    past = steps.astype(np.float64) - float(steps[0])
    bucket = np.minimum(past * (count / (past[-1] + 1)), count - 1).astype(np.int64)
    return np.cumsum(np.diff(bucket, prepend=bucket[0]) > 0)


def _first_of_each(bucket: _Steps, wanted: npt.NDArray[np.bool_]) -> _Steps:
    """The places of the first wanted point of each bucket that has one."""
    places = np.flatnonzero(wanted)
    return places[np.diff(bucket[places], prepend=-1) > 0]
