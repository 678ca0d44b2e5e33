"""Where the time of a run went: every second of it once, of what a kill cost too, and on its page."""

import time
from collections.abc import Callable

import pytest
from project import RECIPE, Project

from velodrome.registry.runs import RunDetails, show_run
from velodrome.registry.time_spent import TIME
from velodrome.store.ledger import Event
from velodrome.store.workspace import open_folder

pytestmark = pytest.mark.slow

LONG_EPOCHS = "import itertools, pathlib, time\n" + RECIPE.replace("every=5", "every=0").replace(
    "batch=64", "batch=4"
).replace("refit=True", "refit=False").replace(
    "class Network",
    "CALLS = itertools.count()\n\n\nclass Network",
).replace(
    "        return self.layers(",
    "        if self.training and next(CALLS) > 5000 and not pathlib.Path('again').exists():\n"
    "            time.sleep(0.01)\n"
    "        return self.layers(",
)
"""An epoch has 4,500 steps; the second one is slow until it is killed in its middle."""


def test_every_second_of_a_killed_and_resumed_run_is_told_once(make_project: Callable[..., Project]) -> None:
    project = make_project(rows=30_000, epochs=4, recipe=LONG_EPOCHS)
    process = project.start("run", "recipe.py")
    while process.poll() is None and not (project.saved() and _has_told_later(project)):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (project.folder / "again").touch()
    run = project.json("run", "recipe.py")["run"]
    details, told = _told(project, run)
    first, second = details.attempts
    assert first.ended is None
    assert second.redone > 0

    saved = [event for event in told if event.type == "checkpoint.saved" and event.body["attempt"] == 1]
    assert saved
    for event in saved:
        assert sum(event.body["seconds"].values()) <= (event.time - first.started).total_seconds()
    (end,) = (event for event in told if event.type == TIME)
    spent = sum(end.body["seconds"].values())
    assert second.ended is not None
    assert details.outcome is not None
    assert details.outcome.seconds <= spent <= (second.ended - second.started).total_seconds()
    for cost in ("restart", "redone"):
        assert end.body["seconds"][cost] > 0
        assert cost not in saved[-1].body["seconds"]
    assert "start" not in end.body["seconds"]
    of_the_first = sum(details.time.values()) - spent
    assert of_the_first > sum(saved[-1].body["seconds"].values())
    assert of_the_first <= (second.started - first.started).total_seconds()

    shown = project.json("report", run)["run"]["time"]
    assert shown == project.json("runs", "show", run)["time"] == pytest.approx(details.time)
    assert "restart" in project.call("report", run).stdout  # what takes less than a hundredth is not told there
    project.call("report", run, "--html", "run.html")
    page = (project.folder / "run.html").read_text()
    assert "Where the time went" in page
    assert "steps done again" in page
    assert "(goodput). Interruptions cost" in page
    assert "spent." not in page  # the series behind it are no curves


def _has_told_later(project: Project) -> bool:
    """Whether the ledger knows of time that was spent after the newest checkpoint."""
    with open_folder(project.folder) as ws:
        (run,) = ws.ledger.pointers("run:")
        (saved, *_) = reversed(ws.ledger.events(f"checkpoints:{run.subject.removeprefix('run:')}"))
        told = ws.ledger.blocks(run.subject.removeprefix("run:"), "spent.forward")
        return bool(told) and told[-1].last_step > saved.body["step"]


def _told(project: Project, run: str) -> tuple[RunDetails, list[Event]]:
    with open_folder(project.folder) as ws:
        events = [*ws.ledger.events(f"run:{run}"), *ws.ledger.events(f"checkpoints:{run}")]
        return show_run(ws, run), events
