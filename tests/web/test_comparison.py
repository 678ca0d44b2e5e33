from datetime import UTC, datetime

import pytest

from velodrome.web.comparison import ComparisonPage, Course, comparison_figure
from velodrome.web.render import render

LOOP, ALONE, NEVER = (0.70, 0.71, 0.72), (0.70, 0.66, 0.64), (0.70, 0.66, 0.64)


@pytest.fixture
def page() -> ComparisonPage:
    return ComparisonPage(
        name="late-arrivals",
        finding="the loop is better",
        unit="roc_auc",
        windows=("2013-04", "2013-05", "2013-06"),
        courses=(Course("loop", LOOP), Course("left alone", ALONE), Course("<b>never</b>", NEVER)),
        made=datetime(2026, 1, 2, tzinfo=UTC),
    )


def test_courses_are_drawn_together_and_the_first_is_the_one_that_matters(page: ComparisonPage) -> None:
    found = comparison_figure(page)
    assert [line.tone for line in found.chart.lines].count("accent") == 1
    assert found.chart.lines[-1].tone == "accent"
    assert [dot.y for dot in found.chart.dots] == [found.chart.y.scale.up(value) for value in LOOP]
    assert found.table.head == ("window", "loop", "left alone", "<b>never</b>")
    assert found.table.rows[1] == ("2013-05", "0.710", "0.660", "0.660")


def test_courses_that_end_alike_have_labels_apart(page: ComparisonPage) -> None:
    loop, alone, never = (label.y for label in comparison_figure(page).chart.labels)
    assert loop < min(alone, never)
    assert abs(alone - never) >= 100 * 15 / comparison_figure(page).chart.height - 1e-9


def test_the_page_tells_its_finding_and_escapes_names(page: ComparisonPage) -> None:
    html = render(page)
    assert "The loop is better." in html
    assert "&lt;b&gt;never" in html
    assert "<b>never" not in html
