"""The pages of what was measured before a training: the loss at growing learning rates, speed and memory by size of the batch."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from velodrome.control.finding import FoundBatch, FoundRate
from velodrome.core.units import show_bytes
from velodrome.training.batch_sizes import SizeTrial
from velodrome.training.rate_range import RateStep
from velodrome.web.charts import Axis, Chart, Dot, Line, Scale, above, line_path, named_ticks, value_axis
from velodrome.web.figures import Figure, Table
from velodrome.web.runs import Setting
from velodrome.web.words import count, figure

__all__ = ["FinderPage", "batch_page", "rate_page"]

_TABLE_ROWS = 24
_HEADROOM = 0.5
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class FinderPage(msgspec.Struct, frozen=True, kw_only=True, tag_field="page", tag="finder"):
    """The page of a measurement.

    Attributes:
        name: of the recipe. kicker: what was measured. finding: what it says, in a sentence.
        command: what to type next. settings: what it was measured with.
    """

    name: str
    kicker: str
    finding: str
    figures: tuple[Figure, ...]
    command: str
    settings: tuple[Setting, ...]
    made: datetime


def rate_page(found: FoundRate, command: str, made: datetime) -> FinderPage:
    said = found.suggestion
    return FinderPage(
        name=found.recipe,
        kicker="Learning-rate range test",
        finding=f"the loss falls most steeply at a rate of {said.rate:g}; the recipe has {found.present:g}",
        figures=(_curve(found),),
        command=command,
        settings=_settings(found, ("batch", count(found.batch)), ("steps", count(len(found.curve)))),
        made=made,
    )


def batch_page(found: FoundBatch, command: str, made: datetime) -> FinderPage:
    said, thing = found.suggestion, found.field.replace("_", "-")
    fitting = [each for each in found.trials if each.fits]
    return FinderPage(
        name=found.recipe,
        kicker=f"Speed and memory by {thing}",
        finding=f"a {thing} of {count(said.enough)} is fast enough; the largest that fits is {count(said.largest)}",
        figures=(_speeds(found, fitting), _memory(fitting)),
        command=command,
        settings=_settings(
            found,
            ("the recipe's", count(found.present)),
            ("memory", "all of the device" if found.budget is None else f"up to {show_bytes(found.budget)}"),
        ),
        made=made,
    )


def _settings(found: FoundRate | FoundBatch, *more: tuple[str, str]) -> tuple[Setting, ...]:
    pairs = (("training rows", count(found.rows)), *more, ("device", found.device), ("seed", str(found.seed)))
    return tuple(Setting(name, value) for name, value in pairs)


def _curve(found: FoundRate) -> Figure:
    said, (shown, ceiling) = found.suggestion, _shown(found.curve)
    x = value_axis("learning rate", [step.rate for step in found.curve])
    y = value_axis(
        "loss", [min(value, ceiling) for step in shown for value in (step.loss, step.smoothed) if value is not None]
    )
    soft, accent = (_line(shown, x.scale, y.scale, name) for name in ("loss", "smoothed"))
    lowest = min(shown, key=lambda step: abs(step.rate / said.lowest - 1))
    at = x.scale.at(said.rate)
    return Figure(
        title="Loss by learning rate",
        finding=f"The broad line is the smoothed loss, the fine one that of each step. The smoothed loss is lowest at "
        f"{said.lowest:g}; a decade below that, {said.cautious:g}, is the other rule of thumb. The test ended "
        f"{'when the loss had exploded' if found.ended == 'exploded' else 'at the highest rate'}.",
        description=f"The smoothed loss goes from {figure(shown[0].smoothed)} to {figure(lowest.smoothed)} at a rate of "
        f"{said.lowest:g}, and falls most steeply at {said.rate:g}.",
        chart=Chart(
            x=x,
            y=y,
            height=320,
            rules=(at,),
            lines=(Line(soft, "soft", thin=True), Line(accent, "accent")),
            dots=(
                Dot(
                    x.scale.at(lowest.rate),
                    y.scale.up(lowest.smoothed or 0.0),
                    f"lowest at {said.lowest:g}: {figure(lowest.smoothed)}",
                ),
            ),
            labels=(above(at, f"steepest at {said.rate:g}", "ink"),),
        ),
        table=_rates(found.curve),
    )


def _shown(curve: Sequence[RateStep]) -> tuple[list[RateStep], float]:
    """The steps up to where the smoothed loss leaves the picture, and where that is: half of what it had fallen above the
    highest that it was before."""
    known = [step for step in curve if step.smoothed is not None]
    smoothed = [step.smoothed or 0.0 for step in known]
    lowest = min(range(len(known)), key=smoothed.__getitem__)
    top = max(smoothed[: lowest + 1])
    ceiling = top + _HEADROOM * (top - smoothed[lowest])
    end = next((place for place in range(lowest, len(known)) if smoothed[place] > ceiling), len(known) - 1)
    return known[: end + 1], ceiling


def _line(shown: Sequence[RateStep], x: Scale, y: Scale, name: str) -> str:
    values = [getattr(step, name) for step in shown]
    return line_path(
        (x.at(step.rate) for step in shown), (float("nan") if value is None else y.up(value) for value in values)
    )


def _rates(curve: Sequence[RateStep]) -> Table:
    last = len(curve) - 1
    places = sorted({round(place * last / (_TABLE_ROWS - 1)) for place in range(_TABLE_ROWS)})
    rows = ((f"{curve[p].rate:.1e}", figure(curve[p].loss), figure(curve[p].smoothed)) for p in places)
    return Table(("rate", "loss", "smoothed"), tuple(rows))


def _speeds(found: FoundBatch, fitting: Sequence[SizeTrial]) -> Figure:
    said = found.suggestion
    values = [each.rows_per_second or 0.0 for each in fitting]
    chart = _by_size(fitting, values, "rows a second", [count(value) for value in values], 280)
    place = next(place for place, each in enumerate(fitting) if each.size == said.enough)
    at = chart.x.ticks[place].at
    return Figure(
        title=f"Rows a second by {found.field.replace('_', '-')}",
        finding=f"{count(said.fastest)} is fastest; {count(said.enough)} is the smallest within 5 % of it.",
        description=_words(fitting, [f"{count(value)} rows a second" for value in values]),
        chart=msgspec.structs.replace(chart, rules=(at,), labels=(above(at, f"fast enough: {said.enough}", "ink"),)),
        table=Table(
            ("size", "rows a second"),
            tuple((count(each.size), count(value)) for each, value in zip(fitting, values, strict=True)),
        ),
    )


def _memory(fitting: Sequence[SizeTrial]) -> Figure:
    taken = [each.memory or 0 for each in fitting]
    unit = next((name for name, size in reversed(_UNITS.items()) if max(taken) >= size), "KiB")
    told = [show_bytes(each) for each in taken]
    return Figure(
        title="Memory by size",
        finding="At most in use during the steps, beyond what was before the first of them.",
        description=_words(fitting, told),
        chart=_by_size(fitting, [each / _UNITS[unit] for each in taken], unit, told, 160),
        table=Table(
            ("size", "memory"), tuple((count(each.size), text) for each, text in zip(fitting, told, strict=True))
        ),
    )


def _by_size(
    fitting: Sequence[SizeTrial], values: Sequence[float], unit: str, told: Iterable[str], height: int
) -> Chart:
    """A value for each size; sizes stand in equal distances, since each is twice the one before."""
    ticks = named_ticks([str(each.size) for each in fitting])
    y = value_axis(unit, values, count=4, zero=True)
    xs = [tick.at for tick in ticks]
    heights = [y.scale.up(value) for value in values]
    dots = (Dot(x, up, f"{each.size}: {text}") for x, up, each, text in zip(xs, heights, fitting, told, strict=True))
    return Chart(
        x=Axis("rows at once", Scale(0, 100), ticks),
        y=y,
        height=height,
        lines=(Line(line_path(xs, heights), "accent"),),
        dots=tuple(dots),
    )


def _words(fitting: Sequence[SizeTrial], told: Iterable[str]) -> str:
    return f"{'; '.join(f'{count(each.size)} rows: {text}' for each, text in zip(fitting, told, strict=True))}."
