import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.registry.time_spent import Spent, goodput
from velodrome.web.time_spent import time_bar

SECONDS = st.dictionaries(st.sampled_from(list(Spent)), st.floats(0.001, 1e6), min_size=1)


@given(SECONDS)
def test_the_parts_fill_the_bar_in_order_and_say_what_is_goodput(spent: dict[str, float]) -> None:
    found = time_bar(spent)
    assert found is not None
    assert len(found.parts) == len(spent)
    assert found.parts[0].begin == 0
    for one, next_ in zip(found.parts, found.parts[1:], strict=False):
        assert next_.begin == pytest.approx(one.begin + one.width)
    assert sum(part.width for part in found.parts) == pytest.approx(100)
    progress = sum(part.width for part in found.parts if part.kind == "progress")
    assert progress == pytest.approx(100 * goodput(spent), abs=1e-9)
    kinds = [part.kind for part in found.parts]
    assert kinds == sorted(kinds, key=["progress", "needed", "lost"].index)


def test_what_interruptions_cost_is_told_where_there_were_some() -> None:
    spent = {"forward": 60.0, "backward": 30.0, "start": 10.0}
    calm, killed = time_bar(spent), time_bar(spent | {"restart": 15.0, "redone": 10.0})
    assert calm is not None
    assert killed is not None
    assert re.sub(r"\s", " ", calm.finding) == "1 min 40 s over all attempts, of which 90 % made progress (goodput)."
    assert re.sub(r"\s", " ", killed.finding).endswith("72 % made progress (goodput). Interruptions cost 25.0 s.")


def test_a_class_of_another_version_is_shown_by_its_name() -> None:
    found = time_bar({"forward": 1.0, "warming the tea": 1.0})
    assert found is not None
    assert [(part.name, part.kind) for part in found.parts] == [("forward", "progress"), ("warming the tea", "needed")]


def test_of_a_run_that_told_nothing_nothing_is_shown() -> None:
    assert time_bar({}) is None
