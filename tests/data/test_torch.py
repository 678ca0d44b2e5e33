from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from velodrome.core.digest import digest_json
from velodrome.core.errors import DataError
from velodrome.data.fields import Field
from velodrome.data.layout import materialise
from velodrome.data.order import EpochOrder
from velodrome.store.workspace import open_folder

torch = pytest.importorskip("torch")
TensorBatches = pytest.importorskip("velodrome.data.torch").TensorBatches

PLAIN = (Field("a", "float32"), Field("c", "int64", cardinality=9), Field("b", "float32"))
ONEHOT = (Field("a", "float32"), Field("o", "float32", shape=(3,)))


def arrays_of(fields: tuple[Field, ...], rows: int = 20) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {field.name: rng.integers(0, 9, size=(rows, *field.shape)).astype(field.dtype) for field in fields}


def check(batches: Any, order: EpochOrder, inputs: Mapping[str, NDArray[Any]], target: NDArray[Any]) -> None:
    for step, (ids, batch, wanted) in enumerate(islice(batches.batches_from(2), 12), start=2):
        assert ids.tolist() == order.ids_of(step).tolist()
        assert set(batch) == set(inputs)
        for name, values in inputs.items():
            assert torch.equal(batch[name], torch.from_numpy(values[ids]))
        assert torch.equal(wanted, torch.from_numpy(target[ids]))


@pytest.mark.parametrize("fields", [PLAIN, ONEHOT], ids=["plain", "onehot"])
def test_batches_of_a_layout_are_its_rows_in_order(tmp_path: Path, fields: tuple[Field, ...]) -> None:
    inputs, target = arrays_of(fields), np.arange(20)
    with open_folder(tmp_path) as ws:
        layout = materialise(ws, digest_json("x"), fields, lambda: (inputs, target))
    order = EpochOrder(np.arange(1, 20, 2), 4, seed=5)
    batches = TensorBatches(layout, order)
    assert batches.steps_per_epoch == 3
    check(batches, order, inputs, target)


def test_batches_of_arrays_in_memory() -> None:
    inputs, target = {"x": np.random.default_rng(0).normal(size=(20, 4, 2)), "k": np.arange(20)}, np.arange(20.0)
    order = EpochOrder(20, 6, seed=5)
    check(TensorBatches(inputs, order, target=target), order, inputs, target)


def test_what_a_step_keeps_is_not_overwritten_by_the_next() -> None:
    inputs = {"x": np.arange(20.0)}
    kept = [
        batch["x"]
        for _, batch, _ in islice(TensorBatches(inputs, EpochOrder(20, 5, 0), np.zeros(20)).batches_from(0), 4)
    ]
    assert sorted(torch.cat(kept).tolist()) == inputs["x"].tolist()


def test_a_batch_lies_the_same_in_memory_wherever_the_run_began() -> None:
    inputs = {"x": np.zeros((40, 3), dtype=np.float32)}
    batches = TensorBatches(inputs, EpochOrder(40, 7, 0), np.zeros(40))

    def places_from(step: int) -> list[int]:
        return [batch["x"].data_ptr() % 64 for _, batch, _ in islice(batches.batches_from(step), 150 - step)]

    whole = places_from(0)
    assert len(set(whole)) > 1
    for step in (1, 5, 6, 63, 64, 65, 100):
        assert places_from(step) == whole[step:]


@pytest.mark.parametrize("width", [1, 3000, 300_000], ids=["many", "some", "one"])
def test_batches_are_the_same_however_many_are_gathered_together(width: int) -> None:
    inputs, order = {"x": np.arange(12.0)[:, None] + np.zeros(width)}, EpochOrder(12, 5, 0)
    for step in range(4):
        for at, (ids, batch, _) in zip(
            range(step, 6), TensorBatches(inputs, order, np.zeros(12)).batches_from(step), strict=False
        ):
            assert ids.tolist() == order.ids_of(at).tolist() == batch["x"][:, -1].tolist()


def test_read_only_arrays_give_tensors_that_may_be_written_to() -> None:
    inputs = {"x": np.arange(20.0)}
    inputs["x"].flags.writeable = False
    _, batch, _ = next(TensorBatches(inputs, EpochOrder(20, 5, 0), np.zeros(20)).batches_from(0))
    batch["x"].zero_()
    assert inputs["x"].sum() == 190


@pytest.mark.parametrize(
    ("rows", "target", "problem"),
    [(20, None, "need a target"), (20, np.zeros(19), "of the same rows"), (21, np.zeros(20), "of the same rows")],
    ids=["no target", "short target", "ids beyond"],
)
def test_what_does_not_fit_together_is_refused(rows: int, target: NDArray[Any] | None, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        TensorBatches({"x": np.zeros(20)}, EpochOrder(rows, 5, 0), target)
