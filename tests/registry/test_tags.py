from collections.abc import Callable
from typing import Any

import pytest

from velodrome.core.errors import ConfigurationError, NotFound
from velodrome.registry.facts import known_of
from velodrome.registry.runs import Run, show_run, start
from velodrome.registry.search import list_runs, search_runs
from velodrome.registry.tags import TAGGED, read_tags, tag
from velodrome.store.ledger import verify_chain
from velodrome.store.workspace import Workspace

MakeRun = Callable[..., Run]


def test_tags_are_set_changed_and_taken_away(ws: Workspace, make_run: MakeRun) -> None:
    run = start(ws, make_run())
    assert tag(ws, run.id[:20], {"team": "x", "rank": 3, "good": True}) == {"team": "x", "rank": 3.0, "good": "true"}
    assert tag(ws.acting_as("bob"), run.id, {"team": "y", "rank": None}) == {"team": "y", "good": "true"}
    assert (
        known_of(ws, run.id, "tags")
        == list_runs(ws)[0].tags
        == show_run(ws, run.id).tags
        == {"team": "y", "good": "true"}
    )
    events = [event for event in ws.ledger.events(f"run:{run.id}") if event.type == TAGGED]
    assert [(event.actor, event.body) for event in events] == [
        ("ann", {"tags": {"team": "x", "rank": 3.0, "good": "true"}}),
        ("bob", {"tags": {"team": "y", "rank": None}}),
    ]
    verify_chain(f"run:{run.id}", ws.ledger.events(f"run:{run.id}"))
    assert ("tag team", "y") in show_run(ws, run.id).lines()
    assert len(search_runs(ws, "tags.team = 'y' and tags.good = true").runs) == 1


def test_what_is_so_already_is_not_said_again(ws: Workspace, make_run: MakeRun) -> None:
    run = start(ws, make_run())
    for _ in range(2):
        tag(ws, run.id, {"team": "x", "rank": 3, "good": False, "gone": None})
    tag(ws, run.id, {})
    assert [event.type for event in ws.ledger.events(f"run:{run.id}")] == ["run.created", TAGGED]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"": "x"}, "1 to 200 characters"),
        ({"n" * 201: "x"}, "1 to 200 characters"),
        ({"a\0": "x"}, "1 to 200 characters"),
        ({"team": float("nan")}, "no finite number"),
        ({"team": "é" * 513}, "more than 1024 bytes"),
        ({"team": ["x"]}, "neither a text nor a number"),
        ({"team": "half \ud83d"}, "half a character"),
        ({"team": "a\0b"}, "half a character"),
    ],
)
def test_a_tag_that_could_not_be_searched_by_is_refused(
    ws: Workspace, make_run: MakeRun, tags: dict[str, Any], said: str
) -> None:
    run = start(ws, make_run())
    with pytest.raises(ConfigurationError, match=said):
        tag(ws, run.id, {"fine": "x"} | tags)
    assert known_of(ws, run.id, "tags") == {}


def test_a_run_that_is_not_there_is_not_tagged(ws: Workspace) -> None:
    with pytest.raises(NotFound):
        tag(ws, "nobody", {"team": "x"})


def test_tags_on_a_command_line_are_texts(ws: Workspace) -> None:
    assert read_tags(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(ConfigurationError, match="a name and a value") as caught:
        read_tags(["a=1", "team"])
    assert "team=VALUE" in str(caught.value)
