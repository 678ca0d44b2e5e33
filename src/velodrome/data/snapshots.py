"""Snapshots: a dataset frozen as a manifest of fragments. The same files under the same contract are the same snapshot.

A snapshot holds no time, no actor and no path, so its digest is the same on every machine; when it was taken, by whom and
after which other one stands in the events and edges. Files that were read before are not read again; fragments are shared
with every other snapshot that has them. Its rows are those of the fragments, ordered by file name, less repeated ones.
Cost: nothing but one look at each file when none changed; else the new files, and the key columns if something is Unique.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.core.digest import Digest, canonical, digest_bytes
from velodrome.core.errors import DataError, NotFound, SchemaError, nearest
from velodrome.core.values import Record, describe
from velodrome.data.contracts import Unique
from velodrome.data.dataset import Dataset
from velodrome.data.deliveries import Delivery, look
from velodrome.data.exclusions import put_exclusions, read_exclusions, without
from velodrome.data.fragments import (
    Fragment,
    accepted_places,
    derive_fragment,
    find_fragment,
    fragment_name,
    quarantined_rows,
    read_judged,
    recall_fragment,
    scan_fragment,
)
from velodrome.data.judging import REASON, ROW, Violation, refuse, total
from velodrome.data.keys import hash_places, hash_values
from velodrome.data.newest import publish
from velodrome.data.profile import (
    ColumnProfile,
    Profile,
    merge_profiles,
    merge_sketches,
    profile_frame,
    put_sketches,
    read_sketches,
    sketch_frame,
)
from velodrome.data.schema import DTYPES, Column, in_types, require_column, schema_of, unify
from velodrome.data.sources import list_files
from velodrome.data.uniqueness import Repeats, find_repeats, unique_columns
from velodrome.evaluation.sketches import ColumnSketch
from velodrome.store.ledger import Link, Put, digest_record, read_record
from velodrome.store.tombstones import require_kept, tombstone
from velodrome.store.workspace import Workspace

__all__ = [
    "CheckReport",
    "FragmentUse",
    "Snapshot",
    "Taken",
    "check",
    "find_snapshot",
    "fragment_of",
    "fragments_of",
    "freeze",
    "kept_places",
    "newest_snapshot",
    "quarantine",
    "read_columns",
    "require_rows",
    "row_keys",
    "scan",
    "scan_use",
    "take_snapshot",
]

_Figures: TypeAlias = tuple[tuple[ColumnProfile, ...], tuple[ColumnSketch, ...]]


class FragmentUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fragment in a snapshot.

    Attributes:
        fragment: its name; see `fragments_of` for the record.
        rows: how many of its rows are in the snapshot.
        excluded: blob with the others, which repeat a row of the snapshot, and why; None where there are none.
    """

    fragment: Digest
    rows: int
    excluded: Digest | None = None


class Snapshot(Record, frozen=True, kw_only=True, tag="snapshot"):
    """A dataset as it was.

    Attributes:
        rows, quarantined: rows in it, and rows kept aside (repeated ones among them).
        warnings: rows that break a rule whose action is to warn, counted once for each rule.
        violations: every broken rule with its rows; examples are with the fragments, since how a library writes a value
            must not change the digest.
        time_from, time_to: extremes of the time column, in that column's own zone; None without one.
        contract: blob of the contract's canonical JSON.
        profile: the Profile record.
    """

    format: Literal[1] = 1
    dataset: str
    key: str | None
    time: str | None
    fragments: tuple[FragmentUse, ...]
    columns: tuple[Column, ...]
    rows: int
    quarantined: int
    warnings: int
    violations: tuple[Violation, ...]
    time_from: datetime | None
    time_to: datetime | None
    contract: Digest
    profile: Digest

    @property
    def fragment_names(self) -> frozenset[Digest]:
        return frozenset(use.fragment for use in self.fragments)


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a contract says of a dataset's files as they are now: files, rows that pass, rows that would not, and why."""

    dataset: str
    files: int
    rows: int
    quarantined: int
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class _File:
    """The accepted rows of a file, not read yet."""

    name: str
    columns: tuple[Column, ...]
    rows: Callable[[], pl.LazyFrame]


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot, and what it took to make it: fragments derived now, and fragments that were there."""

    digest: Digest
    snapshot: Snapshot
    new_fragments: int
    reused: int


def take_snapshot(ws: Workspace, dataset: Dataset) -> Taken:
    """Freeze a dataset as it is now. Where nothing changed this finds the newest snapshot and writes nothing.

    Raises:
        SourceError: a file is missing, damaged, or changed while it was read.
        SchemaError: the contract, the key or the time do not fit the columns, or two files do not fit together.
        ContractError: a rule that stops is broken; what was recorded before stays as it was.
        DataError: no row is left.
    """
    with ws.writing():
        fragments, derived = _fragments(ws, dataset)
        return freeze(ws, dataset, fragments, derived)


def freeze(ws: Workspace, dataset: Dataset, fragments: Sequence[Fragment], derived: int) -> Taken:
    """The snapshot of these fragments in this order, now the newest of its dataset; `derived` of them are new.

    Raises:
        SchemaError, ContractError, DataError: as `take_snapshot`.
    """
    contract = canonical(describe(dataset.contract))
    snapshot = newest_snapshot(ws, dataset.name)
    if snapshot is None or not _is_of(snapshot, dataset, fragments, digest_bytes(contract)):
        snapshot = _compose(ws, dataset, fragments, ws.blobs.put(contract).digest)
        _publish(ws, snapshot)
    return Taken(digest_record(snapshot), snapshot, derived, len(fragments) - derived)


def check(ws: Workspace, dataset: Dataset) -> CheckReport:
    """Read every file and tell what the contract says; nothing is recorded, and a rule that stops is told like the others.

    Raises:
        SourceError, SchemaError: as `take_snapshot`.
    """
    deliveries: dict[Digest, Delivery] = {}
    for delivery in look(ws, list_files(ws, dataset.source)):
        deliveries.setdefault(delivery.digest, delivery)
    judged: list[tuple[int, int, tuple[Violation, ...]]] = []
    files: list[_File] = []
    with ws.progress.task("checking files", len(deliveries)) as task:
        for delivery in deliveries.values():
            found = read_judged(delivery, dataset.contract)
            judged.append((found.accepted.height, found.quarantined.height, found.violations))
            names = unique_columns(dataset.contract.unique_rules, found.accepted.columns)
            files.append(_File(delivery.name, schema_of(found.accepted), found.accepted.select(names).lazy))
            task.advance(note=delivery.name)
    _require_key_and_time(dataset, unify([(file.name, file.columns) for file in files]))
    repeats = _repeats(dataset.contract.unique_rules, files)
    repeated = sum(map(len, repeats.rows))
    return CheckReport(
        dataset=dataset.name,
        files=len(deliveries),
        rows=sum(rows for rows, _, _ in judged) - repeated,
        quarantined=sum(rows for _, rows, _ in judged) + repeated,
        violations=total([*(one for _, _, several in judged for one in several), *repeats.violations]),
    )


def newest_snapshot(ws: Workspace, name: str) -> Snapshot | None:
    """The newest snapshot of the dataset of that name, if one was taken of files."""
    pointer = ws.ledger.pointer(f"dataset:{name}")
    if not pointer or not pointer.value:
        return None
    stored = ws.ledger.get(pointer.value)
    own = stored is not None and stored.kind != Snapshot.kind()
    return None if own else read_record(ws.ledger, pointer.value, Snapshot)


def find_snapshot(ws: Workspace, reference: str) -> Snapshot:
    """The newest snapshot of a dataset's name, or the one whose digest begins with `reference`.

    Raises:
        NotFound: none, or several.
    """
    newest = newest_snapshot(ws, reference)
    if newest is not None:
        return newest
    known = [stored.digest for stored in ws.ledger.records(Snapshot.kind())]
    found = [digest for digest in known if digest.startswith(reference)] if reference else []
    if len(found) == 1:
        return read_record(ws.ledger, found[0], Snapshot)
    if found:
        raise NotFound(f"{len(found)} snapshots begin like this", received=reference, remedy="give more of the digest")
    names = [pointer.subject.removeprefix("dataset:") for pointer in ws.ledger.pointers("dataset:")]
    if reference in names:
        raise NotFound(
            "the newest snapshot of the dataset is one of data of one's own, of which no row is kept",
            received=reference,
        )
    raise NotFound("there is no such snapshot or dataset", received=reference, remedy=nearest(reference, names))


# -------------------------------------------------------------------------------------------------------------- reading


def fragment_of(ws: Workspace, use: FragmentUse) -> Fragment:
    """The record of a fragment that a snapshot has.

    Raises:
        NotFound: the snapshot belongs to another workspace.
    """
    fragment = find_fragment(ws, use.fragment)
    if fragment is None:
        raise NotFound(
            "a fragment of the snapshot is not in this ledger",
            received=use.fragment,
            remedy="is this the right workspace?",
        )
    return fragment


def fragments_of(ws: Workspace, snapshot: Snapshot) -> tuple[Fragment, ...]:
    """The fragments of a snapshot in its order; raises as `fragment_of` does."""
    return tuple(fragment_of(ws, use) for use in snapshot.fragments)


def require_rows(ws: Workspace, snapshot: Snapshot) -> None:
    """Raises Gone if the snapshot was collected."""
    digest = digest_record(snapshot)
    require_kept(ws.ledger, tombstone(digest), f"the snapshot {digest[:12]}")


def scan(ws: Workspace, snapshot: Snapshot) -> pl.LazyFrame:
    """All rows, lazily, always in the same order. The bytes of each fragment are verified before the first is read.

    Raises:
        Gone: the snapshot was collected.
    """
    require_rows(ws, snapshot)
    return pl.concat([scan_use(ws, snapshot, use) for use in snapshot.fragments])


def scan_use(ws: Workspace, snapshot: Snapshot, use: FragmentUse) -> pl.LazyFrame:
    """The rows that one fragment brings into a snapshot, in the snapshot's columns and types."""
    fragment = fragment_of(ws, use)
    rows = without(scan_fragment(ws, fragment), read_exclusions(ws, use.excluded))
    return rows.select(in_types(snapshot.columns, fragment.columns))


def read_columns(ws: Workspace, snapshot: Snapshot, columns: Sequence[str]) -> pl.DataFrame:
    """The named columns of all rows, in the snapshot's order.

    Raises:
        SchemaError: a name is no column.
    """
    known = [column.name for column in snapshot.columns]
    for name in columns:
        require_column(name, known, "the request")
    return scan(ws, snapshot).select(columns).collect()


def row_keys(ws: Workspace, snapshot: Snapshot) -> npt.NDArray[np.uint64]:
    """The number that identifies each row, uint64 (rows,): from its key, else from its file's bytes and its place in them.

    So it stays when another contract lets other rows in.

    Raises:
        DataError: a key is missing.
    """
    if snapshot.key is not None:
        return hash_values(read_columns(ws, snapshot, [snapshot.key])[snapshot.key])
    pairs = zip(snapshot.fragments, fragments_of(ws, snapshot), strict=True)
    return np.concatenate([hash_places(fragment.source, kept_places(ws, use)) for use, fragment in pairs])


def kept_places(ws: Workspace, use: FragmentUse) -> npt.NDArray[np.int64]:
    """The numbers in their file, from 1, of the rows that a fragment brings into a snapshot, int64 (rows,), ascending."""
    places = accepted_places(ws, fragment_of(ws, use))
    return np.delete(places, list(read_exclusions(ws, use.excluded).rows))


def quarantine(ws: Workspace, snapshot: Snapshot) -> pl.DataFrame:
    """The rows kept aside, with their values as they were delivered.

    Returns:
        The columns file, row (its number in the file, from 1) and reason, then those of the data. A column of the data with
        one of these names gets an underscore; one that has different types in different files comes as text.
    """
    require_rows(ws, snapshot)
    parts = [part for use in snapshot.fragments for part in _aside(ws, use)]
    names = [column.name for column in snapshot.columns]
    frames = [part.select("__file", ROW, REASON, *names) for part in parts]
    mixed = [name for name in names if len({frame.schema[name] for frame in frames}) > 1]
    own: dict[str, pl.DataType] = {"__file": pl.String(), ROW: pl.UInt32(), REASON: pl.String()}
    empty = pl.DataFrame(schema=own | {column.name: DTYPES[column.dtype] for column in snapshot.columns})
    whole = pl.concat([frame.cast(dict.fromkeys(mixed, pl.String)) for frame in frames]) if frames else empty
    ours = {"__file": "file", ROW: "row", REASON: "reason"}
    return whole.rename({name: f"{name}_" for name in names if name in ours.values()}).rename(ours)


def _aside(ws: Workspace, use: FragmentUse) -> Iterator[pl.DataFrame]:
    """The rows of one file that are kept aside: those that broke a rule by themselves, those that repeat another."""
    fragment = fragment_of(ws, use)
    named = pl.lit(fragment.file).alias("__file")
    refused = quarantined_rows(ws, fragment)
    if refused is not None:
        yield refused.with_columns(named)
    excluded = read_exclusions(ws, use.excluded)
    if excluded.rows:
        rows = list(excluded.rows)
        places = accepted_places(ws, fragment)[rows]
        told = (pl.Series(ROW, places, pl.UInt32), pl.Series(REASON, excluded.reasons), named)
        yield scan_fragment(ws, fragment).collect()[rows].with_columns(*told)


# --------------------------------------------------------------------------------------------------------------- taking


def _fragments(ws: Workspace, dataset: Dataset) -> tuple[list[Fragment], int]:
    """The fragment of each file, in the files' order, each once; and how many were derived now."""
    deliveries = look(ws, list_files(ws, dataset.source))
    newest = newest_snapshot(ws, dataset.name)
    held = newest.fragment_names if newest else frozenset()
    fragments: dict[Digest, Fragment] = {}
    derived = 0
    with ws.progress.task("reading files", len(deliveries)) as task:
        for delivery in deliveries:
            name = fragment_name(delivery.digest, dataset.contract)
            if name not in fragments:
                known = recall_fragment(ws, name, held)
                derived += known is None
                fragments[name] = known or derive_fragment(ws, delivery, dataset.contract)
            task.advance(note=delivery.name)
    return list(fragments.values()), derived


def _is_of(snapshot: Snapshot, dataset: Dataset, fragments: Sequence[Fragment], contract: Digest) -> bool:
    """Whether a snapshot is what the dataset would become now: a snapshot is a function of these."""
    same_rows = [use.fragment for use in snapshot.fragments] == [fragment.name for fragment in fragments]
    return same_rows and (snapshot.key, snapshot.time, snapshot.contract) == (dataset.key, dataset.time, contract)


def _compose(ws: Workspace, dataset: Dataset, fragments: Sequence[Fragment], contract: Digest) -> Snapshot:
    """The snapshot of these fragments; its blobs and profile are stored."""
    columns = unify([(fragment.file, fragment.columns) for fragment in fragments])
    _require_key_and_time(dataset, columns)
    files = [_File(one.file, one.columns, partial(scan_fragment, ws, one)) for one in fragments]
    repeats = _repeats(dataset.contract.unique_rules, files)
    refuse(repeats.violations, dataset.name)
    uses = [_use(ws, *found) for found in zip(fragments, repeats.rows, repeats.reasons, strict=True)]
    violations = total([*(one for fragment in fragments for one in fragment.violations), *repeats.violations])
    rows = sum(use.rows for use in uses)
    quarantined = sum(fragment.rows + fragment.quarantined for fragment in fragments) - rows
    _require_rows(dataset, rows, quarantined, violations)
    profile = _put_profile(ws, columns, [_figures(ws, *pair) for pair in zip(uses, fragments, strict=True)])
    time_from, time_to = _extremes(profile, dataset.time)
    return Snapshot(
        dataset=dataset.name,
        key=dataset.key,
        time=dataset.time,
        fragments=tuple(uses),
        columns=columns,
        rows=rows,
        quarantined=quarantined,
        warnings=sum(found.rows for found in violations if found.action == "warn"),
        violations=tuple(Violation(found.rule, found.action, found.rows) for found in violations),
        time_from=time_from,
        time_to=time_to,
        contract=contract,
        profile=digest_record(profile),
    )


def _repeats(rules: Sequence[Unique], files: Sequence[_File]) -> Repeats:
    """The rows of each file that repeat another; no row is read where no rule asks."""
    columns = unify([(file.name, file.columns) for file in files])
    names = unique_columns(rules, [column.name for column in columns])
    kept = [column for column in columns if column.name in names]
    keys = [file.rows().select(in_types(kept, file.columns)).collect() if rules else pl.DataFrame() for file in files]
    return find_repeats(rules, keys)


def _use(ws: Workspace, fragment: Fragment, rows: npt.NDArray[np.int64], reasons: Sequence[str]) -> FragmentUse:
    return FragmentUse(fragment.name, fragment.rows - len(rows), put_exclusions(ws, rows, reasons))


def _figures(ws: Workspace, use: FragmentUse, fragment: Fragment) -> _Figures:
    """The profile and the sketches of the rows that are kept: the fragment's own, unless some are not."""
    if use.excluded is None and fragment.sketches is not None:
        return fragment.profile, read_sketches(ws, fragment.sketches)
    kept = without(scan_fragment(ws, fragment), read_exclusions(ws, use.excluded)).collect()
    return profile_frame(kept), sketch_frame(kept)


def _put_profile(ws: Workspace, columns: Sequence[Column], figures: Sequence[_Figures]) -> Profile:
    """The profile of all fragments together, stored with its sketches."""
    sketches = put_sketches(ws, merge_sketches(columns, [sketches for _, sketches in figures]))
    profile = Profile(columns=merge_profiles(columns, [profile for profile, _ in figures]), sketches=sketches)
    ws.commit(Put(profile), Link(digest_record(profile), sketches, "sketches"))
    return profile


def _require_key_and_time(dataset: Dataset, columns: Sequence[Column]) -> None:
    types = {column.name: column.dtype for column in columns}
    for what, name in (("key", dataset.key), ("time", dataset.time)):
        if name is not None:
            require_column(name, types, f"vd.Dataset({what}=...)")
    if dataset.time is not None and types[dataset.time] not in ("date", "datetime"):
        raise SchemaError(
            f"the time column {dataset.time!r} holds no times",
            received=types[dataset.time],
            remedy=f"if it is one, say so: vd.Types({{{dataset.time!r}: 'datetime'}})",
        )


def _require_rows(dataset: Dataset, rows: int, quarantined: int, violations: Sequence[Violation]) -> None:
    if rows:
        return
    worst = max(violations, key=lambda found: found.rows, default=None)
    raise DataError(
        f"no row of {dataset.name!r} is left",
        received=f"{quarantined} rows break the contract, most of them {worst.rule}: {'; '.join(worst.examples)}"
        if worst
        else "files without rows",
        remedy="run `velodrome data check`, then mend the data or the contract",
    )


def _extremes(profile: Profile, time: str | None) -> tuple[datetime | None, datetime | None]:
    found = next((column for column in profile.columns if column.name == time), None)
    if found is None or found.minimum is None:
        return None, None
    return datetime.fromisoformat(str(found.minimum)), datetime.fromisoformat(str(found.maximum))


def _publish(ws: Workspace, snapshot: Snapshot) -> None:
    """Record a snapshot, what it is made of, and that it is the newest of its dataset."""
    digest = digest_record(snapshot)
    links = [Link(digest, digest_record(fragment), "fragment") for fragment in fragments_of(ws, snapshot)]
    links += [Link(digest, use.excluded, "excluded") for use in snapshot.fragments if use.excluded]
    links += [Link(digest, snapshot.contract, "contract"), Link(digest, snapshot.profile, "profile")]
    body = {"rows": snapshot.rows, "quarantined": snapshot.quarantined, "fragments": len(snapshot.fragments)}
    publish(ws, snapshot, snapshot.dataset, links, body)
