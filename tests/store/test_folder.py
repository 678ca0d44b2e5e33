"""Files that are collected while others write them: every way in which two can meet over one name, and what goes wrong with disks."""

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from blob_storm import storm

from velodrome.core.errors import StorageError
from velodrome.store.folder import Folder, file_time

LONG_AGO = datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "folder")


@pytest.fixture
def path(folder: Folder) -> Path:
    return folder.root / "ab" / "name"


def write(folder: Folder, path: Path, data: bytes = b"data") -> None:
    with folder.new() as (temporary, out):
        out.write(data)
        folder.publish(temporary, out, path)


def set_time(path: Path, time: datetime) -> None:
    nanoseconds = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    os.utime(path, ns=(nanoseconds, nanoseconds))


def time_of(path: Path) -> datetime:
    return file_time(path.stat())


@contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Somebody else holds the lock."""
    handle = os.open(folder.root / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield
    os.close(handle)


def in_thread(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


# ------------------------------------------------------------------------------------------------------- who meets whom


def test_a_new_file_needs_no_lock(folder: Folder, path: Path) -> None:
    with locked(folder):
        write(folder, path)
        assert not folder.keep(path.with_name("absent"))
    assert path.read_bytes() == b"data"


@pytest.mark.parametrize("act", ["keep", "collect", "remove", "replace"])
def test_what_changes_a_file_that_is_there_waits_for_the_lock(folder: Folder, path: Path, act: str) -> None:
    write(folder, path)
    acts: dict[str, Callable[[], object]] = {
        "keep": lambda: folder.keep(path),
        "collect": lambda: folder.collect(path, LONG_AGO + HOUR),
        "remove": lambda: folder.remove(path),
        "replace": lambda: write(folder, path, b"new"),
    }
    set_time(path, LONG_AGO)
    before = path.stat()
    with locked(folder):
        waiting = in_thread(acts[act])
        waiting.join(0.1)
        assert waiting.is_alive()
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert path.stat().st_ino == before.st_ino
    waiting.join()
    assert not path.exists() or path.stat() != before


def test_a_writer_who_finds_the_name_taken_does_not_turn_back_its_time(folder: Folder, path: Path) -> None:
    """It was slow, and began before the one who was first: that one was promised more."""
    with folder.new() as (temporary, out):
        out.write(b"slow")
        write(folder, path, b"first")
        set_time(path, datetime.now(UTC) + HOUR)
        promised = time_of(path)
        folder.publish(temporary, out, path)
    assert path.read_bytes() == b"slow"
    assert time_of(path) == promised


def test_a_clock_that_was_set_back_shortens_no_promise(folder: Folder, path: Path) -> None:
    write(folder, path)
    promised = datetime.now(UTC) + HOUR
    set_time(path, promised)
    assert folder.keep(path)
    assert time_of(path) == promised


def test_a_name_that_its_writer_has_not_flushed_is_flushed_by_who_keeps_it(
    folder: Folder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That writer may be killed, and the machine lose power, before it comes to that."""
    flushed: list[Path] = []
    monkeypatch.setattr("velodrome.store.folder.flush_folder", flushed.append)
    write(folder, path)
    flushed.clear()
    assert folder.keep(path)
    assert flushed == []
    os.link(path, folder.root / "incoming" / ".still-there")
    assert folder.keep(path)
    assert flushed == [path.parent]


def test_without_links_files_are_renamed_under_the_lock(
    folder: Folder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with locked(folder):
        waiting = in_thread(lambda: write(folder, path))
        waiting.join(0.1)
        assert not path.exists()
    waiting.join()
    assert path.read_bytes() == b"data"
    assert path.stat().st_nlink == 1
    assert os.listdir(folder.root / "incoming") == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "encrypted folder"])
def test_processes_put_keep_and_collect_at_once_and_are_killed(tmp_path: Path, place: str) -> None:
    storm(place, str(tmp_path / "blobs"), tmp_path / "storm")
    left = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert [path for path in left if path.name != ".lock" and path.parent.name != "keyring"] == []


# ------------------------------------------------------------------------------------------------------- what is collected


def test_what_was_put_at_the_moment_itself_stays(folder: Folder, path: Path) -> None:
    write(folder, path)
    set_time(path, LONG_AGO)
    assert not folder.collect(path, LONG_AGO)
    assert folder.collect(path, LONG_AGO + timedelta(microseconds=1))
    assert not folder.collect(path, LONG_AGO + HOUR)


def test_a_time_that_the_file_system_has_cut_is_taken_for_the_latest_it_may_be(folder: Folder, path: Path) -> None:
    write(folder, path)
    second = LONG_AGO.replace(microsecond=0)
    set_time(path, second)
    assert not folder.collect(path, second + timedelta(seconds=1.9))
    assert folder.collect(path, second + timedelta(seconds=2.1))


def test_a_put_counts_from_its_end(folder: Folder, path: Path) -> None:
    with folder.new() as (temporary, out):
        out.write(b"data")
        out.flush()
        set_time(temporary, LONG_AGO)
        ending = datetime.now(UTC)
        folder.publish(temporary, out, path)
    assert time_of(path) >= ending


def test_a_sweep_spares_what_has_just_begun(folder: Folder) -> None:
    """Its writer may not have come to lock it, and the kernel's clock is behind the one that says `before`."""
    (folder.root / "incoming").mkdir()
    path = folder.root / "incoming" / ".begun"
    path.touch()
    set_time(path, LONG_AGO - timedelta(milliseconds=10))
    assert folder.sweep(LONG_AGO) == 0
    assert path.exists()


def test_a_sweep_takes_what_was_left_and_nothing_that_is_used(folder: Folder) -> None:
    left, young = (folder.root / "incoming" / name for name in (".left", ".young"))
    with folder.new() as (used, _):
        for leftover in (left, young):
            leftover.touch()
        for old in (left, used):
            set_time(old, LONG_AGO)
        assert [folder.sweep(LONG_AGO + HOUR) for _ in range(2)] == [1, 0]
        assert not left.exists()
        assert young.exists()
        assert used.exists()


WRITER = """
import sys
from pathlib import Path
from velodrome.store.folder import Folder
folder = Folder(Path(sys.argv[1]))
with folder.new() as (temporary, out):
    out.write(bytes(1 << 20))
    out.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


def test_half_a_file_is_never_seen_and_goes_with_the_sweep_after_its_writer(folder: Folder) -> None:
    command = [sys.executable, "-c", WRITER, str(folder.root)]
    future = datetime.now(UTC) + HOUR
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        assert folder.sweep(future) == 0
        writer.kill()
    assert list(folder.names()) == []
    assert [folder.sweep(future) for _ in range(2)] == [1, 0]


# ---------------------------------------------------------------------------------------------------------- what goes wrong


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_is_refused_leaves_the_old_file(folder: Folder, path: Path) -> None:
    write(folder, path, b"old")
    with no_file_above(1000), pytest.raises(StorageError, match=str(folder.root)):
        write(folder, path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert os.listdir(folder.root / "incoming") == []


def test_a_folder_that_is_gone_is_not_an_empty_one(folder: Folder) -> None:
    shutil.rmtree(folder.root)
    with pytest.raises(StorageError, match=str(folder.root)):
        list(folder.names())


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may write to."""
    root = Path(tempfile.mkdtemp(prefix="velodrome-"))
    root.chmod(0o777)
    yield root
    shutil.rmtree(root)


def as_nobody(code: str, root: Path) -> str:
    """What a program prints that runs as another user, or that user's error."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    program = (
        f"import os, sys; from pathlib import Path; root = Path({str(root)!r}); import velodrome.store.blobs as b\n"
    )
    program += f"os.umask(0); os.setgid(65534); os.setuid(65534)\n{code}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return ended.stdout.strip() or ended.stderr.strip().split("velodrome.core.errors.")[-1]


def test_users_who_share_a_folder_keep_each_others_blobs(public: Path) -> None:
    """Nobody may set the times of another's file: it becomes theirs."""
    previous = os.umask(0)
    try:
        folder = Folder(public / "blobs")
        name = folder.root / "0f" / ("0f" * 32)
        write(folder, name)
        set_time(name, LONG_AGO)
        folder.remove(name.with_name("absent"))
        assert as_nobody(f"print(b.FolderBlobs(root / 'blobs').keep({name.name!r}))", public) == "True"
    finally:
        os.umask(previous)
    assert name.stat().st_uid == 65534
    assert name.read_bytes() == b"data"
    assert not folder.collect(name, LONG_AGO + HOUR)


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("blobs.put(b'new')", "cannot"),
        ("blobs.keep(digest)", "cannot"),
        ("blobs.delete(digest)", "cannot"),
        ("blobs.read(digest)", "cannot read"),
        ("blobs.local(digest)", "cannot read"),
    ],
)
def test_what_is_not_permitted_is_named(public: Path, code: str, named: str) -> None:
    folder = Folder(public / "blobs")
    path = folder.root / "0f" / ("0f" * 32)
    write(folder, path)
    path.chmod(0o400)
    said = as_nobody(f"blobs, digest = b.FolderBlobs(root / 'blobs'), {path.name!r}\n{code}", public)
    assert said.startswith("StorageError: ")
    assert named in said
    assert str(folder.root) in said
    assert "Permission denied" in said
    assert "to mend" in said
    assert list(folder.names()) == [f"0f/{path.name}"]


def test_what_may_not_be_seen_is_not_taken_for_absent(public: Path) -> None:
    folder = Folder(public / "blobs")
    write(folder, folder.root / "0f" / ("0f" * 32))
    (folder.root / "0f").chmod(0o700)
    for code in ("list(blobs.list())", f"blobs.has({'0f' * 32!r})", f"blobs.keep({'0f' * 32!r})"):
        said = as_nobody(f"blobs = b.FolderBlobs(root / 'blobs')\nprint({code})", public)
        assert said.startswith("StorageError: ")
        assert "Permission denied" in said
