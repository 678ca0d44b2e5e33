import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import DataError, SourceError
from velodrome.data.fields import Field
from velodrome.data.own import TIMES, OwnData, OwnRows

Answer = Callable[[NDArray[np.int64]], Any]


class Made:
    """Rows by a function; keeps what it was asked for."""

    def __init__(self, answer: Answer, rows: int = 50) -> None:
        self.answer, self.rows, self.asked, self.threads = answer, rows, list[list[int]](), set[int]()

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, ids: NDArray[np.int64]) -> Any:
        self.asked.append(ids.tolist())
        self.threads.add(threading.get_ident())
        return self.answer(ids)


def plain(ids: NDArray[np.int64]) -> dict[str, Any]:
    return {"x": np.stack([ids, ids * 10], axis=1) / 2, "label": ids % 3, "code": ids.astype(np.int16)}


def after_first(answer: Answer) -> Answer:
    """Good for the first look at the data, then as told."""
    return lambda ids: plain(ids) if ids.tolist() == [0, 49] else answer(ids)


def bad_row(row: int) -> Answer:
    def answer(ids: NDArray[np.int64]) -> dict[str, Any]:
        if row in ids:
            raise ValueError("corrupt image")
        return plain(ids)

    return answer


def test_rows_are_handed_out_by_name_in_the_types_that_training_takes() -> None:
    own = OwnData(Made(plain), "label")
    assert own.rows == 50
    assert own.fields == (Field("code", "int64"), Field("x", "float32", shape=(2,)))
    inputs, target = own.take(np.array([7, 2, 7], dtype=np.uint32))
    assert list(inputs) == ["code", "x"]
    assert inputs["code"].tolist() == [7, 2, 7]
    assert inputs["x"].tolist() == [[3.5, 35.0], [1.0, 10.0], [3.5, 35.0]]
    assert target.tolist() == [1, 2, 1]
    assert [values.dtype.name for values in (*inputs.values(), target)] == ["int64", "float32", "int64"]


@pytest.mark.parametrize(
    ("given", "as_input", "as_target"),
    [
        ("float64", "float32", "float32"),
        ("float16", "float32", "float32"),
        ("bool", "float32", "int64"),
        ("uint8", "uint8", "int64"),
        ("int8", "int64", "int64"),
        ("uint32", "int64", "int64"),
    ],
)
def test_types_are_brought_to_three(given: str, as_input: str, as_target: str) -> None:
    def answer(ids: NDArray[np.int64]) -> dict[str, Any]:
        return {"x": (ids % 2).astype(given), "y": (ids % 2).astype(given)}

    inputs, target = OwnData(Made(answer), "y").take([1, 2])
    assert (inputs["x"].dtype, target.dtype) == (as_input, as_target)
    assert inputs["x"].tolist() == target.tolist() == [1, 0]


def test_tensors_and_lists_are_rows_too() -> None:
    torch = pytest.importorskip("torch")
    own = OwnData(Made(lambda ids: {"x": torch.from_numpy(ids / 4), "y": ids.tolist()}), "y")
    assert own.take([3])[0]["x"].tolist() == [0.75]


def test_it_is_asked_in_one_thread_that_is_not_the_caller_s_unless_it_may_take_any_time() -> None:
    data, impatient = Made(plain), Made(plain)
    own = OwnData(impatient, "label")
    for rows in range(5):
        own.take([rows])
    OwnData(data, "label", patience=None).take([1])
    assert len(impatient.threads) == 1
    assert data.threads == {threading.get_ident()} != impatient.threads


def test_the_first_row_that_fails_alone_is_named() -> None:
    data = Made(bad_row(17))
    own = OwnData(data, "label")
    with pytest.raises(
        SourceError, match=r"fails at row 17: ValueError: corrupt image\n  received: 4 rows: 3, 17, 5, 17"
    ) as e:
        own.take([3, 17, 5, 17])
    assert isinstance(e.value.__cause__, ValueError)
    assert data.asked[1:] == [[3, 17, 5, 17], [3], [17]]
    assert own.take([3, 5])[1].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: Path("/no/such/index").stat(), "FileNotFoundError"),
        (lambda: -3, "ValueError: __len__() should return >= 0"),
        (lambda: 2.5, "TypeError: 'float' object"),
    ],
)
def test_a_length_that_fails_is_named(answer: Callable[[], Any], said: str) -> None:
    class Counted(Made):
        def __len__(self) -> int:
            length: int = answer()
            return length

    with pytest.raises(SourceError, match="does not say how many rows it has") as caught:
        OwnData(Counted(plain), "label")
    assert said in caught.value.problem
    assert caught.value.received == "Counted.__len__"


def test_a_failure_of_the_batch_alone_is_said_to_be_that() -> None:
    own = OwnData(Made(after_first(lambda ids: plain(ids) if len(ids) == 1 else {}["x"])), "label")
    with pytest.raises(SourceError, match="for no row of it alone: KeyError: 'x'"):
        own.take([1, 2])


def test_a_dataset_of_single_rows_is_told_what_to_take() -> None:
    rows = [{"x": float(row), "y": row} for row in range(9)]
    with pytest.raises(SourceError, match=r"TypeError.*\n.*\n.*takes row numbers as an array"):
        OwnData(rows, "y")  # type: ignore[arg-type]


@contextmanager
def released() -> Iterator[threading.Event]:
    """An event to hang on, set at the end, so that no thread outlives its test."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


@contextmanager
def impatient(own: OwnData) -> Iterator[None]:
    """It waits for nothing in the block; what does not hang is asked outside, where a slow machine has time for it."""
    patience, own._patience = own._patience, 0.05
    try:
        yield
    finally:
        own._patience = patience


def test_what_hangs_is_named_with_the_rows_and_can_be_asked_again() -> None:
    with released() as event:

        def answer(ids: NDArray[np.int64]) -> dict[str, Any]:
            if 9 in ids:
                event.wait()
            return plain(ids)

        own = OwnData(Made(answer), "label")
        with impatient(own), pytest.raises(SourceError, match=r"within 0.05 seconds\n  received: 3 rows: 8, 9, 10"):
            own.take([8, 9, 10])
        assert own.take([8])[1].tolist() == [2]


def test_a_row_that_hangs_when_it_is_asked_for_alone_is_named() -> None:
    with released() as event:

        def answer(ids: NDArray[np.int64]) -> dict[str, Any]:
            if ids.tolist() == [9]:
                event.wait()
            own._patience = 0.05  # for what is asked next, and hangs
            raise OSError("gone")

        own = OwnData(Made(after_first(answer)), "label")
        with pytest.raises(SourceError, match="received: 1 rows: 9"):
            own.take([9, 10])


def test_a_process_exits_though_its_data_hangs() -> None:
    program = """if True:
        import sys, time
        import numpy as np
        from velodrome.core.errors import SourceError
        from velodrome.data.own import OwnData
        class Hangs:
            def __len__(self):
                return 10
            def __getitem__(self, ids):
                if 5 in ids:
                    time.sleep(1000)
                return {"x": ids, "y": ids}
        own = OwnData(Hangs(), "y")
        own._patience = 0.1
        try:
            own.take([5])
        except SourceError as error:
            sys.exit(error.exit_code)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda ids: [1, 2], "arrays by name\n  received: list"),
        (lambda ids: {3: ids}, "arrays by name"),
        (lambda ids: {"": ids}, "arrays by name"),
        (lambda ids: plain(ids) | {"x": ids[:1]}, "'x' has one row"),
        (lambda ids: plain(ids) | {"x": 1.0}, "'x' has one row"),
        (lambda ids: plain(ids) | {"x": np.array(["a", "b"])}, "'x' has one row of numbers.*\n.*<U1"),
        (lambda ids: plain(ids) | {"x": [[1.0], [1.0, 2.0]]}, "'x' is no array of numbers"),
        (
            lambda ids: plain(ids) | {"x": np.ones((2, 3))},
            r"'x' differs.*float32 of shape \(n, 3\) instead of .*\(n, 2\)",
        ),
        (lambda ids: plain(ids) | {"x": np.ones((2, 2), dtype=int)}, "'x' differs.*int64"),
        (lambda ids: plain(ids) | {"z": ids}, "'z' differs.*int64.* instead of nothing"),
        (lambda ids: {"x": plain(ids)["x"]}, "differs.*nothing instead of int64"),
    ],
    ids=[
        "no names",
        "numbers for names",
        "empty name",
        "short",
        "scalar",
        "text",
        "ragged",
        "wide",
        "whole",
        "extra",
        "missing",
    ],
)
def test_a_batch_unlike_the_first_is_refused(answer: Answer, said: str) -> None:
    own = OwnData(Made(after_first(answer)), "label")
    with pytest.raises(DataError, match=said):
        own.take([4, 5])


def test_a_tensor_that_needs_a_gradient_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(DataError, match="need no gradient"):
        OwnData(Made(lambda ids: {"x": torch.ones(len(ids), requires_grad=True), "y": ids}), "y")


class NoLength:
    def __getitem__(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("data", "target", "said"),
    [
        (Made(plain, rows=0), "label", "no rows"),
        (NoLength(), "label", "__len__"),
        (Made(plain), "lable", "did you mean 'label'"),
        (Made(lambda ids: {"y": ids}), "y", "inputs beside it"),
    ],
    ids=["empty", "no length", "typo", "only a target"],
)
def test_data_that_cannot_be_trained_on_is_refused_at_once(data: Any, target: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        OwnData(data, target)


def test_one_row_is_enough() -> None:
    assert OwnData(Made(plain, rows=1), "label").take([0])[1].tolist() == [0]


class Told:
    """What a progress was told."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Any]:
        self.said.append((name, total))
        yield self

    def advance(self, by: int = 1, note: str = "") -> None:
        self.said.append(by)


def test_the_digest_is_that_of_all_values_whatever_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    digest = OwnData(Made(plain, rows=2500), "label").digest(told)
    assert told.said == [("hash the rows", 2500), 1024, 1024, 452]
    monkeypatch.setattr("velodrome.data.own._HASHED_ROWS", 7)
    assert OwnData(Made(plain, rows=2500), "label").digest() == digest

    def one_other(ids: NDArray[np.int64]) -> dict[str, Any]:
        return plain(ids) | {"code": ids + (ids == 2499)}

    others = [Made(one_other, rows=2500), Made(plain, rows=2499), Made(lambda ids: plain(ids) | {"z": ids}, rows=2500)]
    assert len({digest, *(OwnData(other, "label").digest() for other in others)}) == 4


def test_a_digest_that_is_given_is_taken_and_nothing_is_read() -> None:
    data = Made(plain)
    own = OwnData(data, "label")
    del data.asked[:]
    data.digest = digest_bytes(b"x")  # type: ignore[attr-defined]
    assert own.digest() == digest_bytes(b"x")
    data.digest = "version 2"  # type: ignore[attr-defined]
    assert own.digest() not in {digest_bytes(b"x"), "version 2"}
    assert data.asked == []
    data.digest = 7  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="a text that names its content"):
        own.digest()


def dated(ids: NDArray[np.int64]) -> dict[str, Any]:
    return plain(ids) | {"when": np.datetime64("2024-03-01", "D") + ids, "good": ids % 2 == 0}


def test_times_are_no_inputs_and_are_read_as_they_are() -> None:
    own = OwnData(Made(dated), "label")
    assert [field.name for field in own.fields] == ["code", "good", "x"]
    assert list(own.take([1])[0]) == ["code", "good", "x"]
    assert own.kinds["when"] == (TIMES, ())
    assert own.columns(["when"])["when"][2].item().isoformat() == "2024-03-03T00:00:00"
    with pytest.raises(DataError, match="has a target"):
        OwnData(Made(dated), "when")


def test_columns_of_all_rows_are_read_once_and_not_at_all_if_the_digest_kept_them() -> None:
    data = Made(dated)
    own = OwnData(data, "good")
    del data.asked[:]
    found = own.columns(["good", "when"])
    assert found["good"].dtype == np.int64  # as a target
    assert found["good"].tolist() == [1, 0] * 25
    assert found["when"].shape == (50,)
    assert [row for ids in data.asked for row in ids] == list(range(50))
    own.columns(["good"])
    assert sum(map(len, data.asked)) == 50

    kept = OwnData(data, "good")
    kept.digest(keep=["label"])
    del data.asked[:]
    assert kept.columns(["label"])["label"].tolist() == [row % 3 for row in range(50)]
    assert data.asked == []


def test_the_name_of_the_content_does_not_depend_on_what_is_predicted() -> None:
    assert OwnData(Made(dated), "label").digest() == OwnData(Made(dated), "good").digest()


def test_what_answers_differently_when_it_is_asked_again_is_refused() -> None:
    data = Made(plain)
    own = OwnData(data, "label")
    own.require_steady()
    data.answer = lambda ids: plain(ids) | {"x": np.ones((len(ids), 2))}
    with pytest.raises(DataError, match=r"answers differently(.|\n)*2 rows: 0, 49"):
        own.require_steady()


def test_rows_of_one_s_own_hand_out_the_chosen_inputs_and_coded_labels() -> None:
    own = OwnData(Made(dated), "label")
    rows = OwnRows(own, own.fields[1:], np.arange(50) * 2)
    assert rows.rows == 50
    assert list(rows.take([3])) == ["good", "x"]
    inputs, target = rows.batch([3, 1])
    assert (inputs["good"].tolist(), target.tolist()) == ([0.0, 0.0], [6, 2])


def test_views_that_torch_would_not_take_are_copied() -> None:
    fixed = np.arange(100, dtype=np.float32).reshape(50, 2)[:, ::-1]
    fixed.flags.writeable = False
    own = OwnData(Made(lambda ids: {"x": fixed[ids[0] : ids[0] + len(ids)], "y": ids}, rows=1), "y")
    taken = OwnRows(own, own.fields, np.zeros(1)).take([0])["x"]
    assert taken.tolist() == [[1.0, 0.0]]
    assert taken.flags.c_contiguous
    assert taken.flags.writeable
