from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from velodrome.core.errors import RecipeError
from velodrome.core.values import describe
from velodrome.data.augmentation import (
    Augmentation,
    Brightness,
    Contrast,
    Draws,
    Erase,
    GaussianNoise,
    HorizontalFlip,
    MaskFields,
    RandomCrop,
    augment,
    counters,
)

IMAGES: list[Augmentation] = [HorizontalFlip(), RandomCrop(2), Erase(p=0.7), Brightness(0.4), Contrast(0.4)]
TABLES: list[Augmentation] = [GaussianNoise(0.5), MaskFields(0.4)]
ROWS = 150  # more than are changed at once

GOLDEN_UNIFORM = ["0x1.43ba32a069968p-4", "0x1.4ed0212098d80p-4", "0x1.d42e9740be3ddp-1"]
GOLDEN_BELOW = [315, 287, 831]
GOLDEN_WORDS = [6652381860376290387, 9809797155406878728, 17813640898799190665]
GOLDEN_NORMAL = [-1.071826, -1.317236, 0.706015]
GOLDEN_NORMALS = [0.079774, 1.856803, 1.453986]


def images(rows: int = ROWS, dtype: str = "float32") -> NDArray[Any]:
    return (np.random.default_rng(0).random((rows, 3, 9, 7)) * 255).astype(dtype)


def table(rows: int = ROWS) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(1)
    block = rng.normal(size=(rows, 3)).astype(np.float32)  # columns of one block, as in a layout
    return {"a": block[:, 0], "b": block[:, 2], "o": np.eye(4, dtype=np.float32)[rng.integers(0, 4, rows)]} | {
        "c": rng.integers(1, 9, rows)
    }


def mixed(rows: int = ROWS) -> dict[str, NDArray[Any]]:
    return table(rows) | {"image": images(rows), "bytes": images(rows, "uint8")}


def changed(
    operations: Sequence[Augmentation],
    inputs: dict[str, NDArray[Any]],
    ids: NDArray[Any] | None = None,
    epoch: int = 0,
    seed: int = 5,
) -> dict[str, NDArray[Any]]:
    """The rows of `ids`, changed, in memory of their own."""
    chosen = np.arange(len(next(iter(inputs.values())))) if ids is None else ids
    copies = {name: values[chosen] for name, values in inputs.items()}
    augment(operations, copies, counters(epoch, chosen.astype(np.uint32)), seed)
    return copies


@given(
    operations=st.lists(st.sampled_from(IMAGES + TABLES), min_size=1, max_size=4),
    order=st.permutations(range(ROWS)),
    cuts=st.sets(st.integers(1, ROWS - 1), max_size=6),
    epoch=st.integers(0, 2**32 - 1),
)
def test_a_row_is_changed_the_same_in_whatever_batch_it_comes(
    operations: list[Augmentation], order: list[int], cuts: set[int], epoch: int
) -> None:
    whole = changed(operations, mixed(), epoch=epoch)
    for ids in np.split(np.array(order), sorted(cuts)):
        for name, values in changed(operations, mixed(), ids, epoch).items():
            assert values.tobytes() == whole[name][ids].tobytes(), name


def test_a_large_image_is_spread_about_the_same_mean_in_whatever_batch_it_comes() -> None:
    before = np.random.default_rng(0).random((9, 3, 71, 67), dtype=np.float32)
    whole = changed([Contrast()], {"x": before})["x"]
    for ids in (np.array([4]), np.array([8, 2, 3])):
        assert np.array_equal(changed([Contrast()], {"x": before}, ids)["x"], whole[ids])


@pytest.mark.parametrize("operation", IMAGES + TABLES, ids=lambda operation: type(operation).__name__)
def test_epochs_seeds_rows_and_repeated_operations_draw_anew(operation: Augmentation) -> None:
    same = {name: np.repeat(values[:1], ROWS, axis=0) for name, values in mixed().items()}
    once = changed([operation], same)
    name = "image" if operation in IMAGES else "a"
    assert len(np.unique(once[name].reshape(ROWS, -1), axis=0)) > 1
    for other in (changed([operation], same, epoch=1), changed([operation], same, seed=6)):
        assert not np.array_equal(other[name], once[name])
    assert not np.array_equal(changed([MaskFields(0.0), operation], same)[name], once[name])


def test_draws_never_change_between_versions() -> None:
    draws = Draws(counters(3, np.array([0, 1, 2**32 - 1], dtype=np.uint32)), seed=7)
    assert [number.hex() for number in draws.uniform(1).tolist()] == GOLDEN_UNIFORM
    assert draws.below(1000, 2).tolist() == GOLDEN_BELOW
    assert draws.of_each(["a", "b"])[:, 1].tolist() == GOLDEN_WORDS
    assert draws.normal(["a", "b"])[:, 1].tolist() == pytest.approx(GOLDEN_NORMAL, abs=1e-6)
    assert draws.normal_array("b", (2, 3))[1, 1].tolist() == pytest.approx(GOLDEN_NORMALS, abs=1e-6)


@pytest.mark.parametrize("shape", [None, (3,), (2, 5)], ids=str)
def test_normal_draws_are_normal(shape: tuple[int, ...] | None) -> None:
    draws = Draws(counters(1, np.arange(30_000, dtype=np.uint32)), 9)
    drawn = draws.normal(["a", "b", "c"]) if shape is None else draws.normal_array("a", shape)
    assert drawn.shape == (30_000, *(shape or (3,)))
    assert drawn.dtype == np.float32
    flat = drawn.reshape(30_000, -1).astype(np.float64)
    assert scipy.stats.kstest(flat.ravel(), "norm").pvalue > 1e-3
    neighbours = np.corrcoef(np.hstack([flat[:-1], flat[1:]]).T)  # numbers of a row, and of the row after it
    assert np.abs(neighbours - np.eye(len(neighbours))).max() < 0.03


def test_whole_numbers_are_evenly_spread_below_their_limits() -> None:
    draws = Draws(counters(1, np.arange(30_000, dtype=np.uint32)), 9)
    counts = np.bincount(draws.below(7), minlength=7)
    assert len(counts) == 7
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    limits = np.arange(30_000) % 5 + 1
    assert set(zip(limits.tolist(), draws.below(limits).tolist(), strict=True)) == {
        (n, k) for n in range(1, 6) for k in range(n)
    }


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_an_image_is_mirrored_or_left(dtype: str) -> None:
    before = images(2000, dtype)
    after = changed([HorizontalFlip(0.3)], {"x": before})["x"]
    flipped = (after == before[..., ::-1]).all(axis=(1, 2, 3))
    assert (flipped | (after == before).all(axis=(1, 2, 3))).all()
    assert flipped.mean() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_crop_is_a_window_of_the_padded_image_and_each_window_comes(dtype: str) -> None:
    before = images(600, dtype)
    after = changed([RandomCrop(2)], {"x": before})["x"]
    padded = np.pad(before, ((0, 0), (0, 0), (2, 2), (2, 2)))
    places = [(y, x) for y in range(5) for x in range(5)]
    windows = [(after == padded[:, :, y : y + 9, x : x + 7]).all(axis=(1, 2, 3)) for y, x in places]
    assert np.any(windows, axis=0).all()
    assert np.sum(windows, axis=1).min() > 0


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_what_is_erased_is_a_rectangle_of_the_share_and_shape_asked_for(dtype: str) -> None:
    before = np.ones((1000, 2, 40, 40), dtype=dtype)
    after = changed([Erase(p=0.8, scale=(0.1, 0.2), ratio=(0.5, 2.0))], {"x": before})["x"]
    assert (after[:, 0] == after[:, 1]).all()
    gone = after[:, 0] == 0
    rows, columns = gone.any(axis=2), gone.any(axis=1)
    assert (gone == (rows[:, :, None] & columns[:, None, :])).all()
    assert (np.abs(np.diff(rows.astype(int), axis=1, prepend=0, append=0)).sum(axis=1) <= 2).all()
    height, width = rows.sum(axis=1), columns.sum(axis=1)
    assert (height > 0).mean() == pytest.approx(0.8, abs=0.05)
    share, shape = (height * width)[height > 0] / 1600, (height / np.maximum(width, 1))[height > 0]
    assert 0.09 < share.min() < 0.11
    assert 0.19 < share.max() < 0.21
    assert 0.45 < shape.min() < 0.6
    assert 1.7 < shape.max() < 2.2


def test_brightness_multiplies_an_image_and_contrast_spreads_it_about_its_mean() -> None:
    before = images(500)
    bright = changed([Brightness(0.3)], {"x": before})["x"] / before
    assert np.ptp(bright, axis=(1, 2, 3)).max() < 1e-5
    assert 0.7 <= bright.min() < 0.72
    assert 1.28 < bright.max() <= 1.3 + 1e-6
    after, mean = changed([Contrast(0.3)], {"x": before})["x"], before.mean(axis=(1, 2, 3), keepdims=True)
    assert np.allclose(after.mean(axis=(1, 2, 3), keepdims=True), mean, rtol=1e-4)
    spread = after.std(axis=(1, 2, 3)) / before.std(axis=(1, 2, 3))
    assert 0.7 <= spread.min() < 0.72
    assert 1.28 < spread.max() <= 1.301


@pytest.mark.parametrize("operation", [Brightness(0.9), Contrast(0.9)], ids=["brightness", "contrast"])
def test_bytes_are_rounded_and_stay_bytes(operation: Augmentation) -> None:
    before = images(200, "uint8")
    after = changed([operation], {"x": before})["x"]
    exact = changed([operation], {"x": before.astype(np.float32)})["x"]
    assert after.dtype == np.uint8
    assert exact.max() > 256
    assert np.abs(after - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-3


def test_images_of_a_row_are_moved_together() -> None:
    before = np.rint(images())
    both = changed([HorizontalFlip(), RandomCrop(2), Erase()], {"x": before, "mask": before + 1.0})
    kept = both["mask"] != 0
    assert kept.mean() > 0.3
    assert np.array_equal(both["x"][kept], both["mask"][kept] - 1.0)


def test_noise_is_added_to_numbers_alone() -> None:
    before = table(5000)
    after = changed([GaussianNoise(0.25)], before)
    for name in "abo":
        added = (after[name] - before[name]).astype(np.float64)
        assert added.std() == pytest.approx(0.25, abs=0.01)
        assert added.mean() == pytest.approx(0.0, abs=0.02)
    assert np.array_equal(after["c"], before["c"])
    only = changed([GaussianNoise(0.25, columns=["b"])], before)
    assert np.array_equal(only["b"], after["b"])
    assert np.array_equal(only["a"], before["a"])


def test_a_masked_field_is_unknown_or_the_mean_and_fields_are_masked_one_by_one() -> None:
    before = table(5000)
    after = changed([MaskFields(0.2)], before)
    masked = {name: (values.reshape(5000, -1) == 0).all(axis=1) for name, values in after.items()}
    for name, gone in masked.items():
        assert gone.mean() == pytest.approx(0.2, abs=0.02)
        assert np.array_equal(after[name][~gone], before[name][~gone])
    assert (masked["a"] & masked["c"]).mean() == pytest.approx(0.04, abs=0.01)


@pytest.mark.parametrize("operation", TABLES, ids=["noise", "mask"])
def test_another_column_changes_nothing_of_the_others(operation: Augmentation) -> None:
    fewer = changed([operation], {name: values for name, values in table().items() if name in "bc"})
    assert np.array_equal(fewer["b"], changed([operation], table())["b"])


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (HorizontalFlip(), "finds nothing to change"),
        (RandomCrop(columns=["a"]), "takes images"),
        (GaussianNoise(columns=["c"]), "takes numbers"),
        (MaskFields(columns=["bb"]), "did you mean 'b'"),
    ],
    ids=["no image", "no image by that name", "noise on codes", "unknown"],
)
def test_an_operation_that_does_not_fit_the_inputs_is_refused(operation: Augmentation, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        changed([operation], table())


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (HorizontalFlip, {"p": 1.5}),
        (RandomCrop, {"padding": -1}),
        (Erase, {"scale": (0.3, 0.1)}),
        (Erase, {"scale": (0.3, 1.1)}),
        (Erase, {"ratio": (0.0, 1.0)}),
        (Brightness, {"scale": 2.0}),
        (Contrast, {"scale": -0.1}),
        (GaussianNoise, {"scale": -1.0}),
        (MaskFields, {"p": float("nan")}),
    ],
)
def test_a_value_out_of_range_is_refused(kind: type[Augmentation], fields: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"{kind.__name__}.{next(iter(fields))} lies between"):
        kind(**fields)


def test_an_operation_is_described_as_plain_values() -> None:
    assert describe(Erase(0.25)) == {
        "type": "erase",
        "p": 0.25,
        "scale": [0.02, 0.33],
        "ratio": [0.3, 3.3],
        "columns": None,
    }
