"""How good a version is on newly labelled rows that it has not seen, beside what its own test report promised.

Rows that were in the version's snapshot are left out by their keys, whichever file brings them again, and so are rows without
a label. What is measured is recorded once for each version, window and plan. Cost: a read of the window and of the key columns,
a prediction of the window, and the bootstrap of a report, about a second for 30,000 rows.
"""

from collections.abc import Sequence
from itertools import accumulate

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.core.digest import Digest, digest_json
from velodrome.core.errors import DataError, LabelError
from velodrome.core.values import Record, describe
from velodrome.data.labels import LabelCoding, encode_labels
from velodrome.data.schema import require_column
from velodrome.data.snapshots import Snapshot, Taken, read_columns, row_keys, scan_use
from velodrome.evaluation.bootstrap import Estimate, independent_difference
from velodrome.evaluation.report import Evaluation, Report, evaluate, plan_metrics
from velodrome.models.predictor import Model, load_artifact
from velodrome.monitoring.windows import Window
from velodrome.registry.runs import get_run
from velodrome.registry.versions import Version
from velodrome.store.ledger import Link, Move, Put, digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = ["Measured", "Quality", "measure_quality"]


class Quality(Record, frozen=True, kw_only=True, tag="quality"):
    """A version on the rows of a window.

    Attributes:
        rows, labelled: of the window; and those with a label that the version has not seen, which are judged.
        unmeasured: why nothing below is known, where it is not.
        report: the Report on the labelled rows.
        now, promised: the primary metric there, and in the version's test report (None without one).
        fall: how much worse it is than promised; positive is worse, whatever the metric's direction.
        calibration, calibration_promised: expected calibration errors on the same two.
    """

    version: str
    window: str
    rows: int
    labelled: int
    unmeasured: str | None = None
    report: Digest | None = None
    primary: str | None = None
    now: Estimate | None = None
    promised: Estimate | None = None
    fall: Estimate | None = None
    calibration: float | None = None
    calibration_promised: float | None = None


class Measured(msgspec.Struct, frozen=True):
    """A Quality record with its name."""

    digest: Digest
    quality: Quality


def measure_quality(
    ws: Workspace,
    version: Version,
    taken: Taken,
    window: Window,
    *,
    base: Digest | None,
    label: str,
    plan: Evaluation,
    seed: int,
) -> Measured:
    """Judge the version on a window of a snapshot, or find what was measured before.

    Args:
        base: a snapshot whose rows are left out as well, whatever file brings them again.
    """
    named = [version.reference, taken.digest, base, describe(window.uses), label, describe(plan), seed]
    subject = f"quality:{version.reference}:{digest_json(named)}"
    known = ws.ledger.pointer(subject)
    if known and known.value:
        return Measured(Digest(known.value), read_record(ws.ledger, known.value, Quality))
    quality, report = _measure(ws, version, taken.snapshot, window, base, label, plan, seed)
    digest = digest_record(quality)
    ws.commit(
        *([Put(report, version.model), Link(digest, digest_record(report), "report")] if report else ()),
        Put(quality, version.model),
        Link(digest, f"version:{version.reference}", "version"),
        Link(digest, taken.digest, "snapshot"),
        Move(subject, None, digest, "quality.measured"),
    )
    return Measured(digest, quality)


def _measure(
    ws: Workspace,
    version: Version,
    snapshot: Snapshot,
    window: Window,
    base: Digest | None,
    label: str,
    plan: Evaluation,
    seed: int,
) -> tuple[Quality, Report | None]:
    model = load_artifact(ws, version.artifact)
    quality = Quality(version=version.reference, window=window.name, rows=window.rows, labelled=0)
    try:
        for column in (label, *plan.cohorts):
            require_column(column, [known.name for known in snapshot.columns], "the recipe")
        seen = [get_run(ws, version.run).snapshot, base]
        rows = _unseen(ws, snapshot, window, seen, _columns(snapshot, model, label, plan), label)
        rows = rows.filter(_labelled(rows[label]))
        quality = msgspec.structs.replace(quality, labelled=rows.height)
        if not rows.height:
            raise LabelError("no new row has a label")
        report = _report(model, rows, snapshot.time, label, plan, seed)
    except DataError as error:
        return msgspec.structs.replace(quality, unmeasured=error.problem), None
    return _compared(ws, version, quality, report, plan), report


def _compared(ws: Workspace, version: Version, quality: Quality, report: Report, plan: Evaluation) -> Quality:
    own = read_record(ws.ledger, version.report, Report) if version.report else None
    now = report.metrics[report.primary]
    promised = own.metrics.get(report.primary) if own else None
    comparable = promised is not None and promised.level == now.level
    better = plan_metrics(plan, report.task)[report.primary].greater_is_better
    fall = None
    if promised is not None and comparable:
        fall = independent_difference(promised, now) if better else independent_difference(now, promised)
    return msgspec.structs.replace(
        quality,
        report=digest_record(report),
        primary=report.primary,
        now=now,
        promised=promised,
        fall=fall,
        calibration=report.calibration.error if report.calibration else None,
        calibration_promised=own.calibration.error if own and own.calibration else None,
    )


def _report(model: Model, rows: pl.DataFrame, time: str | None, label: str, plan: Evaluation, seed: int) -> Report:
    coding = LabelCoding(model.manifest.task, model.manifest.classes)
    target = encode_labels(coding, rows[label])
    cohorts = {column: rows[column].cast(pl.String).fill_null("(missing)").to_numpy() for column in plan.cohorts}
    days = rows[time].dt.epoch("d").to_numpy() if time and plan.by == "days" else None
    return evaluate(plan, coding.task, target, model.score(rows), cohorts, seed=seed, groups=days)


def _columns(snapshot: Snapshot, model: Model, label: str, plan: Evaluation) -> list[str]:
    """What the model and the plan read; a column of the model that is gone is told by the model itself."""
    known = {column.name for column in snapshot.columns}
    wanted = [*model.manifest.reads, label, *plan.cohorts, *([snapshot.time] if snapshot.time else [])]
    return [name for name in dict.fromkeys(wanted) if name in known]


def _unseen(
    ws: Workspace, snapshot: Snapshot, window: Window, before: Sequence[Digest | None], columns: list[str], label: str
) -> pl.DataFrame:
    """The rows of the window whose keys have a label in none of the snapshots `before`."""
    seen = [_labelled_keys(ws, one, label) for one in dict.fromkeys(before) if one]
    known, keys = np.unique(np.concatenate([np.empty(0, np.uint64), *seen])), row_keys(ws, snapshot)
    ends = accumulate(use.rows for use in snapshot.fragments)
    end_of = dict(zip((use.fragment for use in snapshot.fragments), ends, strict=True))
    parts = []
    for use in window.uses:
        end = end_of[use.fragment]
        fresh = ~np.isin(keys[end - use.rows : end], known)
        parts.append(scan_use(ws, snapshot, use).select(columns).collect().filter(pl.Series(fresh)))
    return pl.concat(parts)


def _labelled_keys(ws: Workspace, digest: Digest, label: str) -> npt.NDArray[np.uint64]:
    """The keys of a snapshot's rows that have a label; of all where it had no such column."""
    snapshot = read_record(ws.ledger, digest, Snapshot)
    keys = row_keys(ws, snapshot)
    if label not in [column.name for column in snapshot.columns]:
        return keys
    labelled: npt.NDArray[np.bool_] = _labelled(read_columns(ws, snapshot, [label])[label]).to_numpy()
    return keys[labelled]


def _labelled(labels: pl.Series) -> pl.Series:
    return labels.is_not_null() & labels.is_finite() if labels.dtype.is_float() else labels.is_not_null()
