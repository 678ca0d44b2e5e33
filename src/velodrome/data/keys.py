"""Row keys: 64-bit numbers that identify rows, the same on every machine and with every library.

A key column is hashed by value, so a row keeps its number in another file and another snapshot. Text is hashed by its UTF-8
bytes: the sum of one pseudo-random word for each pair of place and byte, mixed with the length (Zobrist hashing by addition:
two texts collide with probability 2**-64). Cost: about 10 ns per number, 20 ns per byte of text.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

from velodrome.core.counter import derive_seed, hash64
from velodrome.core.errors import DataError

__all__ = ["hash_places", "hash_values"]

_NUMBERS, _BYTES, _LENGTHS = 1, 2, 3
_CHUNK = 1 << 14  # rows of text hashed at once, so that the words stay in the processor's cache


def hash_values(column: pl.Series) -> npt.NDArray[np.uint64]:
    """One number for each value of a key column, uint64 (rows,): equal values have equal numbers.

    Whole numbers are hashed as int64 and real ones as float64; dates, datetimes and booleans by their number.

    Raises:
        DataError: a value is missing.
    """
    missing = column.null_count()
    if missing:
        raise DataError(
            f"the key column {column.name!r} has missing values",
            received=f"{missing} of {len(column)} rows",
            remedy=f"keep such rows out with vd.NotNull({column.name!r}), or declare no key",
        )
    if column.dtype == pl.String:
        chunks = [_hash_text(column.slice(start, _CHUNK)) for start in range(0, len(column), _CHUNK)]
        return np.concatenate(chunks) if chunks else np.empty(0, dtype=np.uint64)
    if column.dtype.is_float():
        return _hash_numbers(column.cast(pl.Float64).to_numpy() + 0.0)  # which makes -0.0 the 0.0 that it is equal to
    return _hash_numbers(column.to_physical().cast(pl.Int64).to_numpy())


def hash_places(file: str, places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """One number for each row of a file, uint64 (rows,), from the digest of the file's bytes and the row's place in it."""
    return hash64(
        places.astype(np.uint64), derive_seed(*(int(file[start : start + 16], 16) for start in (0, 16, 32, 48)))
    )


def _hash_numbers(numbers: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    return hash64(np.ascontiguousarray(numbers).view(np.uint64), _NUMBERS)


def _hash_text(texts: pl.Series) -> npt.NDArray[np.uint64]:
    lengths = texts.str.len_bytes().to_numpy().astype(np.int64)
    data = np.frombuffer(texts.str.join("").item().encode(), dtype=np.uint8)
    starts = np.cumsum(lengths) - lengths
    places = np.arange(len(data), dtype=np.int64) - np.repeat(starts, lengths)
    words = hash64((places.astype(np.uint64) << np.uint64(8)) | data, _BYTES)
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(words, dtype=np.uint64)])
    return hash64(sums[starts + lengths] - sums[starts] + hash64(lengths.astype(np.uint64), _LENGTHS), _BYTES)
