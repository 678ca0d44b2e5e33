"""What a word means, and the command: tables, JSON, a file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from velodrome.cli.report import add_to
from velodrome.core.errors import NotFound
from velodrome.web.models import ModelPage
from velodrome.web.recipes import RecipePage
from velodrome.web.report import report
from velodrome.web.runs import RunPage


def test_a_word_means_a_recipe_a_version_an_alias_or_a_run(year: Any) -> None:
    for what in (str(year.file), "buyers"):
        page = report(year.ws, what)
        assert isinstance(page, RecipePage)
        assert page.name == "buyers"
    for what in ("buyers/3", "buyers@champion", "champion"):
        page = report(year.ws, what)
        assert isinstance(page, ModelPage)
        assert page.reference == "buyers/3"
    for what in (year.network, year.network[:-1]):
        page = report(year.ws, what)
        assert isinstance(page, RunPage)
        assert page.run.id == year.network


def test_a_name_of_runs_alone_is_a_recipe_too(year: Any) -> None:
    page = report(year.ws, "late")
    assert isinstance(page, RecipePage)
    assert (len(page.runs), page.versions) == (4, ())
    assert isinstance(report(year.ws, year.hostile), RecipePage)


@pytest.mark.parametrize(
    ("what", "remedy"),
    [
        ("buyer", "buyers"),
        ("buyers/7", "its newest is buyers/3"),
        ("buyers@challenger", "champion"),
        ("reciep.py", "recipe.py"),
    ],
)
def test_an_unknown_word_names_the_nearest(year: Any, what: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(year.ws.root)
    with pytest.raises(NotFound) as caught:
        report(year.ws, what)
    assert remedy in str(caught.value)


def test_the_beginning_of_several_runs_is_said_to_be_that(year: Any) -> None:
    with pytest.raises(NotFound, match="runs begin so"):
        report(year.ws, "0")


@pytest.fixture
def call(year: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, in the folder of the year."""
    app = typer.Typer()
    app.callback()(lambda: None)
    add_to(app)
    monkeypatch.chdir(year.ws.root)

    def run(*words: str) -> Result:
        done = CliRunner().invoke(app, ["report", *words], catch_exceptions=False)
        assert done.exit_code == 0
        return done

    return run


def test_the_command_writes_a_page_and_says_where(call: Any, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    assert call("buyers", "--html", str(out)).output == f"wrote {out}\n"
    assert "buyers/3 is champion" in " ".join(out.read_text().replace("</span>", "").split())
    shutil.rmtree(out.parent)


def test_the_command_prints_the_facts_of_each_kind_of_page(call: Any, year: Any) -> None:
    recipe = call("recipe.py").output
    assert "buyers/3 is champion" in recipe
    assert "visits-03" in recipe
    assert "refused" in recipe
    assert "data refused before cycle 4" in recipe
    model = call("buyers@champion").output
    assert "gate passed" in model
    assert "policy:passed-gates" in model
    run = call(year.network).output
    assert "from step 2500, 500 steps done again" in run
    assert "roc_auc" in run
    assert year.hostile in " ".join(call(year.failed).output.split())


def test_the_command_prints_the_page_as_json(call: Any, year: Any, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    printed = json.loads(call("champion", "--json", "--html", str(out)).output)
    assert (printed["page"], printed["reference"]) == ("model", "buyers/3")
    assert out.exists()
