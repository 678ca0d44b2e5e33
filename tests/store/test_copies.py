"""Local copies last as long as the process that keeps them, and what a killed one leaves is known."""

import gc
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from velodrome.control.checkup import examine
from velodrome.control.collecting import collect
from velodrome.core.config import Config
from velodrome.core.errors import StorageError
from velodrome.store.copies import abandoned_copies, folder_of
from velodrome.store.workspace import open_folder


class Owner:
    pass


def test_a_folder_goes_with_its_owner(tmp_path: Path) -> None:
    owner = Owner()
    folder = folder_of(owner, tmp_path)
    (folder / "copy").write_bytes(b"plain")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert abandoned_copies(tmp_path) == []
    del owner
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_that_ends_takes_nothing_along(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from velodrome.store.copies import *; owner = {1}\n"
        "folder = folder_of(owner, Path(sys.argv[1]))\n"
        "if os.fork():\n"
        "    os.wait(); print(folder.is_dir(), abandoned_copies(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True []\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_with_a_name(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot make a folder for copies"):
        folder_of(Owner(), tmp_path / "absent")


READER = """
import sys, time
from pathlib import Path
from velodrome.core.config import Config
from velodrome.store.workspace import open_folder
with open_folder(Path(sys.argv[1]), Config(encryption_key="file:key")) as ws:
    print(ws.blobs.local(sys.argv[2]), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_plain_copies_of_a_killed_process_go_with_the_next_collection(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("00" * 32)
    (tmp_path / "key").chmod(0o600)
    with open_folder(tmp_path, Config(encryption_key="file:key")) as ws:
        digest = ws.blobs.put(b"secret").digest
        command = [sys.executable, "-c", READER, str(tmp_path), digest]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            copy = Path(reader.stdout.readline().strip())
            assert copy.is_relative_to(ws.store / "scratch")
            assert (collect(ws).leftovers, copy.read_bytes(), examine(ws).notes) == (0, b"secret", ())
            os.kill(reader.pid, signal.SIGKILL)
        (note,) = examine(ws).notes
        assert (note.remedy, "killed processes left" in note.finding) == ("velodrome gc", True)
        assert copy.exists()
        assert collect(ws).leftovers == 1
        assert list((ws.store / "scratch").iterdir()) == []
        assert examine(ws).notes == ()
