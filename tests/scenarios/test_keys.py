"""Rotation of keys on the command line: killed at every write, beside writers, and for backups too."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from project import PROGRAM

from velodrome.cli.main import app
from velodrome.control.auditing import verify
from velodrome.control.backups import back_up, check
from velodrome.control.checkup import examine
from velodrome.control.rotation import rotate
from velodrome.core.config import Config
from velodrome.core.errors import VelodromeError, WrongKey
from velodrome.store.backup import open_backups
from velodrome.store.keys import read_key
from velodrome.store.ledger import Append
from velodrome.store.workspace import Workspace, open_folder

pytestmark = pytest.mark.slow

OLD, NEW = Config(encryption_key="file:old.key"), Config(encryption_key="file:new.key")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, byte in (("old", "01"), ("new", "02"), ("third", "03")):
        path = tmp_path / f"{name}.key"
        path.write_text(byte * 32)
        path.chmod(0o600)
    (tmp_path / "velodrome.toml").write_text('encryption_key = "file:old.key"\n')
    return tmp_path


def rotated(root: Path, *words: str) -> Any:
    command = [PROGRAM, "keys", "rotate", *words, "--json"]
    return json.loads(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)


def put(ws: Workspace, text: str) -> str:
    digest = ws.blobs.put(text.encode()).digest
    ws.commit(Append("log", "put", {"digest": digest}))
    return digest


def assert_sound(root: Path, config: Config, digests: list[str]) -> None:
    with open_folder(root, config) as ws:
        for digest in digests:
            ws.blobs.read(digest)
        assert examine(ws).problems == ()
        assert verify(ws).damages == ()


KILLED = """
import os, sys
from velodrome.cli.main import main
from velodrome.store.named import FolderObjects

left = int(sys.argv.pop())

def mortal(name):
    act = getattr(FolderObjects, name)
    def acting(*given):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        act(*given)
    setattr(FolderObjects, name, acting)

mortal("put")
mortal("delete")
sys.argv[0] = "velodrome"
main()
"""


def test_killed_at_every_write_it_loses_nothing_and_the_same_command_goes_on(root: Path) -> None:
    with open_folder(root, OLD) as ws:
        digests = [put(ws, "data")]
    for writes in range(20):
        here = root / str(writes)
        here.mkdir()
        subprocess.run(
            ["cp", "-a", *root.glob("*.key"), root / ".velodrome", root / "velodrome.toml", here], check=True
        )
        words = [sys.executable, "-c", KILLED, "keys", "rotate", "--to", "file:new.key", str(writes)]
        died = subprocess.run(words, cwd=here, check=False, capture_output=True).returncode
        if died == 0:
            break
        assert died == -9
        assert any(opens(here, config, digests) for config in (OLD, NEW))
        with open_folder(here, OLD) as ws:
            rotate(ws, *(read_key(f"file:{name}.key", here) for name in ("old", "new")))
        assert_sound(here, NEW, digests)
        assert not opens(here, OLD, digests)
        assert said(here) == ["keys.rotated"]
    assert writes == 6  # two store keys stored twice each, and the old one removed twice


def opens(root: Path, config: Config, digests: list[str]) -> bool:
    try:
        with open_folder(root, config) as ws:
            return all(ws.blobs.read(digest) for digest in digests)
    except WrongKey:
        return False


def said(root: Path) -> list[str]:
    with open_folder(root, NEW) as ws:
        return [event.type for event in ws.ledger.events("keys")]


WRITER = """
import sys
from pathlib import Path
from velodrome.core.config import Config
from velodrome.store.workspace import open_folder
with open_folder(Path(sys.argv[1]), Config(encryption_key="file:old.key")) as ws:
    number = 0
    while True:
        with ws.writing():
            print(ws.blobs.put(b"%d" % number).digest, flush=True)
        number += 1
"""


@contextmanager
def writer(root: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_others_write_meanwhile_is_read_with_the_new_key(root: Path) -> None:
    with writer(root) as process:
        assert process.stdout is not None
        digests = [process.stdout.readline().strip() for _ in range(3)]
        assert rotated(root, "--to", "file:new.key")["keys"] == 1
        digests += [process.stdout.readline().strip() for _ in range(50)]
    assert_sound(root, NEW, digests)
    with open_folder(root, OLD) as ws, pytest.raises(WrongKey):
        ws.blobs.read(digests[0])


def test_a_dry_run_writes_nothing_and_an_end_is_said_once(root: Path) -> None:
    with open_folder(root, OLD) as ws:
        digests = [put(ws, "data")]
    before = sorted((path, path.read_bytes()) for path in (root / ".velodrome" / "blobs").rglob("*") if path.is_file())
    plan = rotated(root, "--to", "file:new.key", "--dry-run")
    assert (plan["keys"], plan["dry_run"], plan["of"]) == (1, True, "blobs")
    after = sorted((path, path.read_bytes()) for path in (root / ".velodrome" / "blobs").rglob("*") if path.is_file())
    assert before == after
    assert rotated(root, "--to", "file:new.key")["keys"] == 1
    assert rotated(root, "--to", "file:new.key")["keys"] == 0
    assert said(root) == ["keys.rotated"]
    assert_sound(root, NEW, digests)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "file:old.key"], "the new key is the old one"),
        (["--from", "file:third.key", "--to", "file:new.key"], "is encrypted under another master key"),
        (["--to", "file:absent.key"], "cannot read the key file"),
        (["--to", "04" * 32], "a key itself stands where its reference should"),
        (["--to", "file:new.key", "--backups", "absent"], "there is no such folder"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    with open_folder(root, OLD) as ws:
        digests = [put(ws, "data")]
    assert said in str(refused(root, monkeypatch, *words))
    assert "04" * 32 not in str(refused(root, monkeypatch, *words))
    assert_sound(root, OLD, digests)


def test_what_is_plain_has_no_key(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "velodrome.toml").write_text("")
    assert "names no `encryption_key`" in str(refused(root, monkeypatch, "--to", "file:new.key"))
    told = str(refused(root, monkeypatch, "--from", "file:old.key", "--to", "file:new.key"))
    assert "nothing is encrypted in the blobs of this workspace" in told


def refused(root: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> VelodromeError:
    monkeypatch.chdir(root)
    with pytest.raises(VelodromeError) as caught:
        app(["keys", "rotate", *words], standalone_mode=False)
    return caught.value


def test_the_key_of_backups_is_rotated_for_itself(root: Path) -> None:
    old, new = (read_key(f"file:{name}.key", root) for name in ("old", "new"))
    with open_folder(root, OLD) as ws:
        digests = [put(ws, "data")]
        back_up(ws, open_backups(str(root / "backups"), key=old, new=True))
    rotated(root, "--to", "file:new.key")
    (root / "velodrome.toml").write_text('encryption_key = "file:new.key"\n')
    done = rotated(root, "--to", "file:new.key", "--from", "file:old.key", "--backups", "backups")
    assert (done["of"], done["keys"]) == ("backups", 1)
    assert_sound(root, NEW, digests)
    with open_folder(root, NEW) as ws:
        check(ws, open_backups(str(root / "backups"), key=new))
        with pytest.raises(WrongKey):
            check(ws, open_backups(str(root / "backups"), key=old))
    assert said(root) == ["keys.rotated", "keys.rotated"]
