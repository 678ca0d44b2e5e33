import math
from collections.abc import Callable
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from velodrome.core.errors import DataError, NotFound, RecipeError
from velodrome.data.curriculum import Curriculum, easiest_first
from velodrome.data.order import EpochOrder

LENGTHS = st.integers(1, 12)
CURRICULA = st.one_of(
    st.builds(Curriculum, by=st.just("x"), start=st.floats(0.01, 1.0), epochs=LENGTHS),
    st.builds(Curriculum, by=st.just("x"), start=st.floats(0.01, 1.0), steps=st.integers(1, 60)),
    st.builds(Curriculum, by=st.just("x"), start=st.floats(0.01, 1.0), epochs=LENGTHS, pace=st.just("linear")),
)


def by_length(ids: NDArray[np.int64]) -> NDArray[np.float64]:
    return (ids % 7).astype(np.float64)


def paced(curriculum: Curriculum, rows: int = 40, batch: int = 6, seed: int = 3) -> EpochOrder:
    return EpochOrder(np.arange(rows)[::-1], batch, seed, curriculum=curriculum)


@given(curriculum=CURRICULA)
def test_the_fraction_begins_at_its_start_never_falls_and_ends_with_all_rows(curriculum: Curriculum) -> None:
    at = [curriculum.fraction(number, number) for number in range(80)]
    assert at[0] == pytest.approx(curriculum.start)
    assert all(0 < before <= after for before, after in pairwise(at))
    assert at[-1] == 1.0


@pytest.mark.parametrize(
    ("pace", "formula"),
    [
        ("root", lambda t: min(1.0, math.sqrt(t * (1 - 0.1**2) / 20 + 0.1**2))),
        ("linear", lambda t: min(1.0, t * (1 - 0.1) / 20 + 0.1)),
    ],
    ids=["root", "linear"],
)
def test_the_pace_is_the_competence_of_the_paper(pace: str, formula: Callable[[int], float]) -> None:
    curriculum = Curriculum(by="x", start=0.1, steps=20, pace=pace)  # type: ignore[arg-type]
    for step in range(30):
        assert curriculum.fraction(99, step) == pytest.approx(formula(step), abs=1e-15)


@given(curriculum=CURRICULA, rows=st.integers(1, 60), batch=st.integers(1, 70), epoch=st.integers(0, 15))
def test_an_epoch_is_a_permutation_of_the_easiest_rows(
    curriculum: Curriculum, rows: int, batch: int, epoch: int
) -> None:
    order = paced(curriculum, rows, batch)
    easiest = np.arange(rows)[::-1][: order.rows_in(epoch)]
    assert sorted(order.epoch(epoch).tolist()) == sorted(easiest.tolist())
    wanted = math.ceil(curriculum.fraction(epoch, order.first_step(epoch)) * rows)
    assert order.rows_in(epoch) == max(1, min(rows, wanted))


@given(curriculum=CURRICULA, rows=st.integers(1, 40), batch=st.integers(1, 20))
def test_each_eligible_row_comes_once_in_an_epoch_and_steps_are_counted_through(
    curriculum: Curriculum, rows: int, batch: int
) -> None:
    order, begun = paced(curriculum, rows, batch), 0
    stream = order.batches_from(0)
    for epoch in range(14):
        assert order.first_step(epoch) == begun
        steps = -(-order.rows_in(epoch) // batch)
        taken = list(islice(stream, steps))
        assert [step for step, _ in taken] == list(range(begun, begun + steps))
        assert {order.epoch_of(step) for step, _ in taken} == {epoch}
        assert np.concatenate([ids for _, ids in taken]).tolist() == order.epoch(epoch).tolist()
        begun += steps
    stream.close()


@given(curriculum=CURRICULA, step=st.integers(0, 60))
def test_seeking_to_a_step_is_the_same_as_iterating_to_it(curriculum: Curriculum, step: int) -> None:
    order = paced(curriculum)
    walked = [(at, ids.tolist()) for at, ids in islice(order.batches_from(0), step + 3)][step:]
    assert [(at, ids.tolist()) for at, ids in islice(order.batches_from(step), 3)] == walked
    assert walked[0] == (step, order.ids_of(step).tolist())


def test_later_epochs_are_those_without_a_curriculum_and_an_epoch_is_counted_over_all_rows() -> None:
    ids = np.arange(40)[::-1]
    plain, order = EpochOrder(ids, 6, 3), paced(Curriculum(by="x", epochs=4))
    assert order.rows_in(3) < order.rows_in(4) == 40
    assert order.epoch(5).tolist() == plain.epoch(5).tolist()
    assert order.steps_per_epoch == plain.steps_per_epoch == 7
    assert order.first_step(6) - order.first_step(5) == 7


def test_rows_are_ordered_by_difficulty_and_then_by_id() -> None:
    ids = np.array([9, 3, 14, 7, 0])
    wanted = [0, 7, 14, 9, 3]
    assert easiest_first(Curriculum(by=by_length, epochs=1), ids).tolist() == wanted
    column = np.arange(20) % 7
    assert easiest_first(Curriculum(by="length", epochs=1), ids, {"length": column}).tolist() == wanted


def broken(ids: NDArray[np.int64]) -> NDArray[np.float64]:
    raise ValueError("no such table")


def missing(ids: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(ids == 4, np.nan, 1.0)


@pytest.mark.parametrize(
    ("by", "error", "said"),
    [
        ("lenght", NotFound, "did you mean 'length'"),
        (broken, DataError, "no such table"),
        (missing, DataError, "none for rows 4"),
        (np.sum, DataError, "of shape"),
        ("name", DataError, "as a number"),
    ],
)
def test_difficulties_that_are_not_there_are_named(by: object, error: type[Exception], said: str) -> None:
    columns = {"length": np.arange(6), "name": np.array(list("abcdef"))}
    with pytest.raises(error, match=said):
        easiest_first(Curriculum(by=by, epochs=1), np.arange(6), columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"start": 0.0, "epochs": 1}, "above 0"),
        ({"start": 1.5, "epochs": 1}, "at most 1"),
        ({}, "either epochs or steps"),
        ({"epochs": 1, "steps": 1}, "either epochs or steps"),
        ({"epochs": 0}, "1 or more"),
    ],
    ids=["none to begin with", "more than all", "no pace", "two paces", "no time"],
)
def test_a_curriculum_that_makes_no_sense_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Curriculum(by="x", **fields)  # type: ignore[arg-type]
