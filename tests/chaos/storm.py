"""`make chaos`: seeded storms over real processes, files and servers, after each of which nothing may be missing.

A seed chooses a ledger and a place of blobs, what processes do there at once, and what happens to them: they are killed at
their n-th moment, their stores fail, their disk is full, their connections are cut, their clock is set back. Then everything
runs again to its end, undisturbed, and the verdict is:

    lost        what a verb had returned before the harm is there, and verifies
    dangling    the doctor finds nothing wrong
    wrong       numbers without gaps, histories in one line, results as of an undisturbed twin, no secret in any file or output

Processes are forked from one that has imported everything, so that starting one costs milliseconds. A line for each seed,
then a summary; it ends with 1 if anything was lost, dangling or wrong.
"""

import argparse
import gc
import json
import multiprocessing
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.parse import quote

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from deeds import DEEDS, Deed, Hand  # noqa: E402 - after the paths
from flips import flip  # noqa: E402
from harm import UNHARMED, Harm, Moments, failing, fill_disk, harmed, killing, room  # noqa: E402
from places import COMBINATIONS, Place, Servers, servers, wired  # noqa: E402
from scenarios import SCENARIOS, Ack, Scenario, dangling, left, lost, wrong  # noqa: E402
from servers import POSTGRES_PASSWORD, S3_SECRET  # noqa: E402

from velodrome.core.errors import VelodromeError  # noqa: E402
from velodrome.registry import provenance  # noqa: E402
from velodrome.store.faults import FaultPlan  # noqa: E402

_PROCESSES = multiprocessing.get_context("forkserver")
_LONGEST = 600.0
_FLIP_EVERY = 3
_LAST = ("ended", "refused", "escaped")
_KINDS = {"kills": 6, "faults": 3, "full disk": 1, "cut wires": 2, "clock back": 1}


@dataclass(frozen=True)
class Order:
    """What a process is told: where to do what, and what happens to it. It speaks into the project's file `acks`."""

    place: Place
    deed: str
    number: int
    harm: Harm = UNHARMED


@dataclass
class Verdict:
    """What became of a seed."""

    seed: int
    where: str
    story: list[str] = field(default_factory=list)
    kills: int = 0
    faults: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        return not (self.lost or self.dangling or self.wrong)

    def __str__(self) -> str:
        counts = f"{self.acknowledged} acknowledged, {len(self.lost)} lost, {len(self.dangling)} dangling"
        lines = [f"seed {self.seed}: {self.where}: {'; '.join(self.story)}: {counts} ({self.seconds:.1f} s)"]
        for name in ("lost", "dangling", "wrong"):
            lines += [f"    {name}: {text}" for text in getattr(self, name)]
        return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- in the processes


def work(order: Order) -> None:
    """A process's life."""
    moments = Moments(order.harm.moment)
    say = _speaker(order)
    try:
        if order.harm.disk is not None:
            fill_disk(order.harm.disk)
        plan = FaultPlan(*([order.harm.fault] if order.harm.fault else []))
        with order.place.open() as ws:
            over = (order.place.root / "over").exists
            DEEDS[order.deed].act(Hand(harmed(ws, order.harm, plan), order.number, say, over))
        say("ended", deed=order.deed, moments=moments.passed, calls=len(plan.calls))
    except VelodromeError as error:
        traceback.print_exc()
        say("refused", error=type(error).__name__, problem=str(error))
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        traceback.print_exc()
        say("escaped", error=type(error).__name__, problem=str(error))


def prepare(place: Place, scenario: str) -> None:
    """Make what is there before."""
    _speaker(Order(place, "prepare", 0))
    SCENARIOS[scenario].prepare(place)
    _answer(place, "prepare", None)


def judge(place: Place, scenario: str) -> None:
    """Look at what is left, before and after a collection."""
    _speaker(Order(place, "judge", 0))
    found: dict[str, Any] = {"lost": [], "dangling": [], "wrong": []}
    with place.open() as ws:
        for _ in ("before", "after"):
            found["lost"] += lost(ws, acks_of(place))
            found["dangling"] += dangling(ws)
            found["wrong"] += [*wrong(ws), *left(ws)]
        found["outcome"] = SCENARIOS[scenario].outcome(ws)
    _answer(place, "judge", found)


def spoil(place: Place, scenario: str, seed: int) -> None:
    """Flip a bit: what was done, and what was not found or mended."""
    _speaker(Order(place, "spoil", 0))
    lines: list[str] = []
    found = list(flip(place, random.Random(seed), lines.append, SCENARIOS[scenario].outcome))
    _answer(place, "spoil", [lines, found])


def _answer(place: Place, question: str, found: object) -> None:
    (place.root / question).write_text(json.dumps(found))


def _speaker(order: Order) -> Any:
    """All that this process prints goes into the project's file `output`; what it says with the result, into `acks`.

    A full disk is not ours: what is printed then goes nowhere, and what is said has room.
    """
    output = os.devnull if order.harm.disk else order.place.root / "output"
    with open(output, "ab") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
    acks = os.open(order.place.root / "acks", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def say(what: str, **details: Any) -> None:
        with room():
            os.write(acks, json.dumps({"what": what, "process": order.number, **details}).encode() + b"\n")

    return say


def acks_of(place: Place) -> list[Ack]:
    path = place.root / "acks"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


# --------------------------------------------------------------------------------------------------------------- the storm


class Storm:
    """Seeds over the same servers. What a scenario comes to undisturbed is found once."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._twins: dict[str, object] = {}
        self._making = threading.Lock()

    def seed(self, seed: int) -> Verdict:
        """One storm."""
        begun = time.monotonic()
        rng = random.Random(seed)
        scenario = scenario_of(seed)
        place = self._servers.place(*COMBINATIONS[seed // len(SCENARIOS) % len(COMBINATIONS)], scenario.retention)
        verdict = Verdict(seed, f"{place}, {scenario.name}")
        try:
            self._rage(verdict, place, scenario, rng)
        except Exception as error:  # noqa: BLE001 - one seed's failure is not the storm's
            verdict.wrong.append(f"{type(error).__name__}: {error}")
        verdict.seconds = time.monotonic() - begun
        return verdict

    def _rage(self, verdict: Verdict, place: Place, scenario: Scenario, rng: random.Random) -> None:
        expected = self._twin(scenario)
        self._prepare(place, scenario)
        for _ in range(rng.randint(1, 3)):
            self._round(verdict, place, scenario, rng)
        self._settle(verdict, place, scenario)
        self._judge(verdict, place, scenario, expected)
        if verdict.clean and verdict.seed % _FLIP_EVERY == 0:
            self._flip(verdict, place, scenario)

    def _twin(self, scenario: Scenario) -> object:
        """The outcome of a project that nobody disturbs."""
        with self._making:
            if scenario.name not in self._twins:
                place = self._servers.place("SQLite", "folder", scenario.retention)
                verdict = Verdict(0, f"{scenario.name}, undisturbed")
                self._prepare(place, scenario)
                self._settle(verdict, place, scenario)
                self._twins[scenario.name] = self._judge(verdict, place, scenario, None)
                if not verdict.clean:
                    raise RuntimeError(str(verdict))
            return self._twins[scenario.name]

    def _prepare(self, place: Place, scenario: Scenario) -> None:
        self._alone(prepare, place, scenario.name)

    def _round(self, verdict: Verdict, place: Place, scenario: Scenario, rng: random.Random) -> None:
        """All processes once, with harm to some."""
        kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
        harms = [_harm(kind, rng, DEEDS[deed]) for deed in scenario.deeds]
        with ExitStack() as stack:
            if kind == "cut wires" and place.ports:
                place, words = stack.enter_context(wired(place, rng))
                verdict.story.append(words)
                verdict.faults += 1
            elif all(harm == UNHARMED for harm in harms):
                harms[0] = killing(rng, DEEDS[scenario.deeds[0]].moments)
            orders = [
                Order(place, deed, number, harm)
                for number, (deed, harm) in enumerate(zip(scenario.deeds, harms, strict=True))
            ]
            verdict.story += [
                f"{order.deed} {order.number}: {order.harm}" for order in orders if order.harm != UNHARMED
            ]
            verdict.faults += sum(order.harm != UNHARMED and not order.harm.kills for order in orders)
            self._run(verdict, orders)
        for ack in acks_of(place):
            if ack["what"] == "escaped":
                verdict.wrong.append(f"{ack['error']} escaped from process {ack['process']}: {ack['problem']}")

    def _settle(self, verdict: Verdict, place: Place, scenario: Scenario) -> None:
        """All processes to their end, without harm."""
        before = len(acks_of(place))
        self._run(verdict, [Order(place, deed, number) for number, deed in enumerate(scenario.deeds)])
        for ack in acks_of(place)[before:]:
            if ack["what"] in ("refused", "escaped"):
                verdict.wrong.append(f"undisturbed, process {ack['process']}: {ack['error']}: {ack['problem']}")

    def _judge(self, verdict: Verdict, place: Place, scenario: Scenario, expected: object) -> object:
        acks = acks_of(place)
        verdict.acknowledged = sum(ack["what"] not in _LAST for ack in acks)
        found = self._alone(judge, place, scenario.name)
        for name in ("lost", "dangling", "wrong"):
            getattr(verdict, name).extend(found[name])
        verdict.wrong += _secrets(place)
        if expected is not None and found["outcome"] != expected:
            verdict.wrong.append(f"it came to {found['outcome']}, undisturbed to {expected}")
        return found["outcome"]

    def _flip(self, verdict: Verdict, place: Place, scenario: Scenario) -> None:
        lines, found = self._alone(spoil, place, scenario.name, verdict.seed)
        verdict.story += lines
        verdict.faults += 1
        verdict.wrong += found

    def _alone(self, action: Callable[..., None], place: Place, *arguments: object) -> Any:
        """Its answer, from a process of its own."""
        process = _PROCESSES.Process(target=action, args=(place, *arguments))
        process.start()
        process.join(_LONGEST)
        _end(process)
        answer = place.root / action.__name__
        if not answer.exists():
            said = (place.root / "output").read_text().splitlines()[-3:]
            raise RuntimeError(f"{action.__name__} did not end: {said}")
        return json.loads(answer.read_text())

    def _run(self, verdict: Verdict, orders: list[Order]) -> None:
        """Start processes and wait for them."""
        place = orders[0].place
        before, over = len(acks_of(place)), place.root / "over"
        over.unlink(missing_ok=True)
        pairs = [(_PROCESSES.Process(target=work, args=(order,)), order) for order in orders]
        for process, order in pairs:
            process.start()
            if order.harm.seconds is not None:
                timer = threading.Timer(order.harm.seconds, _end, [process])
                timer.daemon = True
                timer.start()
        deadline = time.monotonic() + _LONGEST
        for process, order in sorted(pairs, key=lambda pair: DEEDS[pair[1].deed].beside):
            if DEEDS[order.deed].beside:
                over.touch()
            process.join(max(0.0, deadline - time.monotonic()))
            if _end(process):
                verdict.wrong.append(f"process {order.number} did not end")
        ended = {ack["process"] for ack in acks_of(place)[before:] if ack["what"] in _LAST}
        for order in orders:  # not by exit codes, which two threads that start processes cannot both read
            verdict.kills += order.number not in ended
            if order.number not in ended and not order.harm.kills:
                verdict.wrong.append(f"process {order.number} vanished")


def _end(process: BaseProcess) -> bool:
    """Kill a process if it lives still: the number of one that has ended may be another's by now."""
    alive = process.is_alive()
    if alive:
        process.kill()
    return alive


def scenario_of(seed: int) -> Scenario:
    return list(SCENARIOS.values())[seed % len(SCENARIOS)]


def _harm(kind: str, rng: random.Random, deed: Deed) -> Harm:
    """What happens to one process in a round of that kind; to one in four nothing does."""
    if rng.random() < 0.25:
        return UNHARMED
    if kind == "kills":
        return killing(rng, deed.moments)
    if kind == "faults":
        return failing(rng, deed.calls)
    if kind == "full disk":
        return Harm(disk=int(2 ** rng.uniform(12, 18)))
    if kind == "clock back":
        return Harm(back=timedelta(hours=rng.choice((1, 24, 24 * 400))))
    return UNHARMED


def _secrets(place: Place) -> Iterator[str]:
    """Where a password stands that may stand nowhere."""
    words = [text.encode() for secret in (POSTGRES_PASSWORD, S3_SECRET) for text in (secret, quote(secret, safe=""))]
    for path in place.root.rglob("*"):
        if path.is_file() and any(word in path.read_bytes() for word in words):
            yield f"a secret stands in {path.relative_to(place.root)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=300, help="how many, from 1")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--scenario", choices=SCENARIOS, help="only seeds of this one")
    parser.add_argument("--at-once", type=int, default=2, help="how many seeds at a time")
    arguments = parser.parse_args()
    seeds = [arguments.seed] if arguments.seed is not None else range(1, arguments.seeds + 1)
    seeds = [seed for seed in seeds if arguments.scenario in (None, scenario_of(seed).name)]
    verdicts: list[Verdict] = []
    with servers() as started, ThreadPoolExecutor(arguments.at_once) as pool:
        for verdict in pool.map(Storm(started).seed, seeds):
            verdicts.append(verdict)
            sys.stdout.write(f"{verdict}\n")
            sys.stdout.flush()
    total = {name: sum(len(getattr(one, name)) for one in verdicts) for name in ("lost", "dangling", "wrong")}
    kills, faults = sum(one.kills for one in verdicts), sum(one.faults for one in verdicts)
    sys.stdout.write(
        f"chaos: {len(verdicts)} seeds, {kills} kills, {faults} faults, "
        f"{total['lost']} lost, {total['dangling']} dangling, {total['wrong']} wrong\n"
    )
    bad = [str(one.seed) for one in verdicts if not one.clean]
    if bad:
        sys.stdout.write(f"again: make chaos SEED=...: {', '.join(bad)}\n")
    return 1 if bad else 0


if __name__ == "storm":  # in the process that all others are forked from
    provenance._lock()  # type: ignore[attr-defined]
    gc.freeze()  # or each collection copies what is shared

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    _PROCESSES.set_forkserver_preload(["storm"])
    sys.exit(main())
