from typing import Any

from velodrome.control.cycles import refusals
from velodrome.store.workspace import Workspace
from velodrome.web.cycles import cycle_facts


def test_cycles_come_with_their_drift_and_what_became_of_them(year: Any) -> None:
    first, alike, opposite, shifted = cycle_facts(year.ws, "buyers")
    assert (first.drift, first.conclusion and first.conclusion.verdict) == (None, "promoted")
    assert alike.conclusion is None
    assert alike.drift is not None
    assert (alike.drift.drifted, alike.since) == ((), {})
    assert opposite.conclusion is not None
    assert opposite.conclusion.verdict == "refused"
    assert opposite.conclusion.challenger is not None
    assert opposite.conclusion.challenger.value < 0.6
    assert opposite.why in opposite.cycle.decision.why
    assert shifted.since == {"wants": "visits-03"}


def test_a_cycle_concerns_the_champion_it_judged_and_the_version_it_made(year: Any) -> None:
    facts = cycle_facts(year.ws, "buyers")
    concerned = {
        number: [one.cycle.number for one in facts if one.concerns(f"buyers/{number}")] for number in (1, 2, 3)
    }
    assert concerned == {1: [1, 2, 3, 4], 2: [3], 3: [4]}


def test_refused_data_stands_before_the_cycle_that_came_after(year: Any) -> None:
    (refusal,) = refusals(year.ws, "buyers")
    assert (refusal.before, refusal.error) == (4, "ContractError")
    assert "between(wants" in refusal.problem


def test_a_model_without_a_loop_has_none(ws: Workspace) -> None:
    assert (cycle_facts(ws, "late"), list(refusals(ws, "late"))) == ([], [])
