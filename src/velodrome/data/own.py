"""Data of one's own: anything with `__len__` and `__getitem__(ids)` that answers with a batch.

It is judged once, when it is wrapped (names, types, the shape of a row), and each batch is held to that. A failure names the
row: the batch that could not be read is asked for again row by row, and the first row that fails alone is named. What hangs
is waited for as long as `patience` says. It is therefore asked in a thread of its own, a daemon, for a thread cannot be
killed: after the error it is left behind, and ends with the process.
Cost: some 50 µs for each batch beyond what the data itself takes, and no copy where types fit already; a digest reads
everything once.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velodrome.core.digest import Digest, Hasher, digest_json, is_digest
from velodrome.core.errors import DataError, SourceError, nearest
from velodrome.core.progress import Progress, Silent
from velodrome.data.fields import Field
from velodrome.data.loader import Threads

__all__ = ["OwnData", "Rows"]

_KEPT_AS = {
    **dict.fromkeys(["float16", "float32", "float64", "bool"], "float32"),
    **dict.fromkeys(["int8", "int16", "int32", "int64", "uint16", "uint32"], "int64"),
    "uint8": "uint8",
}
"""What an array of a type is handed out as. Bytes stay bytes as inputs, which images are; as a target they are codes."""

_TAKES = "__getitem__ takes row numbers as an array, int64 (n,), and answers with arrays of n rows"
_HASHED_ROWS = 1024


class Rows(Protocol):
    """What a user brings.

    `data[ids]`, ids int64 (n,), each in 0 .. len - 1: a mapping from name to an array or CPU tensor (n, ...), the target
    among them. Equal ids give equal values, whatever was asked for before; several threads may ask at once. A text
    attribute `digest`, where there is one, names the content: it must change whenever a value does.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, ids: NDArray[np.int64], /) -> Mapping[str, Any]: ...


class OwnData:
    """Rows of one's own, as a source of batches.

    Attributes:
        rows: how many there are.
        fields: the inputs, in the order of their names.

    Args:
        data: see `Rows`.
        target: the name of what is to be predicted.
        patience: seconds that one answer may take; None: for ever, asked in the thread that takes the batch.

    Raises:
        DataError: no rows, or rows that are not arrays of numbers of one shape, or no target among them.
        SourceError: the first or last row cannot be read, or not within the patience.
    """

    def __init__(self, data: Rows, target: str, patience: float | None = 600.0) -> None:
        self._data, self._target, self._patience = data, target, patience
        self._idle: list[Threads] = []
        self.rows = _length(data)
        self._known: dict[str, tuple[str, tuple[int, ...]]] = {}
        found = self._read(np.array(sorted({0, self.rows - 1})))
        if target not in found or len(found) == 1:
            raise DataError(
                "data of one's own has a target, and inputs beside it, each by its name",
                received=f"target {target!r}; names {', '.join(sorted(found)) or 'none'}",
                remedy=nearest(target, found) if target not in found else "answer with the inputs too",
            )
        self._known = {name: _kind(values) for name, values in found.items()}
        self.fields = tuple(
            Field(name, dtype=cast("Any", dtype), shape=shape)
            for name, (dtype, shape) in sorted(self._known.items())
            if name != target
        )

    def take(self, ids: ArrayLike) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        """The inputs by name, (len(ids), *shape), in the order of `fields`, and the target (len(ids), ...).

        Float32, int64 or uint8. May be called from several threads at once.

        Raises:
            SourceError: the data raises for these rows, or does not answer in time.
            DataError: the answer is not what was judged at first: other names, types, shapes or another number of rows.
        """
        found = self._read(np.asarray(ids, dtype=np.int64))
        return {field.name: found[field.name] for field in self.fields}, found[self._target]

    def digest(self, progress: Progress | None = None) -> Digest:
        """The name of the content: its attribute `digest`, else the digest of all rows, read once and in order."""
        given = getattr(self._data, "digest", None)
        if given is not None:
            return _given_digest(given)
        hashers = {name: Hasher() for name in self._known}
        with (progress or Silent()).task("hash the rows", self.rows) as task:
            for start in range(0, self.rows, _HASHED_ROWS):
                ids = np.arange(start, min(start + _HASHED_ROWS, self.rows))
                for name, values in self._read(ids).items():
                    hashers[name].update(values.tobytes())
                task.advance(len(ids))
        content = {name: [*self._known[name], hashers[name].digest()] for name in hashers}
        return digest_json([self.rows, content])

    def _read(self, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        answer, error = self._asked(ids)
        if error is not None:
            raise self._named(ids, error) from error
        return self._judged(ids, answer)

    def _asked(self, ids: NDArray[np.int64]) -> tuple[Any, Exception | None]:
        """The answer, or what was raised instead."""
        if self._patience is None:
            return _attempt(self._data, ids)
        asker = self._asker()
        future = asker.submit(partial(_attempt, self._data, ids))
        try:
            answer = future.result(self._patience)
        except TimeoutError as error:
            asker.abandon()
            raise SourceError(
                f"data of one's own did not answer within {self._patience:g} seconds",
                received=_shown(ids),
                remedy="look at what it waits for; patience= gives it more time, patience=None any time",
            ) from error
        self._idle.append(asker)
        return answer

    def _asker(self) -> Threads:
        # Kept between batches, since what a thread opens (a file, a connection) is often kept with the thread.
        try:
            return self._idle.pop()
        except IndexError:
            return Threads(1, "velodrome-own-data")

    def _named(self, ids: NDArray[np.int64], error: Exception) -> SourceError:
        """The error that names the first row that fails alone."""
        failed = self._first_failure(ids) if len(ids) > 1 else (int(ids[0]), error)
        if failed is None:
            return SourceError(
                f"data of one's own fails for a batch, though for no row of it alone: {_said(error)}",
                received=_shown(ids),
                remedy=_TAKES,
            )
        return SourceError(
            f"data of one's own fails at row {failed[0]}: {_said(failed[1])}",
            received=_shown(ids),
            remedy=f"mend that row, or leave it out; {_TAKES}",
        )

    def _first_failure(self, ids: NDArray[np.int64]) -> tuple[int, Exception] | None:
        for row in ids.tolist():
            _, error = self._asked(np.array([row]))
            if error is not None:
                return row, error
        return None

    def _judged(self, ids: NDArray[np.int64], answer: Any) -> dict[str, NDArray[Any]]:
        if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
            raise DataError(
                "data of one's own answers with arrays by name",
                received=f"{type(answer).__name__} for {_shown(ids)}",
                remedy='return {"x": inputs, "y": target}',
            )
        found = {name: self._array(name, values, ids) for name, values in answer.items()}
        kinds = {name: _kind(values) for name, values in found.items()}
        if self._known and kinds != self._known:
            name = next(name for name in kinds | self._known if kinds.get(name) != self._known.get(name))
            raise DataError(
                f"{name!r} differs from the first batch: {_told(kinds.get(name))} instead of {_told(self._known.get(name))}",
                received=_shown(ids),
                remedy="answer with the same names, types and shapes for all rows",
            )
        return found

    def _array(self, name: str, values: Any, ids: NDArray[np.int64]) -> NDArray[Any]:
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{name!r} is no array of numbers: {error}",
                received=_shown(ids),
                remedy="give rows of one shape; a tensor must be on the CPU and need no gradient",
            ) from error
        kept = _KEPT_AS.get(array.dtype.name)
        if kept is None or array.shape[:1] != ids.shape:
            raise DataError(
                f"{name!r} has one row of numbers for each row that is asked for",
                received=f"{array.dtype} of shape {array.shape} for {_shown(ids)}",
                remedy="return an array (n, ...) of float32, int64 or uint8",
            )
        codes = name == self._target and array.dtype.name in {"uint8", "bool"}
        return array.astype("int64" if codes else kept, copy=False)


def _attempt(data: Rows, ids: NDArray[np.int64]) -> tuple[Any, Exception | None]:
    try:
        return data[ids], None
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything; the caller names the row
        return None, error


def _length(data: Rows) -> int:
    try:
        rows = len(data)
    except TypeError as error:
        raise DataError(
            "data of one's own has __len__ and __getitem__(ids)",
            received=type(data).__name__,
            remedy="give it both; a stream without a length cannot be shuffled or resumed",
        ) from error
    if rows < 1:
        raise DataError("data of one's own has no rows", received=f"{type(data).__name__} of length {rows}")
    return rows


def _given_digest(given: object) -> Digest:
    if not isinstance(given, str) or not given:
        raise DataError(
            "the digest of data of one's own is a text that names its content",
            received=given,
            remedy="give a text, or no attribute digest: then each row is hashed",
        )
    return Digest(given) if is_digest(given) else digest_json(given)


def _kind(values: NDArray[Any]) -> tuple[str, tuple[int, ...]]:
    return values.dtype.name, values.shape[1:]


def _told(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "nothing" if kind is None else f"{kind[0]} of shape ({', '.join(map(str, ('n', *kind[1])))})"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _shown(ids: NDArray[np.int64]) -> str:
    return f"{len(ids)} rows: {', '.join(map(str, ids[:8]))}{', ...' if len(ids) > 8 else ''}"
