"""A workspace in which a year happened: a loop of real cycles on small data, a network's run with curves, a tracked loop, a failure.

Names are hostile wherever a name comes from outside: values, series, parameters, reasons, messages.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from velodrome.control.declaring import source_of
from velodrome.control.finding import FoundBatch, FoundRate
from velodrome.control.loading import load_recipe
from velodrome.control.retraining import retrain
from velodrome.core.clock import ManualClock
from velodrome.core.digest import digest_bytes, digest_json
from velodrome.core.errors import ContractError
from velodrome.evaluation.report import Evaluation, evaluate
from velodrome.recipe import Recipe
from velodrome.registry.environment import describe_environment
from velodrome.registry.provenance import collect_provenance
from velodrome.registry.runs import Outcome, Run, begin_attempt, fail, finish, record_report, resumed, start
from velodrome.registry.series import history_digest
from velodrome.registry.series_writer import SeriesWriter
from velodrome.registry.time_spent import TIME
from velodrome.store.ledger import Append, Put, digest_record
from velodrome.store.trees import put_tree
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.batch_sizes import SizeTrial, suggest_size
from velodrome.training.rate_range import curve_of, growing_rates, suggest_rate

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"

RECIPE = """
from sklearn.linear_model import LogisticRegression

import velodrome as vd

recipe = vd.Recipe(
    "buyers",
    data=vd.Dataset(
        "visits",
        source=vd.Files("visits-*.parquet"),
        key="visit",
        time="when",
        contract=vd.Contract([vd.NotNull("buys"), vd.Between("wants", -20, 20, action="stop"), vd.Unique("visit")]),
    ),
    label="buys",
    features=["wants", "city"],
    prepare=[vd.Impute(), vd.Scale(), vd.Encode()],
    learner=vd.Sklearn(LogisticRegression()),
    split=vd.TimeSplit(validation="4d", test="10d"),
    evaluation=vd.Evaluation("roc_auc", cohorts=["city"], resamples=60, smallest_cohort=10),
    gates=[vd.AtLeast("roc_auc", 0.6), vd.NotWorse("champion", by=0.05)],
    refit=True,
    operate=vd.Operate(
        approval=vd.PolicyApproval("passed-gates"),
        retrain=vd.Retrain(fall=0.03, min_rows=100, max_quarantined=0.5, drift=vd.Drift(minimum_rows=300)),
    ),
    owner="ann",
)
"""

RATES = growing_rates(1e-6, 10, 100)
LOSSES = [1.0] * 40 + [1 - 0.02 * step for step in range(30)] + [0.4] * 10 + [0.5, 4.0, float("nan")]
"""A loss that falls, explodes, and is then no number."""


@dataclass(frozen=True)
class Year:
    """The workspace, the loop's recipe, and the runs that were made by hand."""

    ws: Workspace
    recipe: Recipe
    file: Path
    network: str
    refit: str
    tracked: str
    failed: str
    running: str
    hostile: str = HOSTILE


@pytest.fixture(scope="session")
def year(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Year]:
    root = tmp_path_factory.mktemp("year")
    file = root / "recipe.py"
    file.write_text(RECIPE)
    with open_folder(root) as opened:
        ws = replace(opened, actor="ann", clock=ManualClock(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
        recipe = _live(ws, file)
        make = _maker(ws)
        network = _network(ws, make(key=digest_json("network"), seed=7))
        refit = _refit(ws, make(key=digest_json("refit"), type="refit", judge=network))
        tracked = _tracked(ws, make(key=digest_json("track"), type="track", name=HOSTILE, recipe={HOSTILE: HOSTILE}))
        failed = _failed(ws, make(key=digest_json("failed")))
        running = start(ws, make(key=digest_json("running"))).id
        begin_attempt(ws, running)
        yield Year(ws, recipe, file, network, refit, tracked, failed, running)


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    """An empty workspace."""
    with open_folder(tmp_path) as opened:
        yield opened


def _live(ws: Workspace, file: Path) -> Recipe:
    """January makes a champion, February is alike, March is its opposite; in April values are ten times too large at first."""
    recipe = load_recipe(file)
    source = source_of(ws, file, ())
    for month, slope, shift in ((1, 3.0, 0.0), (2, 3.0, 0.0), (3, -3.0, 1.0), (4, -3.0, 2.0)):
        if month == 4:
            _visits(month, slope, shift, scale=10.0).write_parquet(ws.root / f"visits-{month:02}.parquet")
            with pytest.raises(ContractError):
                retrain(ws, recipe, source, now=datetime(2020, month + 1, 1, tzinfo=UTC))
        _visits(month, slope, shift).write_parquet(ws.root / f"visits-{month:02}.parquet")
        retrain(ws, recipe, source, now=datetime(2020, month + 1, 1, tzinfo=UTC))
    return recipe


def _visits(month: int, slope: float, shift: float, scale: float = 1.0) -> pl.DataFrame:
    rng, rows = np.random.default_rng(month), 400 if month < 4 else 4000
    begin = np.datetime64(f"2020-{month:02}-01T00:00", "m")
    wants = rng.normal(shift, 1.0, rows)
    return pl.DataFrame(
        {
            "visit": [f"{month}-{number}" for number in range(rows)],
            "when": (begin + np.sort(rng.integers(0, 28 * 24 * 60, rows))).astype("datetime64[us]"),
            "wants": wants * scale,
            "city": rng.choice(["Bern", "Basel", HOSTILE, "Zug"], rows, p=[0.5, 0.29, 0.2, 0.01]),
            "buys": (rng.random(rows) < 1 / (1 + np.exp(-slope * (wants - shift)))).astype(np.int64),
        }
    )


def _maker(ws: Workspace) -> Callable[..., Run]:
    environment = describe_environment((), device="cpu", capability="none", threads=1)
    provenance = collect_provenance(ws, ws.root)
    ws.commit(Put(environment), Put(provenance))

    def make(**fields: Any) -> Run:
        ws.clock.sleep(60)
        facts: dict[str, Any] = {
            "id": ws.new_id(),
            "name": "late",
            "type": "train",
            "snapshot": None,
            "code": put_tree(ws.blobs, {"recipe.py": b"pass"}),
            "environment": digest_record(environment),
            "provenance": digest_record(provenance),
            "recipe": {"learner": {"epochs": 6}},
            "seed": 0,
        }
        return Run(**facts | fields)

    return make


def _network(ws: Workspace, run: Run) -> str:
    """5,000 steps with one spike, killed after 3,000 and resumed from 2,500; judged."""
    start(ws, run)
    for attempt, steps in ((1, range(1, 3001)), (2, range(2501, 5001))):
        assert begin_attempt(ws, run.id) == attempt
        if attempt == 2:
            resumed(ws, run.id, attempt=2, step=2500)
        with SeriesWriter(ws, run.id, attempt) as series:
            for step in steps:
                loss = 9.0 if step == 1234 else 0.4 + 1 / step
                series.log(
                    step, loss=loss, lr=1e-3 * (1 - step / 5000), gradient_norm=0.1, data_wait=0.1, step_time=0.4
                )
                if step % 500 == 0:
                    series.log(step, validation_loss=0.5 + abs(step - 4000) / 20_000)
    for attempt, seconds in (
        (1, {"start": 2.0, "forward": 20.0}),
        (2, {"restart": 3.0, "redone": 4.0, "forward": 31.0}),
    ):
        ws.commit(Append(f"run:{run.id}", TIME, {"attempt": attempt, "seconds": seconds}))
    _judge(ws, run)
    _finish(ws, run, 4000)
    return run.id


def _refit(ws: Workspace, run: Run) -> str:
    start(ws, run)
    begin_attempt(ws, run.id)
    _finish(ws, run, 4000)
    return run.id


def _tracked(ws: Workspace, run: Run) -> str:
    start(ws, run)
    begin_attempt(ws, run.id)
    with SeriesWriter(ws, run.id, 1) as series:
        for step in range(1, 20):
            series.log(step, **{HOSTILE: float("nan") if step % 5 == 0 else float(step), "nothing": float("inf")})
    _finish(ws, run, 19)
    return run.id


def _failed(ws: Workspace, run: Run) -> str:
    start(ws, run)
    begin_attempt(ws, run.id)
    fail(ws, run.id, "Diverged", HOSTILE)
    return run.id


def _finish(ws: Workspace, run: Run, steps: int) -> None:
    history = history_digest(ws, run.id)
    outcome = Outcome(
        run=run.id, artifact=digest_bytes(b"a"), steps=steps, planned_steps=5000, seconds=75.0, history=history
    )
    finish(ws, run.id, outcome)


def _judge(ws: Workspace, run: Run) -> None:
    rng = np.random.default_rng(0)
    chance = rng.random(2000)
    labels = (rng.random(2000) < chance).astype(int)
    city = rng.choice(["Aachen", "Bonn", HOSTILE, "few"], 2000, p=[0.5, 0.3, 0.19, 0.01])
    plan = Evaluation("roc_auc", cohorts=["city"], resamples=100, smallest_cohort=50)
    report = evaluate(plan, "binary", labels, chance, {"city": city.astype(object)}, seed=0)
    record_report(ws, run.id, report)


@pytest.fixture
def found_rate() -> FoundRate:
    curve = curve_of(RATES, LOSSES)
    suggestion = suggest_rate(curve, 100)
    assert suggestion is not None
    return FoundRate(
        recipe="churn",
        seed=0,
        device="cpu",
        rows=3000,
        batch=64,
        present=0.01,
        curve=curve,
        ended="exploded",
        suggestion=suggestion,
        setting=f"learner.optimizer.lr={suggestion.rate:g}",
    )


@pytest.fixture
def found_batch() -> FoundBatch:
    speeds = {32: 1000.0, 64: 1900.0, 128: 3000.0, 256: 3100.0}
    trials = [SizeTrial(size=n, fits=True, rows_per_second=each, memory=n * 2**20) for n, each in speeds.items()]
    trials.append(SizeTrial(size=512, fits=False))
    suggestion = suggest_size(trials)
    assert suggestion is not None
    return FoundBatch(
        recipe="churn",
        seed=0,
        device="cuda",
        rows=3000,
        field="micro_batch",
        present=64,
        trials=tuple(trials),
        budget=None,
        ended="memory",
        suggestion=suggestion,
        setting="learner.micro_batch=128",
    )
