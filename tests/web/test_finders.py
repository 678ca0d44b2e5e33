import re
from datetime import UTC, datetime

import msgspec
import pytest

from velodrome.control.finding import FoundBatch, FoundRate
from velodrome.web.finders import FinderPage, batch_page, rate_page
from velodrome.web.render import render

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOSTILE = "<b>velodrome run</b>"


def test_the_curve_is_drawn_up_to_where_it_leaves_the_picture(found_rate: FoundRate) -> None:
    (found,) = rate_page(found_rate, HOSTILE, NOW).figures
    assert found.chart.x.scale.log
    assert found.chart.y.scale.high < 2
    assert found.chart.rules == (found.chart.x.scale.at(found_rate.suggestion.rate),)
    for line in found.chart.lines:
        numbers = [float(each) for each in re.findall(r"-?[\d.]+", line.path)]
        assert min(numbers) >= 0
        assert max(numbers) <= 100
    assert found.table.rows[0] == ("1.0e-06", "1.000", "1.000")
    assert found.table.rows[-1][1:] == ("–", "–")


def test_sizes_that_fit_are_drawn_in_equal_distances(found_batch: FoundBatch) -> None:
    speed, memory = batch_page(found_batch, HOSTILE, NOW).figures
    assert len(speed.chart.dots) == len(memory.chart.dots) == 4
    xs = [dot.x for dot in speed.chart.dots]
    assert xs == pytest.approx([12.5, 37.5, 62.5, 87.5])
    assert speed.chart.rules == (xs[2],)
    assert memory.chart.y.title == "MiB"
    assert speed.table.rows[-1] == ("256", "3,100")


def test_a_page_tells_what_was_found_and_what_to_type_and_escapes_it(
    found_rate: FoundRate, found_batch: FoundBatch
) -> None:
    for page, words in (
        (rate_page(found_rate, HOSTILE, NOW), "The loss falls most steeply at a rate of"),
        (batch_page(found_batch, HOSTILE, NOW), "A micro-batch of 128 is fast enough; the largest that fits is 256."),
    ):
        html = render(page)
        assert words in html
        assert "&lt;b&gt;velodrome run" in html
        assert HOSTILE not in html
        assert "<script" not in html
        assert not re.search(r"\b(None|nan|inf)\b", html)


def test_a_page_is_a_value_that_can_be_told_to_a_program(found_rate: FoundRate) -> None:
    page = rate_page(found_rate, "velodrome run recipe.py", NOW)
    assert msgspec.json.decode(msgspec.json.encode(page), type=FinderPage) == page
