import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velodrome.core.digest import digest_json
from velodrome.core.errors import DataError, StorageError
from velodrome.data.fields import Field
from velodrome.data.layout import CODES, NUMBERS, TARGET, Layout, Prepared, materialise, places
from velodrome.store.workspace import Workspace, open_folder

FIELDS = (
    Field("distance", "float32"),
    Field("carrier", "int64", cardinality=5),
    Field("origin", "float32", shape=(3,)),
    Field("seats", "float32"),
    Field("dest", "int64", cardinality=9),
)
NAME = digest_json("a layout")


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path) as ws:
        yield ws


def prepared(rows: int, fields: tuple[Field, ...] = FIELDS) -> Prepared:
    rng = np.random.default_rng(rows)
    inputs = {field.name: rng.integers(0, 5, size=(rows, *field.shape)).astype(field.dtype) for field in fields}
    return inputs, rng.normal(size=rows)


def nothing() -> Prepared:
    raise AssertionError("the layout is there: nothing is to be produced")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(
    rows=st.integers(0, 20),
    fields=st.lists(st.sampled_from(FIELDS), unique=True).map(tuple),
    ids=st.lists(st.integers(0, 19)),
)
def test_a_layout_hands_back_the_rows_that_were_put_in(
    ws: Workspace, rows: int, fields: tuple[Field, ...], ids: list[int]
) -> None:
    inputs, target = prepared(rows, fields)
    name = digest_json([rows, [field.name for field in fields]])
    layout = materialise(ws, name, fields, lambda: (inputs, target))
    ids = [i for i in ids if i < rows]
    taken = layout.take(ids)
    assert layout.rows == rows
    assert list(taken) == [field.name for field in fields]
    for field in fields:
        assert taken[field.name].dtype == field.dtype
        np.testing.assert_array_equal(taken[field.name], inputs[field.name][ids])
    np.testing.assert_array_equal(layout.target, target.astype(np.float32))


def test_rows_lie_in_one_block_for_each_dtype(ws: Workspace) -> None:
    layout = materialise(ws, NAME, FIELDS, lambda: prepared(7))
    assert {name: (block.shape, block.dtype.name) for name, block in layout.arrays.items()} == {
        NUMBERS: ((7, 5), "float32"),
        CODES: ((7, 2), "int64"),
        TARGET: ((7,), "float32"),
    }
    assert [(place.block, place.start, place.stop) for place in places(FIELDS)] == [
        (NUMBERS, 0, 1),
        (CODES, 0, 1),
        (NUMBERS, 1, 4),
        (NUMBERS, 4, 5),
        (CODES, 1, 2),
    ]


def test_many_rows_are_written_in_pieces(ws: Workspace) -> None:
    inputs, target = prepared(150_000, FIELDS[:2])
    layout = materialise(ws, NAME, FIELDS[:2], lambda: (inputs, target))
    np.testing.assert_array_equal(layout.arrays[NUMBERS][:, 0], inputs["distance"])


def test_codes_of_labels_stay_whole_numbers(ws: Workspace) -> None:
    inputs, _ = prepared(3)
    assert materialise(ws, NAME, FIELDS, lambda: (inputs, np.array([0, 1, 1], np.uint8))).target.dtype == np.int64


def test_a_layout_is_made_once(ws: Workspace) -> None:
    first = materialise(ws, NAME, FIELDS, lambda: prepared(9))
    again = materialise(ws, NAME, FIELDS, nothing)
    np.testing.assert_array_equal(again.arrays[NUMBERS], first.arrays[NUMBERS])


@pytest.mark.parametrize("file", ["numbers.bin", "codes.bin", "target.bin", "arrays.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_layout_is_made_again(ws: Workspace, file: str, damage: str) -> None:
    first = {name: block.copy() for name, block in materialise(ws, NAME, FIELDS, lambda: prepared(9)).arrays.items()}
    path = ws.cache / "layouts" / NAME / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-1])
    mended = materialise(ws, NAME, FIELDS, lambda: prepared(9))
    for name, block in first.items():
        np.testing.assert_array_equal(mended.arrays[name], block)
    materialise(ws, NAME, FIELDS, nothing)


def test_an_error_while_producing_leaves_nothing_behind(ws: Workspace) -> None:
    with pytest.raises(AssertionError):
        materialise(ws, NAME, FIELDS, nothing)
    with pytest.raises(DataError, match="'carrier'"):
        materialise(ws, NAME, FIELDS, lambda: (prepared(3)[0] | {"carrier": np.zeros(2, np.int64)}, np.zeros(3)))
    assert list((ws.cache / "layouts").iterdir() if (ws.cache / "layouts").exists() else []) == []


def test_a_name_that_is_no_digest_is_refused(ws: Workspace) -> None:
    with pytest.raises(StorageError, match="named by the digest"):
        materialise(ws, "../elsewhere", FIELDS, nothing)


PROCESS = """
import sys, time
from pathlib import Path
import numpy as np
from velodrome.data.fields import Field
from velodrome.data.layout import materialise
from velodrome.store.workspace import open_folder

root, name, me, other = Path(sys.argv[1]), *sys.argv[2:]

def produce():
    (root / me).touch()
    while not (root / other).exists():  # both are at it at the same time
        time.sleep(0.005)
    return {"x": np.arange(1000, dtype=np.float32)}, np.arange(1000)

with open_folder(root) as ws:
    layout = materialise(ws, name, [Field("x", "float32")], produce)
    print(layout.take(range(1000))["x"].sum(), layout.target.sum())
"""


def test_two_processes_may_make_the_same_layout_at_once(ws: Workspace) -> None:
    pairs = [("one", "two"), ("two", "one")]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(ws.root), NAME, *pair], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for pair in pairs
    ]
    answers = [process.communicate(timeout=300) for process in started]
    assert answers == [(b"499500.0 499500\n", b"")] * 2
    assert [path.name for path in (ws.cache / "layouts").iterdir()] == [NAME]
    layout: Layout = materialise(ws, NAME, [Field("x", "float32")], nothing)
    assert layout.rows == 1000
