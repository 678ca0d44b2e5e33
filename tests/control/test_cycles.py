"""What the loop leaves behind, on a small world; test_retraining.py goes through all that may arrive."""

import dataclasses
from typing import Any

from velodrome.control.cycles import cycles, refusals, refuse
from velodrome.control.declaring import declare
from velodrome.core.config import Config
from velodrome.registry.environment import Environment
from velodrome.registry.versions import find_alias
from velodrome.store.ledger import read_record


def contents(world: Any) -> tuple[int, int]:
    """How many records and events there are."""
    ledger = world.ws.ledger
    return sum(1 for _ in ledger.scan()), sum(len(ledger.events(subject)) for subject in ledger.subjects())


def test_without_a_champion_the_first_data_trains_one(world: Any, says: Any) -> None:
    world.deliver(1)
    first = world.retrain(1)
    assert says(first)["champion"] == "retrain"
    assert (first.conclusion.verdict, first.conclusion.version, first.conclusion.against) == (
        "promoted",
        "buyers/1",
        None,
    )
    assert find_alias(world.ws, "buyers", "champion").reference == "buyers/1"


def test_the_same_data_again_does_nothing(champion_of_january: Any) -> None:
    world = champion_of_january
    before = contents(world)
    again = world.retrain(1)
    assert again.found
    assert again.cycle.number == 1
    assert contents(world) == before


def test_cycles_are_told_in_their_order_with_what_came_of_them(champion_of_january: Any) -> None:
    world = champion_of_january
    world.deliver(2)
    world.retrain(2)
    assert [(cycle.number, end.verdict if end else None) for cycle, end in cycles(world.ws, "buyers")] == [
        (1, "promoted"),
        (2, None),
    ]


def test_a_refusal_is_told_once_between_its_cycles(champion_of_january: Any) -> None:
    world = champion_of_january
    for problem in ("a column is missing", "a column is missing", "another"):
        refuse(world.ws, "buyers", "SchemaError", problem)
    told = list(refusals(world.ws, "buyers"))
    assert [(one.before, one.problem) for one in told] == [(2, "a column is missing"), (2, "another")]


def test_threads_are_part_of_what_a_run_is_named_by(world: Any) -> None:
    world.deliver(1)
    declared = []
    for threads in (1, 2):
        ws = dataclasses.replace(world.ws, config=Config(threads=threads))
        declared.append(declare(ws, world.recipe(), world.source, 0))
    told = [read_record(world.ws.ledger, one.environment, Environment).threads for one in declared]
    assert told == [1, 2]
    assert declared[0].key != declared[1].key
