"""`make chaos`, its second half: storms over trainings, after each of which the same command ends with the same bits.

    kills       a run is killed at random times, or within a save or an evaluation for sure, some twice in one epoch
    damage      the newest checkpoint is flipped, cut, lost or swapped: found before anything of it is used, and the one before
                it is restored; whole runs too, also with all checkpoints damaged, or only the one with the best weights
    failpoints  at each operation of a save the process is killed, the disk is full, or the disk fails
    leaves      SIGTERM at the start, in a step, an evaluation, a save, at the last step; SIGSTOP; a step that hangs; a store
                that is removed

What is compared with an undisturbed twin: digests of weights, optimiser, average and random states, of all that the loop
remembers and of the metric history, and the end of the sample ledger. A line for each experiment that went wrong, a summary for
each storm; it ends with 1 if anything was lost or wrong.
"""

import argparse
import functools
import gc
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

import torch._dynamo  # noqa: E402 - what an export imports, and is slow to
import torch.onnx  # noqa: E402, F401 - as above
from damage import restorations, whole_runs  # noqa: E402
from doom import DISK, SHIP, Act, Doom, takes_room  # noqa: E402
from ground import Ground, Verdict, finished  # noqa: E402
from lives import KILLED, End, Life, be_ready, begin, begin_outside, saved, told, until  # noqa: E402
from places import Servers, servers  # noqa: E402
from trial import SMALL, Ending, ending, newest_step  # noqa: E402

import velodrome.cli.progress  # noqa: E402 - as above
import velodrome.cli.summary  # noqa: E402
import velodrome.models.torch  # noqa: E402, F401
from velodrome.core.errors import ExitCode  # noqa: E402
from velodrome.core.logging import configure_logging  # noqa: E402
from velodrome.registry import provenance  # noqa: E402

provenance._lock = functools.cache(provenance._lock)  # type: ignore[attr-defined]  # half of what a small run takes


# --------------------------------------------------------------------------------------------------------------- kills


def kill(ground: Ground, number: int) -> Verdict:
    """One training, killed once or twice. Every fifth dies in a save, every fifth in an evaluation, the others by the clock;
    every third dies again some steps after it came back."""
    rng, workers = random.Random(f"kill {number}"), (0, 2)[number % 2]
    twin = ground.twin()
    point = {0: "save", 1: "evaluation"}.get(number % 5, "")
    verdict = Verdict(f"kill {number}, {workers} workers, {point or 'by the clock'}")
    evaluations = twin.steps // twin.per_epoch
    if point == "save":
        doom = Doom("save", rng.randint(2, len(twin.saved)), "kill", operation=rng.randint(1, 20))
    else:
        doom = Doom("evaluation", rng.randint(2, evaluations), "kill")
    for _ in range(_TRIES):
        project = ground.project(workers=workers)
        killed = begin(project, doom).end().code == KILLED if point else _killed_by_the_clock(project, twin, rng)
        if killed:
            break  # else the clock was slower than the training
    verdict.require(killed, "it was over before it could be killed")
    verdict.counts.update({"kills": 1, f"in {point or 'clock'}": 1})
    if number % 3 == 0:
        again = begin(project, Doom("step", rng.randint(1, 2), "kill")).end()
        verdict.counts["kills"] += again.code == KILLED
    if found := finished(verdict, project, twin):
        later = found.restored[1:]
        verdict.require(later and all(later), f"attempts began at steps {found.restored}")
        verdict.counts["resumed"] += sum(step > 0 for step in later)
        epochs = [step // twin.per_epoch for step in later]
        verdict.counts["twice in one epoch"] += len(epochs) == 2 and epochs[0] == epochs[1]
    return verdict


def _killed_by_the_clock(project: Path, twin: Ending, rng: random.Random) -> bool:
    """A process of its own, killed some time after some checkpoint was recorded."""
    goal, pause = rng.randint(1, len(twin.saved) - 8), rng.uniform(0.0, 0.02)
    process = begin_outside(project)
    until(lambda: saved(project) >= goal, lambda: process.poll() is None)
    time.sleep(pause)
    alive = process.poll() is None
    process.kill()
    process.wait()
    return alive


# ---------------------------------------------------------------------------------------------------------- failpoints

_AT = 9
"""The save whose operations are harmed: older checkpoints than are kept are dropped in it."""


def failpoint(ground: Ground, operation: int, act: Act) -> Verdict:
    """One operation of one save is harmed: a checkpoint that verifies is there, the error is named, the end the same."""
    twin, doom = ground.twin(**SMALL), Doom("save", _AT, act, operation)
    for _ in range(_TRIES):
        project = ground.project(**SMALL)
        end = begin(project, doom).end()
        if end.code != 0 or len(end.operations) >= operation:
            break  # else the save before had been late, had taken these histories along, and left fewer operations
    name = end.operations[operation - 1] if len(end.operations) >= operation else ""
    verdict = Verdict(f"{doom} ({name}): ended with {end.code}", Counter({f"met {act}": 1}))
    verdict.require(end.code in _ENDS[act], f"it ended with {end.code}: {end.said}")
    if end.code == ExitCode.STORAGE:
        verdict.require(end.error.get("remedy"), f"no remedy is given: {end.said}")
        verdict.counts["named"] += 1
    elif act in DISK:
        verdict.require(_may_be_silent(name, act), "a failed save was not told")
    step = newest_step(project)
    verdict.require(step >= twin.saved[_AT - 2], f"the newest checkpoint that verifies is of step {step}")
    if end.code == 0:
        verdict.compare(ending(project), twin)
    elif found := finished(verdict, project, twin):
        verdict.require(found.restored[-1] == step, f"it went on from step {found.restored[-1]}, not {step}")
        verdict.counts["resumed"] += found.restored[-1] > 0
    return verdict


def _may_be_silent(name: str, act: Act) -> bool:
    """What a save can do without: a lock that only says who writes, a link in whose place a rename does, a folder that is
    there, histories that wait in their spool; and a full disk refuses only what takes room."""
    return name.startswith(SHIP) or name in ("flock", "link", "mkdir") or (act == "ENOSPC" and not takes_room(name))


_ENDS: dict[str, tuple[int | str, ...]] = {
    "kill": (KILLED,),
    "ENOSPC": (0, ExitCode.STORAGE),
    "EROFS": (ExitCode.STORAGE,),
    "EIO": (0, ExitCode.STORAGE),
}
_TRIES = 9


def operations(ground: Ground) -> int:
    """How many operations the save has."""
    return len(begin(ground.project(**SMALL), Doom("save", _AT, "count")).end().operations)


# -------------------------------------------------------------------------------------------------------------- leaves

_LEAVES = {
    "at the start": Doom("start", 1, "leave"),
    "in a step": Doom("step", 30, "leave"),
    "in an evaluation": Doom("evaluation", 2, "leave"),
    "as a save begins": Doom("save", 7, "leave"),
    "within a save": Doom("save", 7, "leave", operation=4),
}


def leave(ground: Ground, name: str) -> Verdict:
    """SIGTERM at a sure moment: it saves within a step, leaves with its own exit code, and goes on as if it never had."""
    twin, project = ground.twin(**SMALL), ground.project(**SMALL)
    last = Doom("step", twin.steps, "leave")
    end = begin(project, _LEAVES.get(name, last)).end()
    verdict = Verdict(f"SIGTERM {name}", Counter({"asked": 1}))
    verdict.require(end.code == ExitCode.PREEMPTED, f"it ended with {end.code}: {end.said}")
    verdict.counts["left"] += end.code == ExitCode.PREEMPTED
    step = newest_step(project)
    if name in ("in a step", "at the last step"):
        doom = _LEAVES.get(name, last)
        verdict.require(step == doom.call, f"asked in step {doom.call} it left after step {step}")
    if found := finished(verdict, project, twin):
        verdict.require(found.restored[-1] == step, f"it went on from step {found.restored[-1]}, not {step}")
    return verdict


def stopped(ground: Ground) -> Verdict:
    """SIGSTOP and, later, SIGCONT."""
    twin, project = ground.twin(**SMALL), ground.project(**SMALL)
    verdict, life = Verdict("SIGSTOP"), _hanging(project)
    life.send(signal.SIGSTOP)
    (project / "hang").unlink()
    time.sleep(1.5)
    life.send(signal.SIGCONT)
    return _ended(verdict, life, project, twin)


def stalled(ground: Ground) -> Verdict:
    """A forward that hangs: it is told where, and when it goes on the end is the same."""
    twin, project = ground.twin(**SMALL), ground.project(**SMALL)
    verdict, life = Verdict("a step that hangs"), _hanging(project)
    noticed = until(lambda: told(project, "run.stalled") > 0, lambda: life.alive)
    (project / "hang").unlink()
    verdict.require(noticed, "nobody told that it hangs")
    verdict.counts["stall told"] += noticed
    return _ended(verdict, life, project, twin)


def removed(ground: Ground, name: str) -> Verdict:
    """The whole store, or the blobs alone, go while it trains: a named error. Without a store it is another training; blobs
    that are brought back are those that it goes on with."""
    twin, project = ground.twin(**SMALL), ground.project(**SMALL)
    verdict, life = Verdict(f"{name or 'all'} removed"), _hanging(project)
    (project / ".velodrome" / name).rename(project / "gone")
    (project / "hang").unlink()
    end = life.end()
    verdict.require(end.code == ExitCode.STORAGE and end.error.get("remedy"), f"it ended with {end}")
    verdict.counts["removal named"] += end.code == ExitCode.STORAGE
    if name:
        shutil.copytree(project / "gone", project / ".velodrome" / name, dirs_exist_ok=True)
    finished(verdict, project, twin)
    return verdict


def _hanging(project: Path) -> Life:
    """A training that waits in a step, with three checkpoints recorded."""
    life = begin(project, Doom("step", 20, "hang"))
    until(lambda: (project / "hang").exists() and saved(project) >= 3, lambda: life.alive)
    return life


def _ended(verdict: Verdict, life: Life, project: Path, twin: Ending) -> Verdict:
    end: End = life.end()
    verdict.require(end.code == 0, f"it ended with {end.code}: {end.said}")
    if end.code == 0:
        verdict.compare(ending(project), twin)
    return verdict


# -------------------------------------------------------------------------------------------------------------- all of it

Experiment = Callable[[Ground], Verdict]


def _failpoints(ground: Ground) -> list[Experiment]:
    acts: tuple[Act, ...] = ("kill", "ENOSPC", "EIO")
    harms = [(operation, act) for operation in range(1, operations(ground) + 1) for act in acts]
    return [functools.partial(failpoint, operation=operation, act=act) for operation, act in [*harms, (2, "EROFS")]]


def _leaves(ground: Ground) -> list[Experiment]:
    asked = [functools.partial(leave, name=name) for name in (*_LEAVES, "at the last step")]
    gone = [functools.partial(removed, name=name) for name in ("", "blobs")]
    return [*asked, stopped, stalled, *gone]


@dataclass(frozen=True)
class Storm:
    """Experiments of one sort; a `few` of them, by their numbers, are enough for a test of every day."""

    name: str
    experiments: Callable[[Ground, Servers | None], list[Experiment]]
    few: Sequence[int]


STORMS = (
    Storm("kills", lambda ground, places: [functools.partial(kill, number=number) for number in range(1, 21)], (5, 12)),
    Storm("damage", restorations, range(10, 301, 10)),
    Storm("whole runs", lambda ground, places: whole_runs(ground), (6,)),
    Storm("failpoints", lambda ground, places: _failpoints(ground), (10, 11, 21, 28, 33, 38)),
    Storm("leaves", lambda ground, places: _leaves(ground), (1, 4, 6, 8)),
)


def rage(storm: Storm, ground: Ground, places: Servers | None, few: bool, seed: int | None) -> list[Verdict]:
    """Two experiments at a time."""
    experiments = storm.experiments(ground, places)
    chosen = [experiments[number - 1] for number in storm.few if number <= len(experiments)] if few else experiments
    if seed is not None:
        chosen = experiments[seed - 1 : seed]
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(functools.partial(_tried, ground), chosen))
    counts = sum((verdict.counts for verdict in verdicts), Counter[str]())
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    sys.stdout.writelines(f"{verdict}\n" for verdict in wrong)
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    lost = sum(len(verdict.wrong) for verdict in wrong)
    seconds = time.monotonic() - begun
    sys.stdout.write(
        f"{storm.name}: {len(verdicts) - len(wrong)}/{len(verdicts)}: {told}, {lost} wrong ({seconds:.0f} s)\n"
    )
    sys.stdout.flush()
    return verdicts


def _tried(ground: Ground, experiment: Experiment) -> Verdict:
    try:
        return experiment(ground)
    except Exception as error:  # noqa: BLE001 - one experiment's failure is not the storm's
        return Verdict(str(experiment), wrong=[f"{type(error).__name__}: {error}"])


@contextmanager
def _ground() -> Iterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="velodrome-storm-"))
    try:
        yield Ground(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="only the experiment of this number, of each storm")
    parser.add_argument("--storm", choices=[storm.name for storm in STORMS], help="only this storm")
    parser.add_argument("--few", action="store_true", help="some of each storm, and no servers")
    arguments = parser.parse_args()
    verdicts: list[Verdict] = []
    with _ground() as ground, nullcontext() if arguments.few else servers() as places:
        for storm in STORMS:
            if arguments.storm in (None, storm.name):
                verdicts += rage(storm, ground, places, arguments.few, arguments.seed)
    wrong = sum(len(verdict.wrong) for verdict in verdicts)
    sys.stdout.write(f"training: {len(verdicts)} experiments, {wrong} lost or wrong\n")
    return 1 if wrong else 0


if __name__ == "training_storm":  # in the process that all others are forked from
    provenance._lock()  # type: ignore[attr-defined]
    gc.freeze()  # or each collection copies what is shared

if __name__ == "__main__":
    configure_logging("error")  # what is expected here is told by the verdicts
    be_ready("training_storm")
    sys.exit(main())
