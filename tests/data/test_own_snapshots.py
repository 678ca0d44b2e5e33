import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from velodrome.core.errors import DataError, NotFound, RecipeError, SourceError
from velodrome.data.dataset import Dataset
from velodrome.data.own_snapshots import OwnSnapshot, OwnTaken, keys_of, own_keys, read_snapshot, retake, take_own
from velodrome.data.replay import replay
from velodrome.data.snapshots import check, find_snapshot, newest_snapshot, row_keys, take_snapshot
from velodrome.data.sources import Files, Own
from velodrome.store.ledger import digest_record, read_record
from velodrome.store.workspace import Workspace, open_folder

HELD: dict[str, Any] = {}
"""What the data below answers with; a function of a recipe takes no arguments."""


class Held:
    """Rows out of `HELD`."""

    def __init__(self) -> None:
        if "digest" in HELD:
            self.digest = HELD["digest"]

    def __len__(self) -> int:
        return len(HELD["label"])

    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        HELD["asked"] = HELD.get("asked", 0) + 1
        return {name: HELD[name][ids] for name in ("x", "label", "when")}


class Shaky(Held):
    """Draws whenever it is asked."""

    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        return super().__getitem__(ids) | {"x": np.random.default_rng().random((len(ids), 2))}


class Hangs(Held):
    """Waits for somebody at its last row."""

    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        if 19 in ids:
            HELD["event"].wait()
        return super().__getitem__(ids)


def torn() -> Held:
    raise OSError("no such folder")


DATASET = Dataset("rows", source=Own(Held), time="when")


@pytest.fixture(autouse=True)
def held() -> Iterator[None]:
    HELD.clear()
    HELD["x"] = np.arange(40.0).reshape(20, 2)
    HELD["label"] = np.arange(20) % 2 == 0
    HELD["when"] = np.datetime64("2024-01-01", "s") + np.arange(20).astype("timedelta64[D]")
    yield
    HELD.clear()


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path / "project") as opened:
        yield opened


def take(ws: Workspace, dataset: Dataset = DATASET, label: str = "label") -> OwnTaken:
    return take_own(ws, dataset, label)


def test_a_snapshot_says_what_a_row_holds_and_is_a_record_like_any_other(ws: Workspace) -> None:
    taken = take(ws)
    assert taken.snapshot.rows == 20
    arrays = [(array.name, array.dtype, array.shape) for array in taken.snapshot.arrays]
    assert arrays == [("label", "bool", ()), ("when", "datetime64[us]", ()), ("x", "float32", (2,))]
    assert read_record(ws.ledger, taken.digest, OwnSnapshot) == read_snapshot(ws, taken.digest) == taken.snapshot
    assert [field.name for field in taken.data.fields] == ["x"]
    assert len(ws.ledger.events("dataset:rows")) == 1


def test_the_same_data_is_the_same_snapshot_whatever_is_predicted_and_wherever_it_is(
    ws: Workspace, tmp_path: Path
) -> None:
    first = take(ws)
    events = len(ws.ledger.events("dataset:rows"))
    with open_folder(tmp_path / "other") as other:
        assert {take(ws).digest, take(ws, label="x").digest, take(other).digest} == {first.digest}
    assert len(ws.ledger.events("dataset:rows")) == events


def test_a_value_that_changes_is_another_snapshot_with_the_one_before_as_its_parent(ws: Workspace) -> None:
    first = take(ws)
    HELD["x"][7, 1] = 99.0
    second = take(ws)
    assert second.digest != first.digest
    assert [edge.dst for edge in ws.ledger.edges(second.digest, role="parent")] == [first.digest]
    HELD["x"][7, 1] = 15.0
    assert take(ws).digest == first.digest
    assert not list(ws.ledger.edges(first.digest, role="parent"))


def test_data_that_names_itself_is_not_read_for_its_name(ws: Workspace) -> None:
    HELD["digest"] = "rows of spring"
    taken = take(ws)
    assert HELD["asked"] <= 2
    HELD["x"][7, 1] = 99.0  # in the middle, where nobody looks
    assert take(ws).digest == taken.digest


@pytest.mark.parametrize("change", ["value", "rows", "type"])
def test_data_that_calls_itself_what_it_is_not_is_refused(ws: Workspace, change: str) -> None:
    HELD["digest"] = "rows of spring"
    then = take(ws)
    if change == "value":
        HELD["x"][0, 0] = 5.0
    elif change == "rows":
        HELD.update({name: HELD[name][:19] for name in ("x", "label", "when")})
    else:
        HELD["x"] = HELD["x"].astype(np.int64)
    for again in (lambda: take(ws), lambda: retake(ws, DATASET, "label", then.digest)):
        with pytest.raises(DataError, match="has the digest of the snapshot before") as said:
            again()
        assert "must change whenever a value does" in str(said.value)
    HELD["digest"] = "rows of summer"
    assert take(ws).digest != then.digest


def test_an_older_snapshot_is_taken_again_only_while_the_data_is_what_it_was(ws: Workspace) -> None:
    first = take(ws)
    assert retake(ws, DATASET, "label", first.digest).digest == first.digest
    HELD["x"][7, 1] = 99.0
    with pytest.raises(DataError, match="not what the run learned from") as said:
        retake(ws, DATASET, "label", first.digest)
    assert first.snapshot.content[:12] in str(said.value)
    assert newest_snapshot(ws, "rows") is None  # of files; and nothing moved
    pointer = ws.ledger.pointer("dataset:rows")
    assert pointer is not None
    assert pointer.value == first.digest


def test_data_that_draws_is_refused(ws: Workspace) -> None:
    with pytest.raises(DataError, match=r"answers differently(.|\n)*augment="):
        take(ws, Dataset("rows", source=Own(Shaky)))


def test_what_cannot_be_loaded_is_named_with_its_function(ws: Workspace) -> None:
    with pytest.raises(SourceError, match=r"OSError: no such folder\n.*:torn\n.*working directory") as said:
        take(ws, Dataset("rows", source=Own(torn)))
    assert isinstance(said.value.__cause__, OSError)


@pytest.mark.slow
def test_what_hangs_is_named_after_the_patience_of_the_source(ws: Workspace) -> None:
    HELD["event"] = threading.Event()
    try:
        with pytest.raises(SourceError, match=r"within 1 seconds\n.*2 rows: 0, 19\n.*patience="):
            take(ws, Dataset("rows", source=Own(Hangs, patience="1s")))
    finally:
        HELD["event"].set()


@pytest.mark.parametrize(
    ("time", "error", "said"),
    [("whn", NotFound, "did you mean 'when'"), ("x", DataError, "one datetime64 for each row")],
)
def test_a_time_is_an_array_of_times(ws: Workspace, time: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        take(ws, Dataset("rows", source=Own(Held), time=time))


def test_a_row_is_known_by_its_number_whatever_it_holds(ws: Workspace) -> None:
    first = take(ws).snapshot
    HELD.update({name: np.concatenate([HELD[name][::-1]] * 2) for name in ("x", "label", "when")})
    second = take(ws).snapshot
    keys = own_keys(second)
    assert len(np.unique(keys)) == second.rows == 40
    assert keys[:20].tolist() == own_keys(first).tolist() == keys_of(ws, first).tolist()
    elsewhere = take(ws, Dataset("others", source=Own(Held))).snapshot
    assert not np.isin(own_keys(elsewhere), keys).any()


def test_a_dataset_may_go_from_files_to_one_s_own_and_back(ws: Workspace) -> None:
    (ws.root / "a.csv").write_text("a,b\n1,2\n")
    files = Dataset("rows", source=Files("*.csv"))
    of_files = take_snapshot(ws, files)
    own = take(ws)
    assert newest_snapshot(ws, "rows") is None
    with pytest.raises(NotFound, match="no row is kept"):
        find_snapshot(ws, "rows")
    back = take_snapshot(ws, files)
    assert (back.digest, back.new_fragments) == (of_files.digest, 0)
    assert find_snapshot(ws, "rows") == of_files.snapshot
    kept = read_snapshot(ws, of_files.digest)
    assert keys_of(ws, kept).tolist() == row_keys(ws, of_files.snapshot).tolist()
    assert digest_record(own.snapshot) == own.digest


@pytest.mark.parametrize("verb", [take_snapshot, check, replay])
def test_what_is_done_with_files_is_refused_for_one_s_own(ws: Workspace, verb: Callable[..., object]) -> None:
    with pytest.raises(RecipeError, match="data of one's own has none"):
        verb(ws, DATASET)
