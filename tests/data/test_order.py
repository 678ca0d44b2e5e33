from collections.abc import Iterator
from itertools import islice
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from velodrome.core.counter import permutation
from velodrome.core.errors import DataError
from velodrome.data.order import EpochOrder

ORDERS = st.builds(
    EpochOrder,
    rows=st.integers(1, 60) | st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=60).map(sorted),
    batch=st.integers(1, 70),
    seed=st.integers(0, 2**64 - 1),
    block=st.sampled_from([1, 7, 60, 2**27]),
)


def taken(batches: Iterator[tuple[int, NDArray[np.uint32]]], count: int) -> list[tuple[int, list[int]]]:
    return [(step, ids.tolist()) for step, ids in islice(batches, count)]


def all_ids(order: EpochOrder) -> list[int]:
    return sorted(order.epoch(0).tolist())


@given(order=ORDERS, epoch=st.integers(0, 5))
def test_an_epoch_holds_every_row_once_and_only_its_last_batch_is_smaller(order: EpochOrder, epoch: int) -> None:
    batches = taken(order.batches_from(epoch * order.steps_per_epoch), order.steps_per_epoch)
    assert sorted(i for _, ids in batches for i in ids) == all_ids(order)
    assert len(all_ids(order)) == order.rows
    assert {len(ids) for _, ids in batches[:-1]} <= {order.batch}
    assert 1 <= len(batches[-1][1]) <= order.batch


@given(order=ORDERS, step=st.integers(0, 40))
def test_seeking_to_a_step_is_the_same_as_iterating_to_it(order: EpochOrder, step: int) -> None:
    walked = taken(order.batches_from(0), step + 3)[step:]
    assert taken(order.batches_from(step), 3) == walked
    assert walked[0] == (step, order.ids_of(step).tolist())


@given(rows=st.integers(1, 50), seed=st.integers(0, 99), batches=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_the_size_of_a_batch_only_cuts_the_order(rows: int, seed: int, batches: tuple[int, int]) -> None:
    orders = [EpochOrder(rows, batch, seed) for batch in batches]
    flat = [[i for _, ids in taken(order.batches_from(0), order.steps_per_epoch) for i in ids] for order in orders]
    assert flat[0] == flat[1] == permutation(rows, seed, 0).tolist()


def test_readers_side_by_side_see_the_same_order() -> None:
    order = EpochOrder(1000, 32, seed=3)
    seen: dict[int, list[tuple[int, list[int]]]] = {}
    threads = [Thread(target=lambda k=k: seen.update({k: taken(order.batches_from(0), 100)})) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seen[k] == seen[0] for k in range(4)] == [True] * 4


def test_ids_are_handed_out_instead_of_row_numbers() -> None:
    ids = np.array([5, 900, 17], dtype=np.int64)
    assert EpochOrder(ids, 2, seed=1).epoch(4).tolist() == ids[permutation(3, 1, 4)].tolist()
    assert EpochOrder(ids, 2, seed=1).largest == 900


def test_epochs_and_seeds_differ() -> None:
    order = EpochOrder(100, 10, seed=1)
    orders = [order.epoch(0), order.epoch(1), EpochOrder(100, 10, seed=2).epoch(0)]
    assert len({each.tobytes() for each in orders}) == 3


def test_rows_beyond_a_block_are_shuffled_in_blocks_and_blocks_among_themselves() -> None:
    order = EpochOrder(95, 10, seed=1, block=10)
    blocks_seen = set()
    for epoch in range(4):
        flat = order.epoch(epoch)
        blocks = list(dict.fromkeys((flat // 10).tolist()))
        assert sorted(blocks) == list(range(10))
        assert np.count_nonzero(np.diff(flat // 10)) == 9
        blocks_seen.add(tuple(blocks))
    assert len(blocks_seen) == 4
    assert order.epoch(0)[:5].tolist() != sorted(order.epoch(0)[:5].tolist())


@pytest.mark.parametrize(("rows", "batch"), [(0, 1), ([], 1), (2**32 + 1, 1), (5, 0)])
def test_an_order_of_nothing_is_refused(rows: int | list[int], batch: int) -> None:
    with pytest.raises(DataError, match="between 1 and"):
        EpochOrder(rows, batch, seed=0)


def test_a_batch_larger_than_the_rows_is_an_epoch() -> None:
    order = EpochOrder(5, 64, seed=1)
    assert order.steps_per_epoch == 1
    assert [sorted(ids) for _, ids in taken(order.batches_from(0), 3)] == [[0, 1, 2, 3, 4]] * 3


@given(order=ORDERS, epoch=st.integers(0, 2**32))
def test_steps_and_epochs_are_counted_through(order: EpochOrder, epoch: int) -> None:
    first = order.first_step(epoch)
    assert first == epoch * order.steps_per_epoch
    assert [order.epoch_of(first), order.epoch_of(first + order.steps_per_epoch - 1)] == [epoch, epoch]
    assert order.rows_in(epoch) == order.rows
