"""A recipe on data of one's own, in this process: what is judged, compared, shown and predicted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

import velodrome as vd
from velodrome.control.pipeline import Result, run
from velodrome.core.errors import NotFound, SourceError
from velodrome.models.predictor import load_artifact
from velodrome.registry.lineage import trace
from velodrome.registry.runs import RunState, show_run
from velodrome.registry.versions import resolve
from velodrome.store.workspace import Workspace, open_folder
from velodrome.web.runs import run_facts

CELLS = ("recipe = ...",)


class Visits:
    """Who wants much buys; ten visits a day."""

    rows = 600

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.wants, self.noise = rng.normal(size=self.rows), rng.normal(size=(self.rows, 2))
        self.buys = rng.random(self.rows) < 1 / (1 + np.exp(-3 * self.wants))

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        when = np.datetime64("2024-01-01", "D") + ids // 10
        return {"wants": self.wants[ids], "noise": self.noise[ids], "buys": self.buys[ids], "when": when}


class Fewer(Visits):
    """Without what the others predict from."""

    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        answer = super().__getitem__(ids)
        return {"other": answer["wants"], "buys": answer["buys"], "when": answer["when"]}


class Torn(Visits):
    """Names itself, so that nothing is read before the run begins; a row of it cannot be read while `torn` says so."""

    digest = "visits, seed 5"
    torn = True

    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        if self.torn and 123 in ids:
            raise OSError("bad sector")
        return super().__getitem__(ids)


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path) as opened:
        yield opened


def recipe(source: Any = Visits, **changes: Any) -> vd.Recipe:
    given: dict[str, Any] = {
        "data": vd.Dataset("visits", source=vd.Own(source), time="when"),
        "label": "buys",
        "learner": vd.Sklearn(LogisticRegression()),
        "split": vd.TimeSplit(validation="5d", test="20d"),
        "evaluation": vd.Evaluation("roc_auc", by="days", resamples=50),
        "gates": [vd.AtLeast("roc_auc", 0.7)],
        "operate": vd.Operate(approval=vd.PolicyApproval("passed-gates")),
    }
    return vd.Recipe("buyers", **{**given, **changes})


def carried_out(ws: Workspace, what: vd.Recipe, **options: Any) -> Result:
    return run(ws, what, cells=CELLS, **options)


def test_an_estimator_learns_from_arrays_and_is_judged_on_the_newest_days(ws: Workspace) -> None:
    done = carried_out(ws, recipe())
    assert done.champion
    assert done.metrics["roc_auc"] > 0.8
    assert (done.report.rows, done.report.by) == (200, "days")
    assert carried_out(ws, recipe()).found


def test_inputs_of_one_number_are_columns_as_ever(ws: Workspace) -> None:
    done = carried_out(ws, recipe(features=["wants"]))
    model = load_artifact(ws, resolve(ws, done.version).artifact)
    assert model.manifest.reads == ("wants",)
    predicted = model.predict(pl.DataFrame({"wants": [-3.0, 3.0], "beside": ["a", "b"]}))
    assert predicted["prediction"].to_list() == [0, 1]


def test_a_champion_that_cannot_read_the_data_is_no_hindrance_by_name(ws: Workspace) -> None:
    carried_out(ws, recipe())
    gates = [vd.AtLeast("roc_auc", 0.7), vd.NotWorse("champion", by=0.1)]
    done = carried_out(ws, recipe(Fewer, gates=gates))
    (verdict,) = [verdict for verdict in done.verdicts if "champion" in verdict.why]
    assert "cannot read the data" in verdict.why
    assert done.comparisons == ()


def test_a_champion_is_compared_on_the_same_days(ws: Workspace) -> None:
    carried_out(ws, recipe(refit=True))
    learner = vd.Sklearn(LogisticRegression(C=0.01))
    done = carried_out(ws, recipe(learner=learner, gates=[vd.NotWorse("champion", by=0.1)]))
    assert done.against == "buyers/1"
    assert abs(done.comparisons[0].difference.value) < 0.1


def test_it_is_told_where_a_model_comes_from(ws: Workspace) -> None:
    done = carried_out(ws, recipe())
    found = trace(ws, done.version)
    assert (found.snapshot, found.fragments) == (done.snapshot, ())
    assert any("600 rows of one's own" in str(value) for _, value in found.lines())
    data = run_facts(ws, done.run).data
    assert data is not None
    assert (data.rows, data.quarantined, data.files) == (600, 0, ())


def test_a_row_that_fails_fails_the_run_by_name_and_the_mended_one_goes_on(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match="fails at row 123: OSError: bad sector"):
        carried_out(ws, recipe(Torn))
    (pointer,) = ws.ledger.pointers("run:")
    failed = show_run(ws, pointer.subject.removeprefix("run:"))
    assert failed.state is RunState.FAILED
    monkeypatch.setattr(Torn, "torn", False)
    assert carried_out(ws, recipe(Torn)).run == failed.run.id


def network(inputs: Any) -> Any:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = torch.nn.Linear(1, 1)

        def forward(self, wants: Any) -> Any:
            return self.out(wants[:, None])

    return Net()


def test_a_curriculum_goes_by_an_array_that_is_read_once(ws: Workspace) -> None:
    curriculum = vd.Curriculum(by="wants", start=0.1, epochs=1)
    learner = vd.Torch(network=network, curriculum=curriculum, epochs=2, batch=40)
    assert carried_out(ws, recipe(features=["wants"], learner=learner)).steps > 0
    unknown = vd.Torch(network=network, curriculum=vd.Curriculum(by="want", epochs=1), epochs=1)
    with pytest.raises(NotFound, match="want"):
        carried_out(ws, recipe(features=["wants"], learner=unknown))
