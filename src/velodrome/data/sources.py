"""Where data comes from: files named by globs, or a function of one's own. The only place that reads the files of users, by
their endings.

Parquet brings its types. CSV has none, so they are inferred: a column has a type if all its values have it. A file is read
whole: memory is bounded by the largest file, so let a large dataset be many files. Cost: one parse; a CSV file whose first
10,000 rows mislead is parsed twice.
"""

import glob
import gzip
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import polars as pl

from velodrome.core.errors import RecipeError, SourceError, nearest
from velodrome.core.units import parse_duration
from velodrome.core.values import Value, describe
from velodrome.data.inference import infer_times, infer_types
from velodrome.store.workspace import Workspace

__all__ = [
    "NULL_WORDS",
    "SUFFIXES",
    "Files",
    "Own",
    "list_files",
    "read_user_file",
    "require_files",
    "scan_rows",
    "shown_name",
]

SUFFIXES = (".parquet", ".csv", ".csv.gz")
"""The endings of the files that can be read."""

NULL_WORDS = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")
"""What stands for a missing value in a CSV file."""

_PROBE = 10_000


class Files(Value, frozen=True, tag="files"):
    """Parquet and CSV files: a path or glob, or several, relative to the project's root (`**` stands for any folders).

    The order of the rows is that of the files' names.
    """

    pattern: str | tuple[str, ...]


class Own(Value, frozen=True, tag="own"):
    """Data of one's own: rows that a function or class of the project gives, and that stay where they are.

    Attributes:
        load: called without arguments when rows are needed; gives what has `__len__` and `__getitem__(ids)`, see
            `velodrome.data.own.Rows`.
        patience: how long one answer may take, such as "10m"; None: for ever. No part of what a run is named by.
    """

    load: Callable[..., Any]
    patience: str | None = "10m"

    def __post_init__(self) -> None:
        super().__post_init__()
        describe(self.load)  # refuses what has no name to record
        if self.patience is not None:
            parse_duration(self.patience)


def require_files(source: Files | Own) -> Files:
    """The source, if it is one of files; raises RecipeError if not."""
    if isinstance(source, Own):
        raise RecipeError(
            "this is done with the files of a dataset, and data of one's own has none",
            received=f"{source.load.__module__}:{source.load.__qualname__}",
            remedy="velodrome run takes it as it is; for contracts, drift and retraining give files: vd.Files(...)",
        )
    return source


def list_files(ws: Workspace, source: Files | Own) -> tuple[Path, ...]:
    """The files of a source, each once, ordered by `shown_name`.

    Raises:
        SourceError: a pattern matches nothing, or a file that cannot be read by its ending.
        RecipeError: the source has no files.
    """
    source = require_files(source)
    patterns = (source.pattern,) if isinstance(source.pattern, str) else source.pattern
    found = {path for pattern in patterns for path in _match(ws.root, pattern)}
    for path in found:
        _require_known_suffix(path)
    return tuple(sorted(found, key=lambda path: (shown_name(ws, path), path)))


def shown_name(ws: Workspace, path: Path) -> str:
    """The name of a file for people and records: below the root its path from there, elsewhere its last part."""
    return path.relative_to(ws.root).as_posix() if path.is_relative_to(ws.root) else path.name


def read_user_file(path: Path, *, text: Collection[str] = ()) -> pl.DataFrame:
    """All rows of a user's file, in its order.

    Args:
        text: columns of a CSV file to keep as they stand ("007" stays text); those that are not there are passed over.

    Raises:
        SourceError: the file is missing, empty, damaged or of another format.
    """
    _require_known_suffix(path)
    if not path.is_file():
        neighbours = [file.name for file in path.parent.glob("*") if file.name.endswith(SUFFIXES)]
        raise SourceError("there is no such file", received=str(path), remedy=nearest(path.name, neighbours))
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, glob=False, hive_partitioning=False)
        return _read_csv(path, text)
    except pl.exceptions.NoDataError as error:
        raise SourceError(f"{path} is empty", remedy="a CSV file begins with a line of column names") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, UnicodeDecodeError) as error:
        problem = str(error).strip().split("\n", maxsplit=1)[0]
        remedy = "is it whole, and in the format that its ending says? CSV is expected in UTF-8"
        raise SourceError(f"{path} cannot be read: {problem}", remedy=remedy) from error


def scan_rows(path: Path) -> pl.LazyFrame:
    """The rows of a Parquet file that velodrome wrote, in their order, lazily."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def _match(root: Path, pattern: str) -> list[Path]:
    whole = root / pattern
    if whole.is_file():
        return [_plain(whole)]
    spelled = pattern if Path(pattern).is_absolute() else str(Path(glob.escape(str(root))) / pattern)
    found = [_plain(path) for path in map(Path, glob.glob(spelled, recursive=True)) if path.is_file()]
    if not found:
        neighbours = [path.name for path in whole.parent.glob("*")] if whole.parent.is_dir() else []
        raise SourceError(
            f"no file matches {pattern!r} in {root}",
            remedy=nearest(whole.name, neighbours) if neighbours else f"there is no folder {whole.parent}",
        )
    return found


def _plain(path: Path) -> Path:
    """The path without `..`, links left as they are: a file is called what the user calls it."""
    return Path(os.path.normpath(path))


def _require_known_suffix(path: Path) -> None:
    if not path.name.endswith(SUFFIXES):
        raise SourceError(
            "the ending of a file says how it is read", received=str(path), remedy=f"known: {', '.join(SUFFIXES)}"
        )


def _read_csv(path: Path, text: Collection[str]) -> pl.DataFrame:
    """Types from the first rows where they hold for all, else from all rows."""
    separator = _separator(path)

    def read(**options: Any) -> pl.DataFrame:
        return pl.read_csv(path, separator=separator, null_values=list(NULL_WORDS), glob=False, **options)

    overrides = {name: pl.String() for name in read(n_rows=0).columns if name in text}
    try:
        typed = read(infer_schema_length=_PROBE, schema_overrides=overrides)
    except pl.exceptions.PolarsError:
        typed = infer_types(read(infer_schema=False), but=text)
    return infer_times(typed, but=text).rechunk()


def _separator(path: Path) -> str:
    """The most frequent of comma, semicolon, tab and bar in the first line; a comma where none is there."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        line = stream.readline(1 << 20)
    return max(",;\t|", key=line.count)
