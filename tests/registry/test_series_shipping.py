"""Points into the ledger: which blocks they become, that shipping again changes nothing, and that facts are what histories say."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velodrome.core.errors import PointerMoved
from velodrome.registry.runs import resumed
from velodrome.registry.series import read_histories, read_series
from velodrome.registry.series_shipping import Points, Shipper, pack_points, settle_facts, unpack_points
from velodrome.store.ledger import Expect, Fact, Move
from velodrome.store.workspace import Workspace

NUMBERS = st.floats(width=32)


def points(steps: Iterable[int], **values: Iterable[float]) -> Points:
    return Points(tuple(values), np.array([*steps]), np.array([[*each] for each in values.values()], dtype=float))


def counts(ws: Workspace, name: str, run: str = "r") -> list[int]:
    return [block.count for block in ws.ledger.blocks(run, name)]


def known(ws: Workspace, run: str = "r") -> dict[str, float | str]:
    return ws.ledger.facts([f"run:{run}"], "series.")[f"run:{run}"]


def told(ws: Workspace, run: str = "r") -> dict[str, float | str]:
    """What should be known, from the histories as they are read, in plain Python."""
    facts = {}
    for name, series in read_histories(ws, run).items():
        values = series.values.tolist()
        numbers = [value for value in values if not math.isnan(value)]
        if values:
            facts[f"series.{name}.count"] = len(values)
            facts |= {f"series.{name}.last": values[-1]} if not math.isnan(values[-1]) else {}
            facts |= {f"series.{name}.min": min(numbers), f"series.{name}.max": max(numbers)} if numbers else {}
    return facts


def test_points_lie_in_a_spool_as_they_are() -> None:
    whole = points([1, 2, 5], loss=[0.1, math.nan, math.inf], lr=[-0.0, 1e-310, 3])
    first, second = unpack_points(pack_points([whole, points([7], ü=[1.0])]))
    assert (first.names, first.steps.tolist(), first.values.tobytes()) == (
        ("loss", "lr"),
        [1, 2, 5],
        whole.values.tobytes(),
    )
    assert (second.names, second.count, first.count) == (("ü",), 1, 6)


def test_a_block_grows_until_it_is_full(ws: Workspace) -> None:
    shipper = Shipper(ws, "r", 1)
    for start in range(1, 3001, 10):
        steps = range(start, start + 10)
        assert shipper.ship([points(steps, loss=steps)]) == 10
    assert counts(ws, "loss") == [1030, 1030, 940]
    assert read_series(ws, "r", "loss")[1].tolist() == list(range(1, 3001))


def test_a_large_shipment_is_cut(ws: Workspace) -> None:
    steps = range(1, 150_001)
    Shipper(ws, "r", 1).ship([points(steps, loss=steps)])
    assert counts(ws, "loss") == [65_536, 65_536, 150_000 - 2 * 65_536]
    assert read_series(ws, "r", "loss")[1].tolist() == list(steps)


def test_another_shipper_goes_on_where_the_ledger_ends(ws: Workspace) -> None:
    """What a killed process shipped and had not forgotten comes again, in whatever portions."""
    everything = [points([step], loss=[step / 7], lr=[1.0]) for step in range(1, 41)]
    assert Shipper(ws, "r", 1).ship(everything[:25]) == 50
    before = ws.ledger.blocks("r")
    assert Shipper(ws, "r", 1).ship(everything[5:25]) == 0
    assert ws.ledger.blocks("r") == before
    again = Shipper(ws, "r", 1)
    assert again.ship(everything[:30]) == 10
    assert again.ship(everything) == 20
    assert (counts(ws, "loss"), counts(ws, "lr")) == ([40], [40])
    assert read_series(ws, "r", "loss")[1].tolist() == [step / 7 for step in range(1, 41)]
    assert known(ws) == told(ws)


def test_nothing_to_ship_is_no_commit(ws: Workspace) -> None:
    assert Shipper(ws, "r", 1).ship([]) == 0
    assert ws.ledger.blocks("r") == []


def test_what_is_known_of_a_series(ws: Workspace) -> None:
    shipper = Shipper(ws, "r", 1)
    shipper.ship([points([1, 2, 3], loss=[0.5, math.nan, 0.25], odd=[math.nan, 1.0, math.nan], none=[math.nan] * 3)])
    assert known(ws) == {
        "series.loss.last": 0.25,
        "series.loss.min": 0.25,
        "series.loss.max": 0.5,
        "series.loss.count": 3,
        "series.odd.min": 1.0,
        "series.odd.max": 1.0,
        "series.odd.count": 3,
        "series.none.count": 3,
    }
    shipper.ship([points([4, 5], loss=[math.inf, -math.inf], odd=[2.0, 0.5])])
    loss = {key: value for key, value in known(ws).items() if key.startswith("series.loss.")}
    assert loss == {
        "series.loss.last": -math.inf,
        "series.loss.min": -math.inf,
        "series.loss.max": math.inf,
        "series.loss.count": 5,
    }
    assert known(ws)["series.odd.last"] == 0.5
    shipper.ship([points([6], odd=[math.nan])])
    assert "series.odd.last" not in known(ws)


def test_a_guard_that_does_not_hold_keeps_everything_out(ws: Workspace) -> None:
    ws.commit(Move("run:r", None, "running/1", "run.started"))
    shipper = Shipper(ws, "r", 1, Expect("run:r", "running/1"))
    shipper.ship([points([1], loss=[1.0])])
    ws.commit(Move("run:r", "running/1", "collected/1", "run.collected"))
    with pytest.raises(PointerMoved):
        shipper.ship([points([2], loss=[2.0])])
    assert counts(ws, "loss") == [1]


def test_facts_that_are_wrong_are_settled(ws: Workspace) -> None:
    Shipper(ws, "r", 1).ship([points([1, 2], loss=[1.0, math.nan])])
    assert not settle_facts(ws, "r")
    ws.commit(Fact("run:r", "series.loss.max", 9.0), Fact("run:r", "series.gone.count", 3), Fact("run:r", "state", "x"))
    assert settle_facts(ws, "r")
    assert known(ws) == told(ws)
    assert not settle_facts(ws, "r")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_facts_are_what_the_history_says_after_every_act(ws: Workspace, data: st.DataObject) -> None:
    """Attempts that restore any step, or none, log any steps of some series in any portions, and are killed."""
    run = ws.new_id()
    for attempt in range(1, data.draw(st.integers(1, 5)) + 1):
        restored = data.draw(st.none() | st.integers(0, 15))
        if restored is not None:
            resumed(ws, run, attempt=attempt, step=restored)
            assert known(ws, run) == told(ws, run)
        shipper = Shipper(ws, run, attempt)
        step = max(0, (restored or 0) + data.draw(st.sampled_from([0, 0, 0, -1, -5])))
        for _ in range(data.draw(st.integers(0, 4))):
            count = data.draw(st.integers(1, 4))
            values = data.draw(st.lists(NUMBERS, min_size=count, max_size=count))
            names = data.draw(st.sampled_from([("a",), ("b",), ("a", "b")]))
            shipper.ship([points(range(step + 1, step + 1 + count), **dict.fromkeys(names, values))])
            assert known(ws, run) == told(ws, run)
            step += count
    assert not settle_facts(ws, run)


def test_facts_are_right_again_when_a_restore_comes_late(ws: Workspace) -> None:
    """A tracked loop may log before it restores."""
    Shipper(ws, "r", 1).ship([points(range(1, 9), a=range(1, 9), b=range(8))])
    shipper = Shipper(ws, "r", 2)
    shipper.ship([points([1], a=[50.0])])
    assert known(ws) == told(ws)
    resumed(ws, "r", attempt=2, step=6)
    assert known(ws) == told(ws)
    shipper.ship([points([7], a=[-1.0])])
    assert known(ws) == told(ws)
    assert (known(ws)["series.a.count"], known(ws)["series.b.count"]) == (7, 6)


def test_facts_are_right_when_steps_are_logged_that_were_not_taken_back(ws: Workspace) -> None:
    """What was restored after step 9 logs 6 to 11 again."""
    Shipper(ws, "r", 1).ship([points(range(1, 13), a=range(100, 112))])
    resumed(ws, "r", attempt=2, step=9)
    shipper = Shipper(ws, "r", 2)
    for step in range(6, 12):
        shipper.ship([points([step], a=[step])])
        assert known(ws) == told(ws)
    assert known(ws)["series.a.count"] == 11


def test_what_an_earlier_attempt_ships_late_counts_as_far_as_it_does(ws: Workspace) -> None:
    """A spool on a machine that was away while another went on."""
    late, newest = Shipper(ws, "r", 1), Shipper(ws, "r", 2)
    late.ship([points([1, 2], a=[1.0, 2.0])])
    resumed(ws, "r", attempt=2, step=4)
    newest.ship([points([5], a=[5.0])])
    for step, value in enumerate([3.0, 40.0, 500.0, 600.0], start=3):
        late.ship([points([step], a=[value])])
        assert known(ws) == told(ws)
    assert read_series(ws, "r", "a")[1].tolist() == [1.0, 2.0, 3.0, 40.0, 5.0]
    newest.ship([points([6], a=[6.0])])
    settle_facts(ws, "r")
    assert known(ws) == told(ws)
