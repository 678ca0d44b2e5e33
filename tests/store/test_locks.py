import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from velodrome.core.errors import RunHeld, StorageError
from velodrome.store.locks import hold, is_held

HOLDER = """
import sys, time
from pathlib import Path
from velodrome.store.locks import hold, is_held
with hold(Path(sys.argv[1]), "process of ann"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_is_told_who_holds_it_and_kill_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "run.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunHeld, match="process of ann"), hold(path, "process of bob"):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    with hold(path, "process of bob"):
        assert path.read_text() == "process of bob"


def test_who_looks_sees_whether_a_lock_is_held(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert not is_held(path)
    with hold(path, "process of bob"):
        assert is_held(path)
    assert not is_held(path)
    assert not is_held(tmp_path)


def test_a_lock_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(StorageError, match="cannot lock"), hold(tmp_path / "run.lock", "process of bob"):
        pass
