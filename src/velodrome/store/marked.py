"""Objects in a bucket that are collected while others write them, by requests of which none is conditional.

A bucket can put, get, copy, delete and list, each at once, and tells when a name was written last; it cannot do something
*if*. So whoever needs a name says so beside it, and whoever takes it away looks again when it has done so. Beside a name
lie, in `kept/NAME/`, *marks*, empty, each of somebody who put or kept it, and *copies*, each of a collector at work. They
are never written twice, so that nobody deletes another one than they looked at.

    keep     write a mark; is the name there?         (A put is a keep, and the bytes where it was False.)
    collect  is it there, and the newest of it and its marks old? copy it; delete it; are its marks still old?
             yes: delete the copy and those marks     no: copy it back; delete the copy
    read     the name; else a copy; else the name once more, twice over: each time a collector may have moved it

Why a collector takes nothing that was put or kept by W, who began at its `before` or later:
- W saw the name, or wrote it, after its mark. If the collector deletes it after that, it looks at the marks later still,
  finds W's, and puts back what it took. If it deleted before, W sees that, and writes the bytes or is told False.
- W's mark is there for it to find: marks are deleted by collectors who found them old, for whom W's is not; and by `sweep`,
  where a newer one stays, or where nothing has the name and the mark is old.
- The copy is there to put back: nobody else deletes it, unless it is older than `lease`, which its collector watches.
- Between the two the bytes are in one place or the other, since a copy comes before each deletion. So a read that looks at
  both finds them; more than two collectors that move one name while it is read could hide it from that read.
Nothing else is assumed of how requests of any number of writers and collectors interleave, nor of when they are killed. A
killed collector leaves a copy: it is read, the next `collect` finishes what was begun, and `sweep` puts back what is needed.
Two things are beyond this: a request that is carried out after it was given up or answered, and a blob that is damaged,
garbage and mended all at the same moment, which may be put back damaged (and then found so, like any damage).

Times are the server's, and cut to a second (S3, Azure): what was written in the same second as `before` counts as later.
Cost: a put, two requests more than the put itself, and the empty mark; a keep two; a collection nine, and room for the copy
while it lasts; a look for what is not there five. A listing holds the times of what was marked, 200 bytes each.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

from velodrome.core.clock import Clock, SystemClock
from velodrome.core.ids import IdFactory
from velodrome.store.named import Content, Held, Objects, Piece, after

__all__ = ["MarkedObjects", "Requests"]

_ASIDE = "kept"
_MARK, _COPY = "mark-", "copy-"
_CUT = timedelta(seconds=1)
_MOVES = 2
_LEASE = timedelta(hours=1)


class Requests(Protocol):
    """What a bucket does, by name. Each is atomic, tried until it is certain, and may raise StorageError."""

    @property
    def where(self) -> str:
        """The place, as people call it."""

    def put(self, name: str, content: Content) -> None:
        """Store the content; what it raises passes through."""

    def touch(self, name: str) -> None:
        """Store nothing under the name, now."""

    def get(self, name: str) -> Iterator[Piece]:
        """The bytes; FileNotFoundError with the first piece, if there are none."""

    def head(self, name: str) -> Held | None:
        """What is there."""

    def copy(self, name: str, goal: str) -> None:
        """Store the same under another name, now; FileNotFoundError, if there is nothing."""

    def delete(self, name: str) -> None:
        """Forget a name; one that is not there is fine."""

    def entries(self, folder: str = "") -> Iterator[Held]:
        """All that is there, or all whose names begin with `folder`/."""


class MarkedObjects(Objects):
    """The objects of a bucket.

    Args:
        lease: how long a collector may work on one name: an hour. A copy that is older was left by one that was killed.
    """

    def __init__(self, requests: Requests, *, lease: timedelta | None = None, clock: Clock | None = None) -> None:
        self.requests = requests
        self._lease = _LEASE if lease is None else lease
        self._clock = clock or SystemClock()
        self._ids = IdFactory()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where!r})"

    @property
    def where(self) -> str:
        return self.requests.where

    def put(self, name: str, content: Content) -> None:
        self.requests.put(name, content)

    def get(self, name: str) -> Iterator[Piece]:
        given = 0
        for place in self._places(name):
            with suppress(FileNotFoundError):
                for piece in after(given, self.requests.get(place)):
                    given += len(piece)
                    yield piece
                return
        raise FileNotFoundError(name)

    def has(self, name: str) -> bool:
        return any(self.requests.head(place) for place in self._places(name))

    def keep(self, name: str) -> bool:
        self.requests.touch(self._beside(name, _MARK))
        return self.requests.head(name) is not None

    def delete(self, name: str) -> None:
        for held in self._aside(name):
            self.requests.delete(held.name)
        self.requests.delete(name)

    def list(self, folder: str = "") -> Iterator[str]:
        return (held.name for held in self._entries(folder))

    def entries(self) -> Iterator[Held]:
        return self._entries("")

    def collect(self, name: str, before: datetime) -> bool:
        held, aside = self.requests.head(name), self._aside(name)
        if _any_since(before, [*_marks(aside), *([held] if held else [])]):
            return False
        left = [copy for copy in _copies(aside) if self._is_left(copy, before)]
        mine = self._taken(name) if held else None
        return bool(mine or (left and not held)) and self._settled(name, before, [*([mine] if mine else []), *left])

    def sweep(self, before: datetime) -> int:
        there: set[str] = set()
        aside: dict[str, list[Held]] = {}
        for held in self.requests.entries():
            if original := _original(held.name):
                aside.setdefault(original, []).append(held)
            else:
                there.add(held.name)
        return sum(self._tidied(name, found, before, name in there) for name, found in aside.items())

    def _places(self, name: str) -> Iterator[str]:
        """Where the bytes of a name may be, in the order in which a collector moves them there and back."""
        yield name
        for _ in range(_MOVES):
            yield from (copy.name for copy in _copies(self._aside(name)))
            yield name

    def _entries(self, folder: str) -> Iterator[Held]:
        times: dict[str, datetime] = {}
        copies: dict[str, Held] = {}
        for held in self.requests.entries(f"{_ASIDE}/{folder}".rstrip("/")):
            if original := _original(held.name):
                if _is_copy(held):
                    copies[original] = held
                else:
                    times[original] = max(held.time, times.get(original, held.time))
        for held in self.requests.entries(folder):
            if not _original(held.name):
                copies.pop(held.name, None)
                yield Held(held.name, held.size, max(held.time, times.get(held.name, held.time)))
        for name, copy in copies.items():
            yield Held(name, copy.size, times.get(name, copy.time))

    def _taken(self, name: str) -> Held | None:
        """Take a name away; the copy that is left of it. None, if another collector was first, or if it took too long."""
        begun, awake = self._clock.now(), self._clock.monotonic()
        copy = self._beside(name, _COPY)
        try:
            self.requests.copy(name, copy)
        except FileNotFoundError:
            return None
        passed = max(self._clock.now() - begun, timedelta(seconds=self._clock.monotonic() - awake))
        if passed > self._lease / 2:
            self.requests.delete(copy)
            return None
        self.requests.delete(name)
        return Held(copy, 0, begun)

    def _settled(self, name: str, before: datetime, copies: Sequence[Held]) -> bool:
        """Forget what was taken away, or put it back, if somebody has marked it meanwhile; whether it went."""
        marks = _marks(self._aside(name))
        needed = _any_since(before, marks)
        if needed:
            self._put_back(name, copies)
        for held in [*copies, *([] if needed else marks)]:
            self.requests.delete(held.name)
        return not needed

    def _tidied(self, name: str, aside: Sequence[Held], before: datetime, there: bool) -> int:
        """Delete what lies beside a name and is of no use; how many things had been left by somebody who was killed."""
        marks = sorted(_marks(aside), key=lambda mark: mark.time)
        left = [copy for copy in _copies(aside) if self._is_left(copy, before)]
        if left and self.requests.head(name) is None:
            self._put_back(name, left)
        if marks and not there and not _any_since(before, marks) and not self.has(name):
            left.append(marks[-1])
        for held in [*marks[:-1], *left]:
            self.requests.delete(held.name)
        return len(left)

    def _put_back(self, name: str, copies: Sequence[Held]) -> None:
        for copy in copies:
            with suppress(FileNotFoundError):  # somebody else has put it back, and tidied up
                self.requests.copy(copy.name, name)
                return

    def _is_left(self, copy: Held, before: datetime) -> bool:
        return copy.time + _CUT + self._lease < before

    def _aside(self, name: str) -> Sequence[Held]:
        return [*self.requests.entries(f"{_ASIDE}/{name}")]

    def _beside(self, name: str, kind: str) -> str:
        return f"{_ASIDE}/{name}/{kind}{self._ids.new(self._clock.now())}"


def _original(name: str) -> str | None:
    """The name beside which something lies; None for what lies beside nothing."""
    folder, _, rest = name.partition("/")
    return rest.rpartition("/")[0] if folder == _ASIDE else None


def _is_copy(held: Held) -> bool:
    return held.name.rpartition("/")[2].startswith(_COPY)


def _copies(aside: Iterable[Held]) -> list[Held]:
    return [held for held in aside if _is_copy(held)]


def _marks(aside: Iterable[Held]) -> list[Held]:
    return [held for held in aside if not _is_copy(held)]


def _any_since(before: datetime, found: Iterable[Held]) -> bool:
    """Whether any of them may have been written at `before` or later."""
    return any(held.time + _CUT > before for held in found)
