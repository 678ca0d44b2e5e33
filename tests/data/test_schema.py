import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import SchemaError
from velodrome.data.schema import DTYPES, Column, in_types, require_column, schema_of, stored_as, unify

PARTS = st.lists(st.sampled_from([*DTYPES, "null"]), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (pl.Int8(), "int32"),
        (pl.UInt16(), "int32"),
        (pl.UInt32(), "int64"),
        (pl.UInt64(), "int64"),
        (pl.Int128(), "int64"),
        (pl.Decimal(10, 2), "float64"),
        (pl.Categorical(), "string"),
        (pl.Enum(["a"]), "string"),
        (pl.Time(), "string"),
        (pl.Null(), "string"),
        (pl.Datetime("ns", "Europe/Paris"), "datetime"),
        (pl.List(pl.Int8), None),
        (pl.Struct({"a": pl.Int8}), None),
        (pl.Binary(), None),
        (pl.Duration(), None),
    ],
)
def test_each_type_of_a_file_is_kept_as_one_of_eight(dtype: pl.DataType, name: str | None) -> None:
    assert stored_as(dtype) == name


@pytest.mark.parametrize("name", DTYPES)
def test_the_eight_types_are_kept_as_they_are(name: str) -> None:
    assert stored_as(DTYPES[name]) == name


def test_a_column_without_values_has_the_type_null() -> None:
    frame = pl.DataFrame({"a": [1], "b": [None]}, schema={"a": pl.Int64, "b": pl.String})
    assert schema_of(frame) == (Column("a", "int64"), Column("b", "null"))


def _unified(dtypes: list[str]) -> str:
    (column,) = unify([(f"{number}.csv", (Column("a", dtype),)) for number, dtype in enumerate(dtypes)])
    return column.dtype


@given(PARTS)
def test_the_order_of_files_does_not_change_whether_types_unify(dtypes: list[str]) -> None:
    outcomes = set()
    for order in (dtypes, dtypes[::-1], sorted(dtypes)):
        try:
            outcomes.add(_unified(order))
        except SchemaError:
            outcomes.add("refused")
    assert len(outcomes) == 1


@given(PARTS)
def test_a_unified_type_holds_the_values_of_every_part(dtypes: list[str]) -> None:
    try:
        whole = Column("a", _unified(dtypes))
    except SchemaError:
        return
    for dtype in dtypes:
        physical = DTYPES.get(dtype, pl.String())
        value = None if dtype == "null" else {"string": "7", "boolean": True}.get(dtype, 7)
        frame = (
            pl.DataFrame({"a": [value]})
            .cast({"a": pl.Int32 if physical.is_temporal() else physical})
            .cast({"a": physical})
        )
        given_back = frame.select(in_types([whole], [Column("a", dtype)]))
        assert given_back.schema == {"a": DTYPES[whole.dtype]}
        assert given_back["a"].null_count() == (dtype == "null")


def test_types_without_a_common_one_name_both_files_and_the_way_out() -> None:
    with pytest.raises(SchemaError) as caught:
        unify([("jan.csv", (Column("a", "int64"),)), ("feb.csv", (Column("a", "string"),))])
    for word in ("'a'", "int64 in jan.csv", "string in feb.csv", "vd.Types"):
        assert word in str(caught.value)


@pytest.mark.parametrize(("first", "second", "blamed"), [("ab", "a", "two.csv"), ("a", "ab", "one.csv")])
def test_a_column_that_one_file_lacks_is_named_with_the_file(first: str, second: str, blamed: str) -> None:
    parts = [
        (file, tuple(Column(name, "int64") for name in names))
        for file, names in (("one.csv", first), ("two.csv", second))
    ]
    with pytest.raises(SchemaError, match=f"{blamed} has no column 'b'"):
        unify(parts)


def test_a_column_that_was_renamed_is_named_with_what_it_is_called_now() -> None:
    with pytest.raises(SchemaError) as caught:
        unify([("jan.csv", (Column("carrier", "string"),)), ("feb.csv", (Column("airline", "string"),))])
    assert "feb.csv lacks carrier; jan.csv lacks airline" in str(caught.value)


def test_an_unknown_column_names_who_asked_and_the_nearest() -> None:
    with pytest.raises(SchemaError) as caught:
        require_column("distanse", ["distance", "carrier"], "vd.Between")
    assert "vd.Between" in str(caught.value)
    assert "did you mean 'distance'" in str(caught.value)
