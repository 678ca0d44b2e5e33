"""What doctor finds: each fault by its name, with a remedy that is carried out here and after which nothing is found."""

import base64
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from world import World

from velodrome.control import checkup
from velodrome.control.backups import back_up, restore
from velodrome.control.backups import mend as bring_back
from velodrome.control.checkup import Findings, examine, mend
from velodrome.control.collecting import collect
from velodrome.control.needed import KINDS
from velodrome.core.clock import ManualClock
from velodrome.core.config import Config
from velodrome.core.digest import Digest
from velodrome.core.errors import VelodromeError
from velodrome.registry.graph import walk
from velodrome.registry.search import search_runs
from velodrome.registry.versions import list_versions
from velodrome.store.backup import BackupPlace, open_backups
from velodrome.store.blobs import FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.ledger import Append, Fact
from velodrome.store.named import AddressedBlobs, FolderObjects
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.checkpoints import Checkpointer

pytestmark = pytest.mark.slow  # together more than two seconds


@dataclass
class Patient:
    """A workspace that works, with a backup."""

    ws: Workspace
    place: BackupPlace

    def damage(self, statement: str) -> None:
        with closing(sqlite3.connect(self.ws.store / "ledger.db")) as connection, connection:
            assert connection.execute(statement).rowcount > 0

    def path(self, digest: str) -> Path:
        assert isinstance(self.ws.blobs, FolderBlobs)
        return self.ws.blobs.root / digest[:2] / digest

    def blob(self, kind: str, role: str) -> Digest:
        """A blob that a record of that kind names."""
        stored = self.ws.ledger.records(kind)[0]
        return Digest(self.ws.ledger.edges(stored.digest, role=role)[0].dst)

    # remedies, as doctor words them

    def mended(self, remedy: str) -> Workspace:
        """Do what a finding says; the workspace after it."""
        if remedy == "velodrome gc":
            collect(self.ws)
        elif remedy == "velodrome doctor --mend":
            assert mend(self.ws)
        elif remedy == "velodrome restore BACKUP --mend":
            assert bring_back(self.ws, self.place).lost == ()
        elif remedy.startswith("restore a backup into an empty workspace"):
            other = open_folder(self.ws.root / "elsewhere")
            restore(other, self.place)
            return other
        else:
            assert os.system(remedy.partition(",")[0]) == 0
        return self.ws


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion, and its backup."""
    root = tmp_path_factory.mktemp("template")
    world = World(root)
    with world.ws as ws:
        world.deliver(1)
        world.retrain(1)
        back_up(ws, open_backups(str(root / "backups"), new=True))
    return root


@pytest.fixture
def patient(template: Path, tmp_path: Path) -> Iterator[Patient]:
    root = tmp_path / "project"
    shutil.copytree(template, root)
    with open_folder(root, Config(gc_grace="0s")) as ws:
        yield Patient(ws, open_backups(str(root / "backups")))


def only(found: Findings, severity: str = "problem") -> tuple[str, str]:
    """Finding and remedy, where there is one finding alone."""
    assert len(found.problems + found.notes) == 1, found
    (finding,) = found.problems if severity == "problem" else found.notes
    return f"{finding.subject}: {finding.finding}", finding.remedy


def test_a_healthy_workspace_has_nothing(patient: Patient) -> None:
    found = examine(patient.ws)
    assert (found.problems, found.notes) == ((), ())
    assert re.fullmatch(r"\d\d records, \d\d chains, \d\d blobs", found.summary)
    assert examine(patient.ws, quick=True) == found
    assert mend(patient.ws) == []


LEDGER = {
    "record": ("UPDATE record SET payload = replace(payload, 'buyers', 'buiers') WHERE kind = 'version'", "record"),
    "record that is no text": ("UPDATE record SET payload = x'7B2261223A22B3227D' WHERE kind = 'version'", "record"),
    "record's actor": ("UPDATE record SET actor = 'eve' WHERE kind = 'version'", "record"),
    "record's time": ("UPDATE record SET created = replace(created, '+', '-') WHERE kind = 'run'", "record"),
    "edge": ("UPDATE edge SET role = 'codE' WHERE role = 'code'", "edge of"),
    "record gone": ("DELETE FROM record WHERE kind = 'report'", "record"),
    "event": ("UPDATE event SET actor = 'eve' WHERE subject LIKE 'alias:%'", "event 1 of alias:buyers@champion"),
    "event gone": ("DELETE FROM event WHERE subject LIKE 'run:%' AND seq = 2", "event 2 of run:"),
    "pointer": ("UPDATE pointer SET value = 'rejected' WHERE subject LIKE 'version:%'", "pointer of version:buyers/1"),
    "pointer gone": ("DELETE FROM pointer WHERE subject LIKE 'alias:%'", "pointer of alias:buyers@champion"),
    "edge gone": ("DELETE FROM edge WHERE role = 'artifact'", "edge of"),
}


@pytest.mark.parametrize(("statement", "words"), LEDGER.values(), ids=LEDGER)
def test_a_ledger_that_was_changed_by_hand(patient: Patient, statement: str, words: str) -> None:
    patient.damage(statement)
    found = examine(patient.ws, quick=True)
    assert words in f"{found.problems[0].subject}: {found.problems[0].finding}"
    remedies = {finding.remedy for finding in found.problems}
    assert len(remedies) == 1
    with patient.mended(remedies.pop()) as ws:
        assert examine(ws).problems == ()


def test_a_history_that_was_changed_by_hand(patient: Patient) -> None:
    run = patient.ws.ledger.pointers("run:")[0].subject.removeprefix("run:")
    block = "('loss', 1, 1, 1, 1, x'00')"
    patient.damage(
        f"INSERT INTO series_block (run, series, attempt, first_step, last_step, count, data) SELECT '{run}', * FROM (VALUES {block})"
    )
    assert examine(patient.ws, quick=True).problems == ()
    words, remedy = only(examine(patient.ws))
    assert words.startswith(f"series of run:{run}")
    with patient.mended(remedy) as ws:
        assert examine(ws).problems == ()


def test_a_torn_ledger_is_a_finding_and_no_crash(patient: Patient) -> None:
    path = patient.ws.store / "ledger.db"
    patient.ws.close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 12] = os.urandom(4096 * 9)
    path.write_bytes(data)
    with open_folder(patient.ws.root, patient.ws.config) as ws:
        found = examine(ws)
        assert {"ledger"} <= {finding.subject for finding in found.problems}
        assert "restore a backup" in found.problems[0].remedy
    with patient.mended(found.problems[0].remedy) as ws:
        assert examine(ws).problems == ()


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize(("kind", "role"), [("fragment", "rows"), ("version", "artifact"), ("run", "code")])
def test_a_blob_that_is_missing_or_damaged(patient: Patient, how: str, kind: str, role: str) -> None:
    path = patient.path(patient.blob(kind, role))
    if how == "missing":
        path.unlink()
    else:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        assert examine(patient.ws, quick=True).problems == ()
    found = examine(patient.ws)
    assert path.name[:12] in found.problems[0].subject
    for remedy in {finding.remedy for finding in found.problems}:
        patient.mended(remedy)
    assert examine(patient.ws).problems == ()


def test_a_missing_leaf_of_a_model_is_named(patient: Patient) -> None:
    tree = patient.ws.blobs.read(patient.blob("version", "artifact")).decode()
    for leaf in re.findall(r"[0-9a-f]{64}", tree):
        patient.path(leaf).unlink()
        words, remedy = only(examine(patient.ws, quick=True))
        assert leaf[:12] in words
        patient.mended(remedy)
    assert examine(patient.ws).problems == ()


def test_the_lists_of_an_anchor_are_needed(patient: Patient) -> None:
    anchor = patient.ws.ledger.records("anchor")[0]
    for digest in re.findall(r"[0-9a-f]{64}", anchor.payload.decode()):
        path = patient.path(digest)
        if path.exists():
            path.unlink()
            found = examine(patient.ws, quick=True)
            assert any(digest[:12] in finding.subject for finding in found.problems)
            patient.mended(found.problems[0].remedy)
    assert examine(patient.ws).problems == ()


def test_blobs_that_nothing_needs_are_a_note_when_they_are_old(patient: Patient) -> None:
    patient.ws.blobs.put(b"x" * 3000)
    patient.ws.blobs.put(b"y")
    assert examine(replace(patient.ws, config=Config(gc_grace="1d"))).notes == ()
    words, remedy = only(examine(patient.ws), "note")
    assert words == "blobs: 2 are needed by nothing (2.9 KiB)"
    patient.mended(remedy)
    assert examine(patient.ws).notes == ()


def test_what_a_killed_process_left_is_a_note(patient: Patient) -> None:
    long_ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    places = [patient.ws.store / "blobs" / "incoming" / ".abc", patient.ws.cache / ".backup" / "ledger.db"]
    for path in places:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (long_ago, long_ago))
        os.utime(path.parent, (long_ago, long_ago))
    words, remedy = only(examine(patient.ws), "note")
    assert "and 1 more" in words
    patient.mended(remedy)
    assert [path for path in places if path.exists()] == []
    assert examine(patient.ws).notes == ()


def test_a_ledger_that_was_lost(tmp_path: Path) -> None:
    with open_folder(tmp_path) as ws:
        ws.blobs.put(b"of a record that is gone")
        assert examine(ws).problems == ()
        later = replace(ws, clock=ManualClock(datetime.now(UTC) + timedelta(days=2)))
        words, remedy = only(examine(later))
    assert "the ledger has no record at all" in words
    assert "name theirs" in remedy


STRANGE = [
    "event SET time = x'ff' WHERE subject LIKE 'run:%'",
    "pointer SET value = x'ff' WHERE subject LIKE 'version:%'",
    "pointer SET value = NULL WHERE subject LIKE 'version:%'",
    "pointer SET value = 5 WHERE subject LIKE 'run:%'",
    "pointer SET subject = x'ff' WHERE subject LIKE 'version:%'",
    "record SET payload = 5 WHERE kind = 'fragment'",
    "record SET payload = '' WHERE kind = 'fragment'",
    "fact SET key = x'ff' WHERE key = 'name'",
    "fact SET key = CAST(x'ff' AS TEXT) WHERE key = 'name'",
    "fact SET text = CAST(x'ff' AS TEXT) WHERE key = 'state'",
    "fact SET number = 'x' WHERE key = 'attempts'",
]


@pytest.mark.parametrize("change", STRANGE)
def test_what_is_not_of_its_type_is_found_and_everybody_else_names_it(patient: Patient, change: str) -> None:
    patient.damage(f"UPDATE {change}")
    assert examine(patient.ws).problems
    up = partial(walk, reference="buyers/1")
    down = partial(walk, reference="nowhere.csv", down=True)
    for act in (search_runs, list_versions, up, down, mend, collect, partial(back_up, place=patient.place)):
        with suppress(VelodromeError):  # whatever else it raises is a bug
            act(patient.ws)


def test_facts_that_disagree_with_records(patient: Patient) -> None:
    run = patient.ws.ledger.pointers("run:")[0].subject
    patient.ws.commit(Fact(run, "metrics.roc_auc", 2.0), Fact(run, "invented", "x"))
    assert examine(patient.ws, quick=True).problems == ()
    words, remedy = only(examine(patient.ws))
    assert f"run {run.removeprefix('run:')}: 2 of its facts are wrong" in words
    patient.mended(remedy)
    assert examine(patient.ws).problems == ()


def test_a_clock_that_was_wrong(patient: Patient) -> None:
    now = datetime.now(UTC)
    ahead = replace(patient.ws, clock=ManualClock(now + timedelta(hours=1)))
    ahead.commit(Append("s", "t"))
    words, _ = only(examine(patient.ws))
    assert "lies in the future" in words
    assert examine(replace(patient.ws, clock=ManualClock(now + timedelta(hours=1)))).problems == ()


def test_a_folder_that_everybody_may_change(patient: Patient) -> None:
    (patient.ws.store / "ledger.db").chmod(0o666)
    words, remedy = only(examine(patient.ws, quick=True))
    assert f"everybody may change {patient.ws.store / 'ledger.db'}" in words
    patient.mended(remedy)
    assert examine(patient.ws).problems == ()


def test_a_full_disk(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, severity in ((5 << 30, "note"), (1 << 20, "problem"), (1 << 40, None)):
        monkeypatch.setattr(
            checkup, "examine_space", lambda places, free=free: examine_space(places, lambda _: (1 << 41, 0, free))
        )
        if severity is None:
            assert examine(patient.ws, quick=True).problems == examine(patient.ws, quick=True).notes == ()
        else:
            words, remedy = only(examine(patient.ws, quick=True), severity)
            assert "nearly full" in words
            assert "make room" in remedy


examine_space = checkup.examine_space


def test_damaged_copies_in_the_caches(patient: Patient, tmp_path: Path) -> None:
    remote = AddressedBlobs(FolderObjects(tmp_path / "remote"))
    for digest in patient.ws.blobs.list():
        remote.put(patient.ws.blobs.read(digest))
    ws = replace(patient.ws, blobs=CachedBlobs(remote, patient.ws.cache / "blobs", 1 << 30))
    tree = ws.blobs.read(patient.blob("version", "artifact")).decode()
    copy = ws.blobs.local(re.findall(r"[0-9a-f]{64}", tree)[0])  # a leaf: looking at a tree mends its copy
    layout = next((ws.cache / "layouts").glob("*/numbers.bin"), None)
    for path in filter(None, (copy, layout)):
        path.chmod(0o644)
        path.write_bytes(b"other")
        words, remedy = only(examine(ws), "note")
        assert str(path.parent if path == layout else path) in words
        assert examine(ws, quick=True).notes == ()
        assert remedy == "velodrome doctor --mend"
        assert mend(ws)
        assert examine(ws).notes == ()


def test_half_of_a_keyring(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(base64.b64encode(os.urandom(32)))
    (tmp_path / "key").chmod(0o600)
    config = Config(encryption_key="file:key")
    with open_folder(tmp_path, config) as ws:
        ws.blobs.put(b"secret")
    first, second = sorted((tmp_path / ".velodrome" / "blobs" / "keyring").iterdir())
    first.unlink()
    with open_folder(tmp_path, config) as ws:
        words, remedy = only(examine(ws))
        assert first.name in words
        assert remedy == "velodrome doctor --mend"
        assert mend(ws) == ["stored 1 keys twice again"]
        assert examine(ws).problems == ()
    for path in (first, second):
        path.unlink()
    with open_folder(tmp_path, config) as ws:
        words, remedy = only(examine(ws))
        assert "no keys lie beside what is in" in words
        assert "restore it from a backup" in remedy


def test_blobs_that_cannot_be_reached_are_a_finding(patient: Patient) -> None:
    class Away(FolderBlobs):
        def entries(self) -> Any:
            raise checkup.StorageError("there is no such server", remedy="start it")

    assert isinstance(patient.ws.blobs, FolderBlobs)
    words, remedy = only(examine(replace(patient.ws, blobs=Away(patient.ws.blobs.root))))
    assert (words, remedy) == ("blobs: there is no such server", "start it")


def test_whoever_works_meanwhile_raises_no_false_alarm(patient: Patient) -> None:
    """Checkpoints are put, recorded, dropped and deleted all the time."""
    patient.ws.commit(Append("run:r", "begun"))
    ended = threading.Event()

    def train() -> None:
        checkpointer = Checkpointer(patient.ws, "r", 1, lambda: None)
        for step in range(100_000):
            if ended.is_set():
                break
            checkpointer.save(step, lambda: partial(os.urandom, 500))
        checkpointer.close()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        looks = 0
        while looks < 8 or len(patient.ws.ledger.events("checkpoints:r")) < 20:
            assert thread.is_alive()
            looks += 1
            assert examine(patient.ws, quick=bool(looks % 2)).problems == ()
    finally:
        ended.set()
        thread.join()


def test_every_check_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert documented == [check.__name__.strip("_") for check in (*checkup._QUICK, *checkup._THOROUGH)]


def test_every_field_that_names_a_blob_is_of_a_known_kind() -> None:
    assert checkup._BLOBS.keys() <= KINDS.trees.keys()


def test_whatever_is_put_is_named_by_a_field_that_is_known(patient: Patient) -> None:
    """Without any one blob that is not garbage, something is found: the table of fields has no gap."""
    unneeded = []
    for digest in sorted(patient.ws.blobs.list()):
        path = patient.path(digest)
        data = path.read_bytes()
        path.unlink()
        if not examine(patient.ws, quick=True).problems:
            unneeded.append(digest)
        path.write_bytes(data)
    assert unneeded == []


@pytest.mark.parametrize("quick", [True, False])
def test_damage_of_all_kinds_at_once_ends_nothing(patient: Patient, quick: bool, make: Callable[[], None]) -> None:
    make()
    found = examine(patient.ws, quick=quick)
    assert len(found.problems) > 5


@pytest.fixture
def make(patient: Patient) -> Callable[[], None]:
    def damage() -> None:
        for statement, _ in LEDGER.values():
            patient.damage(statement)
        for number, digest in enumerate(sorted(patient.ws.blobs.list())):
            patient.path(digest).chmod(0o644)
            if number % 2:
                patient.path(digest).unlink()
            else:
                patient.path(digest).write_bytes(b"\0")

    return damage
