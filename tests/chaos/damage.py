"""The newest checkpoint of a real run flipped, cut, lost or swapped: found before anything of it is used.

An experiment takes the ledger as it was, harms the blob where it lies (plain, encrypted or in a bucket), and lets the engine
restore into a fresh module, as a resumed run does. Whole runs go on from a folder in which something is damaged.
"""

import functools
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from doom import Doom
from ground import Ground, Verdict, finished
from lives import KILLED, begin
from places import Servers
from trial import SMALL, digests, lay_out

from velodrome.control.declaring import Declared, declare, source_of
from velodrome.control.loading import load_recipe
from velodrome.control.training import Assignment, train
from velodrome.core.config import Config, Retention, read_config
from velodrome.core.errors import ExitCode
from velodrome.data.training_set import TrainingSet
from velodrome.registry.runs import Run, find_by_key
from velodrome.registry.search import list_runs
from velodrome.registry.series_writer import SeriesWriter
from velodrome.store import encryption
from velodrome.store.blobs import FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.named import AddressedBlobs, Content, blob_name
from velodrome.store.transfer import origin
from velodrome.store.workspace import Workspace, open_folder
from velodrome.training.accounting import Stopwatch
from velodrome.training.checkpoints import Checkpoint, checkpoints_of
from velodrome.training.learners import Torch
from velodrome.training.torch_learner import _built, _Training
from velodrome.training.torch_state import StateCopy, decode_state

__all__ = ["restorations", "whole_runs"]


# ------------------------------------------------------------------------------------------------------- where blobs lie


class Lying:
    """A blob where its bytes lie, whatever they are made of there."""

    def __init__(self, ws: Workspace, digest: str) -> None:
        self._ws, self._digest = ws, digest
        blobs = origin(ws.blobs)
        self._path = blobs.root / digest[:2] / digest if isinstance(blobs, FolderBlobs) else None
        if isinstance(blobs, AddressedBlobs):
            self._objects, self._name = blobs.objects, blob_name(digest)
            if isinstance(blobs.objects, encryption.EncryptedObjects):
                key = encryption._any(blobs.objects._known())
                self._objects, self._name = blobs.objects._inner, encryption._hidden(key, self._name)

    def get(self) -> bytes:
        return self._path.read_bytes() if self._path else b"".join(self._objects.get(self._name))

    def put(self, data: bytes) -> None:
        self.remove()
        if self._path:
            self._path.write_bytes(data)
        else:
            self._objects.put(self._name, Content(len(data), lambda: iter([data])))

    def remove(self) -> None:
        if isinstance(self._ws.blobs, CachedBlobs):
            shutil.rmtree(self._ws.blobs.folder)
            self._ws.blobs.folder.mkdir(mode=0o700)
        if self._path:
            self._path.unlink(missing_ok=True)
        else:
            self._objects.delete(self._name)


Harm = Callable[[Workspace, list[Checkpoint], random.Random], str]
"""Does something to the newest of some checkpoints, and says what."""


def _flip(ws: Workspace, live: list[Checkpoint], rng: random.Random) -> str:
    blob = Lying(ws, live[-1].blob)
    data = bytearray(blob.get())
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    data[place] ^= 1 << bit
    blob.put(bytes(data))
    return f"bit {bit} of byte {place} of {len(data)} flipped"


def _cut(ws: Workspace, live: list[Checkpoint], rng: random.Random) -> str:
    blob = Lying(ws, live[-1].blob)
    data = blob.get()
    size = rng.choice([0, len(data) - 1, rng.randrange(len(data))])
    blob.put(data[:size])
    return f"cut to {size} of {len(data)} bytes"


def _lose(ws: Workspace, live: list[Checkpoint], rng: random.Random) -> str:
    Lying(ws, live[-1].blob).remove()
    return "lost"


def _swap(ws: Workspace, live: list[Checkpoint], rng: random.Random) -> str:
    """With the bytes of another checkpoint of the run, or of anything else that is there."""
    other = rng.choice([*(each.blob for each in live[:-1]), *sorted(set(ws.blobs.list()) - {live[-1].blob})])
    Lying(ws, live[-1].blob).put(Lying(ws, other).get())
    return f"the bytes of {other[:12]} in its place"


def _harm_of(number: int) -> Harm:
    """200 flips, 50 cuts, 50 lost or swapped, over and over."""
    place = (number - 1) % 300
    return _flip if place < 200 else _cut if place < 250 else (_lose, _swap)[place % 2]


# ---------------------------------------------------------------------------------------------------------- restorations


@dataclass(frozen=True)
class _Trained:
    """A finished run whose ledger can be had again as it was."""

    root: Path
    config: Config
    declared: Declared
    run: Run
    rows: TrainingSet
    live: list[Checkpoint]
    expected: dict[str, str]

    @property
    def ledger(self) -> Path:
        return self.root / self.config.store / "ledger.db"

    @contextmanager
    def again(self) -> Iterator[Workspace]:
        """The workspace as it was when the run had ended."""
        shutil.copy(self.ledger.with_suffix(".kept"), self.ledger)
        with open_folder(self.root, self.config) as ws:
            yield ws


def trained(root: Path, config: Config) -> _Trained:
    """Train the project in `root`."""
    with open_folder(root, config) as ws, ws.writing():
        recipe = load_recipe(root / "recipe.py")
        declared = declare(ws, recipe, source_of(ws, root / "recipe.py", ()), 0)
        train(ws, declared)
        run = find_by_key(ws, declared.key)
        assert run is not None
        live = checkpoints_of(ws, run.id)
        rows = Assignment(ws, declared, run).rows()
        expected = digests(*decode_state(ws.blobs.read(live[-2].blob)))
    made = _Trained(root, config, declared, run, rows, live, expected)
    shutil.copy(made.ledger, made.ledger.with_suffix(".kept"))
    return made


def restoration(project: _Trained, where: str, number: int) -> Verdict:
    """One damage, and what the engine then restores."""
    rng = random.Random(f"damage {number}")
    newest, before = project.live[-1], project.live[-2]
    with project.again() as ws:
        blob = Lying(ws, newest.blob)
        whole = blob.get()
        try:
            verdict = Verdict(f"damage {number}, {where}: {_harm_of(number)(ws, project.live, rng)}")
            step, found = _restored(project, ws)
        finally:
            blob.put(whole)
        events = ws.ledger.events(f"checkpoints:{project.run.id}")
        told = [event.body["step"] for event in events if event.type == "checkpoint.damaged"]
    verdict.require(told == [newest.step], f"damage was told of steps {told}, not {newest.step}")
    verdict.require(step == before.step, f"step {step} was restored, not {before.step}")
    differ = [item for item in project.expected if found[item] != project.expected[item]]
    verdict.require(not differ, f"what was restored is not the checkpoint before: {', '.join(differ)}")
    verdict.counts = Counter({"found before use": told == [newest.step], "the one before restored": not differ})
    return verdict


def _restored(project: _Trained, ws: Workspace) -> tuple[int, dict[str, str]]:
    """The step and the digests of what a resumed attempt begins with."""
    recorder = SeriesWriter(ws, project.run.id, 2)
    work = Assignment(ws, project.declared, project.run).work(project.rows, 2, recorder, Stopwatch(ws.clock.monotonic))
    learner = work.learner
    assert isinstance(learner, Torch)
    training = _Training(work, learner, _built(learner, work))
    memory = training._restored()
    training.checkpointer.close()
    recorder.close()
    copied = StateCopy(training.state).taken({"memory": msgspec.to_builtins(memory), "order": training.order})
    return memory.step, digests(*decode_state(bytes(copied())))


def restorations(ground: Ground, places: Servers | None) -> list[Callable[[Ground], Verdict]]:
    """300 in a plain folder; with servers also 60 in an encrypted one, and 40 in an encrypted bucket with a cache."""
    root = ground.project(**SMALL)
    plain = trained(root, read_config(root))
    made = [functools.partial(_alone, project=plain, where="folder", number=number) for number in range(1, 301)]
    for where, every in (("encrypted folder", 5), ("encrypted S3", 7)) if places else ():
        assert places is not None
        place = places.place("SQLite", where, Retention())
        lay_out(place.root, **SMALL)
        other = trained(place.root, place.config)
        numbers = range(1, 301, every)
        made += [functools.partial(_alone, project=other, where=where, number=number) for number in numbers]
    return made


_ONE_AT_A_TIME = threading.Lock()


def _alone(ground: Ground, project: _Trained, where: str, number: int) -> Verdict:
    """All of them share a project, and the random states of this process."""
    with _ONE_AT_A_TIME:
        return restoration(project, where, number)


# ------------------------------------------------------------------------------------------------------------ whole runs


def _all(ws: Workspace, live: list[Checkpoint], rng: random.Random) -> str:
    for number in range(1, len(live) + 1):
        _flip(ws, live[:number], rng)
    return "all flipped"


def _best(ws: Workspace, live: list[Checkpoint], rng: random.Random) -> str:
    """The one whose weights the model is made of, which is not the newest."""
    best = min((each for each in live if each.score is not None), key=lambda each: (each.score, each.step))
    assert best is not live[-1]
    return _flip(ws, [best], rng)


_HARMS: dict[str, Harm] = {
    "flipped": _flip,
    "cut": _cut,
    "lost": _lose,
    "swapped": _swap,
    "all damaged": _all,
    "the best damaged": _best,
}


def whole_runs(ground: Ground) -> list[Callable[[Ground], Verdict]]:
    """A run that was killed before its last save, when its best weights were older than that, goes on from what is damaged."""
    twin, project = ground.twin(), ground.project()
    end = begin(project, Doom("save", len(twin.saved), "kill")).end()
    assert end.code == KILLED, end
    return [functools.partial(whole_run, project=project, name=name) for name in _HARMS]


def whole_run(ground: Ground, project: Path, name: str) -> Verdict:
    root = ground.copy(project)
    with open_folder(root, read_config(root)) as ws:
        (run,) = list_runs(ws)
        live = checkpoints_of(ws, run.id)
        verdict = Verdict(f"a run with {name}: {_HARMS[name](ws, live, random.Random(name))}")
    if name == "the best damaged":  # which the first attempt finds out at its end
        verdict.require(begin(root).end().code == ExitCode.STORAGE, "nobody told that the best weights are damaged")
    if found := finished(verdict, root, ground.twin()):
        anew = name in ("all damaged", "the best damaged")  # later checkpoints are of no use without the best weights
        verdict.require((found.restored[-1] == 0) == anew, f"attempts began at steps {found.restored}")
        words = (root / "output").read_text()
        verdict.require(("anew" in words) == anew, "that it starts anew was not said, or said of another")
    verdict.counts["whole runs"] += 1
    return verdict
