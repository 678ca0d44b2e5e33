import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from velodrome.core.errors import ContractError, SchemaError
from velodrome.data.contracts import Between, Contract, NotNull, OneOf, Types
from velodrome.data.judging import REASON, ROW, Violation, judge, refuse, total

FLIGHTS = pl.DataFrame(
    {
        "carrier": ["AA", "ZZ", None, "B6"],
        "distance": [100.0, -5.0, math.nan, 9000.0],
        "seats": ["7", "x", "8", None],
    }
)

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "number": st.none() | st.floats() | st.sampled_from([0.0, 1.0, 2.0]),
            "word": st.none() | st.sampled_from(["a", "b", "c", "1", "2.0", ""]),
        }
    ),
    max_size=30,
)
ACTIONS = st.sampled_from(["quarantine", "warn", "stop"])
RULES = st.lists(
    st.one_of(
        st.builds(NotNull, st.sampled_from(["number", "word", ("number", "word")]), ACTIONS),
        st.builds(Between, st.just("number"), st.just(0.5) | st.none(), st.just(1.5), ACTIONS),
        st.builds(OneOf, st.just("word"), st.just(("a", "1")), ACTIONS),
        st.builds(OneOf, st.just("number"), st.just((1.0, 2.0)), ACTIONS),
    ),
    max_size=4,
)


def breaks(rule: Any, row: dict[str, Any]) -> bool:
    """The meaning of a rule, one row at a time."""

    def missing(name: str) -> bool:
        value = row[name]
        return value is None or (isinstance(value, float) and math.isnan(value))

    if isinstance(rule, NotNull):
        return any(missing(name) for name in ([rule.columns] if isinstance(rule.columns, str) else rule.columns))
    value = row[rule.column]
    if missing(rule.column):
        return False
    if isinstance(rule, OneOf):
        return value not in rule.allowed
    return (rule.minimum is not None and value < rule.minimum) or (rule.maximum is not None and value > rule.maximum)


@given(ROWS, RULES)
def test_every_row_is_accepted_or_in_quarantine_as_its_rules_say(rows: list[dict[str, Any]], rules: list[Any]) -> None:
    raw = pl.DataFrame(rows, schema={"number": pl.Float64, "word": pl.String})
    judged = judge(Contract(rules), raw)
    bad = [any(breaks(rule, row) for rule in rules if rule.action == "quarantine") for row in rows]
    assert_frame_equal(judged.accepted, raw.filter(~pl.Series(bad, dtype=pl.Boolean)))
    assert_frame_equal(judged.quarantined.drop(ROW, REASON), raw.filter(pl.Series(bad, dtype=pl.Boolean)))
    assert judged.quarantined[ROW].to_list() == [number for number, one in enumerate(bad, start=1) if one]
    assert all(judged.quarantined[REASON].to_list())
    for rule in rules:
        if isinstance(rule, NotNull) and not isinstance(rule.columns, str):
            continue  # told column by column
        count = sum(breaks(rule, row) for row in rows)
        kind = {NotNull: "not_null", Between: "between", OneOf: "one_of"}[type(rule)]
        column = rule.columns if isinstance(rule, NotNull) else rule.column
        told = {(one.rows, one.action) for one in judged.violations if one.rule.startswith(f"{kind}({column}")}
        assert ((count, rule.action) in told) == (count > 0)


def test_a_row_is_told_all_its_reasons_with_its_values() -> None:
    rules = [
        Types({"seats": "int32"}),
        OneOf("carrier", ["AA", "B6"]),
        Between("distance", 0, 5000),
        NotNull("carrier"),
    ]
    judged = judge(Contract(rules), FLIGHTS)
    assert judged.quarantined[REASON].to_list() == [
        "seats: 'x' is not int32; carrier: 'ZZ' is none of AA, B6; distance: -5.0 is not at least 0 and at most 5000",
        "carrier is missing",
        "distance: 9000.0 is not at least 0 and at most 5000",
    ]
    assert judged.accepted.rows() == [("AA", 100.0, 7)]


def test_quarantine_keeps_the_values_as_they_were_delivered() -> None:
    judged = judge(Contract([Types({"seats": "int32"})]), FLIGHTS)
    assert judged.quarantined.drop(ROW, REASON).equals(FLIGHTS[1:2])
    assert judged.accepted["seats"].to_list() == [7, 8, None]


def test_a_warning_keeps_the_row_and_counts() -> None:
    judged = judge(Contract([Between("distance", minimum=0, action="warn")]), FLIGHTS)
    assert judged.accepted.height == 4
    expected = Violation("between(distance: at least 0)", "warn", 1, ("row 2: distance: -5.0 is not at least 0",))
    assert judged.violations == (expected,)


def test_a_value_that_does_not_convert_under_a_warning_becomes_null() -> None:
    judged = judge(Contract([Types({"seats": "int64"}, action="warn"), NotNull("seats")]), FLIGHTS)
    assert judged.accepted["seats"].to_list() == [7, None, 8]
    assert [(one.action, one.rows) for one in judged.violations] == [("warn", 1), ("quarantine", 1)]


def test_a_rule_that_stops_names_itself_the_count_and_the_first_rows() -> None:
    judged = judge(Contract([NotNull("carrier"), Between("distance", 0, 5000, action="stop")]), FLIGHTS)
    with pytest.raises(ContractError) as caught:
        refuse(judged.violations, "jan.csv")
    for part in ("jan.csv", "between(distance", "2 rows", "row 2: distance: -5.0", "row 4"):
        assert part in str(caught.value)
    refuse([Violation("a", "warn", 1), Violation("b", "quarantine", 1)], "jan.csv")


def test_a_number_too_large_for_any_type_is_never_lost_in_silence() -> None:
    raw = pl.DataFrame({"id": [1, 2**64 - 1]}, schema={"id": pl.UInt64})
    judged = judge(Contract(), raw)
    assert judged.accepted["id"].to_list() == [1]
    assert judged.quarantined[REASON].to_list() == ["id: 18446744073709551615 is not int64"]


def test_not_a_number_is_missing_and_nothing_else() -> None:
    raw = pl.DataFrame({"a": [math.nan, 1.0]})
    rules = [Between("a", 0, 2), OneOf("a", [1]), NotNull("a")]
    judged = judge(Contract(rules), raw)
    assert [one.rule for one in judged.violations] == ["not_null(a)"]


def test_text_that_says_nan_is_missing_once_it_is_a_number() -> None:
    judged = judge(Contract([Types({"a": "float64"}), NotNull("a")]), pl.DataFrame({"a": ["nan", "1"]}))
    assert judged.quarantined[REASON].to_list() == ["a is missing"]


def test_bounds_of_times() -> None:
    raw = pl.DataFrame({"t": ["2013-01-01", "2013-06-01", "2014-01-01"]})
    for dtype in ("date", "datetime"):
        contract = Contract([Types({"t": dtype}), Between("t", "2013-02-01", "2013-12-31")])  # type: ignore[dict-item]
        assert judge(contract, raw).quarantined[ROW].to_list() == [1, 3]
    contract = Contract([Types({"t": "datetime"}), Between("t", maximum="2013-06-01T01:30:00+02:00")])
    assert judge(contract, raw).accepted.height == 1


def test_columns_come_out_in_the_eight_types() -> None:
    raw = pl.DataFrame({"a": [1], "b": ["x"]}, schema={"a": pl.UInt8, "b": pl.Categorical})
    assert judge(Contract(), raw).accepted.schema == {"a": pl.Int32, "b": pl.String}


def test_a_column_may_have_any_name() -> None:
    raw = pl.DataFrame({"self": [1, -1], "exprs": [1, 1], "": [1, 1]})
    assert judge(Contract([Between("self", 0), NotNull("")]), raw).accepted.height == 1


def test_no_rows() -> None:
    rules = [Types({"a": "int64"}), NotNull("a"), Between("a", 0), OneOf("a", [1])]
    judged = judge(Contract(rules), pl.DataFrame({"a": []}, schema={"a": pl.String}))
    assert (judged.accepted.height, judged.quarantined.height, judged.violations) == (0, 0, ())
    assert judged.accepted.schema == {"a": pl.Int64}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (NotNull("carier"), "did you mean 'carrier'"),
        (Between("distanse", 0), "did you mean 'distance'"),
        (OneOf("x", [1]), "known: carrier, distance, seats"),
        (Types({"seat": "int32"}), "did you mean 'seats'"),
        (Between("carrier", 0), "does not fit"),
        (Between("distance", minimum="2013-01-01"), "does not fit"),
        (OneOf("carrier", [1]), "another type"),
        (OneOf("distance", [True]), "another type"),
    ],
)
def test_a_rule_that_does_not_fit_the_columns_is_named(rule: Any, words: str) -> None:
    with pytest.raises(SchemaError) as caught:
        judge(Contract([rule]), FLIGHTS)
    assert words in str(caught.value)


def test_a_bound_that_is_no_time_is_named() -> None:
    with pytest.raises(SchemaError, match="no date or time"):
        judge(Contract([Between("t", minimum="soon")]), pl.select(t=pl.date(2013, 1, 1)))


def test_a_column_of_lists_is_refused_by_name() -> None:
    with pytest.raises(SchemaError, match="'a' has a type that is not kept"):
        judge(Contract(), pl.DataFrame({"a": [[1]]}))


def test_violations_of_several_files_are_added_up() -> None:
    found = [Violation("a", "warn", 2, ("1", "2")), Violation("b", "stop", 1), Violation("a", "warn", 3, ("3", "4"))]
    assert total(found) == (Violation("a", "warn", 5, ("1", "2", "3")), Violation("b", "stop", 1))


def test_allowed_numbers_are_compared_in_the_type_of_the_column() -> None:
    raw = pl.DataFrame({"a": [0.1, 0.2], "n": [1, 2]}, schema={"a": pl.Float32, "n": pl.Int8})
    assert judge(Contract([OneOf("a", [0.1]), OneOf("n", [1, 2**70])]), raw).accepted.height == 1


def test_a_column_without_a_value_breaks_no_rule_about_values() -> None:
    """A reader of text calls it text, whatever it is in other files."""
    rules = [Between("n", 0, 5), OneOf("n", [1, 2]), Between("n", "2013-01-01")]
    for rows in (0, 3):
        judged = judge(Contract(rules), pl.DataFrame({"n": [None] * rows}, schema={"n": pl.String}))
        assert (judged.accepted.height, judged.violations) == (rows, ())
    assert judge(Contract([NotNull("n")]), pl.DataFrame({"n": [None]})).quarantined.height == 1
    with pytest.raises(SchemaError, match="does not fit its column"):
        judge(Contract(rules), pl.DataFrame({"n": ["x", None]}))


def test_what_a_conversion_takes_from_accepted_rows_is_handed_out() -> None:
    raw = pl.DataFrame({"n": ["007", "x", " 8"], "m": [1, 2, 3], "k": pl.Series([1, 2, 3], dtype=pl.Int8)})
    judged = judge(Contract([Types({"n": "int64"})]), raw)
    assert_frame_equal(judged.converted, raw.select("n", "k")[[0, 2]])
    assert judge(Contract(), raw.select("m")).converted.width == 0


@pytest.mark.parametrize("name", ["__row", "__reason"])
def test_a_column_called_as_those_of_the_quarantine_is_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="no column may be called"):
        judge(Contract(), pl.DataFrame({name: [1]}))
