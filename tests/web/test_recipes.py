import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from velodrome.registry.versions import rollback
from velodrome.store.workspace import Workspace, open_folder
from velodrome.web.recipes import RecipePage, recipe_page


def test_a_recipe_shows_its_year(year: Any) -> None:
    page = recipe_page(year.ws, "buyers", year.recipe)
    assert page.champion is not None
    assert (page.champion.reference, page.champion.window) == ("buyers/3", "visits-04")
    assert page.champion.at == datetime(2020, 5, 1, tzinfo=UTC)
    assert page.champion.run.type == "train"
    assert [one.cycle.decision.action for one in page.cycles] == ["retrain", "wait", "retrain", "retrain"]
    assert [one.summary.reference for one in page.versions] == ["buyers/3", "buyers/2", "buyers/1"]
    assert all(one.figure is not None and one.metric == "roc_auc" for one in page.versions)
    assert [(one.what, one.version) for one in page.moves] == [
        ("champion promoted", "buyers/1"),
        ("champion promoted", "buyers/3"),
    ]
    assert len(page.refusals) == 1
    assert page.owner == "ann"


def test_the_newest_measurement_is_of_the_champion_of_its_time(year: Any) -> None:
    measured = recipe_page(year.ws, "buyers").measured
    assert measured is not None
    assert (measured.version, measured.window, measured.report.rows) == ("buyers/1", "visits-04", 4000)
    assert {cohort.value for cohort in measured.report.cohorts} == {"Bern", "Basel", "Zug", year.hostile}


def test_without_its_file_a_recipe_is_as_its_newest_run_recorded_it(year: Any) -> None:
    by_name, by_file = recipe_page(year.ws, "buyers"), recipe_page(year.ws, "buyers", year.recipe)
    assert by_name.settings == by_file.settings
    assert {setting.name: setting.value for setting in by_name.settings}["label"] == "buys"


def test_a_recipe_with_nothing_recorded_has_a_page(ws: Workspace, year: Any) -> None:
    page = recipe_page(ws, "buyers", year.recipe)
    assert (page.champion, page.measured, page.cycles, page.versions, page.runs) == (None, None, (), (), ())
    assert page.settings


def test_a_page_is_json_that_leads_back_to_it(year: Any) -> None:
    page = recipe_page(year.ws, "buyers")
    assert msgspec.json.decode(msgspec.json.encode(page), type=RecipePage) == page


def test_a_champion_that_came_back_is_not_told_by_its_first_cycle(year: Any, tmp_path: Path) -> None:
    shutil.copytree(year.ws.root / ".velodrome", tmp_path / ".velodrome")
    with open_folder(tmp_path) as ws:
        rollback(ws, "buyers", reason="worse", actor="bob")
        champion = recipe_page(ws, "buyers").champion
    assert champion is not None
    assert (champion.reference, champion.window, champion.at, champion.actor) == ("buyers/1", None, None, "bob")
