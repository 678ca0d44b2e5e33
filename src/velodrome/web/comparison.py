"""Several courses of one figure over the same windows on a page: what one way of working would have brought beside another."""

from collections.abc import Sequence
from datetime import datetime
from statistics import fmean

import msgspec

from velodrome.web.charts import Axis, Chart, Dot, Label, Line, Scale, line_path, named_ticks, spread, value_axis
from velodrome.web.figures import Figure, Table
from velodrome.web.words import figure

__all__ = ["ComparisonPage", "Course", "comparison_figure"]

_HEIGHT = 360
_LINE = 15  # pixels from one label to the next


class Course(msgspec.Struct, frozen=True):
    """A named figure by window."""

    name: str
    values: tuple[float, ...]


class ComparisonPage(msgspec.Struct, frozen=True, kw_only=True, tag_field="page", tag="comparison"):
    """The page of a comparison.

    Attributes:
        finding: what it shows, in a sentence. unit: of the figure.
        courses: one value for each of `windows`, oldest first; the first course is the one that matters.
    """

    name: str
    finding: str
    unit: str
    windows: tuple[str, ...]
    courses: tuple[Course, ...]
    made: datetime


def comparison_figure(page: ComparisonPage) -> Figure:
    """All courses in one chart; the first drawn last, over the others."""
    y = value_axis(page.unit, [value for course in page.courses for value in course.values], count=5)
    ticks = named_ticks(page.windows)
    xs = [tick.at for tick in ticks]
    first, *others = page.courses
    rows = zip(page.windows, *(map(figure, course.values) for course in page.courses), strict=True)
    return Figure(
        title=f"{page.unit} by window",
        finding=f"On average: {', '.join(f'{course.name} {figure(fmean(course.values))}' for course in page.courses)}.",
        description=" ".join(f"{course.name}: {', '.join(map(figure, course.values))}." for course in page.courses),
        chart=Chart(
            x=Axis("window", Scale(0, 100), ticks),
            y=y,
            height=_HEIGHT,
            lines=(
                *(_line(course, xs, y.scale, number) for number, course in enumerate(others)),
                _accent(first, xs, y),
            ),
            dots=tuple(_dots(first, page.windows, xs, y.scale)),
            labels=_labels(page.courses, y.scale),
        ),
        table=Table(("window", *(course.name for course in page.courses)), tuple(rows)),
    )


def _accent(course: Course, xs: Sequence[float], y: Axis) -> Line:
    return Line(line_path(xs, [y.scale.up(value) for value in course.values]), "accent")


def _line(course: Course, xs: Sequence[float], scale: Scale, number: int) -> Line:
    return Line(line_path(xs, [scale.up(value) for value in course.values]), "ink", thin=True, dashed=number % 2 == 1)


def _dots(course: Course, windows: Sequence[str], xs: Sequence[float], scale: Scale) -> list[Dot]:
    places = zip(windows, xs, course.values, strict=True)
    return [Dot(x, scale.up(value), f"{course.name}, {window}: {figure(value)}") for window, x, value in places]


def _labels(courses: Sequence[Course], scale: Scale) -> tuple[Label, ...]:
    places = spread([scale.up(course.values[-1]) for course in courses], 100 * _LINE / _HEIGHT)
    return tuple(
        Label(100, place, course.name, tone="ink" if index else "accent")
        for index, (course, place) in enumerate(zip(courses, places, strict=True))
    )
