"""A workspace carried to a place of backups and back, into any database and place, through damage and kills."""

import base64
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from world import World

from velodrome.control.auditing import verify
from velodrome.control.backups import back_up, check, mend, restore
from velodrome.control.checkup import examine
from velodrome.core.config import Config
from velodrome.core.digest import Digest, digest_bytes
from velodrome.core.errors import ConfigurationError, Conflict, IntegrityError, MissingBlob, StateError, StorageError
from velodrome.serving.batch import load_model
from velodrome.store.backup import BackupPlace, open_backups
from velodrome.store.blobs import FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.faults import Fault, FaultPlan, FaultyBlobs, FaultyLedger
from velodrome.store.keys import read_key
from velodrome.store.ledger import Append, Put
from velodrome.store.locks import hold
from velodrome.store.sql import SqlLedger
from velodrome.store.workspace import Workspace, open_folder
from velodrome.testing.ledger import Sample

pytestmark = pytest.mark.slow  # together more than two seconds

Open = Callable[..., Workspace]


@pytest.fixture
def open_ws(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens workspaces in folders of their own, on what is named: "postgresql", "s3", "encrypted"; closed in the end."""
    with ExitStack() as opened:

        def make(name: str, *words: str) -> Workspace:
            settings: dict[str, Any] = {}
            root = tmp_path / name
            root.mkdir()
            if "postgresql" in words:
                settings["ledger"] = request.getfixturevalue("postgres").url()
            if "s3" in words:
                s3 = request.getfixturevalue("s3")
                settings["blobs"] = f"{s3.url}/{name}"
                settings["blob_options"] = {"endpoint": f"http://127.0.0.1:{s3.server.port}", "region": "us-east-1"}
            if "encrypted" in words:
                (root / "key").write_bytes(base64.b64encode(os.urandom(32)))
                (root / "key").chmod(0o600)
                settings["encryption_key"] = "file:key"
            return opened.enter_context(open_folder(root, Config(**settings)))

        yield make


@pytest.fixture
def ws(open_ws: Open) -> Workspace:
    """A workspace with a few records and blobs that they name."""
    return filled(open_ws("original"))


def filled(ws: Workspace) -> Workspace:
    world = World.__new__(World)
    world.root, world.ws = ws.root, ws
    world.deliver(1)
    world.retrain(1)
    return ws


@pytest.fixture
def place(tmp_path: Path) -> BackupPlace:
    return open_backups(str(tmp_path / "backups"), new=True)


def contents(ws: Workspace) -> tuple[Any, dict[str, Digest]]:
    """All rows, and what is behind each digest."""
    return list(ws.ledger.dump()), {digest: digest_bytes(ws.blobs.read(digest)) for digest in sorted(ws.blobs.list())}


def files(place: BackupPlace) -> set[Path]:
    return {path for path in Path(place.where).rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((), ()),
        ((), ("postgresql", "s3")),
        (("postgresql", "s3"), ()),
        (("postgresql",), ("postgresql", "encrypted")),
        (("encrypted",), ()),
        (("encrypted", "s3"), ("postgresql", "s3", "encrypted")),
        ((), ("encrypted", "s3")),
    ],
    ids=lambda words: "+".join(words) or "plain",
)
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_workspace_goes_from_anywhere_to_anywhere(
    open_ws: Open, source: tuple[str, ...], target: tuple[str, ...], kind: str, tmp_path: Path, s3: Any
) -> None:
    one = filled(open_ws("one", *source))
    where = str(tmp_path / "backups") if kind == "folder" else f"{s3.url}/backups"
    options = {"endpoint": f"http://127.0.0.1:{s3.server.port}", "region": "us-east-1"}
    key = read_key("file:key", one.root) if "encrypted" in source else None
    done = back_up(one, open_backups(where, options=options, key=key, new=True))
    assert done.carried == done.backup.blobs == len(list(one.blobs.list()))
    other = open_ws("other", *target)
    assert restore(other, open_backups(where, options=options, key=key)).carried == done.carried
    assert contents(other) == contents(one)
    assert examine(other).problems == ()
    frame = World.frame(2)
    assert load_model(other, "buyers@champion").predict(frame).equals(load_model(one, "buyers@champion").predict(frame))


def test_the_next_backup_carries_over_only_what_is_new(ws: Workspace, place: BackupPlace) -> None:
    first = back_up(ws, place)
    before = files(place)
    stamps = {path: path.stat().st_mtime_ns for path in before}
    new = ws.blobs.put(b"new")
    ws.commit(Put(Sample(number=1)))
    second = back_up(ws, place)
    added = place.listing(second.backup).keys() - place.listing(first.backup).keys()
    assert second.carried == len(added) == 3  # what the new anchor lists, too: an event and a record
    assert {path.stat().st_mtime_ns - stamps[path] for path in before} == {0}
    assert new.digest not in place.listing(first.backup)
    assert place.ids() == [second.backup.id, first.backup.id]
    assert second.backup.tables["record"].rows == first.backup.tables["record"].rows + 2
    assert back_up(ws, place).carried == 0


def test_an_older_backup_is_restored_by_its_id(ws: Workspace, place: BackupPlace, open_ws: Open) -> None:
    then, first = contents(ws), back_up(ws, place)
    ws.blobs.put(b"new")
    ws.commit(Append("s", "t"))
    back_up(ws, place)
    other = open_ws("other")
    assert restore(other, place, first.backup.id[:20]).backup == first.backup
    assert contents(other) == then


def test_a_restore_done_is_done_again_without_harm(ws: Workspace, place: BackupPlace, open_ws: Open) -> None:
    back_up(ws, place)
    other = open_ws("other")
    restore(other, place)
    assert restore(other, place).carried == 0
    assert contents(other) == contents(ws)
    assert not (other.cache / ".backup").exists()


def test_nothing_is_restored_over_anything_else(ws: Workspace, place: BackupPlace, open_ws: Open) -> None:
    back_up(ws, place)
    other = open_ws("other")
    blob = other.blobs.put(b"somebody needs this")
    with pytest.raises(StateError, match="1 blobs are here that the backup does not have") as caught:
        restore(other, place)
    assert blob.digest in str(caught.value)
    other.blobs.delete(blob.digest)
    other.commit(Append("s", "t"), Append("s", "t"))
    before = contents(other)
    with pytest.raises(StateError, match="into an empty ledger") as caught:
        restore(other, place)
    assert caught.value.received == "rows: 2 of event"
    assert contents(other) == before


def test_who_backs_up_or_collects_is_alone(ws: Workspace, place: BackupPlace) -> None:
    with hold(ws.lock("collection"), "ann, collecting"), pytest.raises(Conflict, match="being collected") as caught:
        back_up(ws, place)
    assert caught.value.received == "ann, collecting"
    back_up(ws, place)


# -------------------------------------------------------------------------------------------------------------- damage


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def blob_files(place: BackupPlace, ws: Workspace) -> list[Path]:
    return [Path(place.where) / digest[:2] / digest[2:] for digest in sorted(ws.blobs.list())]


def test_every_damaged_or_missing_blob_of_a_backup_is_found_before_anything_is_written(
    ws: Workspace, place: BackupPlace, open_ws: Open
) -> None:
    back_up(ws, place)
    other = open_ws("other")
    assert check(other, place).carried == 0
    for number, path in enumerate(blob_files(place, ws)):
        saved = path.read_bytes()
        if number % 2:
            spoil(path)
        else:
            path.unlink()
        for act in (check, restore):
            with pytest.raises(IntegrityError, match="is damaged") as caught:
                act(other, place)
            assert path.parent.name + path.name in caught.value.problem
        path.write_bytes(saved)
    assert (list(other.ledger.dump()), list(other.blobs.list())) == ([], [])
    restore(other, place)
    assert contents(other) == contents(ws)


def test_a_damaged_ledger_or_manifest_is_found_and_the_backup_before_still_restores(
    ws: Workspace, place: BackupPlace, open_ws: Open
) -> None:
    first, then = back_up(ws, place), contents(ws)
    ws.commit(Put(Sample(number=1)))
    second = back_up(ws, place)
    other = open_ws("other")
    for path in (
        Path(place.where) / "backups" / second.backup.id,
        Path(place.where) / second.backup.ledger.digest[:2] / second.backup.ledger.digest[2:],
    ):
        saved = path.read_bytes()
        spoil(path)
        with pytest.raises(IntegrityError, match=second.backup.id) as caught:
            restore(other, place)
        assert "--backup" in str(caught.value.remedy)
        path.write_bytes(saved)
    assert list(other.ledger.dump()) == []
    restore(other, place, first.backup.id)
    assert contents(other) == then


def test_what_is_damaged_in_the_workspace_is_not_backed_up(ws: Workspace, place: BackupPlace) -> None:
    first = back_up(ws, place)
    new = ws.blobs.put(b"new " * 1000)
    assert isinstance(ws.blobs, FolderBlobs)
    spoil(ws.blobs.root / new.digest[:2] / new.digest)
    with pytest.raises(IntegrityError, match="1 blobs of the workspace are damaged") as caught:
        back_up(ws, place)
    assert new.digest in str(caught.value)
    assert place.ids() == [first.backup.id]
    ws.blobs.put(b"new " * 1000)
    assert back_up(ws, place).carried == 1


def test_a_ledger_that_was_changed_by_hand_is_not_backed_up(ws: Workspace, place: BackupPlace) -> None:
    first = back_up(ws, place)
    with closing(sqlite3.connect(ws.store / "ledger.db")) as connection, connection:
        connection.execute("UPDATE event SET actor = 'eve' WHERE subject LIKE 'alias:%'")
    with pytest.raises(IntegrityError, match="the ledger is damaged: event of alias:buyers@champion"):
        back_up(ws, place)
    assert place.ids() == [first.backup.id]


def test_two_workspaces_do_not_share_a_place(ws: Workspace, place: BackupPlace, open_ws: Open) -> None:
    first = back_up(ws, place).backup
    other = open_ws("other")
    other.commit(Append("s", "t"))
    with pytest.raises(ConfigurationError, match="of another workspace"):
        back_up(other, place)
    assert place.ids() == [first.id]
    again = open_ws("again")
    restore(again, place)
    back_up(again, place)
    ws.commit(Append("s", "t"))
    assert back_up(ws, place).backup.id == place.ids()[0]


@pytest.mark.parametrize("words", [("encrypted",), ("s3",), ("s3", "encrypted")], ids="+".join)
def test_no_backup_goes_into_the_blobs_of_its_own_workspace(open_ws: Open, words: tuple[str, ...]) -> None:
    ws = filled(open_ws("own", *words))
    key = read_key("file:key", ws.root) if "encrypted" in words else None
    where = ws.config.blobs or str(ws.store / "blobs")
    own = open_backups(where, options=ws.config.blob_options, key=key, new=True)
    before = sorted(ws.blobs.list())
    with pytest.raises(ConfigurationError, match="beside the blobs that it copies"):
        back_up(ws, own)
    assert (own.ids(), sorted(ws.blobs.list())) == ([], before)


def test_a_place_in_which_nobody_may_delete_takes_backups(
    ws: Workspace, place: BackupPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str) -> None:
        raise StorageError(f"nobody may delete {name}", remedy="none")

    monkeypatch.setattr(place.blobs.objects, "delete", refused)
    done = back_up(ws, place)
    assert check(ws, place).backup == done.backup


def test_each_backup_holds_an_anchor_of_all_that_is_in_it(ws: Workspace, place: BackupPlace, open_ws: Open) -> None:
    first = back_up(ws, place).backup
    assert back_up(ws, place).backup.anchor == first.anchor
    ws.commit(Append("s", "t"))
    second = back_up(ws, place).backup
    assert second.anchor not in (None, first.anchor)
    other = open_ws("other")
    restore(other, place)
    audited = verify(other, anchor=second.anchor)
    assert (audited.damages, set(audited.later.values())) == ((), {0})


def test_a_workspace_that_lacks_what_its_ledger_names_is_not_backed_up(ws: Workspace, place: BackupPlace) -> None:
    model = load_artifact_digest(ws)
    ws.blobs.delete(model)
    with pytest.raises(IntegrityError, match="that the ledger names are not there") as caught:
        back_up(ws, place)
    assert model in str(caught.value.received)
    assert place.ids() == []


def load_artifact_digest(ws: Workspace) -> Digest:
    (version,) = ws.ledger.records("version")
    return next(Digest(edge.dst) for edge in ws.ledger.edges(version.digest, role="artifact"))


def test_a_damaged_blob_of_an_earlier_backup_is_found_and_mended_on_demand(ws: Workspace, place: BackupPlace) -> None:
    back_up(ws, place)
    path = blob_files(place, ws)[0]
    whole = path.read_bytes()
    spoil(path)
    assert back_up(ws, place).carried == 0
    with pytest.raises(IntegrityError):
        check(ws, place)
    back_up(ws, place, verify=True)
    assert path.read_bytes() == whole
    check(ws, place)


class Vanishing(FolderBlobs):
    """Blobs of which some go while they are backed up, as if somebody collected them elsewhere."""

    def __init__(self, root: Path, going: list[str], owner: Callable[[], None]) -> None:
        super().__init__(root)
        self.going, self.owner = going, owner

    def read(self, digest: str) -> bytes:
        if digest in self.going:
            self.going.remove(digest)
            self.owner()
            raise MissingBlob("collected meanwhile")
        return super().read(digest)


def test_what_is_collected_meanwhile_is_left_out_if_nothing_names_it(ws: Workspace, place: BackupPlace) -> None:
    assert isinstance(ws.blobs, FolderBlobs)
    garbage = ws.blobs.put(b"garbage").digest
    vanishing = Vanishing(ws.blobs.root, [garbage], lambda: None)
    done = back_up(replace(ws, blobs=vanishing), place)
    assert garbage not in place.listing(done.backup)
    assert done.backup.blobs == len(list(ws.blobs.list())) - 1
    check(ws, place)


def test_what_is_collected_meanwhile_together_with_its_owner_leads_to_a_new_copy(
    ws: Workspace, place: BackupPlace
) -> None:
    """The ledger is copied again, so that it says what is there now; here the blob is there again, too."""
    assert isinstance(ws.blobs, FolderBlobs)
    artifact = load_artifact_digest(ws)
    vanishing = Vanishing(ws.blobs.root, [artifact], lambda: ws.commit(Append("run:x", "collected")))
    done = back_up(replace(ws, blobs=vanishing), place)
    assert artifact in place.listing(done.backup)
    with place.opened_ledger(done.backup, ws.cache) as copied:
        assert len(copied.events("run:x")) == 1
    check(ws, place)


# ------------------------------------------------------------------------------------------------------------- mending


def test_missing_and_damaged_blobs_come_back_and_nothing_else_changes(
    ws: Workspace, place: BackupPlace, open_ws: Open
) -> None:
    back_up(ws, place)
    ws.commit(Append("s", "t"))  # after the backup
    whole = contents(ws)
    assert isinstance(ws.blobs, FolderBlobs)
    for number, digest in enumerate(sorted(ws.blobs.list())):
        path = ws.blobs.root / digest[:2] / digest
        if number % 2:
            spoil(path)
        else:
            path.unlink()
    assert len(examine(ws).problems) > 5
    mended = mend(ws, place)
    assert mended.lost == ()
    assert examine(ws).problems == ()
    assert contents(ws) == whole
    assert mend(ws, place).mended == 0


def test_what_no_backup_has_is_told(ws: Workspace, place: BackupPlace) -> None:
    back_up(ws, place)
    artifact, new = load_artifact_digest(ws), ws.blobs.put(b"new " * 100).digest
    assert isinstance(ws.blobs, FolderBlobs)
    spoil(ws.blobs.root / new[:2] / new)
    ws.blobs.delete(artifact)
    spoil(Path(place.where) / artifact[:2] / artifact[2:])
    mended = mend(ws, place)
    assert (mended.mended, mended.lost) == (0, tuple(sorted([artifact, new])))


def test_a_cache_does_not_hide_what_must_be_mended(open_ws: Open, tmp_path: Path, place: BackupPlace) -> None:
    plain = filled(open_ws("one"))
    back_up(plain, place)
    remote = open_backups(str(tmp_path / "remote"), new=True).blobs
    cached = replace(plain, blobs=CachedBlobs(remote, tmp_path / "copies", 1 << 30))
    lost = len(list(plain.blobs.list()))
    assert mend(cached, place).mended <= lost
    artifact = load_artifact_digest(plain)
    cached.blobs.read(artifact)
    remote.delete(artifact)
    assert mend(cached, place).mended == 1
    assert remote.has(artifact)


# --------------------------------------------------------------------------------------------------- faults and kills


def test_whatever_call_fails_the_next_backup_and_restore_are_as_if_none_had(
    ws: Workspace, place: BackupPlace, open_ws: Open
) -> None:
    def harmed(one: Workspace, plan: FaultPlan) -> Workspace:
        assert isinstance(one.ledger, SqlLedger)
        return replace(one, ledger=FaultyLedger(one.ledger, plan), blobs=FaultyBlobs(one.blobs, plan))

    plan = FaultPlan()
    back_up(harmed(ws, plan), place, verify=True)
    for call in range(1, len(plan.calls) + 1):
        before = place.ids()
        try:
            back_up(harmed(ws, FaultPlan(Fault(kind="fail", call=call, after=bool(call % 2)))), place, verify=True)
        except StorageError:
            assert place.ids() == before
        assert not (ws.cache / ".backup").exists()
    other, call = open_ws("other"), 0
    while True:
        call += 1
        try:
            restore(harmed(other, FaultPlan(Fault(kind="fail", call=call, after=bool(call % 2)))), place)
            break
        except StorageError:
            assert list(other.ledger.dump()) in ([], contents(ws)[0])
    assert call > 3
    assert contents(other) == contents(ws)


PROGRAM = """
import sys
from pathlib import Path
from velodrome.control import backups
from velodrome.store.backup import open_backups
from velodrome.store.workspace import open_folder

verb, root, where, moment, chaos = sys.argv[1:]
sys.path.append(chaos)
from harm import Moments

with open_folder(Path(root)) as ws:
    place = open_backups(where, new=verb == "back_up")
    Moments(int(moment))
    getattr(backups, verb)(ws, place)
"""


def killed_at(verb: str, root: Path, where: Path, moment: int) -> bool:
    """Start a process that backs up or restores, and dies at that change of a file or statement; whether it ended before."""
    chaos = str(Path(__file__).parents[1] / "chaos")
    command = [sys.executable, "-c", PROGRAM, verb, str(root), str(where), str(moment), chaos]
    code = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code == 0


def test_a_backup_and_a_restore_that_are_killed_again_and_again_end_as_if_they_had_not_been(
    ws: Workspace, tmp_path: Path, open_ws: Open
) -> None:
    for number in range(300):
        ws.blobs.put(f"blob {number}".encode() * 1000)
    where = tmp_path / "backups"
    expected, ends, known = contents(ws), {"back_up": 0, "restore": 0}, 0
    for verb, root in (("back_up", ws.root), ("restore", tmp_path / "other")):
        root.mkdir(exist_ok=True)
        for number in count():
            done = killed_at(verb, root, where, 4**number)
            ends[verb] += 1
            if verb == "back_up":
                place = open_backups(str(where))
                assert known <= len(place.ids()) <= known + 1  # it may die after its last change
                assert place.ids() or not done
                known = len(place.ids())
                for id_ in place.ids():
                    check(ws, place, id_)
            else:
                with closing(sqlite3.connect(root / ".velodrome" / "ledger.db")) as connection:
                    rows = connection.execute("SELECT count(*) FROM record").fetchone()[0]
                assert rows in (0, len(list(ws.ledger.scan())))
            if done:
                break
    assert min(ends.values()) > 2
    with open_folder(tmp_path / "other") as other:
        assert contents(other) == expected
        assert examine(other).problems == ()
    assert not (ws.cache / ".backup").exists()
