"""How writers and collectors of a bucket meet: every interleaving of their requests, with kills and retries at any point.

A process is a program that makes one request after another. Which comes next depends on what was answered so far, and on
nothing else; so it is found by running the program again over those answers, and a state of the world is what the server
holds and what each process was answered. All states that can be reached are visited, each once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from blob_storm import storm

from velodrome.core.clock import ManualClock
from velodrome.store.marked import MarkedObjects
from velodrome.store.named import Content, Held, Piece

LONG_AGO, BEFORE, NOW = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))
LATER = datetime(2026, 1, 4, tzinfo=UTC)
SOON = NOW + timedelta(minutes=30)  # when what is marked now is old, and what is copied now still in use
NAME = "ab/cdef"
BYTES = b"precious"

Files = dict[str, tuple[bytes, datetime]]
Program = Callable[[MarkedObjects], object]


class Server:
    """A bucket in memory. Whatever it is asked for happens at once, and `now`."""

    def __init__(self, files: Files, now: datetime = NOW) -> None:
        self.files, self.now = dict(files), now

    def perform(self, request: str, *words: Any) -> Any:
        return getattr(self, f"_{request}")(*words)

    def _put(self, name: str, data: bytes) -> None:
        self.files[name] = (data, self.now)

    def _upload(self, name: str, data: bytes) -> None:
        """The end of a put in parts, whose time is that of its beginning."""
        self.files[name] = (data, LONG_AGO)

    def _get(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name][0]

    def _head(self, name: str) -> Held | None:
        return Held(name, len(self.files[name][0]), self.files[name][1]) if name in self.files else None

    def _copy(self, name: str, goal: str) -> None:
        self._put(goal, self._get(name))

    def _delete(self, name: str) -> None:
        self.files.pop(name, None)

    def _entries(self, folder: str) -> tuple[Held, ...]:
        return tuple(
            Held(name, len(data), time)
            for name, (data, time) in sorted(self.files.items())
            if name.startswith(f"{folder}/" if folder else "")
        )


class Client:
    """A process's way to a server."""

    where = "memory://"

    def __init__(self, perform: Callable[..., Any]) -> None:
        self.perform = perform

    def put(self, name: str, content: Content) -> None:
        self.perform("put", name, b"".join(content.pieces()))

    def touch(self, name: str) -> None:
        self.perform("put", name, b"")

    def get(self, name: str) -> Iterator[Piece]:
        yield self.perform("get", name)

    def head(self, name: str) -> Held | None:
        found: Held | None = self.perform("head", name)
        return found

    def copy(self, name: str, goal: str) -> None:
        self.perform("copy", name, goal)

    def delete(self, name: str) -> None:
        self.perform("delete", name)

    def entries(self, folder: str = "") -> Iterator[Held]:
        yield from self.perform("entries", folder)


class Numbered:
    """Ids that are the same each time a program runs."""

    def __init__(self, process: int) -> None:
        self.process, self.count = process, 0

    def new(self, _: datetime) -> str:
        self.count += 1
        return f"{self.process}{self.count}"


def objects_of(perform: Callable[..., Any], process: int = 9, lease: timedelta | None = None) -> MarkedObjects:
    objects = MarkedObjects(Client(perform), clock=ManualClock(NOW), lease=lease)
    objects._ids = Numbered(process)  # type: ignore[assignment]
    return objects


# ----------------------------------------------------------------------------------------------------------- the programs


def content(data: bytes = BYTES) -> Content:
    return Content(len(data), lambda: iter([data]))


def put(objects: MarkedObjects) -> bool:
    """As blobs do, and read it afterwards."""
    if not objects.keep(NAME):
        objects.put(NAME, content())
    return read(objects)


def keep(objects: MarkedObjects) -> bool:
    return objects.keep(NAME) and read(objects)


def read(objects: MarkedObjects) -> bool:
    assert objects.has(NAME), "what is needed is not there"
    assert b"".join(objects.get(NAME)) == BYTES
    return True


def upload(objects: MarkedObjects) -> bool:
    """By somebody who began long ago, and was promised nothing."""
    objects.requests.perform("upload", NAME, BYTES)  # type: ignore[attr-defined]
    return False


def collect(objects: MarkedObjects) -> bool:
    return objects.collect(NAME, BEFORE)


def sweep(objects: MarkedObjects) -> bool:
    objects.sweep(BEFORE)
    return False


def sweep_soon(objects: MarkedObjects) -> bool:
    """By somebody who began when all writers had ended: their marks are old."""
    objects.sweep(SOON)
    return False


WRITERS = {put, keep}


# ---------------------------------------------------------------------------------------------------------- the explorer


class Next(BaseException):
    """A program makes a request that was not answered yet."""


@dataclass(frozen=True, eq=False)
class Process:
    """What a process was answered so far, and whether it goes on. There is one for each history: see `after`."""

    answers: tuple[tuple[bool, Any], ...] = ()
    killed: bool = False

    @cache  # noqa: B019 - the histories of a test are few
    def after(self, *answer: Any) -> "Process":
        return Process((*self.answers, answer))

    @cached_property
    def dead(self) -> "Process":
        return Process(self.answers, killed=True)


class World(NamedTuple):
    files: frozenset[tuple[str, tuple[bytes, datetime]]]
    processes: tuple[Process, ...]
    mishaps: int


@cache
def run(program: Program, number: int, process: Process) -> tuple[Any, ...] | bool:
    """The next request of a process, or what it ended with."""
    answers = iter(process.answers)

    def perform(*request: Any) -> Any:
        for fine, answer in answers:
            if fine:
                return answer
            raise answer
        raise Next(request)

    try:
        return bool(program(objects_of(perform, number)))
    except Next as request:
        return tuple(request.args[0])


def explore(
    programs: list[Program], files: Files, mishaps: int
) -> Iterator[tuple[World, list[tuple[Any, ...] | bool]]]:
    """Every state that can be reached with so many kills and lost answers, and what each process does next in it."""
    begin = World(frozenset(files.items()), (Process(),) * len(programs), mishaps)
    waiting, seen = [begin], {begin}
    while waiting:
        world = waiting.pop()
        doing = [run(program, number, world.processes[number]) for number, program in enumerate(programs)]
        yield world, doing
        ended = [
            isinstance(request, bool) or process.killed for request, process in zip(doing, world.processes, strict=True)
        ]
        written = all(end for end, program in zip(ended, programs, strict=True) if program in WRITERS)
        for number, request in enumerate(doing):
            if not ended[number] and (written or programs[number] is not sweep_soon):
                assert isinstance(request, tuple)
                for following in futures(world, number, request):
                    if following not in seen:
                        seen.add(following)
                        waiting.append(following)


def futures(world: World, number: int, request: tuple[Any, ...]) -> Iterator[World]:
    """After a request: answered; carried out, its answer lost, so that it comes again; its process killed before it."""
    server, process = Server(dict(world.files)), world.processes[number]
    try:
        answer = (True, server.perform(*request))
    except FileNotFoundError as error:
        answer = (False, Missing(str(error)))
    files = frozenset(server.files.items())

    def instead(changed: Process) -> tuple[Process, ...]:
        return (*world.processes[:number], changed, *world.processes[number + 1 :])

    yield World(files, instead(process.after(*answer)), world.mishaps)
    if world.mishaps:
        yield World(files, world.processes, world.mishaps - 1)
        yield World(world.files, instead(process.dead), world.mishaps - 1)


class Missing(FileNotFoundError):
    """With equality, so that states compare."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Missing) and self.args == other.args

    def __hash__(self) -> int:
        return hash(self.args)


# ------------------------------------------------------------------------------------------------------------- the tests

ASIDE = f"kept/{NAME}"
PLACES: dict[str, Files] = {
    "nothing": {},
    "old": {NAME: (BYTES, LONG_AGO)},
    "old, marked": {NAME: (BYTES, LONG_AGO), f"{ASIDE}/mark-0": (b"", LONG_AGO)},
    "left by a killed collector": {f"{ASIDE}/mark-0": (b"", LONG_AGO), f"{ASIDE}/copy-0": (BYTES, LONG_AGO)},
    "left before its deletion": {NAME: (BYTES, LONG_AGO), f"{ASIDE}/copy-0": (BYTES, LONG_AGO)},
}
MEETINGS: dict[str, tuple[list[Program], int]] = {
    "put and collect": ([put, collect], 2),
    "keep and collect": ([keep, collect], 2),
    "put and sweep": ([put, sweep], 2),
    "keep and sweep": ([keep, sweep], 2),
    "put and two collectors": ([put, collect, collect], 0),
    "keep and two collectors": ([keep, collect, collect], 0),
    "put, collect and sweep": ([put, collect, sweep], 1),
    "keep, collect and sweep": ([keep, collect, sweep], 1),
    "keep, collect and sweep soon": ([keep, collect, sweep_soon], 1),
    "two writers and collect": ([put, keep, collect], 0),
    "put, collect and a slow upload": ([put, collect, upload], 1),
    "keep, collect and a slow upload": ([keep, collect, upload], 1),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("meeting", "place"),
    [
        (meeting, place)
        for meeting, (programs, _) in MEETINGS.items()
        for place in PLACES
        if len(programs) == 2 or place != "left before its deletion"  # which has most states, and adds none of interest
    ],
)
def test_however_they_meet_what_is_needed_is_there_and_all_else_goes(meeting: str, place: str) -> None:
    programs, mishaps = MEETINGS[meeting]
    ends = set()
    for world, doing in explore(programs, PLACES[place], mishaps):
        needed = any(done is True for done, program in zip(doing, programs, strict=True) if program in WRITERS)
        if needed:
            assert any(data == BYTES for _, (data, _) in world.files), world
        if all(isinstance(done, bool) or process.killed for done, process in zip(doing, world.processes, strict=True)):
            ends.add((world.files, needed))
    for files, needed in ends:
        assert_ends_well(dict(files), needed)


def assert_ends_well(files: Files, needed: bool) -> None:
    """Whatever happened: what is needed survives the next collection, and goes with the first that finds it old."""
    server = Server(files, LATER)
    objects = objects_of(server.perform)
    if needed:
        assert not objects.collect(NAME, BEFORE)
        assert read(objects)
        objects.sweep(LATER)
        assert server.files[NAME][0] == BYTES
        assert NAME in list(objects.list())
    future = LATER + timedelta(hours=2)
    for name in list(objects.list()):
        assert objects.collect(name, future)
    objects.sweep(future)
    assert server.files == {}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["S3", "encrypted S3"])
def test_processes_put_keep_and_collect_at_once_and_are_killed(s3: Any, tmp_path: Path, place: str) -> None:
    storm(place, s3.url, tmp_path / "storm", f"http://127.0.0.1:{s3.server.port}", seconds=3.0)
    left = [path for path in s3.folder.rglob("*") if path.is_file()]
    assert [path for path in left if path.parent.name != "keyring" and "upload" not in path.name] == []


def serving(files: Files, now: datetime = NOW) -> tuple[Server, MarkedObjects]:
    server = Server(files, now)
    return server, objects_of(server.perform)


@pytest.mark.parametrize("left", [{}, {f"{ASIDE}/copy-0": (BYTES, LONG_AGO)}])
def test_a_collector_that_took_too_long_takes_nothing(left: Files) -> None:
    """Somebody may hold its copy for left by now."""
    server, objects = serving({NAME: (BYTES, LONG_AGO), **left})
    clock = objects._clock = ManualClock(NOW)

    def slowly(request: str, *words: Any) -> Any:
        clock.advance(timedelta(minutes=31 if request == "copy" else 0))
        return server.perform(request, *words)

    objects.requests.perform = slowly  # type: ignore[attr-defined]
    assert not objects.collect(NAME, BEFORE)
    assert set(server.files) == {NAME, *left}


def test_a_copy_is_in_use_for_as_long_as_the_lease() -> None:
    server, objects = serving({f"{ASIDE}/copy-0": (BYTES, NOW)})
    hour, instant = timedelta(hours=1, seconds=1), timedelta(microseconds=1)
    assert not objects.collect(NAME, NOW + hour)
    assert objects.sweep(NOW + hour) == 0
    assert objects.sweep(NOW + hour + instant) == 1
    assert server.files == {NAME: (BYTES, NOW)}


def test_a_time_is_cut_to_a_second() -> None:
    """What was written in the second of `before` may have been written after it."""
    second, instant = timedelta(seconds=1), timedelta(microseconds=1)
    server, objects = serving({NAME: (BYTES, NOW)})
    assert not objects.collect(NAME, NOW + second - instant)
    assert objects.collect(NAME, NOW + second)
    assert server.files == {}


def test_what_lies_beside_a_name_is_not_listed() -> None:
    server, objects = serving({})
    put(objects)
    keep(objects)
    server.files["kept/ab/lost/copy-1"] = (b"lost", NOW)
    server.files["keyring/1"] = (b"key", NOW)
    assert sorted(objects.list()) == ["ab/cdef", "ab/lost", "keyring/1"]
    assert list(objects.list("keyring")) == ["keyring/1"]
    assert sorted(objects.entries(), key=lambda held: held.name) == [
        Held("ab/cdef", len(BYTES), NOW),
        Held("ab/lost", 4, NOW),
        Held("keyring/1", 3, NOW),
    ]


def test_an_entry_tells_when_it_was_kept_last() -> None:
    _, objects = serving({NAME: (BYTES, LONG_AGO), f"{ASIDE}/mark-0": (b"", BEFORE)})
    assert list(objects.entries()) == [Held(NAME, len(BYTES), BEFORE)]
    assert objects.keep(NAME)
    assert list(objects.entries()) == [Held(NAME, len(BYTES), NOW)]


def test_a_sweep_leaves_one_mark_and_a_removal_none() -> None:
    server, objects = serving({})
    for _ in range(5):
        put(objects)
    assert objects.sweep(LATER) == 0
    assert len(server.files) == 2
    objects.delete(NAME)
    assert server.files == {}


def test_the_mark_of_a_writer_that_was_killed_goes() -> None:
    server, objects = serving({})
    assert not objects.keep(NAME)
    assert objects.sweep(BEFORE) == 0
    assert len(server.files) == 1
    assert [objects.sweep(LATER), objects.sweep(LATER)] == [1, 0]
    assert server.files == {}


def test_a_read_goes_on_in_the_copy_where_the_name_broke_off() -> None:
    _, objects = serving({NAME: (BYTES, NOW), f"{ASIDE}/copy-0": (BYTES, NOW)})
    whole = objects.requests.get

    def breaking(name: str) -> Iterator[Piece]:
        if name == NAME:
            yield BYTES[:3]
            raise FileNotFoundError(name)
        yield from whole(name)

    objects.requests.get = breaking  # type: ignore[method-assign]
    assert b"".join(objects.get(NAME)) == BYTES
