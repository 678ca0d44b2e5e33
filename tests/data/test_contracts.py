import pytest

from velodrome.core.digest import digest_json
from velodrome.core.errors import RecipeError
from velodrome.core.values import describe
from velodrome.data.contracts import Between, Contract, NotNull, OneOf, Types, Unique, names_of


def test_rules_are_told_apart_by_what_they_look_at() -> None:
    types, unique = Types({"a": "string", "b": "int64"}), Unique("a")
    contract = Contract([types, unique, NotNull("a")])
    assert contract.row_rules == (types, NotNull("a"))
    assert contract.unique_rules == (unique,)
    assert contract.text_columns == ("a",)


def test_one_column_or_several() -> None:
    assert names_of("a") == ("a",)
    assert names_of(("a", "b")) == ("a", "b")


def test_equal_contracts_have_equal_digests_and_an_action_counts() -> None:
    one, other = (digest_json(describe(Contract([Between("a", 0, 1)]))) for _ in range(2))
    assert one == other
    assert one != digest_json(describe(Contract([Between("a", 0, 1, action="warn")])))


def test_an_unknown_type_or_action_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"Types\.columns"):
        Types({"a": "int"})  # type: ignore[dict-item]
    with pytest.raises(RecipeError, match=r"NotNull\.action"):
        NotNull("a", action="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("bounds", [(), (2, 1), ("a", 1), (1, "2013-01-01"), ("2014-01-01", "2013-01-01")])
def test_bounds_that_bound_nothing_are_refused(bounds: tuple[float | str, ...]) -> None:
    with pytest.raises(RecipeError, match="bound"):
        Between("a", *bounds)  # type: ignore[arg-type]


def test_one_value_between_equal_bounds_is_fine() -> None:
    assert Between("a", 1, 1).minimum == 1


def test_a_column_has_one_type() -> None:
    with pytest.raises(RecipeError, match="two rules"):
        Contract([Types({"a": "int64"}), Types({"a": "string"})])


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"Contract\.rules"):
        Contract(["not_null"])  # type: ignore[list-item]
    with pytest.raises(RecipeError, match="OneOf"):
        OneOf("a", "AA")  # type: ignore[arg-type]
