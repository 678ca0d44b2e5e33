"""The pictures of a recipe's year: the champion's quality by window, drift by column and window, and which values moved.

As in `figures`, everything is computed from the facts of the page; nothing is read.
"""

from collections.abc import Sequence
from itertools import groupby

import msgspec

from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.drift import ColumnDrift, Shift
from velodrome.web.charts import (
    Axis,
    Chart,
    Dot,
    Label,
    Line,
    Scale,
    Tick,
    band_path,
    line_path,
    named_ticks,
    spread,
    value_axis,
)
from velodrome.web.cycles import CycleFacts
from velodrome.web.figures import Figure, Table, ends_of
from velodrome.web.words import count, difference, interval, listed, percent, plural

__all__ = ["Cell", "HeatMap", "HeatRow", "Moved", "ShiftStrip", "WindowMoves", "YearFigures", "year_figures"]

_LEVELS = (0.02, 0.05, 0.1, 0.25)
"""Where the colours of the heat map change; 0.1 is some change and 0.25 is much, by custom."""

_MARKS = {"promoted": "▲", "refused": "✕", "waiting": "?", "overtaken": "◁", "failed": "!"}
_MOST_COLUMNS = 40
_HEIGHT = 260


class Cell(msgspec.Struct, frozen=True):
    """A column in a window: its PSI, the colour's number (None: not compared), whether it drifted, and a sentence."""

    text: str
    level: int | None
    drifted: bool
    title: str


class HeatRow(msgspec.Struct, frozen=True):
    """A column and its cells, one for each window."""

    column: str
    cells: tuple[Cell, ...]


class HeatMap(msgspec.Struct, frozen=True, kw_only=True):
    """PSI of columns by window, the columns that moved most first. `against`: the champion whose data each is compared with."""

    finding: str
    legend: tuple[str, ...]
    windows: tuple[Tick, ...]
    against: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    left_out: int


class ShiftStrip(msgspec.Struct, frozen=True):
    """A value's share before and after, as places on its column's axis and in words."""

    value: str
    before: float
    after: float
    words: str


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A column that drifted, and the values that moved most."""

    column: str
    since: str
    why: str
    shifts: tuple[ShiftStrip, ...]


class WindowMoves(msgspec.Struct, frozen=True, kw_only=True):
    """The columns that drifted in a window. `why`: what kept the first of those that were not compared from it."""

    window: str
    rows: int
    compared: int
    why: str
    moved: tuple[Moved, ...]


class YearFigures(msgspec.Struct, frozen=True, kw_only=True):
    """All pictures of a recipe; None or empty where there is nothing to show in them. `moves`: newest window first."""

    quality: Figure | None
    heat: HeatMap | None
    moves: tuple[WindowMoves, ...]


def year_figures(cycles: Sequence[CycleFacts]) -> YearFigures:
    # A window that was looked at again counts once.
    measured = list({facts.cycle.window: facts for facts in cycles if facts.cycle.evidence.now}.values())
    compared = list({facts.drift.window: facts for facts in cycles if facts.drift}.values())
    return YearFigures(
        quality=_quality(measured) if measured else None,
        heat=_heat(compared) if compared else None,
        moves=tuple(_moves(facts) for facts in reversed(compared)),
    )


# -------------------------------------------------------------------------------------------------------------- quality


def _quality(cycles: Sequence[CycleFacts]) -> Figure:
    metric = cycles[-1].cycle.evidence.metric or "the primary metric"
    ticks, found = _ticks(cycles), [facts.cycle.evidence for facts in cycles]
    ends = [end for each in found for one in (each.now, each.promised) for end in ends_of(one)]
    y = value_axis(metric, ends, count=4)
    dots = tuple(_dot(facts, tick.at, y.scale) for facts, tick in zip(cycles, ticks, strict=True))
    bands, lines, labels = _promises(cycles, ticks, y.scale)
    x = Axis("window", Scale(0, 100), ticks)
    return Figure(
        title=f"{metric} of the champion on each window's new rows, beside what its own test report promised",
        finding=_quality_finding(cycles),
        description=f"{plural(len(cycles), 'window')}. " + " ".join(_told(facts) for facts in cycles),
        chart=Chart(
            x=x,
            y=y,
            height=_HEIGHT,
            bands=bands,
            lines=lines,
            dots=dots,
            labels=(*_ends_named(cycles, y.scale), *labels),
        ),
        table=Table(("window", "champion", "measured", "promised", "worse by", "rows"), tuple(map(_row, cycles))),
    )


def _ticks(cycles: Sequence[CycleFacts]) -> tuple[Tick, ...]:
    """Windows by name; below them what became of a challenger, and its version."""
    ticks = named_ticks([facts.cycle.window for facts in cycles])
    return tuple(msgspec.structs.replace(tick, note=_note(facts)) for tick, facts in zip(ticks, cycles, strict=True))


def _note(facts: CycleFacts) -> str:
    end = facts.conclusion
    if end is None:
        return ""
    return f"{_MARKS[end.verdict]} {_number(end.version)}".strip()


def _dot(facts: CycleFacts, x: float, scale: Scale) -> Dot:
    now = facts.cycle.evidence.now
    assert now is not None
    low, high = now.low, now.high
    return Dot(
        x,
        scale.up(now.value),
        _told(facts),
        scale.up(low) if low is not None else None,
        scale.up(high) if high is not None else None,
    )


def _promises(
    cycles: Sequence[CycleFacts], ticks: Sequence[Tick], scale: Scale
) -> tuple[tuple[str, ...], tuple[Line, ...], tuple[Label, ...]]:
    """What each champion promised, over the windows in which it was measured."""
    half, bands, lines, labels = 50 / len(ticks), [], [], []
    pairs = zip(cycles, ticks, strict=True)
    for (champion, promised), group in groupby(pairs, key=_promise):
        places = [tick.at for _, tick in group]
        xs = (places[0] - half, places[-1] + half)
        if promised is not None:
            labels.append(Label(xs[0] + 1, scale.up(promised.value), _number(champion), "soft", "above"))
            lines.append(Line(line_path(xs, [scale.up(promised.value)] * 2), "soft", dashed=True))
            if promised.low is not None and promised.high is not None:
                lows, highs = [scale.up(promised.low)] * 2, [scale.up(promised.high)] * 2
                bands.append(band_path(xs, lows, highs))
    return tuple(bands), tuple(lines), tuple(labels)


def _promise(pair: tuple[CycleFacts, Tick]) -> tuple[str | None, Estimate | None]:
    evidence = pair[0].cycle.evidence
    return evidence.champion, evidence.promised


def _number(version: str | None) -> str:
    """`/7` of `name/7`."""
    return f"/{version.rpartition('/')[2]}" if version else ""


def _ends_named(cycles: Sequence[CycleFacts], scale: Scale) -> tuple[Label, ...]:
    """Beside the newest window: what was promised and what was measured."""
    newest = cycles[-1].cycle.evidence
    named = [(newest.promised, "promised"), (newest.now, "measured")]
    found = [(scale.up(estimate.value), text) for estimate, text in named if estimate]
    places = spread([place for place, _ in found], 100 * 15 / _HEIGHT)
    return tuple(
        Label(100, place, text, tone="accent" if text == "measured" else "soft")
        for place, (_, text) in zip(places, found, strict=True)
    )


def _quality_finding(cycles: Sequence[CycleFacts]) -> str:
    """How often it fell short, and what the marks below the windows mean."""
    fell = [
        facts.cycle.window
        for facts in cycles
        if (fall := facts.cycle.evidence.fall) and fall.low is not None and fall.low > 0
    ]
    said = f"Worse than promised, beyond chance, in {len(fell)} of {plural(len(cycles), 'window')}."
    seen = dict.fromkeys(facts.conclusion.verdict for facts in cycles if facts.conclusion)
    legend = ", ".join(f"{_MARKS[verdict]} {verdict}" for verdict in seen)
    return f"{said} Below the windows, challengers trained on them: {legend}." if legend else said


def _told(facts: CycleFacts) -> str:
    evidence = facts.cycle.evidence
    return f"{facts.cycle.window}: {evidence.champion} has {interval(evidence.now)}, promised {interval(evidence.promised)}."


def _row(facts: CycleFacts) -> tuple[str, ...]:
    evidence = facts.cycle.evidence
    return (
        facts.cycle.window,
        evidence.champion or "–",
        interval(evidence.now),
        interval(evidence.promised),
        difference(evidence.fall),
        count(evidence.now.rows if evidence.now else None),
    )


# ---------------------------------------------------------------------------------------------------------------- drift


def _heat(cycles: Sequence[CycleFacts]) -> HeatMap:
    names = dict.fromkeys(column.column for facts in cycles if facts.drift for column in facts.drift.columns)
    found = [{column.column: column for column in facts.drift.columns} if facts.drift else {} for facts in cycles]
    ordered = sorted(names, key=lambda name: -max(_weight(columns.get(name)) for columns in found))
    rows = (HeatRow(name, tuple(_cell(columns.get(name)) for columns in found)) for name in ordered[:_MOST_COLUMNS])
    return HeatMap(
        finding=_heat_finding(cycles, list(names)),
        legend=(f"under {_LEVELS[0]:.2f}", *(f"{bound:.2f}" for bound in _LEVELS[:-1]), f"{_LEVELS[-1]:.2f} and more"),
        windows=named_ticks([facts.drift.window for facts in cycles if facts.drift]),
        against=tuple(_number(facts.cycle.champion) for facts in cycles),
        rows=tuple(rows),
        left_out=max(0, len(names) - _MOST_COLUMNS),
    )


def _weight(column: ColumnDrift | None) -> float:
    """What orders the rows: drifted ones first, then the largest change."""
    if column is None:
        return -1.0
    return (1000.0 if column.drifted else 0.0) + (column.psi or 0.0)


def _cell(column: ColumnDrift | None) -> Cell:
    if column is None or column.psi is None:
        why = column.skipped or column.why if column else "not compared in this window"
        return Cell("–", None, column.drifted if column else False, why)
    level = sum(column.psi >= bound for bound in _LEVELS)
    return Cell(f"{column.psi:.2f}", level, column.drifted, column.why)


def _heat_finding(cycles: Sequence[CycleFacts], names: Sequence[str]) -> str:
    newest = cycles[-1]
    drifted = newest.drift.drifted if newest.drift else ()
    ever = {name for facts in cycles if facts.drift for name in facts.drift.drifted}
    return (
        f"In the newest window {len(drifted)} of {plural(len(names), 'column')} drifted{': ' + listed(drifted) if drifted else ''}; "
        f"{len(ever)} did in one window at least."
    )


def _moves(facts: CycleFacts) -> WindowMoves:
    assert facts.drift is not None
    columns = sorted((column for column in facts.drift.columns if column.drifted), key=lambda each: -(each.psi or 0.0))
    return WindowMoves(
        window=facts.drift.window,
        rows=facts.drift.rows,
        compared=sum(column.skipped is None for column in facts.drift.columns),
        why=next((column.skipped for column in facts.drift.columns if column.skipped), ""),
        moved=tuple(
            Moved(column=each.column, since=facts.since[each.column], why=each.why, shifts=_shifts(each.shifts))
            for each in columns
        ),
    )


def _shifts(shifts: Sequence[Shift]) -> tuple[ShiftStrip, ...]:
    scale = Scale(0.0, max((share for each in shifts for share in (each.before, each.after)), default=0.0) or 1.0)
    return tuple(
        ShiftStrip(
            each.value,
            scale.at(each.before),
            scale.at(each.after),
            f"{percent(each.before)} → {percent(each.after)}",
        )
        for each in shifts
    )
