from typing import Any

import pytest

from velodrome.core.errors import RecipeError
from velodrome.data.contracts import Contract, NotNull
from velodrome.data.dataset import Dataset
from velodrome.data.sources import Files, Own


@pytest.mark.parametrize("name", ["flights", "flights-2013", "a1"])
def test_a_name_is_a_slug(name: str) -> None:
    assert Dataset(name, Files("*.csv")).name == name


@pytest.mark.parametrize("name", ["", "Flights", "a_b", "-a", "a-", "a--b", "a b", "ä", "a\n"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="lower-case"):
        Dataset(name, Files("*.csv"))


def test_a_typo_in_a_field_is_named() -> None:
    with pytest.raises(RecipeError, match="did you mean 'owner'"):
        Dataset("a", Files("*.csv"), ownr="me")  # type: ignore[call-arg]


def test_a_source_is_files() -> None:
    with pytest.raises(RecipeError, match=r"Dataset\.source"):
        Dataset("a", "*.csv")  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"key": "id"}, {"contract": Contract([NotNull("id")])}], ids=["key", "contract"])
def test_data_of_one_s_own_has_neither_key_nor_contract(changes: dict[str, Any]) -> None:
    assert Dataset("a", Own(dict), time="when", owner="me").time == "when"
    with pytest.raises(RecipeError, match=r"neither key nor contract(.|\n)*__getitem__"):
        Dataset("a", Own(dict), **changes)
