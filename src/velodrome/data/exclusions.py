"""Exclusions: the rows of a fragment that a snapshot leaves out because they repeat another, as a blob of JSON.

Cost: a few bytes and one filter per excluded row; nothing where there are none.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.core.digest import Digest, canonical, decode
from velodrome.store.workspace import Workspace

__all__ = ["Exclusions", "put_exclusions", "read_exclusions", "without"]


class Exclusions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Row numbers in a fragment, from 0, ascending, and a reason for each."""

    rows: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()


def put_exclusions(ws: Workspace, rows: npt.NDArray[np.int64], reasons: Sequence[str]) -> Digest | None:
    """Store exclusions; None where there are none."""
    if not len(rows):
        return None
    return ws.blobs.put(canonical(Exclusions(tuple(rows.tolist()), tuple(reasons)))).digest


def read_exclusions(ws: Workspace, digest: Digest | None) -> Exclusions:
    """The exclusions of that blob; none where there is no blob."""
    return Exclusions() if digest is None else decode(ws.blobs.read(digest), Exclusions)


def without(rows: pl.LazyFrame, excluded: Exclusions) -> pl.LazyFrame:
    """The rows of a fragment that are not excluded, in their order."""
    if not excluded.rows:
        return rows
    out = pl.Series(excluded.rows, dtype=pl.UInt32).implode()
    return rows.with_row_index("__place").filter(~pl.col("__place").is_in(out)).drop("__place")
