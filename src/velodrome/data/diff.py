"""What differs between two snapshots: fragments, schema, counts, profiles and, where there is a key, rows.

Shared fragments have equal rows, so only the others are read. Cost: two manifests; with a key a join of the rows in
fragments that are not shared.
"""

from collections.abc import Iterator, Sequence

import msgspec
import polars as pl

from velodrome.core.digest import Digest
from velodrome.data.profile import ColumnProfile, Profile
from velodrome.data.schema import DTYPES, Column
from velodrome.data.snapshots import Snapshot, fragments_of, require_rows, scan_use
from velodrome.store.ledger import digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = ["ProfileChange", "RowCounts", "SnapshotDiff", "TypeChange", "changed_rows", "compare_rows", "diff"]


_AFTER = "__after"


class TypeChange(msgspec.Struct, frozen=True):
    """A column that is there in both snapshots, in two types."""

    name: str
    before: str
    after: str


class ProfileChange(msgspec.Struct, frozen=True):
    """A column that is there in both snapshots and does not look the same."""

    name: str
    before: ColumnProfile
    after: ColumnProfile


class RowCounts(msgspec.Struct, frozen=True):
    """How many keys came, went, or kept their row but not its values."""

    added: int
    removed: int
    changed: int


class SnapshotDiff(msgspec.Struct, frozen=True, kw_only=True):
    """The way from one snapshot to another.

    Attributes:
        rows: before and after.
        added_files, removed_files: the files of the fragments that are in one of them only.
        shared: how many fragments are in both.
        keys: changes by key, or None where the two have no key in common.
    """

    before: Digest
    after: Digest
    rows: tuple[int, int]
    quarantined: tuple[int, int]
    shared: int
    added_files: tuple[str, ...]
    removed_files: tuple[str, ...]
    added_columns: tuple[Column, ...]
    removed_columns: tuple[Column, ...]
    retyped: tuple[TypeChange, ...]
    profiles: tuple[ProfileChange, ...]
    keys: RowCounts | None

    @property
    def is_empty(self) -> bool:
        """Whether the two snapshots are one."""
        return self.before == self.after

    def lines(self) -> list[tuple[str, str]]:
        """What and "before → after", for a person; empty when the snapshots are the same."""
        return [] if self.is_empty else list(_lines(self))


def diff(ws: Workspace, before: Snapshot, after: Snapshot) -> SnapshotDiff:
    """Compare two snapshots, of one dataset or of two."""
    old, new = {column.name: column for column in before.columns}, {column.name: column for column in after.columns}
    both = [name for name in old if name in new]
    names = {use.fragment for use in before.fragments}, {use.fragment for use in after.fragments}
    rows = changed_rows(ws, before, after)
    kinds = [] if rows is None else rows["change"].to_list()
    return SnapshotDiff(
        before=digest_record(before),
        after=digest_record(after),
        rows=(before.rows, after.rows),
        quarantined=(before.quarantined, after.quarantined),
        shared=len(names[0] & names[1]),
        added_files=tuple(one.file for one in fragments_of(ws, after) if one.name not in names[0]),
        removed_files=tuple(one.file for one in fragments_of(ws, before) if one.name not in names[1]),
        added_columns=tuple(column for name, column in new.items() if name not in old),
        removed_columns=tuple(column for name, column in old.items() if name not in new),
        retyped=tuple(TypeChange(name, old[name].dtype, new[name].dtype) for name in both if old[name] != new[name]),
        profiles=_profile_changes(ws, before, after),
        keys=None if rows is None else RowCounts(*(kinds.count(kind) for kind in ("added", "removed", "changed"))),
    )


def changed_rows(ws: Workspace, before: Snapshot, after: Snapshot) -> pl.DataFrame | None:
    """Which keys came, went or changed, or None where the two snapshots have no key in common.

    Of a key that is there several times the first row counts.

    Returns:
        The columns change ("added", "removed" or "changed"), key, and columns: the names of those whose values changed, among
        those that both snapshots have; ordered by change, then by key.

    Raises:
        Gone: one of them was collected.
    """
    key = before.key
    if key is None or key != after.key:
        return None
    for snapshot in (before, after):
        require_rows(ws, snapshot)
    types = {column.name: column.dtype for column in before.columns}
    common = [column.name for column in after.columns if types.get(column.name) == column.dtype and column.name != key]
    old, new = _own_rows(ws, before, after, [key, *common]), _own_rows(ws, after, before, [key, *common])
    if old.schema[key] != new.schema[key]:
        old, new = (rows.with_columns(pl.col(key).cast(pl.String)) for rows in (old, new))
    return compare_rows(old, new, key)


def compare_rows(old: pl.DataFrame, new: pl.DataFrame, key: str) -> pl.DataFrame:
    """As `changed_rows`, for two frames with the same columns."""
    old, new = (rows.unique(subset=key, keep="first", maintain_order=True) for rows in (old, new))
    pairs = old.join(new, on=key, how="inner", nulls_equal=True, suffix=_AFTER)
    differs = [
        pl.when(pl.col(name).ne_missing(pl.col(f"{name}{_AFTER}"))).then(pl.lit(name))
        for name in old.columns
        if name != key
    ]
    changed = pl.concat_str(differs, separator=", ", ignore_nulls=True) if differs else pl.lit("")
    parts = {
        "added": new.join(old, on=key, how="anti", nulls_equal=True).select(key, columns=pl.lit("")),
        "removed": old.join(new, on=key, how="anti", nulls_equal=True).select(key, columns=pl.lit("")),
        "changed": pairs.select(key, columns=changed).filter(pl.col("columns") != ""),
    }
    told = [rows.select(pl.lit(kind).alias("change"), key, "columns") for kind, rows in parts.items()]
    return pl.concat(told).sort("change", key)


def _own_rows(ws: Workspace, mine: Snapshot, other: Snapshot, columns: Sequence[str]) -> pl.DataFrame:
    """The rows of the fragments that only one of the snapshots has; of the others nothing is read."""
    types = {column.name: DTYPES[column.dtype] for column in mine.columns}
    parts = [scan_use(ws, mine, use).select(columns).collect() for use in mine.fragments if use not in other.fragments]
    return pl.concat([pl.DataFrame(schema={name: types[name] for name in columns}), *parts])


def _profile_changes(ws: Workspace, before: Snapshot, after: Snapshot) -> tuple[ProfileChange, ...]:
    old, new = (
        {column.name: column for column in read_record(ws.ledger, snapshot.profile, Profile).columns}
        for snapshot in (before, after)
    )
    return tuple(ProfileChange(name, old[name], new[name]) for name in old if name in new and old[name] != new[name])


def _lines(found: SnapshotDiff) -> Iterator[tuple[str, str]]:
    yield "rows", f"{found.rows[0]} → {found.rows[1]}"
    yield "in quarantine", f"{found.quarantined[0]} → {found.quarantined[1]}"
    yield "files in both", str(found.shared)
    yield from (("file added", file) for file in found.added_files)
    yield from (("file removed", file) for file in found.removed_files)
    yield from ((f"column {column.name}", f"– → {column.dtype}") for column in found.added_columns)
    yield from ((f"column {column.name}", f"{column.dtype} → –") for column in found.removed_columns)
    yield from ((f"type of {change.name}", f"{change.before} → {change.after}") for change in found.retyped)
    if found.keys is not None:
        yield "rows by key", f"{found.keys.added} added, {found.keys.removed} removed, {found.keys.changed} changed"
    for change in found.profiles:
        for what in ("mean", "nulls"):
            old, new = getattr(change.before, what), getattr(change.after, what)
            if old != new:
                yield f"{what} of {change.name}", f"{_shown(old)} → {_shown(new)}"


def _shown(number: float | None) -> str:
    return "–" if number is None else f"{number:.6g}"
