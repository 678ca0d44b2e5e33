"""The page as text: what is in it, what is escaped, and that it asks nothing of anybody. A browser reads it in test_templates."""

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from velodrome.store.workspace import Workspace
from velodrome.web.models import model_page
from velodrome.web.recipes import recipe_page
from velodrome.web.render import render
from velodrome.web.report import Page, report
from velodrome.web.runs import RunPage, run_page

VOID = {"col", "img", "link", "meta"}
FETCHING = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"}


class Document(HTMLParser):
    """Tags with their attributes in order, and the text; checks that every tag is closed where it was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


WORDS = [
    "buyers",
    "buyers/1",
    "buyers/2",
    "buyers/3",
    "late",
    "network",
    "refit",
    "tracked",
    "failed",
    "running",
    "hostile",
]


@pytest.fixture(scope="module", params=WORDS)
def page(request: pytest.FixtureRequest, year: Any) -> Page:
    return report(year.ws, getattr(year, request.param, request.param))


def test_a_page_asks_nothing_of_anybody_and_runs_nothing(page: Page) -> None:
    html = render(page)
    document = Document(html)
    assert document.of("script") == document.of("img") == document.of("link") == document.of("iframe") == []
    asked = {
        name for _, attributes in document.tags for name in attributes if name in FETCHING or name.startswith("on")
    }
    assert asked == set()
    assert "@import" not in html
    assert "url(" not in html
    policies = [meta["content"] for meta in document.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_a_page_is_sound(page: Page) -> None:
    """Closed tags (in Document), ids that are unique, references that lead somewhere, one first heading, no word for nothing."""
    document = Document(render(page))
    ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [name for _, attributes in document.tags for name in (attributes.get("aria-labelledby") or "").split()]
    assert set(named) <= set(ids)
    assert len(document.of("h1")) == len(document.of("main")) == 1
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", document.text)


def test_every_drawing_has_a_name_and_every_chart_its_numbers(page: Page) -> None:
    document = Document(render(page))
    for drawing in document.of("svg"):
        is_inner = "viewBox".lower() in drawing
        assert (
            is_inner
            or drawing.get("aria-hidden") == "true"
            or (drawing["role"] == "img" and drawing["aria-labelledby"])
        )
    charts = sum(drawing.get("role") == "img" for drawing in document.of("svg"))
    assert document.text.count("The numbers") == charts
    assert len(document.of("figcaption")) == len(document.of("figure"))


def test_hostile_names_are_told_as_they_are(year: Any) -> None:
    for what in ("buyers", "network", "tracked", "failed", "hostile"):
        html = render(report(year.ws, getattr(year, what, what)))
        assert "<script" not in html
        assert "<img" not in html
        assert year.hostile in Document(html).text


def test_a_hostile_reason_and_actor_are_text(year: Any) -> None:
    page = model_page(year.ws, "buyers/1")
    decision = msgspec.structs.replace(page.decisions[0], reason=year.hostile, actor=year.hostile)
    document = Document(render(msgspec.structs.replace(page, decisions=(decision,))))
    assert document.text.count(year.hostile) >= 2
    assert document.of("script") == []


def test_a_run_tells_what_it_is(year: Any) -> None:
    text = Document(render(run_page(year.ws, year.network))).text
    for words in (
        "Run, finished",
        "step 2,500, 500 steps done again",
        "25 % of the time of all steps",
        "Where the time went",
        "1 min 0 s over all attempts, of which 85 % made progress (goodput). Interruptions cost 7.0 s.",
        "steps done again4.0 s6.7 %",
        "Loss by step",
        "roc_auc by city, weakest first",
        "fewer than 50 rows",
        "Calibration",
        "No gate was asked",
    ):
        assert words in text


def test_a_refit_says_whose_figures_it_shows(year: Any) -> None:
    assert f"the figures are those of its judge, {year.network}" in Document(render(run_page(year.ws, year.refit))).text


def test_what_is_not_there_is_told_in_words(year: Any) -> None:
    running = Document(render(run_page(year.ws, year.running))).text
    assert "It is running, or was killed" in running
    assert "No series was recorded" in running
    assert "There is no report yet" in running
    tracked = Document(render(run_page(year.ws, year.tracked))).text
    assert "a loop of one's own is not judged" in tracked
    assert "No snapshot" in tracked
    assert "It failed with Diverged" in Document(render(run_page(year.ws, year.failed))).text
    estimator = Document(render(model_page(year.ws, "buyers/1"))).text
    assert "an estimator that is fitted at once has no steps" in estimator


def test_a_regression_is_told_to_have_no_calibration(year: Any) -> None:
    page = run_page(year.ws, year.network)
    assert page.run.report is not None
    report = msgspec.structs.replace(page.run.report, task="regression", calibration=None, cohorts=())
    text = Document(render(RunPage(made=page.made, run=msgspec.structs.replace(page.run, report=report)))).text
    assert "A regression predicts values, not probabilities" in text
    assert "The recipe names none" in text


def test_a_recipe_tells_its_year(year: Any) -> None:
    document = Document(render(recipe_page(year.ws, "buyers")))
    for words in (
        "buyers/3 is champion since the window visits-04, decided for 2020-05-01",
        "was to retrain",
        "Gate failed, roc_auc at least 0.6",
        "data refused",
        "buyers/3 minus buyers/1 on the same rows",
        "champion promoted to buyers/3",
        "buyers/1 on visits-04, whose rows it has not seen",
        "4 files",
    ):
        assert words in document.text
    cells = [cell for cell in document.of("td") if (cell.get("class") or "").startswith("level")]
    assert len(cells) == 9
    assert all(cell["title"] for cell in cells)
    assert sum("drifted" in (cell.get("class") or "") for cell in cells) == 2


def test_a_window_with_too_few_rows_is_not_told_to_be_calm(year: Any) -> None:
    page = recipe_page(year.ws, "buyers")
    facts, few = page.cycles[1], "the window has 69 rows, fewer than 500"
    assert facts.drift is not None
    columns = [msgspec.structs.replace(each, psi=None, skipped=few, drifted=False) for each in facts.drift.columns]
    none = msgspec.structs.replace(
        facts,
        drift=msgspec.structs.replace(facts.drift, columns=tuple(columns)),
        cycle=msgspec.structs.replace(
            facts.cycle, evidence=msgspec.structs.replace(facts.cycle.evidence, compared=0, drifted=())
        ),
    )
    text = Document(render(msgspec.structs.replace(page, cycles=(none,)))).text
    assert "no column could be compared" in text
    assert "The window has 69 rows, fewer than 500." in text
    assert "0 of 0" not in text
    assert "No column drifted" not in text


def test_a_champion_that_came_back_is_told_in_words(year: Any) -> None:
    page = recipe_page(year.ws, "buyers")
    back = msgspec.structs.replace(page.moves[0], what="champion rolled-back")
    text = Document(render(msgspec.structs.replace(page, moves=(*page.moves, back)))).text
    assert "champion rolled back to buyers/1" in text


def test_a_recipe_before_its_first_run_is_told_what_to_do(ws: Workspace, year: Any) -> None:
    text = Document(render(recipe_page(ws, "buyers", year.recipe))).text
    assert "Nothing is recorded of it yet" in text
    assert "There was no cycle yet: velodrome retrain" in text
    assert "No window was compared" in text


def test_a_refused_version_says_which_gate_said_no(year: Any) -> None:
    text = Document(render(model_page(year.ws, "buyers/2"))).text
    assert "Version, rejected" in text
    assert "roc_auc at least 0.6: failed" in text
    assert "No alias ever stood on it" in text
