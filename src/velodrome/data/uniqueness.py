"""Uniqueness: which rows repeat an earlier one, over the key columns of all files together.

It is judged after the rules that look at single rows, so that a row in quarantine never keeps a good one out.
Cost: one hash table over the key columns for each rule; nothing per column that is no key.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.data.contracts import Unique, names_of
from velodrome.data.conversion import is_present
from velodrome.data.judging import EXAMPLES, Violation
from velodrome.data.schema import require_column

__all__ = ["Repeats", "find_repeats", "unique_columns"]


@dataclass(frozen=True, slots=True)
class Repeats:
    """Rows that repeat an earlier one.

    Attributes:
        rows: for each frame the row numbers (from 0, ascending, int64) that are excluded.
        reasons: for each frame why, one text for each row; it names the columns, whose values the row has.
    """

    rows: tuple[npt.NDArray[np.int64], ...]
    reasons: tuple[tuple[str, ...], ...]
    violations: tuple[Violation, ...]


def find_repeats(rules: Iterable[Unique], frames: Sequence[pl.DataFrame]) -> Repeats:
    """Apply Unique rules to rows that lie in several frames.

    Args:
        frames: with the columns that the rules name, in the order that decides which row is the first; at least one.
    """
    whole = pl.concat(frames)
    reasons: dict[int, str] = {}
    violations = []
    for rule in rules:
        keys = whole.select(names_of(rule.columns))
        repeated = _repeated(keys, excluded=list(reasons))
        if not len(repeated):
            continue
        named = ", ".join(keys.columns)
        told = _tell(keys[repeated[:EXAMPLES]], named)
        violations.append(Violation(f"unique({named})", rule.action, len(repeated), told))
        if rule.action == "quarantine":
            reasons |= dict.fromkeys(repeated.tolist(), f"{named} was there before")
    return _by_frame(reasons, [frame.height for frame in frames], tuple(violations))


def unique_columns(rules: Iterable[Unique], known: Collection[str]) -> tuple[str, ...]:
    """The columns that Unique rules look at, each once.

    Raises:
        SchemaError: one of them is not among the `known` columns.
    """
    names = tuple(dict.fromkeys(name for rule in rules for name in names_of(rule.columns)))
    for name in names:
        require_column(name, known, "vd.Unique")
    return names


def _repeated(keys: pl.DataFrame, excluded: Sequence[int]) -> npt.NDArray[np.int64]:
    """The row numbers whose key was there before, among the complete keys of rows that are not excluded; ascending."""
    complete = keys.select(pl.all_horizontal(is_present(pl.col(name), dtype) for name, dtype in keys.schema.items()))
    usable = complete.to_series()
    if not excluded and usable.all():
        if keys.n_unique() == keys.height:  # the usual case, at less than half the price of finding the first of each
            return np.empty(0, dtype=np.int64)
        return _later(keys)
    wanted = usable.to_numpy(writable=True)
    wanted[list(excluded)] = False
    rows = np.flatnonzero(wanted)
    return rows[_later(keys[rows])]


def _later(keys: pl.DataFrame) -> npt.NDArray[np.int64]:
    """The row numbers that are not the first of their key, ascending."""
    key = pl.col(keys.columns[0]) if keys.width == 1 else pl.struct(keys.columns)
    later = keys.lazy().with_row_index("__row").filter(~key.is_first_distinct()).select("__row")
    return later.collect().to_series().to_numpy().astype(np.int64)


def _tell(keys: pl.DataFrame, named: str) -> tuple[str, ...]:
    values = pl.concat_str(pl.all().cast(pl.String), separator=", ")
    return tuple(keys.select(pl.format("{}: {} was there before", pl.lit(named), values)).to_series())


def _by_frame(reasons: dict[int, str], heights: Sequence[int], violations: tuple[Violation, ...]) -> Repeats:
    rows = np.array(sorted(reasons), dtype=np.int64)
    ends = np.cumsum(heights)
    parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
    starts = ends - np.array(heights)
    return Repeats(
        rows=tuple(part - start for part, start in zip(parts, starts, strict=True)),
        reasons=tuple(tuple(reasons[row] for row in part.tolist()) for part in parts),
        violations=violations,
    )
