"""What a page shows of a training run: its curves, its figures, what its gates said, its attempts, and what it was made from.

Cost: one read of the run's series, which are thinned to what a plot can show, and some dozen small queries.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from velodrome.control.pipeline import settlement_of
from velodrome.core.digest import Digest
from velodrome.data.own_snapshots import read_snapshot
from velodrome.data.snapshots import Snapshot, fragments_of
from velodrome.evaluation.gates import Verdict
from velodrome.evaluation.report import Report
from velodrome.registry.attempts import Attempt
from velodrome.registry.curves import thin
from velodrome.registry.differences import flatten
from velodrome.registry.environment import Environment
from velodrome.registry.incidents import Incident
from velodrome.registry.provenance import Provenance
from velodrome.registry.runs import Failure, Outcome, Run, RunState, code_of, show_run
from velodrome.registry.series import PULSE, STEP_DIGEST, Series, SeriesKind, read_histories
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace

__all__ = [
    "WAIT_SHARE",
    "Curve",
    "DataFacts",
    "DataFile",
    "RunFacts",
    "RunPage",
    "Setting",
    "Surroundings",
    "run_facts",
    "run_page",
    "settings_of",
]

WAIT_SHARE = "data_wait_share"
"""Name of the curve that stands for `data_wait`: its share of each step's time, 0 to 1."""

_DRAWN = 4 * 480
"""Points of a curve that are drawn: four for each column of pixels."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """A series as it is drawn.

    Attributes:
        points: how many were recorded. missing: how many of them are no finite numbers.
        first, last, low, median, high: of the finite ones; None where there is none.
        low_step, high_step: where the lowest and the highest are, the earliest of equals.
        steps, values: the recorded points, or of a long series those that a plot shows; None where it is no number.
    """

    name: str
    timing: bool
    points: int
    missing: int
    first: float | None
    last: float | None
    low: float | None
    median: float | None
    high: float | None
    low_step: int | None
    high_step: int | None
    steps: tuple[int, ...]
    values: tuple[float | None, ...]


class DataFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a snapshot holds; rows as the file brought them, less those in quarantine."""

    name: str
    source: Digest
    rows: int


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The snapshot that a run was trained on.

    Attributes:
        own: data of one's own: it lies in no files, and no contract keeps rows of it aside.
    """

    dataset: str
    snapshot: Digest
    own: bool
    rows: int
    quarantined: int
    time_from: datetime | None
    time_to: datetime | None
    files: tuple[DataFile, ...]


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run happened. `commit` is None without one; `uncommitted` says that files differed from it."""

    python: str
    packages: dict[str, str]
    device: str
    threads: int
    machine: str
    commit: str | None
    uncommitted: bool


class Setting(msgspec.Struct, frozen=True):
    """One value of a recipe, or one parameter of a tracked loop, by its dotted name."""

    name: str
    value: str


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a run that is shown.

    Attributes:
        judge: of a refit, the run whose figures stand for it. refits: the runs that this one is the judge of.
        waited: share of the time of all steps that was spent waiting for data; None where nobody measured.
        report: its own, or its judge's.
        time: seconds by what they were spent on, over all attempts; empty where nobody told.
        verdicts: what the gates last said; empty for a run that was not asked, or has no gates.
        decided: whether gates were asked at all. version: what it, or its refit, was registered as.
    """

    id: str
    name: str
    type: str
    state: RunState
    owner: str
    seed: int
    attempts: tuple[Attempt, ...]
    incidents: tuple[Incident, ...]
    outcome: Outcome | None
    failure: Failure | None
    judge: str | None
    refits: tuple[str, ...]
    curves: tuple[Curve, ...]
    waited: float | None
    time: dict[str, float]
    report: Report | None
    decided: bool
    verdicts: tuple[Verdict, ...]
    version: str | None
    data: DataFacts | None
    code: dict[str, Digest]
    surroundings: Surroundings
    settings: tuple[Setting, ...]


class RunPage(msgspec.Struct, frozen=True, kw_only=True, tag_field="page", tag="run"):
    """The page of a run; `made` is when it was asked for."""

    made: datetime
    run: RunFacts


def run_page(ws: Workspace, reference: str) -> RunPage:
    """The page of the run of that id, or whose id begins so.

    Raises:
        NotFound: no run, or several.
    """
    return RunPage(made=ws.clock.now(), run=run_facts(ws, reference))


def run_facts(ws: Workspace, reference: str) -> RunFacts:
    """Everything that is shown of a run. Raises as `run_page`."""
    details = show_run(ws, reference)
    run, histories = details.run, read_histories(ws, details.run.id)
    judged = show_run(ws, run.judge) if run.judge else details
    decided = settlement_of(ws, judged.run.id)
    return RunFacts(
        id=run.id,
        name=run.name,
        type=run.type,
        state=details.state,
        owner=run.owner,
        seed=run.seed,
        attempts=details.attempts,
        incidents=details.incidents,
        outcome=details.outcome,
        failure=details.failure if details.state is RunState.FAILED else None,
        judge=run.judge,
        refits=tuple(_refits(ws, run.id)),
        curves=tuple(_curve(name, series) for name, series in _shown(histories).items()),
        waited=_waited(histories),
        time=details.time,
        report=judged.report,
        decided=decided is not None,
        verdicts=decided.verdicts if decided else (),
        version=decided.version if decided else _value(ws, f"registered:{run.id}"),
        data=_data(ws, run.snapshot) if run.snapshot else None,
        code=code_of(ws, run),
        surroundings=_surroundings(ws, run),
        settings=settings_of(run.recipe),
    )


def settings_of(recipe: Mapping[str, Any]) -> tuple[Setting, ...]:
    """A recipe as it is recorded, flat, by name."""
    return tuple(Setting(name, _text(value)) for name, value in sorted(flatten(recipe).items()))


def _refits(ws: Workspace, run_id: str) -> Iterator[str]:
    for edge in ws.ledger.edges(f"run:{run_id}", incoming=True, role="judge"):
        yield read_record(ws.ledger, edge.src, Run).id


def _data(ws: Workspace, digest: Digest) -> DataFacts:
    snapshot = read_snapshot(ws, digest)
    kept = snapshot if isinstance(snapshot, Snapshot) else None
    fragments = fragments_of(ws, kept) if kept else ()
    return DataFacts(
        dataset=snapshot.dataset,
        snapshot=digest,
        own=kept is None,
        rows=snapshot.rows,
        quarantined=snapshot.quarantined,
        time_from=kept.time_from if kept else None,
        time_to=kept.time_to if kept else None,
        files=tuple(DataFile(name=each.file, source=each.source, rows=each.rows) for each in fragments),
    )


def _surroundings(ws: Workspace, run: Run) -> Surroundings:
    environment = read_record(ws.ledger, run.environment, Environment)
    provenance = read_record(ws.ledger, run.provenance, Provenance)
    hardware, repository = provenance.hardware, provenance.repository
    return Surroundings(
        python=environment.python,
        packages=environment.packages,
        device=environment.device,
        threads=environment.threads,
        machine=f"{hardware.cpu}, {hardware.cores} cores",
        commit=repository.commit if repository else None,
        uncommitted=bool(repository and repository.dirty),
    )


def _shown(histories: Mapping[str, Series]) -> dict[str, Series]:
    """The quantities by name, with the share of each step that waited for data in the place of the wait itself.

    Names of batches are no quantities, and where the time went is shown whole elsewhere."""
    shown = {name: series for name, series in histories.items() if name != STEP_DIGEST and not name.startswith(PULSE)}
    both = _aligned(histories)
    if both is not None:
        steps, wait, total = both
        share = np.divide(wait, total, out=np.zeros_like(wait), where=total > 0)
        shown[WAIT_SHARE] = Series(SeriesKind.TIMING, steps, share)
        del shown["data_wait"]
    return {name: series for name, series in shown.items() if len(series.steps)}


def _waited(histories: Mapping[str, Series]) -> float | None:
    both = _aligned(histories)
    if both is None:
        return None
    _, wait, total = both
    return float(wait.sum() / total.sum()) if total.sum() > 0 else None


def _aligned(
    histories: Mapping[str, Series],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Steps, wait for data and time of each step, where both were measured."""
    wait, total = histories.get("data_wait"), histories.get("step_time")
    if wait is None or total is None:
        return None
    steps, of_wait, of_total = np.intersect1d(wait.steps, total.steps, assume_unique=True, return_indices=True)
    return (steps, wait.values[of_wait], total.values[of_total]) if len(steps) else None


def _curve(name: str, series: Series) -> Curve:
    finite = np.isfinite(series.values)
    steps, values = series.steps[finite], series.values[finite]
    drawn_steps, drawn = thin(series.steps, series.values, _DRAWN)
    facts: dict[str, Any] = dict.fromkeys(("first", "last", "low", "median", "high", "low_step", "high_step"))
    if len(values):
        facts = {
            "first": float(values[0]),
            "last": float(values[-1]),
            "low": float(values.min()),
            "median": float(np.median(values)),
            "high": float(values.max()),
            "low_step": int(steps[values.argmin()]),
            "high_step": int(steps[values.argmax()]),
        }
    return Curve(
        name=name,
        timing=series.kind is SeriesKind.TIMING,
        points=len(series.steps),
        missing=int((~finite).sum()),
        steps=tuple(drawn_steps.tolist()),
        values=tuple(value if np.isfinite(value) else None for value in drawn.tolist()),
        **facts,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _value(ws: Workspace, subject: str) -> str | None:
    pointer = ws.ledger.pointer(subject)
    return pointer.value if pointer else None
