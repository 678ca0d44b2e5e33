"""Windows: the data that arrived together, as the files that a snapshot has and earlier ones have not.

A file is known by the digest of its bytes, so a changed contract makes no old file new, unless it lets more of its rows in.
Nothing is stored: a window follows from the snapshots. Cost: a read of the fragments' records, no rows.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import PurePosixPath

import msgspec

from velodrome.data.fragments import Fragment
from velodrome.data.snapshots import FragmentUse, Snapshot, fragments_of
from velodrome.store.workspace import Workspace

__all__ = ["Window", "new_window", "windows"]


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Fragments that are looked at together.

    Attributes:
        name: of its file; of the first and the last where there are several.
        uses: the fragments as the snapshot has them, ordered by time, else by file name.
        rows, quarantined: rows in the snapshot, and rows that were kept out of it.
        rows_per_file: accepted rows of each file, to judge whether a delivery is complete.
        time_from, time_to: of the dataset's time column; None without one, or without rows.
    """

    name: str
    uses: tuple[FragmentUse, ...]
    rows: int
    quarantined: int
    rows_per_file: tuple[int, ...]
    time_from: datetime | None
    time_to: datetime | None


class _Piece(msgspec.Struct, frozen=True):
    """A fragment in a snapshot, with what a window wants to know of it."""

    use: FragmentUse
    fragment: Fragment
    time_from: datetime | None
    time_to: datetime | None


def new_window(ws: Workspace, snapshot: Snapshot, beyond: Sequence[Snapshot]) -> Window | None:
    """What a snapshot has beyond others, in one window; None if that is nothing."""
    pieces = _pieces(ws, snapshot, beyond)
    return _window(pieces) if pieces else None


def windows(ws: Workspace, snapshot: Snapshot, beyond: Sequence[Snapshot], minimum: int) -> tuple[Window, ...]:
    """The same in several windows, oldest first: each closes as soon as it has `minimum` rows; the last may have fewer."""
    found: list[list[_Piece]] = [[]]
    for piece in _pieces(ws, snapshot, beyond):
        if sum(one.use.rows for one in found[-1]) >= minimum:
            found.append([])
        found[-1].append(piece)
    return tuple(_window(pieces) for pieces in found if pieces)


def _pieces(ws: Workspace, snapshot: Snapshot, beyond: Sequence[Snapshot]) -> list[_Piece]:
    known = {fragment.source: use.rows for one in beyond for use, fragment in _pairs(ws, one)}
    pairs = [(use, fragment) for use, fragment in _pairs(ws, snapshot) if use.rows > known.get(fragment.source, -1)]
    pieces = [_piece(snapshot, use, fragment) for use, fragment in pairs]
    return sorted(pieces, key=_moment)


def _pairs(ws: Workspace, snapshot: Snapshot) -> Iterator[tuple[FragmentUse, Fragment]]:
    return zip(snapshot.fragments, fragments_of(ws, snapshot), strict=True)


def _piece(snapshot: Snapshot, use: FragmentUse, fragment: Fragment) -> _Piece:
    times = next((column for column in fragment.profile if column.name == snapshot.time), None)
    if times is None or times.minimum is None:
        return _Piece(use, fragment, None, None)
    return _Piece(use, fragment, _time(times.minimum), _time(times.maximum))


def _moment(piece: _Piece) -> str:
    """Sorts by time where there is one; ISO texts of one column sort as their times do. The sort is stable."""
    return piece.time_from.isoformat() if piece.time_from else ""


def _window(pieces: Sequence[_Piece]) -> Window:
    names = [PurePosixPath(piece.fragment.file).name.partition(".")[0] for piece in pieces]
    rows = sum(piece.use.rows for piece in pieces)
    return Window(
        name=names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}",
        uses=tuple(piece.use for piece in pieces),
        rows=rows,
        quarantined=sum(piece.fragment.rows + piece.fragment.quarantined for piece in pieces) - rows,
        rows_per_file=tuple(piece.use.rows for piece in pieces),
        time_from=min((piece.time_from for piece in pieces if piece.time_from), default=None),
        time_to=max((piece.time_to for piece in pieces if piece.time_to), default=None),
    )


def _time(bound: object) -> datetime:
    return datetime.fromisoformat(str(bound))
