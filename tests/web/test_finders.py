import re
from datetime import UTC, datetime

import msgspec
import pytest

from velodrome.control.finding import FoundBatch, FoundRate
from velodrome.training.batch_sizes import SizeTrial, suggest_size
from velodrome.training.rate_range import curve_of, growing_rates, suggest_rate
from velodrome.web.finders import FinderPage, batch_page, rate_page
from velodrome.web.render import render

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOSTILE = "<b>velodrome run</b>"
RATES = growing_rates(1e-6, 10, 100)
LOSSES = [1.0] * 40 + [1 - 0.02 * step for step in range(30)] + [0.4] * 10 + [0.5, 4.0, float("nan")]


@pytest.fixture
def rate() -> FoundRate:
    curve = curve_of(RATES, LOSSES)
    suggestion = suggest_rate(curve, 100)
    assert suggestion is not None
    return FoundRate(
        recipe="churn",
        seed=0,
        device="cpu",
        rows=3000,
        batch=64,
        present=0.01,
        curve=curve,
        ended="exploded",
        suggestion=suggestion,
        setting=f"learner.optimizer.lr={suggestion.rate:g}",
    )


@pytest.fixture
def batch() -> FoundBatch:
    speeds = {32: 1000.0, 64: 1900.0, 128: 3000.0, 256: 3100.0}
    trials = [SizeTrial(size=n, fits=True, rows_per_second=each, memory=n * 2**20) for n, each in speeds.items()]
    trials.append(SizeTrial(size=512, fits=False))
    suggestion = suggest_size(trials)
    assert suggestion is not None
    return FoundBatch(
        recipe="churn",
        seed=0,
        device="cuda",
        rows=3000,
        field="micro_batch",
        present=64,
        trials=tuple(trials),
        budget=None,
        ended="memory",
        suggestion=suggestion,
        setting="learner.micro_batch=128",
    )


def test_the_curve_is_drawn_up_to_where_it_leaves_the_picture(rate: FoundRate) -> None:
    (found,) = rate_page(rate, HOSTILE, NOW).figures
    assert found.chart.x.scale.log
    assert found.chart.y.scale.high < 2
    assert found.chart.rules == (found.chart.x.scale.at(rate.suggestion.rate),)
    for line in found.chart.lines:
        numbers = [float(each) for each in re.findall(r"-?[\d.]+", line.path)]
        assert min(numbers) >= 0
        assert max(numbers) <= 100
    assert found.table.rows[0] == ("1.0e-06", "1.000", "1.000")
    assert found.table.rows[-1][1:] == ("–", "–")


def test_sizes_that_fit_are_drawn_in_equal_distances(batch: FoundBatch) -> None:
    speed, memory = batch_page(batch, HOSTILE, NOW).figures
    assert len(speed.chart.dots) == len(memory.chart.dots) == 4
    xs = [dot.x for dot in speed.chart.dots]
    assert xs == pytest.approx([12.5, 37.5, 62.5, 87.5])
    assert speed.chart.rules == (xs[2],)
    assert memory.chart.y.title == "MiB"
    assert speed.table.rows[-1] == ("256", "3,100")


def test_a_page_tells_what_was_found_and_what_to_type_and_escapes_it(rate: FoundRate, batch: FoundBatch) -> None:
    for page, words in (
        (rate_page(rate, HOSTILE, NOW), "The loss falls most steeply at a rate of"),
        (batch_page(batch, HOSTILE, NOW), "A micro-batch of 128 is fast enough; the largest that fits is 256."),
    ):
        html = render(page)
        assert words in html
        assert "&lt;b&gt;velodrome run" in html
        assert HOSTILE not in html
        assert "<script" not in html
        assert not re.search(r"\b(None|nan|inf)\b", html)


def test_a_page_is_a_value_that_can_be_told_to_a_program(rate: FoundRate) -> None:
    page = rate_page(rate, "velodrome run recipe.py", NOW)
    assert msgspec.json.decode(msgspec.json.encode(page), type=FinderPage) == page
