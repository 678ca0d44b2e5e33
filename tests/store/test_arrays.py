import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import DataError, IntegrityError
from velodrome.store.arrays import MANIFEST, map_arrays, write_arrays
from velodrome.store.files import make_folder, temporary_folder


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    width=st.integers(0, 3),
    dtype=st.sampled_from(["float32", "int64", "bool", ">i4"]),
)
def test_what_is_written_in_chunks_is_mapped_whole(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], width: int, dtype: str
) -> None:
    chunks = [np.arange(n * width).reshape(n, width).astype(dtype) for n in lengths]
    with temporary_folder(tmp_path_factory.getbasetemp() / "arrays") as folder:
        write_arrays(folder, ({"x": chunk, "y": chunk[:, 0:0]} for chunk in chunks))
        mapped = map_arrays(folder)
        assert mapped.keys() == {"x", "y"}
        np.testing.assert_array_equal(mapped["x"], np.concatenate(chunks))
        assert mapped["y"].shape == (sum(lengths), 0)


def test_a_column_that_is_not_contiguous_is_written_as_it_reads(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    write_arrays(tmp_path, [{"x": values}])
    np.testing.assert_array_equal(map_arrays(tmp_path)["x"], values)


def test_writing_to_a_map_stays_in_the_process(tmp_path: Path) -> None:
    write_arrays(tmp_path, [{"x": np.zeros(3)}])
    map_arrays(tmp_path)["x"][:] = 1
    assert map_arrays(tmp_path)["x"].sum() == 0


@pytest.mark.parametrize("damage", ["flip", "short", "long", "gone", "shape", "no manifest", "no json"])
def test_damage_is_detected(tmp_path: Path, damage: str) -> None:
    write_arrays(tmp_path, [{"x": np.arange(8)}])
    file, manifest = tmp_path / "x.bin", tmp_path / MANIFEST
    data = bytearray(file.read_bytes())
    match damage:
        case "flip":
            data[17] ^= 4
            file.write_bytes(data)
        case "short":
            file.write_bytes(data[:-8])
        case "long":
            file.write_bytes(data + b"\0" * 8)
        case "gone":
            file.unlink()
        case "shape":
            plain = json.loads(manifest.read_text())
            plain["arrays"]["x"]["shape"] = [7]
            manifest.write_text(json.dumps(plain))
        case "no manifest":
            manifest.unlink()
        case "no json":
            manifest.write_bytes(manifest.read_bytes()[:-3])
    with pytest.raises(IntegrityError):
        map_arrays(tmp_path)


@pytest.mark.parametrize("second", [{"y": np.zeros(1)}, {"x": np.zeros(1, np.float32)}, {"x": np.zeros((1, 2))}])
def test_chunks_that_do_not_fit_together_are_refused(tmp_path: Path, second: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match="chunks"):
        write_arrays(tmp_path, [{"x": np.zeros(1)}, second])


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_arrays(make_folder(tmp_path / "empty"), [])
