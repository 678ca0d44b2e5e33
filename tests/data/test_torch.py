import threading
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from velodrome.core.digest import digest_json
from velodrome.core.errors import DataError, RecipeError, SourceError
from velodrome.data.augmentation import GaussianNoise, HorizontalFlip, MaskFields, RandomCrop
from velodrome.data.curriculum import Curriculum
from velodrome.data.fields import Field
from velodrome.data.layout import materialise
from velodrome.data.order import EpochOrder
from velodrome.data.own import OwnData, OwnRows
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


def test_batches_of_own_data_are_its_rows_in_order() -> None:
    own, order = Own(), EpochOrder(37, 4, seed=5)
    check(TensorBatches(OwnData(own, "y"), order), order, {"x": own.x.astype(np.float32)}, np.arange(37) % 3)


def test_batches_of_own_rows_have_the_coded_labels_and_the_chosen_inputs() -> None:
    own, order, codes = OwnData(Own(), "y"), EpochOrder(37, 4, seed=5), np.arange(37) + 100
    batches = TensorBatches(OwnRows(own, own.fields, codes), order)
    check(batches, order, {"x": Own().x.astype(np.float32)}, codes)


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


def test_a_batch_larger_than_the_data_is_one_batch_of_all_rows() -> None:
    batches = TensorBatches({"x": np.arange(5.0)}, EpochOrder(5, 64, 0), np.zeros(5))
    assert batches.steps_per_epoch == 1
    for _, batch, _ in islice(batches.batches_from(0), 3):
        assert sorted(batch["x"].tolist()) == [0.0, 1.0, 2.0, 3.0, 4.0]


# ------------------------------------------------------------------------------------------------------------- workers


class Own:
    """37 rows of 3 numbers and a code; row `broken` cannot be read."""

    def __init__(self, broken: int | None = None) -> None:
        self.x, self.broken = np.random.default_rng(2).normal(size=(37, 3)), broken

    def __len__(self) -> int:
        return 37

    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        if self.broken in ids.tolist():
            raise ValueError("corrupt")
        return {"x": self.x[ids], "y": ids % 3}


class Careless:
    """Answers from memory that it uses again, which begins wherever it may."""

    def __init__(self) -> None:
        self.memory = np.empty(1 + 37 * 3, dtype=np.float32)

    def __len__(self) -> int:
        return 37

    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        rows = self.memory[1 : 1 + 3 * len(ids)].reshape(-1, 3)
        rows[...] = ids[:, None]
        return {"x": rows, "y": ids}


def test_what_own_data_answers_with_is_copied_to_where_every_batch_begins() -> None:
    batches = TensorBatches(OwnData(Careless(), "y"), EpochOrder(37, 5, 0), augment=[GaussianNoise(0.001)])
    kept = list(islice(batches.batches_from(0), 8))
    assert {batch["x"].data_ptr() % 64 for _, batch, _ in kept} == {0}
    assert all(batch["x"].round()[:, 2].tolist() == ids.tolist() for ids, batch, _ in kept)


CURRICULUM = Curriculum(by="x", start=0.3, epochs=4)


def batches_of(kind: str, workers: int) -> Any:
    rng = np.random.default_rng(1)
    order = EpochOrder(np.arange(37), 7, 5, curriculum=CURRICULUM)
    noisy = {"augment": [GaussianNoise(0.3), MaskFields(0.2, columns=["x"])], "seed": 4, "workers": workers}
    if kind == "own":
        return TensorBatches(OwnData(Own(), "y"), order, **noisy)
    x, y = rng.normal(size=(37, 3)).astype(np.float32), rng.integers(0, 3, 37)
    return TensorBatches({"x": x}, order, y, **noisy)


def trained(kind: str, parts: list[tuple[int, int]]) -> bytes:
    """The weights of a small network after training by hand, part after part: (steps, workers)."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 33), torch.nn.Tanh(), torch.nn.Linear(33, 3))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    step = 0
    for steps, workers in parts:
        batches = batches_of(kind, workers)
        for _, inputs, target in islice(batches.batches_from(step), steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(inputs["x"]), target).backward()
            optimizer.step()
        batches.close()
        step += steps
    return b"".join(parameter.detach().numpy().tobytes() for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "own"])
@pytest.mark.parametrize(
    "parts",
    [[(150, 2)], [(1, 0), (149, 2)], [(70, 2), (3, 0), (77, 1)], [(64, 0), (86, 0)]],
    ids=["workers", "resumed at once", "resumed twice", "resumed at a gather"],
)
def test_training_has_the_same_bits_with_workers_and_when_resumed(kind: str, parts: list[tuple[int, int]]) -> None:
    assert trained(kind, parts) == trained(kind, [(150, 0)])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_own_data_belongs_to_its_batch(workers: int) -> None:
    order = EpochOrder(37, 5, 3)
    at = next(step for step in range(8) if 11 in order.ids_of(step))
    assert at > 1
    stream = TensorBatches(OwnData(Own(broken=11), "y"), order, workers=workers).batches_from(0)
    assert [ids.tolist() for ids, _, _ in islice(stream, at)] == [order.ids_of(step).tolist() for step in range(at)]
    with pytest.raises(SourceError, match="fails at row 11"):
        next(stream)


def test_fewer_than_no_workers_are_refused() -> None:
    with pytest.raises(RecipeError, match="0 or more"):
        TensorBatches({"x": np.zeros(20)}, EpochOrder(20, 5, 0), np.zeros(20), workers=-1)


def test_closing_ends_the_threads_of_all_streams() -> None:
    batches = batches_of("arrays", workers=2)
    streams = [batches.batches_from(step) for step in (0, 9)]
    for stream in streams:
        next(stream)
    assert sum(thread.name == "velodrome-loader" for thread in threading.enumerate()) == 4
    batches.close()
    assert sum(thread.name == "velodrome-loader" for thread in threading.enumerate()) == 0
    assert [list(stream) for stream in streams] == [[], []]
    assert next(batches.batches_from(0))[0].tolist() == next(batches_of("arrays", 0).batches_from(0))[0].tolist()


# -------------------------------------------------------------------------------------------------------- augmentation


def seen(batches: Any, epochs: int) -> dict[tuple[int, int], bytes]:
    """What each row was in each epoch, from step 0 on."""
    rows = {}
    for step, (ids, inputs, _) in enumerate(islice(batches.batches_from(0), epochs * batches.steps_per_epoch)):
        for place, row in enumerate(ids.tolist()):
            parts = [values[place].numpy().tobytes() for _, values in sorted(inputs.items())]
            rows[row, step // batches.steps_per_epoch] = b"".join(parts)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("source", ["layout", "images", "own"])
def test_a_row_of_an_epoch_is_changed_the_same_by_any_batch_size_order_and_workers(tmp_path: Path, source: str) -> None:
    made: Any = {"x": np.random.default_rng(0).random((37, 2, 6, 5), dtype=np.float32)}
    target: Any = np.zeros(37)
    augment: Any = [HorizontalFlip(), RandomCrop(2), GaussianNoise(0.1)]
    if source == "layout":
        augment, target = [MaskFields(0.5), GaussianNoise(0.1)], None
        with open_folder(tmp_path) as ws:
            made = materialise(ws, digest_json("x"), PLAIN, lambda: (arrays_of(PLAIN, 37), np.arange(37)))
    if source == "own":
        made, target, augment = OwnData(Own(), "y"), None, [GaussianNoise(0.1)]

    def rows(batch: int, workers: int, ids: NDArray[Any]) -> dict[tuple[int, int], bytes]:
        return seen(TensorBatches(made, EpochOrder(ids, batch, 1), target, augment=augment, seed=3, workers=workers), 3)

    whole = rows(5, 0, np.arange(37))
    assert len(whole) == 3 * 37
    assert len(set(whole.values())) > 100
    assert rows(37, 0, np.arange(37)) == rows(1, 2, np.arange(37)) == whole
    assert rows(8, 2, np.arange(36, -1, -1)) == whole
    half = rows(5, 0, np.arange(0, 37, 2))
    assert half == {key: whole[key] for key in half}


def test_augmentation_leaves_what_it_reads_alone() -> None:
    inputs = {"x": np.ones((20, 3), dtype=np.float32)}
    batches = TensorBatches(inputs, EpochOrder(20, 5, 0), np.ones(20), augment=[GaussianNoise()])
    _, batch, target = next(batches.batches_from(0))
    assert inputs["x"].tolist() == np.ones((20, 3)).tolist()
    assert (batch["x"] != 1).all()
    assert target.tolist() == [1.0] * 5


def test_an_augmentation_that_does_not_fit_is_refused_before_training() -> None:
    with pytest.raises(RecipeError, match="finds nothing to change"):
        TensorBatches({"x": np.zeros(20)}, EpochOrder(20, 5, 0), np.zeros(20), augment=[HorizontalFlip()])
    with pytest.raises(RecipeError, match="did you mean 'x'"):
        TensorBatches(OwnData(Own(), "y"), EpochOrder(20, 5, 0), augment=[GaussianNoise(columns=["xx"])])
