from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import DataError
from velodrome.data.keys import hash_places, hash_values

FRAGMENT = "0123456789abcdef" * 4
TEXT_GOLDEN = [16527561686860952662, 787225779264932033, 13621908642656731549, 7256193062551377888]
INT_GOLDEN = [1702081318012823930, 6439281475881623082, 13789142548563044188]
PLACE_GOLDEN = [397215607696129116, 10519721207236837267]
TEXTS = st.lists(st.text(max_size=12), min_size=1, max_size=40)


@given(TEXTS)
def test_the_number_of_a_text_depends_on_nothing_else(texts: list[str]) -> None:
    together = hash_values(pl.Series(texts))
    alone = [hash_values(pl.Series([text]))[0] for text in texts]
    assert together.tolist() == alone


@given(TEXTS)
def test_different_texts_have_different_numbers(texts: list[str]) -> None:
    assert len(set(hash_values(pl.Series(texts)).tolist())) == len(set(texts))


def test_texts_in_several_chunks_have_the_numbers_of_one() -> None:
    texts = pl.Series([f"flight {number}" for number in range(40_000)])
    hashed = hash_values(texts)
    assert len(np.unique(hashed)) == 40_000
    assert np.array_equal(hash_values(texts[39_990:]), hashed[39_990:])


@given(st.lists(st.integers(-(2**31), 2**31 - 1), unique=True))
def test_whole_numbers_of_any_width_have_one_number_each(values: list[int]) -> None:
    wide = hash_values(pl.Series(values, dtype=pl.Int64))
    assert np.array_equal(wide, hash_values(pl.Series(values, dtype=pl.Int32)))
    assert len(np.unique(wide)) == len(values)


def test_zeros_of_both_signs_are_one_key() -> None:
    assert len(set(hash_values(pl.Series([0.0, -0.0])).tolist())) == 1


def test_numbers_never_change() -> None:
    assert hash_values(pl.Series(["", "a", "é", "UA-1545"])).tolist() == TEXT_GOLDEN
    assert hash_values(pl.Series([0, 1, -1])).tolist() == INT_GOLDEN
    assert hash_values(pl.Series([date(2013, 1, 1)])).tolist() == hash_values(pl.Series([15706])).tolist()
    assert hash_places(FRAGMENT, np.arange(2)).tolist() == PLACE_GOLDEN


def test_places_differ_between_fragments() -> None:
    rows = np.arange(1000)
    both = np.concatenate([hash_places(FRAGMENT, rows), hash_places(FRAGMENT[::-1], rows)])
    assert len(np.unique(both)) == 2000


def test_no_rows() -> None:
    assert hash_values(pl.Series([], dtype=pl.String)).dtype == np.uint64
    assert len(hash_values(pl.Series([], dtype=pl.Int64))) == 0


def test_a_missing_key_is_refused_with_its_column() -> None:
    with pytest.raises(DataError, match="'id' has missing values") as caught:
        hash_values(pl.Series("id", ["a", None]))
    assert "1 of 2 rows" in str(caught.value)
