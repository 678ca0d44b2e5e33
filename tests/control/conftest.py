"""The small world of tests/shared, empty and with a champion."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from world import World

from velodrome.control.retraining import Cycled


def checks(cycled: Cycled) -> dict[str, str]:
    """What each check of a decision said."""
    return {reason.check: reason.says for reason in cycled.cycle.decision.reasons}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty world; its ledger is closed in the end."""
    made = World(tmp_path)
    with made.ws:
        yield made


@pytest.fixture
def says() -> Any:
    """`checks` for a test, which imports no other test module."""
    return checks


@pytest.fixture
def champion_of_january(world: World) -> World:
    """A world with a champion that was trained on January."""
    world.deliver(1)
    assert world.retrain(1).conclusion is not None
    return world
