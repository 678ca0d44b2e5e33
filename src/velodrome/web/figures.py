"""The pictures of a run: curves over its steps, figures and cohorts with their intervals, calibration.

A picture is a frozen value: a title that says what it shows, a sentence with what it finds, a description for who cannot see
it, the chart, and its numbers as a table. Everything is computed from the facts of the page; nothing is read.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.calibration import Calibration
from velodrome.evaluation.cohorts import CohortEstimate
from velodrome.evaluation.metrics import METRICS
from velodrome.evaluation.report import Report
from velodrome.web.charts import (
    Axis,
    Chart,
    Dot,
    Label,
    Line,
    Scale,
    Tone,
    above,
    line_path,
    spread,
    value_axis,
)
from velodrome.web.runs import WAIT_SHARE, Curve, RunFacts
from velodrome.web.words import NAMES, count, figure, listed, of_series, percent, plural, range_of, value_of

__all__ = [
    "CurveFigures",
    "Figure",
    "ReportFigures",
    "Strip",
    "StripGroup",
    "Strips",
    "Table",
    "curve_figures",
    "ends_of",
    "report_figures",
]

_MAIN = ("loss", "validation_loss")
_LINE_FROM = 3
"""Points from which on a line alone shows a curve."""
_OF_THE_MACHINE = (("_percent", 1.0, "%"), ("_bytes", 1e-9, "GB"), ("_watts", 1.0, "W"))
"""Ending of a series' name, factor to what is shown, its unit."""
_MOST_SERIES = 24
_TABLE_ROWS = 24
_LINE = 15  # pixels from one label to the next


class Table(msgspec.Struct, frozen=True):
    """The numbers of a picture."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A chart with its words. `shape`: as wide as the text, one of two beside each other, or a square."""

    title: str
    finding: str
    description: str
    chart: Chart
    table: Table
    shape: Literal["wide", "small", "square"] = "wide"


class Strip(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate as a row: where it and its interval lie on the axis of its group, and in words; or why there is none."""

    name: str
    value: str
    range: str
    rows: str
    at: float | None = None
    low: float | None = None
    high: float | None = None
    why: str | None = None
    tone: Tone = "ink"


class StripGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that share an axis. `reference` is a place that they are compared with, `around` its interval."""

    name: str
    axis: Axis
    strips: tuple[Strip, ...]
    reference: float | None = None
    around: tuple[float, float] | None = None


class Strips(msgspec.Struct, frozen=True, kw_only=True):
    """A table in which each row has its place on an axis drawn; it is its own table of numbers."""

    title: str
    finding: str
    groups: tuple[StripGroup, ...]


class CurveFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The pictures of a run's series. `loss`: None where there is none. `left_out`: names of series beyond the first few."""

    loss: Figure | None
    others: tuple[Figure, ...]
    left_out: tuple[str, ...]


class ReportFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The pictures of a report; None where it has nothing to show in them."""

    metrics: Strips
    cohorts: Strips | None
    calibration: Figure | None


def curve_figures(run: RunFacts) -> CurveFigures:
    others = [curve for curve in run.curves if curve.name not in _MAIN]
    return CurveFigures(
        loss=_loss(run),
        others=tuple(_small(curve) for curve in others[:_MOST_SERIES]),
        left_out=tuple(curve.name for curve in others[_MOST_SERIES:]),
    )


def report_figures(report: Report) -> ReportFigures:
    return ReportFigures(
        metrics=_metrics(report),
        cohorts=_cohorts(report) if report.cohorts else None,
        calibration=_calibration(report.calibration) if report.calibration else None,
    )


def ends_of(estimate: Estimate | None) -> list[float]:
    """All that an axis must hold to show it."""
    found = (estimate.value, estimate.low, estimate.high) if estimate else ()
    return [end for end in found if end is not None]


# --------------------------------------------------------------------------------------------------------------- curves


def _loss(run: RunFacts) -> Figure | None:
    curves = [curve for name in _MAIN for curve in run.curves if curve.name == name and curve.first is not None]
    if not curves:
        return None
    x = _step_axis(curves)
    y = value_axis("loss", [value for curve in curves for value in (curve.low, curve.high) if value is not None])
    labels = _beside(
        [(of_series(curve.name).partition(" ")[0], y.scale.up(curve.last or 0.0)) for curve in curves], 280
    )
    rules, marks = _marks(run, x.scale)
    return Figure(
        title="Loss by step",
        finding=_loss_finding(run, curves),
        description=" ".join(_course(curve) for curve in curves),
        chart=Chart(
            x=x,
            y=y,
            height=280,
            rules=tuple(rules),
            lines=tuple(
                _line(curve, x.scale, y.scale, "accent" if curve is curves[-1] else "soft") for curve in curves
            ),
            dots=tuple(dot for curve in curves[1:] for dot in _dots(curve, x.scale, y.scale)),
            labels=(*labels, *marks),
        ),
        table=_sampled(curves),
    )


def _small(curve: Curve) -> Figure:
    factor, unit = _unit(curve)
    shown = _times(curve, factor)
    x = _step_axis([curve])
    ends = [end for end in (shown.low, shown.high) if end is not None]
    y = value_axis(unit or "value", ends, count=3, zero=curve.name in ("lr", WAIT_SHARE))
    dots = tuple(_dots(shown, x.scale, y.scale)) if len(shown.steps) < _LINE_FROM else ()
    return Figure(
        title=NAMES[curve.name].capitalize() if curve.name in NAMES else curve.name,
        finding=_small_finding(shown, unit),
        description=_course(shown),
        chart=Chart(x=x, y=y, height=120, lines=(_line(shown, x.scale, y.scale, "accent"),), dots=dots),
        table=_sampled([shown], unit),
        shape="small",
    )


def _small_finding(shown: Curve, unit: str) -> str:
    if shown.high is None:
        return "no finite number"
    median, highest = (f"{figure(value)} {unit}".strip() for value in (shown.median, shown.high))
    return f"median {median}, highest {highest} at step {count(shown.high_step)}"


def _step_axis(curves: Sequence[Curve]) -> Axis:
    ends = [float(step) for curve in curves for step in (curve.steps[0], curve.steps[-1])]
    return value_axis("step", ends, count=6 if len(curves) > 1 else 4, tight=True)


def _line(curve: Curve, x: Scale, y: Scale, tone: Tone) -> Line:
    nan = float("nan")
    path = line_path(
        (x.at(step) for step in curve.steps), (nan if value is None else y.up(value) for value in curve.values)
    )
    return Line(path, tone, thin=len(curve.steps) > 100)


def _dots(curve: Curve, x: Scale, y: Scale) -> Iterator[Dot]:
    """The points of a curve that has few."""
    if len(curve.steps) <= 60:
        for step, value in zip(curve.steps, curve.values, strict=True):
            if value is not None:
                yield Dot(x.at(step), y.up(value), f"{of_series(curve.name)} at step {step:,}: {figure(value)}")


def _marks(run: RunFacts, x: Scale) -> tuple[list[float], list[Label]]:
    """Where attempts went on, and the step whose weights were kept; words that would touch are put together."""
    resumed = [step for attempt in run.attempts if (step := attempt.restored_step)]
    kept = [run.outcome.steps] if run.outcome and x.low < run.outcome.steps < x.high else []
    found = [(steps[0], words) for steps, words in ((resumed, _resumed(resumed)), (kept, _kept(kept))) if steps]
    if len(found) == 2 and abs(x.at(found[0][0]) - x.at(found[1][0])) < 35:
        found = [(found[1][0], f"{found[0][1]}, {found[1][1]}")]
    labels = [above(x.at(step), words, narrow=words == found[-1][1]) for step, words in found]
    return [x.at(step) for step in (*resumed, *kept)], labels


def _resumed(steps: Sequence[int]) -> str:
    return f"resumed at {count(steps[0])}" if len(steps) == 1 else f"resumed {len(steps)} times"


def _kept(steps: Sequence[int]) -> str:
    return f"kept at {count(steps[0])}" if steps else ""


def _beside(found: Sequence[tuple[str, float]], height: int) -> list[Label]:
    """Labels at the right ends of lines, moved apart where they would overlap; the last is the one that matters."""
    places = spread([place for _, place in found], 100 * _LINE / height)
    last = len(found) - 1
    return [
        Label(100, place, text, tone="accent" if index == last else "soft")
        for index, ((text, _), place) in enumerate(zip(found, places, strict=True))
    ]


def _loss_finding(run: RunFacts, curves: Sequence[Curve]) -> str:
    judged = curves[-1]
    said = f"The {of_series(judged.name)} was lowest at step {count(judged.low_step)}: {figure(judged.low)}."
    if run.outcome and len(curves) > 1:
        said += f" The weights kept are those of step {count(run.outcome.steps)}."
    return said


def _course(curve: Curve) -> str:
    """A curve in words."""
    name = of_series(curve.name)
    missing = f" {plural(curve.missing, 'point')} of it are no finite numbers." if curve.missing else ""
    if curve.first is None:
        return f"{name}: no finite number.{missing}"
    return (
        f"{name} goes from {figure(curve.first)} to {figure(curve.last)} over {plural(curve.points, 'point')}, "
        f"lowest {figure(curve.low)} at step {count(curve.low_step)}, highest {figure(curve.high)} at step "
        f"{count(curve.high_step)}.{missing}"
    )


def _sampled(curves: Sequence[Curve], unit: str = "") -> Table:
    """Each curve at some steps of the one with the fewest points: its value there, or the last before."""
    base = min(curves, key=lambda curve: len(curve.steps))
    places = np.unique(np.linspace(0, len(base.steps) - 1, _TABLE_ROWS).round().astype(int))
    steps = [base.steps[place] for place in places]
    columns = [[figure(_value_at(curve, step)) for step in steps] for curve in curves]
    named = (f"{of_series(curve.name)}{f', {unit}' if unit else ''}" for curve in curves)
    return Table(("step", *named), tuple(zip(map(count, steps), *columns, strict=True)))


def _value_at(curve: Curve, step: int) -> float | None:
    place = int(np.searchsorted(np.array(curve.steps), step, side="right")) - 1
    return curve.values[place] if place >= 0 else None


def _unit(curve: Curve) -> tuple[float, str]:
    """What values are multiplied by to be shown, and in which unit they are then."""
    if curve.name == WAIT_SHARE:
        return 100.0, "%"
    for ending, factor, unit in _OF_THE_MACHINE:
        if curve.name.endswith(ending):
            return factor, unit
    if curve.timing:
        return (1000.0, "ms") if (curve.high or 0.0) < 10 else (1.0, "s")
    return 1.0, ""


def _times(curve: Curve, factor: float) -> Curve:
    """The curve in another unit."""
    facts = {name: getattr(curve, name) for name in ("first", "last", "low", "median", "high")}
    scaled = {name: None if value is None else factor * value for name, value in facts.items()}
    values = tuple(None if value is None else factor * value for value in curve.values)
    return msgspec.structs.replace(curve, values=values, **scaled)


# ------------------------------------------------------------------------------------------------------------ estimates


def _metrics(report: Report) -> Strips:
    """Shares on one axis from 0 to 1; every other metric on an axis of its own, since their units differ."""
    shares = [name for name in report.metrics if _is_share(report, name)]
    shares.sort(key=lambda name: name != report.primary)
    groups = [_group("", value_axis("", [0.0, 1.0], count=4), report, shares)] if shares else []
    for name in report.metrics:
        if name not in shares:
            axis = value_axis("", ends_of(report.metrics[name]), count=3, zero=True)
            groups.append(_group("", axis, report, [name]))
    found = report.metrics[report.primary]
    level = f"{100 * found.level:g} %"
    return Strips(
        title=f"Figures on {plural(report.rows, 'row')} that training has not seen",
        finding=f"Intervals hold the true value in {level} of repetitions; a bootstrap of {report.by}.",
        groups=tuple(groups),
    )


def _cohorts(report: Report) -> Strips:
    """Cohorts of each column, the weakest first, on one axis, beside the figure on all rows."""
    overall = report.metrics[report.primary]
    judged = [cohort.estimate for cohort in report.cohorts if cohort.estimate]
    axis = value_axis("", [end for each in (overall, *judged) for end in ends_of(each)], count=4)
    columns = dict.fromkeys(cohort.column for cohort in report.cohorts)
    groups = (_cohort_group(report, axis, column) for column in columns)
    return Strips(
        title=f"{report.primary} by {listed(list(columns))}, weakest first",
        finding=_cohort_finding(report, overall),
        groups=tuple(groups),
    )


def _cohort_group(report: Report, axis: Axis, column: str) -> StripGroup:
    overall, greater = report.metrics[report.primary], _more_is_better(report)

    def weakness(cohort: CohortEstimate) -> tuple[bool, float]:
        value = cohort.estimate.value if cohort.estimate else 0.0
        return cohort.estimate is None, value if greater else -value

    cohorts = sorted((cohort for cohort in report.cohorts if cohort.column == column), key=weakness)
    low, high = overall.low, overall.high
    return StripGroup(
        name=column,
        axis=axis,
        strips=tuple(_strip(each.value, each.estimate, axis, rows=each.rows, why=each.skipped) for each in cohorts),
        reference=axis.scale.at(overall.value),
        around=(axis.scale.at(low), axis.scale.at(high)) if low is not None and high is not None else None,
    )


def _cohort_finding(report: Report, overall: Estimate) -> str:
    """How many cohorts are surely worse than all rows together: their whole interval lies on the bad side."""
    greater = _more_is_better(report)
    worse = [
        cohort for cohort in report.cohorts if cohort.estimate and _surely_worse(cohort.estimate, overall, greater)
    ]
    judged = sum(cohort.estimate is not None for cohort in report.cohorts)
    named = f": {listed([f'{cohort.column} {cohort.value}' for cohort in worse])}" if worse else ""
    side = f"have their whole interval on the worse side of {figure(overall.value)}, the figure on all rows"
    return f"{len(worse)} of {judged} {side}{named}."


def _surely_worse(cohort: Estimate, overall: Estimate, greater: bool) -> bool:
    if cohort.low is None or cohort.high is None:
        return False
    return cohort.high < overall.value if greater else cohort.low > overall.value


def _group(name: str, axis: Axis, report: Report, metrics: Sequence[str]) -> StripGroup:
    strips = (
        _strip(each, report.metrics[each], axis, tone="accent" if each == report.primary else "ink") for each in metrics
    )
    return StripGroup(name=name, axis=axis, strips=tuple(strips))


def _strip(
    name: str,
    estimate: Estimate | None,
    axis: Axis,
    *,
    rows: int | None = None,
    why: str | None = None,
    tone: Tone = "ink",
) -> Strip:
    ends = (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
    at, low, high = (None if end is None else axis.scale.at(end) for end in ends)
    return Strip(
        name=name,
        value=value_of(estimate),
        range=range_of(estimate),
        rows="" if rows is None else count(rows),
        at=at,
        low=low,
        high=high,
        why=why,
        tone=tone,
    )


def _more_is_better(report: Report) -> bool:
    """Of the primary metric; a report does not say it of a metric of the user's own, of which more is taken to be better."""
    known = METRICS.get((report.primary, report.task))
    return known is None or known.greater_is_better


def _is_share(report: Report, name: str) -> bool:
    metric = METRICS.get((name, report.task))
    return metric is not None and metric.bounds == (0.0, 1.0)


# ---------------------------------------------------------------------------------------------------------- calibration


def _calibration(found: Calibration) -> Figure:
    """Predicted against observed; both axes the same, so that the diagonal is what is right."""
    ends = [end for each in found.bins for end in (each.predicted, each.high, each.observed)]
    x = value_axis("predicted probability", ends, count=5, zero=True)
    y = msgspec.structs.replace(x, title="observed share")
    dots = tuple(
        Dot(
            x.scale.at(each.predicted),
            y.scale.up(each.observed),
            f"predicted {percent(each.predicted)}, observed {percent(each.observed)} of {plural(each.rows, 'row')}",
            y.scale.up(each.low),
            y.scale.up(each.high),
        )
        for each in found.bins
    )
    rows = (
        (figure(e.predicted), figure(e.observed), f"{figure(e.low)} to {figure(e.high)}", count(e.rows))
        for e in found.bins
    )
    return Figure(
        title="Calibration: what was predicted, and what happened",
        finding=_calibration_finding(found),
        description=" ".join(dot.title + "." for dot in dots),
        chart=Chart(x=x, y=y, height=320, lines=(Line("M0,100L100,0", "soft", dashed=True),), dots=dots),
        table=Table(("predicted", "observed", "interval", "rows"), tuple(rows)),
        shape="square",
    )


def _calibration_finding(found: Calibration) -> str:
    return (
        f"Predictions are {figure(found.error)} off on average (expected calibration error); perfect ones would seem "
        f"{figure(found.chance)} off on these rows by chance. On the line they would be right."
    )
