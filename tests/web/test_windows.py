from typing import Any

import msgspec
import pytest

from velodrome.evaluation.drift import ColumnDrift
from velodrome.web.cycles import CycleFacts, cycle_facts
from velodrome.web.windows import year_figures


@pytest.fixture
def cycles(year: Any) -> list[CycleFacts]:
    return cycle_facts(year.ws, "buyers")


def test_quality_is_drawn_by_window_beside_what_was_promised(cycles: list[CycleFacts]) -> None:
    found = year_figures(cycles).quality
    assert found is not None
    assert [(tick.full, tick.label, tick.note) for tick in found.chart.x.ticks] == [
        ("visits-02", "02", ""),
        ("visits-03", "03", "✕ /2"),
        ("visits-04", "04", "▲ /3"),
    ]
    good, bad, _ = found.chart.dots
    assert good.y < bad.y  # measured from the top
    assert len(found.chart.lines) == len(found.chart.bands) == 1
    assert {label.text for label in found.chart.labels} == {"promised", "measured", "/1"}
    assert "beyond chance, in 2 of 3 windows" in found.finding
    assert "✕ refused, ▲ promoted" in found.finding
    assert [row[0] for row in found.table.rows] == ["visits-02", "visits-03", "visits-04"]


def test_the_heat_map_has_a_cell_for_each_column_and_window(cycles: list[CycleFacts]) -> None:
    found = year_figures(cycles).heat
    assert found is not None
    assert found.rows[0].column == "wants"
    assert {row.column for row in found.rows} == {"wants", "city", "buys"}
    assert all(len(row.cells) == len(found.windows) == 3 for row in found.rows)
    assert found.against == ("/1", "/1", "/1")
    calm, moved, much = found.rows[0].cells
    assert (calm.drifted, moved.drifted, much.drifted) == (False, True, True)
    assert calm.level in (0, 1, 2)
    assert much.level == 4
    assert float(much.text) > float(moved.text) > 0.25
    assert "PSI" in much.title


def test_what_was_not_compared_has_no_colour_and_says_why(cycles: list[CycleFacts]) -> None:
    drift = cycles[1].drift
    assert drift is not None
    skipped = msgspec.structs.replace(drift.columns[0], psi=None, js=None, skipped="it holds times", drifted=False)
    window = msgspec.structs.replace(drift, columns=(skipped, *drift.columns[1:]))
    found = year_figures([msgspec.structs.replace(cycles[1], drift=window)]).heat
    assert found is not None
    cell = next(row.cells[0] for row in found.rows if row.column == skipped.column)
    assert (cell.level, cell.drifted, cell.title) == (None, False, "it holds times")


def test_many_columns_are_cut_and_those_that_drifted_are_kept(cycles: list[CycleFacts]) -> None:
    drift = cycles[3].drift
    assert drift is not None
    wants = next(column for column in drift.columns if column.column == "wants")
    calm = [msgspec.structs.replace(wants, column=f"calm{n}", psi=0.01, drifted=False) for n in range(100)]
    window = msgspec.structs.replace(drift, columns=(*calm, wants))
    found = year_figures([msgspec.structs.replace(cycles[3], drift=window)]).heat
    assert found is not None
    assert (len(found.rows), found.left_out) == (40, 61)
    assert found.rows[0].column == "wants"


def test_a_window_that_was_looked_at_twice_counts_once(cycles: list[CycleFacts]) -> None:
    once, twice = year_figures(cycles), year_figures([*cycles, cycles[-1]])
    assert once == twice


def test_what_moved_is_told_newest_first_with_its_values(cycles: list[CycleFacts]) -> None:
    newest, before, calm = year_figures(cycles).moves
    assert (newest.window, before.window, calm.window) == ("visits-04", "visits-03", "visits-02")
    assert calm.moved == ()
    (wants,) = newest.moved
    assert (wants.column, wants.since) == ("wants", "visits-03")
    column = drifted(cycles[-1], "wants")
    assert len(wants.shifts) == len(column.shifts)
    assert max(max(shift.before, shift.after) for shift in wants.shifts) == 100
    up = [shift.after > shift.before for shift in wants.shifts]
    assert up == [shift.after > shift.before for shift in column.shifts]


def test_before_the_first_cycle_there_is_nothing_to_draw(cycles: list[CycleFacts]) -> None:
    empty = year_figures([])
    assert (empty.quality, empty.heat, empty.moves) == (None, None, ())
    assert year_figures(cycles[:1]) == empty


def drifted(facts: CycleFacts, name: str) -> ColumnDrift:
    assert facts.drift is not None
    return next(column for column in facts.drift.columns if column.column == name)


def test_a_window_of_which_nothing_was_compared_says_why(cycles: list[CycleFacts]) -> None:
    drift = cycles[1].drift
    assert drift is not None
    few = "the window has 69 rows, fewer than 500"
    skipped = [msgspec.structs.replace(column, psi=None, skipped=few, drifted=False) for column in drift.columns]
    window = msgspec.structs.replace(drift, columns=tuple(skipped))
    (found,) = year_figures([msgspec.structs.replace(cycles[1], drift=window)]).moves
    assert (found.compared, found.moved, found.why) == (0, (), few)
