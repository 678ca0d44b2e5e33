"""Arrays in a folder: raw little-endian files and a manifest with their dtypes, shapes and digests.

Rows are appended chunk by chunk, so an array may be larger than memory, and each file is hashed while it is written.
A map is handed out only after its bytes have been hashed again: a flipped bit or a short file is an error, never a
wrong number.
Cost: writing is the disk's speed; opening reads every byte once at the speed of BLAKE3 (which also warms the page
cache).
"""

import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from velodrome.core.digest import Digest, Hasher, canonical, decode
from velodrome.core.errors import DataError, IntegrityError, StorageError
from velodrome.store.files import digest_file, within

__all__ = ["MANIFEST", "map_arrays", "write_arrays"]

MANIFEST = "arrays.json"


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    digest: Digest


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    arrays: dict[str, _Entry]
    format: Literal[1] = 1


def write_arrays(folder: Path, chunks: Iterable[Mapping[str, NDArray[Any]]]) -> None:
    """Append the rows of each chunk to one file for each name, and write the manifest last.

    Args:
        folder: exists, holds no arrays yet, and is seen by nobody else: see `velodrome.store.files.temporary_folder`.
        chunks: each with the same names, dtypes and shapes apart from the number of rows, the first axis; at least one.

    Raises:
        DataError: there is no chunk, or two chunks do not fit together.
        StorageError: the disk refused.
    """
    try:
        with ExitStack() as stack:
            writers: dict[str, _Writer] = {}
            for chunk in chunks:
                if not writers:
                    writers = {
                        name: _Writer(stack.enter_context(_path(folder, name).open("xb")), chunk[name])
                        for name in sorted(chunk)
                    }
                _append(writers, chunk)
        if not writers:
            raise DataError("there are no arrays to write")
        manifest = _Manifest({name: writer.entry() for name, writer in writers.items()})
        (folder / MANIFEST).write_bytes(canonical(manifest))
    except OSError as error:
        raise StorageError(
            f"cannot write arrays in {folder}: {error.strerror}",
            remedy="check the space and the permissions of the folder",
        ) from error


def map_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a folder by name, as memory maps whose bytes have been verified.

    The maps are private: they can be written to, as torch demands, but what is written stays in this process.

    Raises:
        IntegrityError: a file is missing, short or changed, or the manifest does not read.
    """
    try:
        manifest = decode((folder / MANIFEST).read_bytes(), _Manifest)
    except OSError as error:
        raise IntegrityError(
            f"the manifest of arrays cannot be read: {folder / MANIFEST}",
            remedy="remove the folder; it can be made again",
        ) from error
    return {name: _map(_path(folder, name), entry) for name, entry in manifest.arrays.items()}


class _Writer:
    """One array while its rows are written."""

    def __init__(self, stream: BinaryIO, first: NDArray[Any]) -> None:
        self._stream = stream
        self._hasher = Hasher()
        self._dtype = _little(first.dtype)
        self._row = first.shape[1:]
        self._rows = 0

    def append(self, name: str, rows: NDArray[Any]) -> None:
        if _little(rows.dtype) != self._dtype or rows.shape[1:] != self._row:
            raise DataError(
                f"the chunks of array {name!r} do not fit together: rows of {self._row} {self._dtype.name} first",
                received=f"rows of {rows.shape[1:]} {rows.dtype.name}",
            )
        if rows.size:
            data = np.ascontiguousarray(rows, dtype=self._dtype).reshape(-1).view(np.uint8).data
            self._stream.write(data)
            self._hasher.update(data)
        self._rows += len(rows)

    def entry(self) -> _Entry:
        return _Entry(self._dtype.str, (self._rows, *self._row), self._hasher.digest())


def _append(writers: Mapping[str, _Writer], chunk: Mapping[str, NDArray[Any]]) -> None:
    if chunk.keys() != writers.keys():
        raise DataError(
            f"the chunks do not hold the same arrays: {', '.join(sorted(writers))} first",
            received=", ".join(sorted(chunk)),
        )
    for name, rows in chunk.items():
        writers[name].append(name, rows)


def _map(path: Path, entry: _Entry) -> NDArray[Any]:
    dtype = np.dtype(entry.dtype)
    if (
        not path.is_file()
        or path.stat().st_size != math.prod(entry.shape) * dtype.itemsize
        or digest_file(path) != entry.digest
    ):
        raise IntegrityError(
            f"the bytes of an array are not what its manifest says: {path}",
            remedy="remove the folder; it can be made again",
        )
    if not math.prod(entry.shape):  # an empty file cannot be mapped
        return np.empty(entry.shape, dtype)
    # A plain view of the map: gathering from the `memmap` class itself costs a Python call for each batch.
    return np.asarray(np.memmap(path, dtype, mode="c", shape=entry.shape))


def _path(folder: Path, name: str) -> Path:
    return within(folder, f"{name}.bin")


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<") if sys.byteorder == "big" or dtype.byteorder == ">" else dtype
