from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.ids import IdFactory, made_at

START = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=50))
def test_ids_sort_as_they_were_made_whatever_the_clock_does(offsets: list[int]) -> None:
    factory = IdFactory()
    ids = [factory.new(START + timedelta(milliseconds=offset)) for offset in offsets]
    assert ids == sorted(set(ids))


def test_ids_of_two_machines_sort_by_time() -> None:
    assert IdFactory().new(START) < IdFactory().new(START + timedelta(milliseconds=1))


@given(st.integers(0, 200 * 365 * 86_400 * 1_000_000))
def test_an_id_tells_when_it_was_made(microseconds: int) -> None:
    moment = START + timedelta(microseconds=microseconds)
    assert timedelta(0) <= moment - made_at(IdFactory().new(moment)) < timedelta(milliseconds=1)
