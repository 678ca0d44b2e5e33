"""The verdicts against what is true: no alarms without drift, planted drift found, the same at every number of rows.

The numbers against scipy's: chi-square, Jensen-Shannon, false discovery rates.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.spatial.distance import jensenshannon
from scipy.special import ndtr, ndtri
from scipy.stats import chi2_contingency, false_discovery_control

from velodrome.core.errors import RecipeError
from velodrome.evaluation.drift import ColumnDrift, Drift, compare_columns
from velodrome.evaluation.sketches import (
    POINTS,
    ColumnSketch,
    QuantileSketch,
    merge_quantiles,
    sketch_counts,
    sketch_numbers,
)

Array = NDArray[Any]
Rng = np.random.Generator

NO_FLOORS = Drift(psi=0, js=0, missing=0, new=0)


def numbers(values: Array, *, name: str = "x", nulls: int = 0, infinite: int = 0, dtype: str = "") -> ColumnSketch:
    rows = len(values) + nulls + infinite
    return ColumnSketch(
        name=name, dtype=dtype or str(values.dtype), rows=rows, nulls=nulls, quantiles=sketch_numbers(values)
    )


def texts(counts: Mapping[str, int], *, name: str = "x", nulls: int = 0) -> ColumnSketch:
    sketch = sketch_counts({value: int(count) for value, count in counts.items() if count})
    return ColumnSketch(name=name, dtype="string", rows=sketch.rows + nulls, nulls=nulls, frequencies=sketch)


def other(dtype: str, *, name: str = "x", rows: int = 1000) -> ColumnSketch:
    return ColumnSketch(name=name, dtype=dtype, rows=rows, nulls=rows if dtype == "null" else 0)


def compare(before: ColumnSketch, after: ColumnSketch, policy: Drift | None = None) -> ColumnDrift:
    (found,) = compare_columns([before], [after], policy or Drift())
    return found


# ---------------------------------------------------------------------------------------- columns drawn without sorting


def drawn_quantiles(rng: Rng, rows: int) -> Array:
    """What `sketch_numbers` picks of uniform numbers, as they fall: order statistics have gamma-distributed spacings."""
    ranks = np.arange(1, 2 * POINTS, 2) * rows // (2 * POINTS) + 1
    cumulated = rng.standard_gamma(np.diff(ranks, prepend=0, append=rows + 1)).cumsum()
    return cumulated[:-1] / cumulated[-1]


def drawn_numbers(rng: Rng, name: str, rows: int, missing: float, quantile: Callable[[Array], Array]) -> ColumnSketch:
    present = rows - rng.binomial(rows, missing)
    values, counts = np.unique(quantile(drawn_quantiles(rng, present)), return_counts=True)
    sketch = QuantileSketch(present, tuple(values.tolist()), tuple(counts.tolist()), 0.5 / POINTS)
    return ColumnSketch(name=name, dtype="float64", rows=rows, nulls=rows - present, quantiles=sketch)


def drawn_texts(rng: Rng, name: str, rows: int, missing: float, shares: Array) -> ColumnSketch:
    present = rows - rng.binomial(rows, missing)
    drawn = rng.multinomial(present, shares)
    return texts({f"{i:03}": count for i, count in enumerate(drawn)}, name=name, nulls=rows - present)


def zero_heavy(at: Array) -> Array:
    return np.where(at < 0.9, 0.0, -np.log1p(-np.clip(10 * at - 9, 0, 1 - 1e-12)))


NUMBERS: list[Callable[[Array], Array]] = [ndtri, lambda at: np.exp(2 * ndtri(at)), zero_heavy]
MISSING = (0, 0.1, 0.5)


def drawn_columns(rng: Rng, columns: int, rows: int) -> list[ColumnSketch]:
    """Half numbers (normal, lognormal, mostly zero), half text of 5 to 100 categories, some with many missing values."""
    drawn = []
    for i in range(columns):
        missing = MISSING[i % 3]
        if i % 2:
            levels = 5 + i % 96
            shares = np.arange(1.0, levels + 1) ** -(i % 7 / 4)
            drawn.append(drawn_texts(rng, f"{i}", rows, missing, shares / shares.sum()))
        else:
            drawn.append(drawn_numbers(rng, f"{i}", rows, missing, NUMBERS[i // 2 % 3]))
    return drawn


def windows_with_alarms(columns: int, windows: int) -> int:
    """Every other window has 1,000 rows, every other 10,000."""
    rng = np.random.default_rng(0)
    reference = drawn_columns(rng, columns, 100_000)
    sizes = np.resize([1_000, 10_000], windows).tolist()
    found = (compare_columns(reference, drawn_columns(rng, columns, rows), Drift()) for rows in sizes)
    return sum(any(column.drifted for column in window) for window in found)


def test_what_has_not_changed_raises_no_alarm() -> None:
    assert windows_with_alarms(columns=100, windows=20) == 0


@pytest.mark.slow
def test_of_a_hundred_windows_of_a_thousand_columns_one_at_most_raises_an_alarm() -> None:
    assert windows_with_alarms(columns=1000, windows=100) <= 1


# ----------------------------------------------------------------------------------------------------- planted changes


def psi(before: Array, after: Array) -> float:
    return float(((after - before) * np.log(after / before)).sum())


def shift_of(index: float) -> float:
    """By how much a standard normal is to be moved for this index in ten bins of equal shares."""
    edges = np.concatenate([[-np.inf], ndtri(np.arange(1, 10) / 10), [np.inf]])
    return float(brentq(lambda by: psi(np.full(10, 0.1), np.diff(ndtr(edges - by))) - index, 0, 3))


def tilt_of(index: float) -> Array:
    """Shares of twenty categories that differ from equal ones by this index."""

    def shares(by: float) -> Array:
        return (1 + by * np.resize([1, -1], 20)) / 20

    return shares(float(brentq(lambda by: psi(np.full(20, 0.05), shares(by)) - index, 0, 0.999)))


def test_planted_changes_are_found_and_named() -> None:
    rng = np.random.default_rng(0)
    reference = drawn_columns(rng, 960, 100_000)
    planted, names = [], [f"planted {i}" for i in range(20)]
    for i, name in enumerate(names):
        if i % 2:
            reference.append(drawn_texts(rng, name, 100_000, MISSING[i % 3], np.full(20, 0.05)))
            planted.append((drawn_texts, tilt_of(0.2)))
        else:
            reference.append(drawn_numbers(rng, name, 100_000, MISSING[i % 3], ndtri))
            planted.append((drawn_numbers, lambda at: ndtri(at) + shift_of(0.2)))
    for rows in (5_000, 25_000):
        window = drawn_columns(rng, 960, rows)
        for i, (name, (draw, how)) in enumerate(zip(names, planted, strict=True)):
            window.append(draw(rng, name, rows, MISSING[i % 3], how))  # type: ignore[operator]
        drifted = {column.column for column in compare_columns(reference, window, Drift()) if column.drifted}
        assert len(drifted & set(names)) >= 19
        assert drifted <= set(names)


@pytest.mark.parametrize("rows", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("index", [0.02, 0.05, 0.15, 0.2, 0.4])
def test_the_verdict_is_the_same_at_every_number_of_rows(rows: int, index: float) -> None:
    rng = np.random.default_rng(rows)
    sample = rng.normal(size=(2, rows))
    reference = [
        numbers(sample[0], name="normal"),
        numbers(np.exp(3 * sample[0]).astype(np.float32), name="lognormal"),
        drawn_texts(rng, "text", rows, 0.1, np.full(20, 0.05)),
    ]
    moved = sample[1] + shift_of(index)
    window = [
        numbers(moved, name="normal"),
        numbers(np.exp(3 * moved).astype(np.float32), name="lognormal"),
        drawn_texts(rng, "text", rows, 0.1, tilt_of(index)),
    ]
    found = compare_columns(reference, window, Drift())
    assert [column.drifted for column in found] == [index > 0.1] * 3
    for column in found:
        assert column.psi == pytest.approx(index, abs=0.1 * index + 0.01)


def test_what_a_thousand_fragments_were_merged_from_does_not_drift_from_its_own_rows() -> None:
    """Sketches with all the error that they may have, of columns said to be a billion rows long."""
    rng = np.random.default_rng(0)
    column = np.concatenate([np.zeros(30_000), rng.normal(size=70_000)])
    whole = sketch_numbers(column)
    nested = sketch_numbers(column[:1000])
    for start in range(1000, len(column), 1000):
        nested = merge_quantiles([nested, sketch_numbers(column[start : start + 1000])])
    parts = merge_quantiles([sketch_numbers(np.sort(column)[start : start + 700]) for start in range(0, 100_000, 700)])
    for sketch in (nested, parts):
        before, after = (
            msgspec.structs.replace(numbers(column), rows=10**9, quantiles=msgspec.structs.replace(of, rows=10**9))
            for of in (whole, sketch)
        )
        assert compare(before, after, NO_FLOORS).p_value == 1


def test_p_values_are_not_too_small() -> None:
    rng = np.random.default_rng(0)
    draws = {
        "normal": lambda rows: drawn_numbers(rng, "x", rows, 0.2, ndtri),
        "zeros": lambda rows: drawn_numbers(rng, "x", rows, 0.2, zero_heavy),
        "few": lambda rows: drawn_texts(rng, "x", rows, 0.2, np.full(5, 0.2)),
        "a long tail": lambda rows: drawn_texts(rng, "x", rows, 0.2, (tail := 1 / np.arange(1, 601)) / tail.sum()),
    }
    for before, after in [(3000, 3000), (100_000, 2000), (2000, 100_000)]:
        for draw in draws.values():
            found = [compare(draw(before), draw(after), NO_FLOORS).p_value or 0.0 for _ in range(60)]
            assert np.mean(np.array(found) <= 0.05) <= 0.15  # 9 of 60, when 3 are expected: 1 in 500 times


def test_q_values_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    reference = [texts({"a": 5000, "b": 5000}, name=str(i)) for i in range(40)]
    window = [texts({"a": n, "b": 1000 - n}, name=str(i)) for i, n in enumerate(rng.binomial(1000, 0.53, size=40))]
    found = compare_columns(reference, window, msgspec.structs.replace(NO_FLOORS, significance=0.05))
    p_values = np.array([column.p_value for column in found])
    expected = false_discovery_control(p_values)
    assert [column.q_value for column in found] == pytest.approx(expected.tolist())
    assert [column.drifted for column in found] == (expected <= 0.05).tolist()
    assert 0 < sum(column.drifted for column in found) < 40


# ------------------------------------------------------------------------------------------------- numbers against scipy


@pytest.mark.parametrize("seed", range(5))
def test_effects_and_tests_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = np.stack([rng.multinomial(rows, rng.dirichlet(np.full(6, 30))) for rows in (4000, 1500)])
    before, after = table / table.sum(axis=1, keepdims=True)
    noise = 5 * (1 / 4000 + 1 / 1500)
    found = compare(*(texts(dict(zip("abcdef", counts, strict=True))) for counts in table), NO_FLOORS)
    assert found.psi == pytest.approx(max(0, psi(before, after) - noise))
    assert found.js == pytest.approx(
        math.sqrt(max(0, jensenshannon(before, after, base=2) ** 2 - noise / 8 / math.log(2)))
    )
    assert found.p_value == pytest.approx(min(1, 4 * 2 * chi2_contingency(table, correction=False).pvalue))


def test_numbers_are_tested_as_categories_are() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 8, 3000), rng.integers(0, 8, 2000) % 7]
    table = np.stack([np.bincount(column, minlength=8) for column in columns])
    found = compare(*(numbers(column) for column in columns), NO_FLOORS)
    assert found.p_value == pytest.approx(2 * chi2_contingency(table, correction=False).pvalue)
    assert {shift.value for shift in found.shifts[:2]} == {"0", "7"}


@pytest.mark.parametrize(("before", "after"), [(100, 70), (10, 11), (0, 30), (1000, 1000)])
def test_missing_values_are_tested_as_two_proportions(before: int, after: int) -> None:
    found = compare(texts({"a": 2000 - before}, nulls=before), texts({"a": 1000 - after}, nulls=after), NO_FLOORS)
    expected = chi2_contingency([[before, 2000 - before], [after, 1000 - after]]).pvalue
    assert found.p_value == pytest.approx(min(1, 4 * expected))
    assert (found.missing_before, found.missing_after) == (before / 2000, after / 1000)


# --------------------------------------------------------------------------------------------------------- what is said


def test_a_shift_says_which_values_moved() -> None:
    rng = np.random.default_rng(0)
    found = compare(numbers(rng.normal(size=50_000)), numbers(rng.normal(0.5, size=20_000)))
    assert found.drifted
    assert found.shifts[0].value.startswith("above 1.2")
    assert (found.shifts[0].before, found.shifts[0].after) == pytest.approx((0.1, 0.22), abs=0.02)
    assert len(found.shifts) == 5
    assert found.why.startswith("PSI 0.2")
    assert "(floor 0.1) and Jensen-Shannon distance" in found.why
    assert "most at 'above 1.2" in found.why
    assert " % of the values before, 2" in found.why
    assert "; q-value " in found.why
    assert "missing" not in found.why


def test_a_column_of_zeros_is_compared_at_its_zeros() -> None:
    rng = np.random.default_rng(0)

    def column(zeros: float) -> ColumnSketch:
        return numbers(np.where(rng.random(50_000) < zeros, 0, rng.exponential(size=50_000)))

    found = compare(column(0.95), column(0.8))
    assert found.drifted
    assert found.shifts[0].value == "0"
    assert (found.shifts[0].before, found.shifts[0].after) == pytest.approx((0.95, 0.8), abs=0.01)
    assert not compare(column(0.95), column(0.94)).drifted


def test_a_number_never_seen_is_drift_however_long_the_reference() -> None:
    found = compare(numbers(np.zeros(1_000_000)), numbers(np.append(np.zeros(950), np.ones(50))))
    assert found.drifted
    assert [shift.value for shift in found.shifts] == ["0", "above 0"]


def test_a_bin_without_rows_counts_as_one_in_ten_thousand() -> None:
    found = compare(numbers(np.repeat([0, 1], 5000)), numbers(np.zeros(10_000, np.int64)))
    expected = psi(np.array([0.5, 0.5]), np.array([1.0, 1e-4])) - 2 / 10_000
    assert found.psi == pytest.approx(expected)


def test_what_may_be_chance_is_not_among_the_reasons() -> None:
    before, after = {"a": 580, "b": 20}, {"a": 97, "b": 1, "c": 2}
    found = compare(texts(before), texts(after, nulls=100), Drift(minimum_rows=100))
    assert found.drifted
    assert [shift.value for shift in found.new] == ["c"]
    assert found.why.startswith("missing values 0 % before, 50 % now (floor 2 %); q-value ")


def test_more_missing_values_are_drift_by_themselves() -> None:
    rng = np.random.default_rng(0)
    found = compare(
        numbers(rng.normal(size=10_000), nulls=100), numbers(rng.normal(size=4500), nulls=300, infinite=200)
    )
    assert found.drifted
    assert found.missing_after == 0.1
    assert found.why.startswith("missing values 0.99 % before, 10 % now (floor 2 %); q-value ")


def test_new_and_vanished_categories_are_named() -> None:
    before = texts({"AA": 5000, "UA": 4000, "US": 1000})
    found = compare(before, texts({"AA": 2400, "UA": 2100, "XX": 460, "YY": 40}))
    assert found.drifted
    assert [(shift.value, shift.before, shift.after) for shift in found.new] == [("XX", 0, 0.092), ("YY", 0, 0.008)]
    assert [(shift.value, shift.before, shift.after) for shift in found.vanished] == [("US", 0.1, 0)]
    assert "new categories 10 % of the values (floor 1 %): 'XX', 'YY'" in found.why
    assert "vanished categories 10 % of the values (floor 1 %): 'US'" in found.why


def test_a_few_rows_of_a_new_category_are_said_but_are_no_drift() -> None:
    found = compare(texts({"a": 9000, "b": 1000}), texts({"a": 2700, "b": 298, "c": 2}))
    assert not found.drifted
    assert [shift.value for shift in found.new] == ["c"]
    assert found.why.startswith("no change reaches its floor: missing values 0 % before, 0 % now (floor 2 %); PSI ")


def test_a_new_category_alone_is_drift() -> None:
    found = compare(texts({"a": 9000, "b": 1000}), texts({"a": 2650, "b": 300, "c": 50}))
    assert found.psi is not None
    assert found.psi < 0.1
    assert found.drifted
    assert found.why.startswith("new categories 1.67 % of the values (floor 1 %): 'c'; q-value ")


def test_a_long_tail_always_has_new_categories_and_is_no_drift() -> None:
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 901)
    before, after = (drawn_texts(rng, "x", rows, 0, shares / shares.sum()) for rows in (5000, 1000))
    found = compare(before, after)
    assert len(found.vanished) == 5
    assert sum(after.frequencies.counts.get(name, 0) == 0 for name in before.frequencies.counts) > 200  # type: ignore[union-attr]
    assert not found.drifted


def test_identifiers_do_not_drift_but_a_value_among_them_does() -> None:
    def identifiers(first: int, rows: int, unknown: int) -> ColumnSketch:
        return texts({f"{first + i}": 1 for i in range(rows - unknown)} | {"unknown": unknown})

    assert not compare(identifiers(0, 20_000, 0), identifiers(50_000, 5000, 0)).drifted
    for unknown in range(500, 600, 10):
        found = compare(identifiers(0, 20_000, 0), identifiers(50_000, 5000, unknown))
        assert found.drifted
        assert [shift.value for shift in found.shifts] == [
            "unknown",
            "all others",
        ]  # as much: the one with a name first
        assert found.new == found.vanished == ()  # neither sketch has all values, so nothing is known to be new


def test_what_is_certain_but_small_is_no_drift() -> None:
    """At a million rows everything is significant."""
    before = texts({"a": 500_000, "b": 400_000, "c": 2_000}, nulls=98_000)
    after = texts({"a": 450_000, "b": 432_000, "d": 4_000}, nulls=114_000)
    assert (compare(before, after, NO_FLOORS).p_value or 0) < 1e-100
    for policy in (Drift(), Drift(psi=0.0), Drift(js=0.0), Drift(missing=0.0), Drift(new=0.0)):
        found = compare(before, after, policy)
        assert found.drifted == (policy != Drift())
    assert compare(before, after).p_value == compare(before, after).q_value == 1
    assert compare(before, after).why.startswith("no change reaches its floor: ")


def test_a_small_window_may_move_by_chance() -> None:
    found = compare(texts({"a": 300, "b": 300}), texts({"a": 365, "b": 285}), Drift(psi=0.01))
    assert not found.drifted
    assert found.psi is not None
    assert found.psi > 0.01
    assert found.why.endswith("above 0.01: this may be chance")


# ------------------------------------------------------------------------------------------------- what is not compared


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (texts({"a": 600}), texts({"a": 499}), "the window has 499 rows, fewer than 500"),
        (texts({"a": 400}), texts({"a": 600}), "the reference has 400 rows, fewer than 500"),
        (other("datetime"), other("datetime"), "times go on by themselves"),
        (other("null"), other("date"), "times go on by themselves"),
        (other("null"), other("null"), "there are no values in the reference or in the window"),
        (texts({"a": 600}), numbers(np.arange(600)), "its type was string and is int64"),
    ],
)
def test_what_cannot_be_compared_says_why(before: ColumnSketch, after: ColumnSketch, reason: str) -> None:
    found = compare(before, after)
    assert found.skipped == reason
    assert found.why == f"not compared: {reason}"
    assert not found.drifted
    assert found.psi is found.js is found.p_value is found.q_value is None
    assert (found.rows_before, found.rows_after) == (before.rows, after.rows)


def test_as_many_rows_as_are_needed_are_enough() -> None:
    assert compare(texts({"a": 500}), texts({"a": 500})).psi == 0


def test_columns_of_one_side_come_last_and_are_not_compared() -> None:
    left, both, right = (texts({"a": 600}, name=name) for name in "zma")
    found = compare_columns([left, both], [right, both], Drift())
    assert [column.column for column in found] == ["z", "m", "a"]
    assert [column.skipped for column in found] == [
        "the window has no such column",
        None,
        "the reference has no such column",
    ]
    assert compare_columns([], [], Drift()) == ()


@pytest.mark.parametrize("full", [texts({"a": 900}, nulls=100), numbers(np.arange(900), nulls=100)])
def test_a_column_that_has_lost_all_its_values_has_drifted(full: ColumnSketch) -> None:
    lost, come = compare(full, other("null")), compare(other("null"), full)
    assert lost.drifted
    assert lost.why.startswith("missing values 10 % before, 100 % now (floor 2 %)")
    assert come.drifted
    assert lost.psi is come.psi is None


def test_values_are_not_compared_where_too_few_are_left() -> None:
    found = compare(texts({"a": 900}, nulls=100), texts({"b": 100}, nulls=900))
    assert found.psi is None
    assert found.drifted


def test_whole_numbers_may_come_as_real_ones() -> None:
    rng = np.random.default_rng(0)
    sample = rng.integers(0, 5, 5000)
    found = compare(numbers(sample), numbers(sample.astype(np.float64)))
    assert found.psi == 0
    assert not found.drifted


@pytest.mark.parametrize(
    "bad",
    [
        {"psi": -0.1},
        {"psi": math.nan},
        {"js": 1.5},
        {"missing": -1},
        {"new": 2},
        {"significance": 0},
        {"significance": 1},
        {"minimum_rows": 0},
        {"bins": 1},
        {"bins": 51},
        {"floor": 1},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Drift(**bad)


def test_a_verdict_survives_json() -> None:
    found = compare(texts({"a": 9000, "b": 1000}), texts({"a": 2650, "b": 300, "c": 50}))
    assert msgspec.json.decode(msgspec.json.encode(found), type=ColumnDrift) == found
