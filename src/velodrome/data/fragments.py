"""Fragments: one file's rows after its contract, read once and kept.

A fragment is named by the digest of the file's bytes and of the rules that look at single rows; neither its place nor its
time counts. What Polars writes may differ from version to version, so the name does not depend on it: whoever comes first
derives the rows, everyone after that shares them. Cost: one parse of the file, one pass of the contract, one write.
"""

import io

import polars as pl

from velodrome.core.digest import Digest, digest_json
from velodrome.core.values import Record, describe
from velodrome.data.contracts import Contract
from velodrome.data.deliveries import Delivery, require_unchanged
from velodrome.data.judging import Judged, Violation, judge, refuse
from velodrome.data.profile import ColumnProfile, profile_frame
from velodrome.data.schema import Column, schema_of
from velodrome.data.sources import read_user_file, scan_rows
from velodrome.store.ledger import Link, Put, digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = [
    "Fragment",
    "derive_fragment",
    "find_fragment",
    "fragment_name",
    "quarantined_rows",
    "read_judged",
    "scan_fragment",
]

_FORMAT = 1
"""Changes when the same file and contract would give other rows."""

_ROW_GROUP = 1 << 18


class Fragment(Record, frozen=True, kw_only=True, tag="fragment"):
    """The rows of one file.

    Attributes:
        source: digest of the file's bytes.
        file: what the file was called when it was first read.
        ingest: digest of the format and of the contract's rules for single rows.
        content: Parquet blob of the accepted rows, in the file's order.
        quarantine: Parquet blob of the other rows as the file has them (see `judging.ROW`, `judging.REASON`), if any.
        columns: of `content`; "null" is the type of a column without values.
    """

    source: Digest
    file: str
    ingest: Digest
    content: Digest
    rows: int
    quarantine: Digest | None
    quarantined: int
    columns: tuple[Column, ...]
    violations: tuple[Violation, ...]
    profile: tuple[ColumnProfile, ...]

    @property
    def name(self) -> Digest:
        return digest_json([self.source, self.ingest])


def fragment_name(source: Digest, contract: Contract) -> Digest:
    """The name of the fragment that a file with that digest becomes."""
    return digest_json([source, _ingest(contract)])


def find_fragment(ws: Workspace, name: Digest) -> Fragment | None:
    """The fragment of that name, if somebody derived it."""
    stored = ws.ledger.records(Fragment.kind(), name=name, newest_first=False, limit=1)
    return read_record(ws.ledger, stored[0].digest, Fragment) if stored else None


def read_judged(delivery: Delivery, contract: Contract) -> Judged:
    """Read a file and apply the contract's rules for single rows; nothing is stored.

    Raises:
        SourceError: it cannot be read, or changed meanwhile.
        SchemaError: the rules do not fit its columns.
    """
    judged = judge(contract, read_user_file(delivery.path, text=contract.text_columns))
    require_unchanged(delivery)
    return judged


def derive_fragment(ws: Workspace, delivery: Delivery, contract: Contract) -> Fragment:
    """Read a file, apply the contract, store the rows.

    Raises:
        SourceError, SchemaError: as `read_judged`.
        ContractError: a rule that stops is broken; nothing is stored.
    """
    judged = read_judged(delivery, contract)
    refuse(judged.violations, delivery.name)
    fragment = Fragment(
        source=delivery.digest,
        file=delivery.name,
        ingest=_ingest(contract),
        content=_put_rows(ws, judged.accepted),
        rows=judged.accepted.height,
        quarantine=_put_rows(ws, judged.quarantined) if judged.quarantined.height else None,
        quarantined=judged.quarantined.height,
        columns=schema_of(judged.accepted),
        violations=judged.violations,
        profile=profile_frame(judged.accepted),
    )
    digest = digest_record(fragment)
    blobs = {"rows": fragment.content, "quarantine": fragment.quarantine}
    links = [Link(digest, blob, role) for role, blob in blobs.items() if blob is not None]
    ws.commit(Put(fragment, fragment.name), *links)
    return find_fragment(ws, fragment.name) or fragment


def scan_fragment(ws: Workspace, fragment: Fragment) -> pl.LazyFrame:
    """The accepted rows, their bytes verified."""
    return scan_rows(ws.blobs.local(fragment.content))


def quarantined_rows(ws: Workspace, fragment: Fragment) -> pl.DataFrame | None:
    """The rows in quarantine as the file has them, with ROW and REASON, or None if there are none."""
    return scan_rows(ws.blobs.local(fragment.quarantine)).collect() if fragment.quarantine else None


def _ingest(contract: Contract) -> Digest:
    return digest_json({"format": _FORMAT, "rules": describe(contract.row_rules)})


def _put_rows(ws: Workspace, frame: pl.DataFrame) -> Digest:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, row_group_size=_ROW_GROUP)
    return ws.blobs.put(buffer.getbuffer()).digest
