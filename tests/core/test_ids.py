from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.ids import IdFactory

START = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=50))
def test_ids_sort_as_they_were_made_whatever_the_clock_does(offsets: list[int]) -> None:
    factory = IdFactory()
    ids = [factory.new(START + timedelta(milliseconds=offset)) for offset in offsets]
    assert ids == sorted(set(ids))


def test_ids_of_two_machines_sort_by_time() -> None:
    assert IdFactory().new(START) < IdFactory().new(START + timedelta(milliseconds=1))
