from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from velodrome.core.errors import DataError, LabelError, NotFound, SplitError
from velodrome.data.dataset import Dataset
from velodrome.data.fields import Field
from velodrome.data.own import OwnRows
from velodrome.data.own_set import build_own_set, own_test
from velodrome.data.own_snapshots import OwnTaken, take_own
from velodrome.data.sources import Own
from velodrome.data.splits import RandomSplit, TimeSplit
from velodrome.data.training_set import Ingredients, TrainingSet
from velodrome.store.workspace import Workspace, open_folder

ROWS = 200
ASKED: list[list[int]] = []


class Rows:
    """Ten to a day; labels 10, 20 and 30."""

    digest = "rows"

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        ASKED.append(ids.tolist())
        return {
            "image": np.stack([np.full((2, 3), row) for row in ids]).astype(np.float32),
            "code": ids,
            "label": ids % 3 * 10 + 10,
            "size": ids / 7,
            "holes": np.where(ids % 90 == 31, np.nan, ids / 7),
            "box": np.stack([ids, ids], 1),
            "when": np.datetime64("2024-01-01", "ms") + (ids // 10).astype("timedelta64[D]"),
        }


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path) as opened:
        yield opened


def take(ws: Workspace, label: str = "label", time: str | None = "when") -> OwnTaken:
    taken = take_own(ws, Dataset("rows", source=Own(Rows), time=time), label)
    del ASKED[:]
    return taken


def ingredients(taken: OwnTaken, label: str = "label", **changes: Any) -> Ingredients:
    given: dict[str, Any] = {
        "snapshot": taken.digest,
        "features": (),
        "label": label,
        "task": "auto",
        "prepare": (),
        "encoding": "codes",
        "split": RandomSplit(),
        "time": taken.snapshot.time,
        "seed": 3,
    }
    return Ingredients(**(given | changes))


def own_rows(made: TrainingSet) -> OwnRows:
    assert isinstance(made.layout, OwnRows)
    return made.layout


def test_rows_are_split_and_labels_coded_and_no_input_is_kept(ws: Workspace) -> None:
    taken = take(ws)
    made, test = build_own_set(ws, taken, ingredients(taken)), own_test(ws, taken, ingredients(taken))
    assert made.preparation is None
    assert (made.coding.task, made.coding.classes) == ("multiclass", (10, 20, 30))
    parts = [*made.train.tolist(), *made.validation.tolist(), *test.ids.tolist()]
    assert sorted(parts) == list(range(ROWS))
    assert len(made.train) > len(test.ids) > len(made.validation) > 0
    rows = own_rows(made)
    assert [field.name for field in rows.fields] == ["box", "code", "holes", "image", "size"]
    inputs, target = rows.batch([4, 9])
    assert (inputs["image"][1].tolist(), inputs["code"].tolist()) == ([[9.0] * 3] * 2, [4, 9])
    assert target.tolist() == [1, 0]
    assert made.layout.target.tolist() == [row % 3 for row in range(ROWS)]
    assert sum(path.stat().st_size for path in (ws.cache / "layouts").rglob("*") if path.is_file()) < 5000


def test_labels_and_times_are_read_once_for_a_snapshot(ws: Workspace) -> None:
    taken = take(ws)
    build_own_set(ws, taken, ingredients(taken))
    assert sorted(row for ids in ASKED for row in ids) == list(range(ROWS))
    again = take(ws)
    build_own_set(ws, again, ingredients(again, seed=4))
    own_test(ws, again, ingredients(again, split=TimeSplit(validation="2d", test="4d")))
    assert ASKED == []


def test_a_seed_decides_the_split_and_another_another(ws: Workspace) -> None:
    taken = take(ws)
    first, again, other = (own_test(ws, taken, ingredients(taken, seed=seed)).ids.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_time_split_takes_the_newest_rows(ws: Workspace) -> None:
    taken = take(ws)
    by_time = ingredients(taken, split=TimeSplit(validation="2d", test="4d"))
    made, test = build_own_set(ws, taken, by_time), own_test(ws, taken, by_time)
    assert test.ids.tolist() == list(range(160, 200))
    assert made.validation.tolist() == list(range(140, 160))
    assert test.days is not None
    assert np.unique(test.days - test.days[0]).tolist() == [0, 1, 2, 3]
    assert test.days[0] == (np.datetime64("2024-01-17") - np.datetime64("1970-01-01")).astype(int)
    with pytest.raises(SplitError, match="training part has no rows"):
        build_own_set(ws, taken, ingredients(taken, split=TimeSplit(validation="20d", test="4d")))


def test_a_refit_takes_all_rows(ws: Workspace) -> None:
    taken = take(ws)
    made = build_own_set(ws, taken, ingredients(taken, everything=True))
    assert made.train.tolist() == list(range(ROWS))
    assert len(made.validation) == 0


def test_numbers_are_values(ws: Workspace) -> None:
    taken = take(ws, "size")
    made = build_own_set(ws, taken, ingredients(taken, "size"))
    assert (made.coding.task, made.layout.target.dtype) == ("regression", np.float32)
    assert made.layout.target[14] == 2.0


def test_features_choose_the_inputs_and_their_order_but_all_are_there_to_be_judged_on(ws: Workspace) -> None:
    taken = take(ws)
    chosen = ingredients(taken, features=("size", "image"))
    rows = own_rows(build_own_set(ws, taken, chosen))
    assert rows.fields == (Field("size", "float32"), Field("image", "float32", shape=(2, 3)))
    assert list(rows.take([1])) == ["size", "image"]
    (batch,) = own_test(ws, taken, chosen).batches()
    assert list(batch) == ["box", "code", "holes", "image", "size"]
    with pytest.raises(NotFound, match="did you mean 'image'"):
        build_own_set(ws, taken, ingredients(taken, features=("imag",)))


def test_test_rows_come_in_pieces_that_fit_into_memory(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = take(ws)
    test = own_test(ws, taken, ingredients(taken))
    monkeypatch.setattr("velodrome.data.own_set._BATCH_BYTES", 3 * 56)  # box 16, code 8, holes 4, image 24, size 4
    pieces = [batch["code"].tolist() for batch in test.batches()]
    assert {len(piece) for piece in pieces[:-1]} == {3}
    assert [row for piece in pieces for row in piece] == test.ids.tolist()


def test_what_cannot_be_judged_is_refused_by_name(ws: Workspace) -> None:
    shaped = take(ws, "box")
    with pytest.raises(DataError, match=r"'box' of data of one's own is one number for each row"):
        build_own_set(ws, shaped, ingredients(shaped, "box"))
    holes = take(ws, "holes")
    with pytest.raises(LabelError, match="not finite in 2 of 200 rows") as caught:
        build_own_set(ws, holes, ingredients(holes, "holes"))
    assert caught.value.received == "rows 31, 121"
    timeless = take(ws, time=None)
    with pytest.raises(DataError, match="TimeSplit needs to know when"):
        build_own_set(ws, timeless, ingredients(timeless, split=TimeSplit(validation="2d", test="4d")))
    two_days = ingredients(timeless, task="binary")
    with pytest.raises(LabelError, match="a binary task has two classes"):
        build_own_set(ws, timeless, two_days)
