from hypothesis import given
from hypothesis import strategies as st

from velodrome.training.batch_sizes import SizeTrial, doubled, may_fit, suggest_size

SPEEDS = st.lists(st.floats(0.001, 1e9), min_size=1, max_size=12)


def trials(speeds: list[float], *, then_full: bool = False) -> list[SizeTrial]:
    done = [SizeTrial(size=2**n, fits=True, rows_per_second=speed, memory=2**n) for n, speed in enumerate(speeds)]
    return [*done, *([SizeTrial(size=2 ** len(speeds), fits=False)] if then_full else [])]


@given(SPEEDS, st.booleans())
def test_enough_is_the_smallest_within_a_twentieth_of_the_fastest(speeds: list[float], full: bool) -> None:
    found = suggest_size(trials(speeds, then_full=full))
    assert found is not None
    by_size = {2**n: speed for n, speed in enumerate(speeds)}
    assert found.largest == 2 ** (len(speeds) - 1)
    assert by_size[found.fastest] == max(speeds)
    assert by_size[found.enough] >= 0.95 * max(speeds)
    assert all(speed < 0.95 * max(speeds) for size, speed in by_size.items() if size < found.enough)
    assert found.enough <= found.fastest <= found.largest


def test_nothing_that_fits_recommends_nothing() -> None:
    assert suggest_size([SizeTrial(size=32, fits=False)]) is None
    assert suggest_size([]) is None


@given(st.integers(0, 10**6), st.integers(0, 10**4), st.integers(1, 10**9), st.integers(1, 512))
def test_what_is_tried_never_takes_more_than_the_budget(constant: int, row: int, budget: int, start: int) -> None:
    """Whatever a step takes for itself and for each row: of the sizes after the first, none is over the budget."""
    done: list[SizeTrial] = []
    for size in doubled(start, 1 << 20):
        if not may_fit(done, budget):
            break
        memory = constant + row * size
        done.append(SizeTrial(size=size, fits=memory <= budget, rows_per_second=1.0, memory=memory))
    assert all(each.memory <= budget for each in done[1:] if each.memory is not None)


def test_on_a_device_that_says_when_it_is_full_everything_may_be_tried_until_then() -> None:
    assert may_fit(trials([1.0]), None)
    assert not may_fit(trials([1.0], then_full=True), None)


@given(st.integers(1, 1000), st.integers(1, 10**6))
def test_sizes_double(start: int, most: int) -> None:
    sizes = list(doubled(start, most))
    assert sizes == [start * 2**n for n in range(len(sizes))]
    assert (sizes[-1] <= most < 2 * sizes[-1]) if start <= most else sizes == []
