"""The pages as a browser shows them: alone, quiet, light and dark, on a desk, on a phone and on paper."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from velodrome.control.finding import FoundBatch, FoundRate
from velodrome.web.finders import FinderPage, batch_page, rate_page
from velodrome.web.render import render
from velodrome.web.report import report

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
KINDS = ["buyers", "buyers/2", "buyers/3", "network", "tracked", "failed"]
DESK, TABLET, PHONE = 1200, 768, 375
PATIENCE = 300_000  # milliseconds: a browser begins from a cold disk, too

BOXES = """(selector) => [...document.querySelectorAll(selector)]
    .filter(each => each.getClientRects().length)
    .map(each => { const box = each.getBoundingClientRect();
                   return [box.left, box.top, box.right, box.bottom, each.textContent] })"""


@dataclass
class Shown:
    """A page in the browser, with everything that it asked for and said."""

    page: Page
    asked: list[str]
    said: list[str]

    def boxes(self, selector: str) -> list[tuple[float, float, float, float, str]]:
        """Left, top, right, bottom and text of what is visible."""
        return [tuple(box) for box in self.page.evaluate(BOXES, selector)]

    def style(self, selector: str, name: str) -> str:
        return str(self.page.evaluate("([s, n]) => getComputedStyle(document.querySelector(s))[n]", [selector, name]))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        why = "no browser was found; install one with: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE)
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Browser, year: Any, tmp_path: Path) -> Iterator[Callable[..., Shown]]:
    """Opens a page, or the page about a word (see `Year`), from a file, without a network."""
    contexts = []

    def opened(what: str | FinderPage, *, width: int = DESK, dark: bool = False) -> Shown:
        file = tmp_path / "page.html"
        shown = report(year.ws, getattr(year, what, what)) if isinstance(what, str) else what
        file.write_text(render(shown))
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page, asked, said = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(file.as_uri())
        return Shown(page, asked, said)

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("what", KINDS)
def test_a_page_opens_alone_and_in_silence(show: Callable[..., Shown], what: str) -> None:
    shown = show(what)
    assert [url.partition(":")[0] for url in shown.asked] == ["file"]
    assert shown.said == []
    assert shown.page.evaluate("document.scripts.length + document.images.length") == 0
    assert shown.page.locator("h1").inner_text()


@pytest.mark.parametrize("what", ["buyers", "network"])
def test_light_and_dark_differ_and_both_can_be_read(show: Callable[..., Shown], what: str) -> None:
    found = {}
    for dark in (False, True):
        shown = show(what, dark=dark)
        paper = luminance(shown.style("body", "backgroundColor"))
        for selector in ("body", ".finding", ".kicker", "summary"):
            assert contrast(paper, luminance(shown.style(selector, "color"))) >= 4.5, (selector, dark)
        found[dark] = paper
    assert found[False] > 0.8
    assert found[True] < 0.05


def test_the_numbers_on_the_heat_map_can_be_read_on_every_colour(show: Callable[..., Shown]) -> None:
    for dark in (False, True):
        shown = show("buyers", dark=dark)
        for level in range(5):
            colours = shown.page.evaluate(
                """level => { const cell = document.querySelector('.heat tbody td');
                              cell.className = 'level' + level;
                              const style = getComputedStyle(cell); return [style.backgroundColor, style.color] }""",
                level,
            )
            assert contrast(*map(luminance, colours)) >= 4.5, (level, dark)


@pytest.mark.parametrize("width", [PHONE, TABLET])
@pytest.mark.parametrize("what", KINDS)
def test_nobody_needs_to_scroll_sideways(show: Callable[..., Shown], what: str, width: int) -> None:
    shown = show(what, width=width)
    shown.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    inner = shown.boxes("main p, main h2, main svg, main summary, .strips td, .cycles td")
    assert [box for box in inner if box[2] > width + 0.5] == []


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("what", ["buyers", "network"])
def test_labels_do_not_overlap(show: Callable[..., Shown], what: str, width: int) -> None:
    shown = show(what, width=width)
    for number in range(shown.page.locator(".plot > svg").count()):
        shown.page.evaluate(
            "number => document.querySelectorAll('.plot > svg').forEach((each, n) => each.classList.toggle('now', n == number))",
            number,
        )
        assert overlapping(shown.boxes(".now text")) == []
    assert overlapping(shown.boxes(".strips thead text")) == []
    for row in ("value", "range", "rows"):
        assert overlapping(shown.boxes(f".strips tbody .{row}, .strips tbody th")) == []


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_what_was_found_fits_its_page(
    show: Callable[..., Shown], width: int, found_rate: FoundRate, found_batch: FoundBatch
) -> None:
    command, now = "velodrome run recipe.py --set learner.optimizer.lr=0.003", datetime(2026, 1, 2, tzinfo=UTC)
    for page in (rate_page(found_rate, command, now), batch_page(found_batch, command, now)):
        shown = show(page, width=width)
        assert shown.said == []
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        for number in range(len(page.figures)):
            plot = shown.page.locator(".plot > svg").nth(number)
            plot.evaluate("each => each.classList.add('now')")
            assert overlapping(shown.boxes(".now text")) == []
            plot.evaluate("each => each.classList.remove('now')")


@pytest.mark.parametrize("what", ["buyers", "network"])
def test_every_picture_has_a_name_and_a_description(show: Callable[..., Shown], what: str) -> None:
    shown = show(what)
    pictures = shown.page.locator("svg[role=img]").all()
    assert pictures
    for picture in pictures:
        title, told = (picture.locator(f"> {tag}").text_content() or "" for tag in ("title", "desc"))
        assert len(told) > 20
        assert shown.page.get_by_role("img", name=f"{title} {told}", exact=True).count() == 1
    assert shown.page.locator("figure").count() == shown.page.locator("figure:has(figcaption .title)").count()


def test_the_heat_map_is_a_table_with_its_cells(show: Callable[..., Shown]) -> None:
    shown = show("buyers")
    heat = shown.page.locator(".heat table")
    assert set(heat.locator("tbody").get_by_role("rowheader").all_inner_texts()) == {"wants", "buys", "city"}
    assert heat.locator("tbody td").count() == 9
    colours = {
        each.evaluate("each => getComputedStyle(each).backgroundColor") for each in heat.locator("tbody td").all()
    }
    assert len(colours) >= 2


def test_a_chart_shows_its_points_inside_its_frame(show: Callable[..., Shown]) -> None:
    shown = show("network")
    left, top, right, bottom, _ = shown.boxes(".plot > svg")[0]
    lines = shown.boxes(".plot > svg .line")[:2]
    assert len(lines) == 2
    for line in lines:
        assert left - 2 <= line[0] < line[2] <= right + 2
        assert top - 2 <= line[1] < line[3] <= bottom + 2
    widths = {round(line[2] - line[0]) for line in lines}
    assert max(widths) >= 0.99 * (right - left)


def test_on_paper_it_is_light_and_shows_no_closed_folds(show: Callable[..., Shown]) -> None:
    shown = show("buyers", dark=True)
    shown.page.emulate_media(media="print")
    assert luminance(shown.style("body", "backgroundColor")) > 0.8
    assert shown.page.locator("summary:visible").all_inner_texts() == ["visits-04: 1 of 3 columns, 4,000 rows"]
    assert shown.page.pdf()[:4] == b"%PDF"


def overlapping(boxes: list[tuple[float, float, float, float, str]]) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than a pixel each way."""
    return [
        (one[4], other[4])
        for one, other in combinations(boxes, 2)
        if min(one[2], other[2]) - max(one[0], other[0]) > 1 and min(one[3], other[3]) - max(one[1], other[1]) > 1
    ]


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
