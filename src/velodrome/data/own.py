"""Data of one's own: anything with `__len__` and `__getitem__(ids)` that answers with a batch.

`OwnData` asks it, and `OwnRows` are its rows as a learner takes them, with the labels coded.

It is judged once, when it is wrapped (names, types, the shape of a row), and each batch is held to that. A failure names the
row: the batch that could not be read is asked for again row by row, and the first row that fails alone is named. What hangs
is waited for as long as `patience` says. It is therefore asked in a thread of its own, a daemon, for a thread cannot be
killed: after the error it is left behind, and ends with the process.
Cost: some 50 µs for each batch beyond what the data itself takes, and no copy where types fit already; a digest reads
everything once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from velodrome.core.digest import Digest, Hasher, digest_json, is_digest
from velodrome.core.errors import DataError, SourceError, nearest
from velodrome.core.progress import Progress, Silent
from velodrome.data.fields import Field
from velodrome.data.loader import Threads

__all__ = ["TIMES", "OwnData", "OwnRows", "Rows"]

_KEPT_AS = {
    **dict.fromkeys(["float16", "float32", "float64"], "float32"),
    **dict.fromkeys(["int8", "int16", "int32", "int64", "uint16", "uint32"], "int64"),
    "uint8": "uint8",
    "bool": "bool",
}
"""What an array of a type counts as; times of any unit count as `TIMES`."""

TIMES = "datetime64[us]"

_INPUTS = {"float32": "float32", "int64": "int64", "uint8": "uint8", "bool": "float32"}
_TARGETS = {"float32": "float32", "int64": "int64", "uint8": "int64", "bool": "int64"}
"""What it is handed out as. Bytes stay bytes as inputs, which images are; as a target they are codes."""

_Kind: TypeAlias = tuple[str, tuple[int, ...]]
"""Type and shape of a row of an array."""

_TAKES = "__getitem__ takes row numbers as an array, int64 (n,), and answers with arrays of n rows"
_HASHED_ROWS = 1024


class Rows(Protocol):
    """What a user brings.

    `data[ids]`, ids int64 (n,), each in 0 .. len - 1: a mapping from name to an array or CPU tensor (n, ...), the target
    among them. Arrays of datetime64, (n,), say when a row happened; they are no inputs. Equal ids give equal values,
    whatever was asked for before; several threads may ask at once. A text attribute `digest`, where there is one, names the
    content: it must change whenever a value does.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, ids: NDArray[np.int64], /) -> Mapping[str, Any]: ...


class OwnData:
    """Rows of one's own, as a source of batches.

    Attributes:
        rows: how many there are.
        fields: the inputs, in the order of their names.
        kinds: type and shape of a row of every array by name, the target's and times' among them.
        ends: digest of the first and the last row.

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
        self.kinds: dict[str, _Kind] = {}
        self._columns: dict[str, NDArray[Any]] = {}
        self._ends = np.array(sorted({0, self.rows - 1}))
        found = self._read(self._ends)
        self.kinds = {name: _kind(values) for name, values in sorted(found.items())}
        self.ends = self._digest_of([found])
        self.fields = tuple(
            Field(name, dtype=cast("Any", _INPUTS[dtype]), shape=shape)
            for name, (dtype, shape) in self.kinds.items()
            if name != target and dtype != TIMES
        )
        if target not in found or not self.fields or self.kinds[target][0] == TIMES:
            raise DataError(
                "data of one's own has a target, and inputs beside it, each by its name",
                received=f"target {target!r}; names {', '.join(sorted(found)) or 'none'}",
                remedy=nearest(target, found) if target not in found else "answer with the inputs, and numbers, too",
            )

    def take(self, ids: ArrayLike) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        """The inputs by name, (len(ids), *shape), in the order of `fields`, and the target (len(ids), ...).

        Float32, int64 or uint8. May be called from several threads at once.

        Raises:
            SourceError: the data raises for these rows, or does not answer in time.
            DataError: the answer is not what was judged at first: other names, types, shapes or another number of rows.
        """
        found = self._read(np.asarray(ids, dtype=np.int64))
        inputs = {field.name: found[field.name].astype(field.dtype, copy=False) for field in self.fields}
        return inputs, self._as_target(found[self._target])

    def digest(self, progress: Progress | None = None, *, keep: Sequence[str] = ()) -> Digest:
        """The name of the content: its attribute `digest`, else the digest of all rows, read once and in order.

        Args:
            keep: what `columns` is going to be asked for, so that all rows need not be read once more.
        """
        given = getattr(self._data, "digest", None)
        if given is not None:
            return _given_digest(given)
        return self._digest_of(self._kept(keep, "hash the rows", progress))

    def require_steady(self) -> None:
        """Read the first and the last row once more. Raises DataError where they differ from what they were."""
        if self._digest_of([self._read(self._ends)]) != self.ends:
            raise DataError(
                "data of one's own answers differently when it is asked again",
                received=_shown(self._ends),
                remedy="equal ids give equal values: draw nothing in __getitem__; vd.Torch(augment=...) changes rows anew "
                "in each epoch",
            )

    def columns(self, names: Sequence[str], progress: Progress | None = None) -> dict[str, NDArray[Any]]:
        """Arrays of all rows, (rows, ...), by name; the target as it is handed out. What is not kept is read.

        Raises: as `take`.
        """
        if set(names) - self._columns.keys():
            for _ in self._kept(names, "read the labels", progress):
                pass
        found = {name: self._columns[name] for name in names}
        return found | {name: self._as_target(found[name]) for name in found if name == self._target}

    def _kept(
        self, names: Sequence[str], task_name: str, progress: Progress | None
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """All rows, batch by batch; at the end those arrays are kept."""
        pieces: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        with (progress or Silent()).task(task_name, self.rows) as task:
            for start in range(0, self.rows, _HASHED_ROWS):
                ids = np.arange(start, min(start + _HASHED_ROWS, self.rows))
                found = self._read(ids)
                for name, several in pieces.items():
                    several.append(found[name].copy())
                yield found
                task.advance(len(ids))
        self._columns |= {name: np.concatenate(several) for name, several in pieces.items()}

    def _digest_of(self, batches: Iterable[dict[str, NDArray[Any]]]) -> Digest:
        hashers = {name: Hasher() for name in self.kinds}
        for batch in batches:
            for name, values in batch.items():
                hashers[name].update(values.tobytes())
        return digest_json([self.rows, {name: [*self.kinds[name], hashers[name].digest()] for name in hashers}])

    def _as_target(self, values: NDArray[Any]) -> NDArray[Any]:
        return values.astype(_TARGETS[self.kinds[self._target][0]], copy=False)

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
        if not isinstance(answer, Mapping) or not all(isinstance(name, str) and name for name in answer):
            raise DataError(
                "data of one's own answers with arrays by name",
                received=f"{type(answer).__name__} for {_shown(ids)}",
                remedy='return {"x": inputs, "y": target}',
            )
        found = {name: self._array(name, values, ids) for name, values in answer.items()}
        kinds = {name: _kind(values) for name, values in found.items()}
        if self.kinds and kinds != self.kinds:
            name = next(name for name in kinds | self.kinds if kinds.get(name) != self.kinds.get(name))
            raise DataError(
                f"{name!r} differs from the first batch: {_told(kinds.get(name))} instead of {_told(self.kinds.get(name))}",
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
        kept = TIMES if array.dtype.kind == "M" else _KEPT_AS.get(array.dtype.name)
        if kept is None or array.shape[:1] != ids.shape:
            raise DataError(
                f"{name!r} has one row of numbers for each row that is asked for",
                received=f"{array.dtype} of shape {array.shape} for {_shown(ids)}",
                remedy="return an array (n, ...) of float32, int64 or uint8, and labels as numbers",
            )
        return array.astype(kept, copy=False)


@dataclass(frozen=True, slots=True)
class OwnRows:
    """Rows of one's own as a learner takes them: what a layout is for rows of files.

    Attributes:
        fields: those of the inputs that are learned from.
        target: codes of the label, int64, or its values, float32, of all rows.
    """

    data: OwnData
    fields: tuple[Field, ...]
    target: NDArray[Any]

    @property
    def rows(self) -> int:
        return self.data.rows

    def take(self, ids: ArrayLike) -> dict[str, NDArray[Any]]:
        """The inputs of some rows by field name: (len(ids), *shape), contiguous and writable. Raises as `OwnData.take`."""
        inputs, _ = self.data.take(ids)
        return {field.name: np.require(inputs[field.name], requirements=["C", "W"]) for field in self.fields}

    def batch(self, ids: ArrayLike) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        """The inputs and the target of some rows."""
        return self.take(ids), self.target[np.asarray(ids, dtype=np.intp)]


def _attempt(data: Rows, ids: NDArray[np.int64]) -> tuple[Any, Exception | None]:
    try:
        return data[ids], None
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything; the caller names the row
        return None, error


def _length(data: Rows) -> int:
    if not hasattr(type(data), "__len__"):
        raise DataError(
            "data of one's own has __len__ and __getitem__(ids)",
            received=type(data).__name__,
            remedy="give it both; a stream without a length cannot be shuffled or resumed",
        )
    try:
        rows = len(data)
    except Exception as error:
        raise SourceError(
            f"data of one's own does not say how many rows it has: {_said(error)}",
            received=f"{type(data).__name__}.__len__",
            remedy="mend that; it is called once, before any row is asked for",
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


def _kind(values: NDArray[Any]) -> _Kind:
    return values.dtype.name, values.shape[1:]


def _told(kind: _Kind | None) -> str:
    return "nothing" if kind is None else f"{kind[0]} of shape ({', '.join(map(str, ('n', *kind[1])))})"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _shown(ids: NDArray[np.int64]) -> str:
    return f"{len(ids)} rows: {', '.join(map(str, ids[:8]))}{', ...' if len(ids) > 8 else ''}"
