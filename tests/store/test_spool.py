"""What a spool promises: the order of a queue, and that neither a kill nor a torn or damaged file shows anything else."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velodrome.core.errors import StorageError
from velodrome.store.spool import Spool, open_spool

PAYLOADS = [b"first", b"", b"third " * 20]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "a"


def opened(path: Path) -> Spool:
    spool = open_spool(path, make=True)
    assert spool is not None
    return spool


def held(path: Path) -> list[bytes]:
    with opened(path) as spool:
        return spool.read(10**9)[0]


def written(path: Path, payloads: list[bytes]) -> bytes:
    with opened(path) as spool:
        for payload in payloads:
            spool.append(payload)
    return path.read_bytes()


def test_first_in_first_out(path: Path) -> None:
    with opened(path) as spool:
        assert spool.read(100) == ([], 8)
        for payload in PAYLOADS:
            spool.append(payload)
        found, end = spool.read(5)
        assert found == PAYLOADS[:2]
        spool.forget(end)
        found, end = spool.read(1)
        assert found == PAYLOADS[2:]  # one at least, however large
        spool.append(b"fourth")
        spool.forget(end)
        assert spool.read(100)[0] == [b"fourth"]
    assert held(path) == [*PAYLOADS, b"fourth"]  # what was forgotten comes again, until all of it was


def test_a_queue_that_ran_empty_takes_no_space(path: Path) -> None:
    with opened(path) as spool:
        for _ in range(3):
            spool.append(b"x" * 1000)
            spool.forget(spool.read(10_000)[1])
            assert (spool.size, path.stat().st_size) == (0, 8)
    assert held(path) == []


def test_a_spool_is_one_process_s_at_a_time(path: Path) -> None:
    assert open_spool(path, make=False) is None
    with opened(path) as spool:
        assert open_spool(path, make=True) is None
        assert open_spool(path, make=False) is None
        spool.remove()
        assert not path.exists()
    opened(path).close()
    spool = open_spool(path, make=False)
    assert spool is not None
    spool.close()
    spool.close()


def test_who_waits_for_a_spool_that_is_removed_gets_another(path: Path) -> None:
    """Many open, use and remove the same name: never two at once, and nothing of one is seen by the next."""
    inside, crowded = threading.Semaphore(1), []

    def use() -> None:
        for _ in range(200):
            spool = open_spool(path, make=True)
            if spool is not None:
                if not inside.acquire(blocking=False) or spool.size:
                    crowded.append(spool)
                spool.append(b"mine")
                inside.release()
                spool.remove()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not crowded


@pytest.mark.parametrize(
    ("after", "short"),
    [(b"", range(8)), (b"\0" * 100, [0]), (b"\xff" * 100, [])],  # the first eight bytes are written at once
    ids=["nothing", "zeros", "ones"],
)
def test_a_file_torn_at_any_byte_has_what_was_whole(path: Path, after: bytes, short: Sequence[int]) -> None:
    """Followed by nothing, or by what a file system may leave behind a tear."""
    ends = []
    for count in range(1, len(PAYLOADS) + 1):
        path.unlink(missing_ok=True)
        whole = written(path, PAYLOADS[:count])
        ends.append(len(whole))
    for length in (*short, *range(8, len(whole) + 1)):
        path.write_bytes(whole[:length] + after)
        expected = PAYLOADS[: sum(end <= length for end in ends)]
        with opened(path) as spool:
            assert spool.read(10**9)[0] == expected
            assert path.stat().st_size == 8 + spool.size
            spool.append(b"next")
        assert held(path) == [*expected, b"next"]


def test_a_flipped_bit_anywhere_shows_nothing_that_was_not_written(path: Path) -> None:
    whole = written(path, PAYLOADS)
    for place in range(8, len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            found = held(path)
            assert found == PAYLOADS[: len(found)]
            assert len(found) < len(PAYLOADS)


def test_a_file_that_changes_while_it_is_open_is_told(path: Path) -> None:
    with opened(path) as spool:
        spool.append(b"payload")
        path.write_bytes(path.read_bytes().replace(b"payload", b"paYload"))
        with pytest.raises(StorageError, match="changed behind"):
            spool.read(100)


def test_what_is_no_spool_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"vdspool9 of another program")
    with pytest.raises(StorageError, match="no spool that this program knows"):
        open_spool(path, make=True)
    assert path.read_bytes() == b"vdspool9 of another program"
    path.unlink()
    opened(path).remove()


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: the system answers as a full disk does, in the middle of a write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_append_that_the_disk_refuses_leaves_nothing(path: Path) -> None:
    with opened(path) as spool:
        spool.append(b"first")
        with full_at(path.stat().st_size + 500):
            with pytest.raises(StorageError, match="cannot write the spool"):
                spool.append(b"x" * 1000)
            assert spool.read(10**6)[0] == [b"first"]
            assert path.stat().st_size == 8 + spool.size
            spool.append(b"small")
        spool.append(b"x" * 1000)
        spool.sync()
    assert held(path) == [b"first", b"small", b"x" * 1000]


def test_a_folder_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"")
    with pytest.raises(StorageError):
        open_spool(tmp_path / "spool" / "a", make=True)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(acts=st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 60), st.none())))
def test_whatever_is_done_it_is_a_queue(path: Path, acts: list[bytes | int | None]) -> None:
    """Against a list: bytes are appended, a number is how much is read and forgotten, None opens the spool again."""
    path.unlink(missing_ok=True)
    spool, queue, kept = opened(path), list[bytes](), list[bytes]()
    for act in acts:
        if isinstance(act, bytes):
            spool.append(act)
            queue.append(act)
            kept.append(act)
        elif act is not None:
            found, end = spool.read(act)
            assert found == queue[: len(found)]
            assert found or not queue
            spool.forget(end)
            del queue[: len(found)]
            kept = kept if queue else []
        else:
            spool.close()
            spool, queue = opened(path), list(kept)
    assert spool.read(10**9)[0] == queue
    spool.remove()


APPENDING = """if True:
    import sys
    from pathlib import Path
    from velodrome.store.spool import open_spool
    spool = open_spool(Path(sys.argv[1]), make=True)
    number = 0
    while True:
        number += 1
        spool.append(str(number).encode() * (number % 50))
        print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 50, 400])
def test_a_kill_loses_nothing_that_was_appended(path: Path, after: int) -> None:
    with subprocess.Popen([sys.executable, "-c", APPENDING, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(after):
            process.stdout.readline()
        assert open_spool(path, make=False) is None
        os.kill(process.pid, signal.SIGKILL)
        told = after + len(process.stdout.readlines())
    found = held(path)
    assert len(found) in (told, told + 1)  # the last one may have been appended, but not told
    assert found == [str(number).encode() * (number % 50) for number in range(1, len(found) + 1)]


def test_threads_may_append_while_one_reads(path: Path) -> None:
    spool, seen = opened(path), list[bytes]()
    done = threading.Event()

    def take() -> None:
        while not done.is_set() or spool.size:
            found, end = spool.read(200)
            seen.extend(found)
            spool.forget(end)

    def give(name: int) -> Callable[[], None]:
        return lambda: [spool.append(b"%d %d" % (name, number)) for number in range(500)] and None

    reader = threading.Thread(target=take)
    writers = [threading.Thread(target=give(name)) for name in range(3)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    spool.remove()
    for name in range(3):
        assert [each for each in seen if each.startswith(b"%d " % name)] == [b"%d %d" % (name, n) for n in range(500)]
