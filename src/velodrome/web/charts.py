"""The geometry of charts: numbers in, positions and paths out. Pure functions and frozen values; nothing here knows HTML.

A position is a percentage of the plot, x from the left and y from the top, so that a chart is as wide as its page without
being computed anew; a path is in the same units, drawn into a box of 100 by 100 that is stretched. Labels are text at a
position and are never stretched.
Cost: a pass over what is drawn.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

__all__ = [
    "Axis",
    "Chart",
    "Dot",
    "Label",
    "Line",
    "Scale",
    "Tick",
    "Tone",
    "above",
    "band_path",
    "line_path",
    "named_ticks",
    "number",
    "shorten",
    "spread",
    "value_axis",
]

Tone = Literal["accent", "ink", "soft"]

_FLAT = 1e-9
_LETTER = 6.4  # pixels of a letter of the labels, on average
_WIDE, _NARROW = 600, 230  # pixels of a plot on a desk and on a phone


class Scale(msgspec.Struct, frozen=True):
    """Numbers from `low` to `high` as percentages; on a logarithmic scale both are above 0.

    >>> Scale(0, 10).at(2.5), Scale(1, 100, log=True).at(10)
    (25.0, 50.0)
    """

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """How far along the scale, 0 to 100; what lies outside is put at the end."""
        low, high, found = (math.log(each) if self.log else each for each in (self.low, self.high, self._within(value)))
        return 100 * (found - low) / (high - low)

    def up(self, value: float) -> float:
        """The same from the top, for a vertical scale."""
        return 100 - self.at(value)

    def _within(self, value: float) -> float:
        return min(max(value, self.low), self.high)


class Tick(msgspec.Struct, frozen=True):
    """A mark on an axis.

    Attributes:
        label: empty where it would touch its neighbours. narrow: whether there is room for it on a phone as well.
        full: the whole name. note: a second line below the label.
    """

    at: float
    label: str
    narrow: bool = True
    full: str = ""
    note: str = ""


class Axis(msgspec.Struct, frozen=True):
    """What is measured, in which unit, and where its marks are."""

    title: str
    scale: Scale
    ticks: tuple[Tick, ...]

    @property
    def letters(self) -> int:
        """Length of the longest label."""
        return max((len(tick.label) for tick in self.ticks), default=0)

    @property
    def noted(self) -> bool:
        """Whether its marks have second lines."""
        return any(tick.note for tick in self.ticks)


class Line(msgspec.Struct, frozen=True):
    """A path through the plot."""

    path: str
    tone: Tone = "ink"
    thin: bool = False
    dashed: bool = False


class Dot(msgspec.Struct, frozen=True):
    """A value, with the ends of its interval where it has one. `title` is told on hovering."""

    x: float
    y: float
    title: str
    low: float | None = None
    high: float | None = None


class Label(msgspec.Struct, frozen=True):
    """Words right of a place, or above it; those at the right end of the plot stand beside it. `narrow`: as for a Tick."""

    x: float
    y: float
    text: str
    tone: Tone = "ink"
    side: Literal["right", "above"] = "right"
    anchor: Literal["start", "middle", "end"] = "start"
    narrow: bool = True


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is drawn in one plot.

    Attributes:
        height: in pixels.
        bands: closed paths, where a value may lie. rules: places of upright lines across the whole plot.
    """

    x: Axis
    y: Axis
    height: int
    bands: tuple[str, ...] = ()
    rules: tuple[float, ...] = ()
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    labels: tuple[Label, ...] = ()

    @property
    def left(self) -> int:
        """Pixels that the labels of the vertical axis need."""
        return round(_LETTER * self.y.letters) + 10

    @property
    def right(self) -> int:
        """Pixels that the labels beside the plot need."""
        beside = [len(label.text) for label in self.labels if label.side == "right"]
        return round(_LETTER * max(beside)) + 12 if beside else 10


def above(place: float, words: str, tone: Tone = "soft", *, narrow: bool = True) -> Label:
    """Words above a place at the top of the plot, which do not stick out at its sides."""
    anchor: Literal["start", "middle", "end"] = "start" if place < 20 else "end" if place > 80 else "middle"
    return Label(place, 0, words, tone, "above", anchor, narrow)


def value_axis(title: str, values: Iterable[float], *, count: int = 5, tight: bool = False, zero: bool = False) -> Axis:
    """An axis for these finite numbers, with about `count` marks; logarithmic where they span more than two decades.

    Args:
        tight: ends where the numbers end, instead of at the next mark.
        zero: holds 0, and so is never logarithmic.
    """
    found = [*values, *([0.0] if zero else [])] or [0.0, 1.0]
    low, high = min(found), max(found)
    if low > 0 and high / low >= 100 and not tight:
        return _log_axis(title, low, high)
    if high - low <= _FLAT * max(abs(low), abs(high)):
        low, high = (min(0.0, 2 * low), max(0.0, 2 * high)) if low else (0.0, 1.0)
    step = _nice_step(low, high, count)
    if not tight:
        low, high = step * math.floor(low / step + _FLAT), step * math.ceil(high / step - _FLAT)
    scale = Scale(low, high)
    first, last = math.ceil(low / step - _FLAT), math.floor(high / step + _FLAT)
    ticks = (step * place for place in range(first, last + 1))
    return Axis(title, scale, _with_room([Tick(scale.at(tick), number(tick, step)) for tick in ticks]))


def _nice_step(low: float, high: float, count: int) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that cuts the range into at most `count` parts.

    >>> _nice_step(0, 1, 5), _nice_step(0, 348, 4)
    (0.2, 100.0)
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - _FLAT))


def number(value: float, step: float) -> str:
    """A number for a label, with as many decimals as the step between the labels has.

    >>> number(0.30000000000000004, 0.1), number(2500, 500), number(-0.5, 0.25), number(2e-5, 1e-5)
    ('0.3', '2,500', '−0.50', '2e−5')
    """
    if 1e-4 <= step < 1e9:
        decimals = next(each for each in range(8) if math.isclose(round(step, each), step))
        text = f"{value:,.{decimals}f}"
    else:
        digits = 2 + max(0, math.ceil(math.log10(abs(value) / step))) if value else 1
        mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
        text = f"{float(mantissa):.{digits + 1}g}e{int(exponent)}" if value else "0"
    return text.replace("-", "−")


def named_ticks(names: Sequence[str]) -> tuple[Tick, ...]:
    """A mark for each name, in equal distances."""
    width = 100 / max(1, len(names))
    pairs = enumerate(zip(shorten(names), names, strict=True))
    return _with_room([Tick((place + 0.5) * width, label, full=name) for place, (label, name) in pairs])


def shorten(names: Sequence[str], longest: int = 18) -> list[str]:
    """Names without the words that all begin with, and cut in the middle where they are long.

    >>> shorten(["flights-2013-04", "flights-2013-05 to flights-2013-06"]), shorten(["a"])
    (['04', '05 to 06'], ['a'])
    """
    shared = _shared(min(names), max(names)) if len(set(names)) > 1 else ""
    return [_cut((name.replace(shared, "") if shared else name) or name, longest) for name in names]


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places as near to those given as can be with `gap` between them, in the same order; for labels that would overlap.

    >>> spread([10, 11, 50], 6)
    [7.5, 13.5, 50]
    """
    groups: list[list[int]] = []
    centres: list[float] = []
    for index in sorted(range(len(places)), key=places.__getitem__):
        group, centre = [index], places[index]
        while groups and centre - gap * (len(group) - 1) / 2 < centres[-1] + gap * (len(groups[-1]) + 1) / 2:
            group, _ = groups.pop() + group, centres.pop()
            centre = sum(places[each] for each in group) / len(group)
        groups.append(group)
        centres.append(centre)
    found = list(places)
    for group, centre in zip(groups, centres, strict=True):
        for position, index in enumerate(group if len(group) > 1 else []):
            found[index] = centre + gap * (position - (len(group) - 1) / 2)
    return found


def line_path(xs: Iterable[float], ys: Iterable[float]) -> str:
    """An SVG path through the points; one that is not finite breaks it.

    >>> line_path([0, 50, 100], [0, 10.123, 5])
    'M0,0L50,10.12L100,5'
    """
    parts: list[str] = []
    pen = "M"
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            parts.append(f"{pen}{_short(x)},{_short(y)}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def band_path(xs: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> str:
    """A closed SVG path around the area between two lines.

    >>> band_path([0, 100], [60, 60], [40, 40])
    'M0,60L100,60L100,40L0,40Z'
    """
    return line_path([*xs, *reversed(xs)], [*lows, *reversed(highs)]) + "Z" if len(xs) else ""


def _log_axis(title: str, low: float, high: float) -> Axis:
    """Marks at powers of ten, whole ones at the ends; some are left out where there are many."""
    first, last = math.floor(math.log10(low) + _FLAT), math.ceil(math.log10(high) - _FLAT)
    scale = Scale(10.0**first, 10.0**last, log=True)
    every = math.ceil((last - first) / 6)
    ticks = [10.0**power for power in range(first, last + 1, every)]
    return Axis(
        f"{title}, logarithmic", scale, _with_room([Tick(scale.at(tick), number(tick, tick)) for tick in ticks])
    )


def _with_room(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """The marks with as many labels as there is room for, the last one always."""
    needed = len(ticks) * (max((len(tick.label) for tick in ticks), default=0) * _LETTER + 8)
    wide, narrow = (max(1, math.ceil(needed / room)) for room in (_WIDE, _NARROW))
    narrow = wide * math.ceil(narrow / wide)
    behind = range(len(ticks) - 1, -1, -1)
    return tuple(
        msgspec.structs.replace(tick, label="" if place % wide else tick.label, narrow=place % narrow == 0)
        for place, tick in zip(behind, ticks, strict=True)
    )


def _shared(first: str, last: str) -> str:
    """The whole words that two names both begin with, with the sign after them."""
    places = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    end = next(places, min(len(first), len(last)))
    while end and first[end - 1].isalnum():
        end -= 1
    return first[:end]


def _cut(name: str, longest: int) -> str:
    if len(name) <= longest:
        return name
    return f"{name[: longest - longest // 2 - 1]}…{name[-(longest // 2) :]}"


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"
