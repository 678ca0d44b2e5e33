"""Fragments: one file's rows after its contract, read once and kept.

A fragment is named by the digest of the file's bytes and of the rules that look at single rows; neither its place nor its
time counts. What Polars writes may differ from version to version, so the name does not depend on it: whoever comes first
derives the rows, everyone after that shares them. Nothing of the file is lost: what a conversion or a rule takes out of the
rows is kept beside them, so that another contract can judge them without the file.
A fragment that no snapshot has may be collected, and is then derived anew when it is wanted; where that gives other bytes,
the one that is there takes the place of the one that is not.
Cost: one parse of the file, one pass of the contract, one write of its rows; converted columns are written twice.
"""

import io
from collections.abc import Container, Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.core.digest import Digest, digest_json
from velodrome.core.errors import PointerMoved, SchemaError
from velodrome.core.values import Record, describe
from velodrome.data.contracts import Contract
from velodrome.data.deliveries import Delivery, require_unchanged
from velodrome.data.judging import REASON, ROW, Judged, Violation, judge, refuse
from velodrome.data.profile import ColumnProfile, profile_frame, put_sketches, sketch_frame
from velodrome.data.schema import Column, schema_of
from velodrome.data.sources import read_user_file, scan_rows
from velodrome.store.ledger import Link, Move, Put, digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = [
    "REPLACED",
    "Fragment",
    "accepted_places",
    "derive_fragment",
    "find_fragment",
    "fragment_name",
    "judge_again",
    "quarantined_rows",
    "read_judged",
    "recall_fragment",
    "scan_fragment",
]

REPLACED = "replaced:"
"""What a subject begins with that leads from a fragment without bytes to the one that stands for it."""

_FORMAT = 2
"""Changes when the same file and contract would give other rows."""

_ROW_GROUP = 1 << 18


class Fragment(Record, frozen=True, kw_only=True, tag="fragment", omit_defaults=True):
    """The rows of one file.

    Attributes:
        source: digest of the file's bytes.
        file: what the file was called when it was first read.
        ingest: digest of the format and of the contract's rules for single rows.
        content: Parquet blob of the accepted rows, in the file's order.
        converted: Parquet blob of those columns of the accepted rows that the file has in another type, as it has them.
        quarantine: Parquet blob of the other rows as the file has them (see `judging.ROW`, `judging.REASON`), if any.
        columns: of `content`; "null" is the type of a column without values.
        sketches: blob (see `profile.read_sketches`); None in a fragment of format 1, whose digest stays as it was, and
            which does not say either what was converted.
    """

    source: Digest
    file: str
    ingest: Digest
    content: Digest
    rows: int
    converted: Digest | None = None
    quarantine: Digest | None
    quarantined: int
    columns: tuple[Column, ...]
    violations: tuple[Violation, ...]
    profile: tuple[ColumnProfile, ...]
    sketches: Digest | None = None

    @property
    def name(self) -> Digest:
        return digest_json([self.source, self.ingest])

    @property
    def blobs(self) -> dict[str, Digest]:
        """Its blobs by the role that they play for it."""
        known = {
            "rows": self.content,
            "converted": self.converted,
            "quarantine": self.quarantine,
            "sketches": self.sketches,
        }
        return {role: blob for role, blob in known.items() if blob is not None}


def fragment_name(source: Digest, contract: Contract) -> Digest:
    """The name of the fragment that a file with that digest becomes."""
    return digest_json([source, _ingest(contract)])


def find_fragment(ws: Workspace, name: Digest) -> Fragment | None:
    """The fragment of that name, if somebody derived it: the first that was not replaced."""
    stored = [one.digest for one in ws.ledger.records(Fragment.kind(), name=name, newest_first=False)]
    there = [digest for digest in stored if len(stored) == 1 or not _replacement(ws, digest)]
    return read_record(ws.ledger, there[0], Fragment) if there else None


def recall_fragment(ws: Workspace, name: Digest, held: Container[Digest]) -> Fragment | None:
    """The fragment of that name, if all its bytes are there: they count as put just now.

    Args:
        held: names of fragments whose bytes are there and stay, as those of a dataset's newest snapshot do.
    """
    fragment = find_fragment(ws, name)
    return fragment if fragment and (name in held or _is_whole(ws, fragment)) else None


def read_judged(delivery: Delivery, contract: Contract) -> Judged:
    """Read a file and apply the contract's rules for single rows; nothing is stored.

    Raises:
        SourceError: it cannot be read, or changed meanwhile.
        SchemaError: the rules do not fit its columns.
    """
    judged = _judge(contract, read_user_file(delivery.path, text=contract.text_columns), delivery.name)
    require_unchanged(delivery)
    return judged


def derive_fragment(ws: Workspace, delivery: Delivery, contract: Contract) -> Fragment:
    """Read a file, apply the contract, store the rows.

    Raises:
        SourceError, SchemaError: as `read_judged`.
        ContractError: a rule that stops is broken; nothing is stored.
    """
    return _keep(ws, delivery.digest, delivery.name, contract, read_judged(delivery, contract))


def judge_again(ws: Workspace, fragment: Fragment, contract: Contract) -> Fragment:
    """What `derive_fragment` gives for the same file under another contract, from the stored rows.

    It is exactly that if the file would be read into the same columns: a CSV file brings the columns that a contract calls
    text as they stand. A fragment of format 1 has not kept enough.

    Raises:
        SchemaError, ContractError: as `derive_fragment`.
    """
    return _keep(
        ws, fragment.source, fragment.file, contract, _judge(contract, _delivered(ws, fragment), fragment.file)
    )


def scan_fragment(ws: Workspace, fragment: Fragment) -> pl.LazyFrame:
    """The accepted rows, their bytes verified."""
    return scan_rows(ws.blobs.local(fragment.content))


def quarantined_rows(ws: Workspace, fragment: Fragment) -> pl.DataFrame | None:
    """The rows in quarantine as the file has them, with ROW and REASON, or None if there are none."""
    return scan_rows(ws.blobs.local(fragment.quarantine)).collect() if fragment.quarantine else None


def accepted_places(ws: Workspace, fragment: Fragment) -> npt.NDArray[np.int64]:
    """The numbers of the accepted rows in their file, from 1, int64 (rows,), ascending; the rows themselves are not read."""
    everything = np.arange(1, fragment.rows + fragment.quarantined + 1)
    if fragment.quarantine is None:
        return everything
    refused = scan_rows(ws.blobs.local(fragment.quarantine)).select(ROW).collect().to_series()
    return np.delete(everything, refused.to_numpy().astype(np.int64) - 1)


def _judge(contract: Contract, rows: pl.DataFrame, file: str) -> Judged:
    try:
        return judge(contract, rows)
    except SchemaError as error:
        raise SchemaError(f"{file}: {error.problem}", received=error.received, remedy=error.remedy) from error


def _delivered(ws: Workspace, fragment: Fragment) -> pl.DataFrame:
    """All rows as the file has them: the accepted ones before their conversion, and between them those in quarantine."""
    rows = scan_fragment(ws, fragment).collect()
    if fragment.converted is not None:
        rows = rows.with_columns(scan_rows(ws.blobs.local(fragment.converted)).collect())
    refused = quarantined_rows(ws, fragment)
    if refused is None:
        return rows
    numbered = rows.with_columns(pl.Series(ROW, accepted_places(ws, fragment), pl.UInt32))
    return pl.concat([numbered, refused.drop(REASON)]).sort(ROW).drop(ROW)


def _keep(ws: Workspace, source: Digest, file: str, contract: Contract, judged: Judged) -> Fragment:
    """Store the rows of a file, unless a rule stops it; whoever was first has stored the fragment of that name."""
    refuse(judged.violations, file)
    fragment = Fragment(
        source=source,
        file=file,
        ingest=_ingest(contract),
        content=_put_rows(ws, judged.accepted),
        rows=judged.accepted.height,
        converted=_put_rows(ws, judged.converted) if judged.converted.width else None,
        quarantine=_put_rows(ws, judged.quarantined) if judged.quarantined.height else None,
        quarantined=judged.quarantined.height,
        columns=schema_of(judged.accepted),
        violations=judged.violations,
        profile=profile_frame(judged.accepted),
        sketches=put_sketches(ws, sketch_frame(judged.accepted)),
    )
    digest = digest_record(fragment)
    links = [Link(digest, end, role) for role, end in {"source": fragment.source, **fragment.blobs}.items()]
    while True:
        try:
            ws.commit(Put(fragment, fragment.name), *links, *_replacing(ws, fragment))
            return find_fragment(ws, fragment.name) or fragment
        except PointerMoved:
            continue  # another process derived it at the same moment: look again


def _replacing(ws: Workspace, fragment: Fragment) -> Iterator[Move]:
    """The writes that let a fragment whose bytes are there stand for those of its name whose bytes were collected."""
    digest = digest_record(fragment)
    if replacement := _replacement(ws, digest):
        yield Move(f"{REPLACED}{digest}", replacement, None, "fragment.derived")
    for stored in ws.ledger.records(Fragment.kind(), name=fragment.name):
        other = read_record(ws.ledger, stored.digest, Fragment)
        if stored.digest != digest and not _replacement(ws, stored.digest) and not _is_whole(ws, other):
            yield Move(f"{REPLACED}{stored.digest}", None, digest, "fragment.replaced")


def _replacement(ws: Workspace, digest: Digest) -> str | None:
    pointer = ws.ledger.pointer(f"{REPLACED}{digest}")
    return pointer.value if pointer else None


def _is_whole(ws: Workspace, fragment: Fragment) -> bool:
    return all(ws.blobs.keep(blob) for blob in fragment.blobs.values())


def _ingest(contract: Contract) -> Digest:
    return digest_json({"format": _FORMAT, "rules": describe(contract.row_rules)})


def _put_rows(ws: Workspace, frame: pl.DataFrame) -> Digest:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, row_group_size=_ROW_GROUP)
    return ws.blobs.put(buffer.getbuffer()).digest
