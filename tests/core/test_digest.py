import io
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.digest import Hasher, canonical, decode, digest_bytes, digest_json, digest_stream, is_digest
from velodrome.core.errors import IntegrityError, VelodromeError
from velodrome.core.values import Record

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Weight(Record, frozen=True, kw_only=True, tag="weight"):
    kilograms: float
    name: str = ""


@given(JSON)
def test_canonical_json_reads_back_and_is_stable(value: object) -> None:
    data = canonical(value)
    assert canonical(msgspec.json.decode(data)) == data


@given(st.dictionaries(st.text(), st.integers(-9, 9)))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert digest_json(value) == digest_json(dict(reversed(value.items())))


def test_numbers_are_written_in_the_type_of_their_field() -> None:
    assert (
        canonical(Weight(kilograms=1))
        == canonical(Weight(kilograms=1.0))
        == b'{"kilograms":1.0,"kind":"weight","name":""}'
    )


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_say_are_named_by_their_path(number: float) -> None:
    with pytest.raises(VelodromeError, match=r"\$\.a\[1\]"):
        canonical({"a": [1.0, number]})


@given(st.binary(max_size=10_000), st.integers(1, 999))
def test_bytes_streams_and_pieces_have_one_digest(data: bytes, piece: int) -> None:
    hasher = Hasher()
    for start in range(0, len(data), piece):
        hasher.update(data[start : start + piece])
    assert hasher.digest() == digest_bytes(data) == digest_stream(io.BytesIO(data))
    assert is_digest(hasher.digest())


def test_the_digest_is_blake3() -> None:
    assert digest_bytes(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_bytes_of_another_type_are_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="Weight"):
        decode(b'{"kind":"weight","kilograms":"heavy"}', Weight)
