"""The loop under kills: at every write and inside the fit, again and again, while data arrives and people interfere.

A kill is an exception that nothing catches, raised around the ledger and the blobs; after it nothing is written any more, so
what is left is what a kill -9 leaves. The books are read by an oracle of their own: records and events as plain JSON. A twin
that nobody kills sees the same data at the same moments and must tell the same tale.
"""

import dataclasses
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from importlib import metadata
from itertools import count, pairwise
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from project import LINEAR, Project, customers

import velodrome as vd
from velodrome.control.checkup import examine
from velodrome.control.retraining import retrain
from velodrome.core.errors import DataError, SchemaError, StateError
from velodrome.registry import provenance
from velodrome.registry.versions import approve, archive, promote, reject, rollback
from velodrome.store.ledger import Event, Ledger, Move, verify_chain
from velodrome.store.workspace import open_folder

pytestmark = pytest.mark.slow  # together more than two seconds

MODEL, POLICY, PERSON = "buyers", "policy:passed-gates", "ann"
WORD = {"reason": "I know better", "actor": PERSON}
ROWS = 200
SHAPES: dict[str, dict[str, Any]] = {
    "as before": {},
    "turned around": {"slope": -3.0},
    "shifted": {"shift": 2.0},
    "half": {"rows": ROWS // 2},
    "empty": {},
}
STEPS = [
    *("snapshot.taken", "quality.measured", "cycle.decided", "run.created", "run.finished", "run.evaluated"),
    *("run.registered", "run.judged", "version.candidate", "version.approved", "version.rejected", "alias.promoted"),
    *("run.decided", "cycle.concluded"),
]
"""Events of a look, in their order."""
LAST = st.one_of(st.just(0), st.integers(1, 60), st.sampled_from(STEPS))
"""The last moment of a process; 0 is none."""


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed does not change here, and is looked up once: two thirds of the time of so small a training."""
    monkeypatch.setattr(provenance, "_lock", cache(provenance._lock))
    monkeypatch.setattr(metadata, "version", cache(metadata.version))


# ------------------------------------------------------------------------------------------------------------------ kills


class Killed(BaseException):
    """Nothing that the loop does may catch this."""


class Fate:
    """The moments of a process at which something is written or told, and the one at which it dies, if at any.

    Args:
        last: number of the moment, from 1, or the type of an event: the commit that brings it is the last. 0: none.
        before: die before it rather than directly after it.
    """

    def __init__(self, last: int | str = 0, *, before: bool = False) -> None:
        self.last, self.before = last, before
        self.moments, self.dead = 0, False

    def meet(self, act: Callable[..., Any], *given: Any, **options: Any) -> Any:
        self.moments += 1
        now = self.last in (self.moments, *(write.type for write in _writes(given) if isinstance(write, Move)))
        self.dead = self.dead or (now and self.before)
        if self.dead:
            raise Killed
        done = act(*given, **options)
        self.dead = now
        if self.dead:
            raise Killed
        return done

    @contextmanager
    def task(self, *_: object) -> Iterator["Fate"]:
        """As a workspace's progress: the learner's fit lies between these two moments."""
        self.meet(lambda: None)
        yield self

    def advance(self, *_: object, **__: object) -> None:
        self.meet(lambda: None)


class Mortal:
    """A ledger, or blobs, in the hands of a process that may die at a write."""

    def __init__(self, inner: Any, fate: Fate) -> None:
        self._inner, self._fate = inner, fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return partial(self._fate.meet, found) if name in ("commit", "put", "delete") else found


def _writes(given: tuple[Any, ...]) -> tuple[Any, ...]:
    return given[0] if given and isinstance(given[0], tuple) else ()


def mortal(world: Any, fate: Fate) -> Any:
    """The same world in the hands of a process with that fate."""
    ws = world.ws
    return world.using(
        dataclasses.replace(ws, ledger=Mortal(ws.ledger, fate), blobs=Mortal(ws.blobs, fate), progress=fate)
    )


def recipe_of(world: Any, *, threshold: float = 0.6, person: bool = False) -> Any:
    """Trains on the newest weeks, so a challenger follows a world that turned around."""
    recipe = world.recipe(
        split=vd.TimeSplit(validation="4d", test="10d", train="14d"),
        evaluation=vd.Evaluation("roc_auc", resamples=40),
        gates=[vd.AtLeast("roc_auc", threshold), vd.NotWorse("champion", by=0.1)],
        retrain={"min_rows": 50, "drift": vd.Drift(minimum_rows=50)},
    )
    if not person:
        return recipe
    return world.recipe(
        **{name: getattr(recipe, name) for name in ("split", "evaluation", "gates")},
        operate=vd.Operate(retrain=recipe.operate.retrain),
    )


# ------------------------------------------------------------------------------------------------------------- the oracle


class Books:
    """What a ledger says, as plain JSON."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.records: dict[str, dict[str, Any]] = {one.digest: json.loads(one.payload) for one in ledger.scan()}
        self.decisions = [event for event in ledger.events(f"cycle:{MODEL}") if event.type == "cycle.decided"]
        self.promotions = ledger.events(f"alias:{MODEL}@champion")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records.values() if record["kind"] == kind]

    @property
    def cycles(self) -> list[dict[str, Any]]:
        return [self.records[event.body["to"]] for event in self.decisions]

    def decision_at(self, moment: datetime) -> Event:
        return [event for event in self.decisions if event.time <= moment][-1]

    def conclusion(self, decision: Event) -> Event | None:
        found = self.ledger.events(f"concluded:{decision.body['to']}")
        assert len(found) <= 1
        return found[0] if found else None

    @property
    def open(self) -> bool:
        """A training was decided and has not come to its end."""
        return bool(self.decisions) and self._waits(self.decisions[-1])

    def _waits(self, decision: Event) -> bool:
        return decision.body["action"] == "retrain" and self.conclusion(decision) is None

    @property
    def champion(self) -> str | None:
        pointer = self.ledger.pointer(f"alias:{MODEL}@champion")
        return pointer.value if pointer else None

    @property
    def weights(self) -> str | None:
        """Of the champion: the digest of what its run came to, bit by bit."""
        runs = {version["run"] for version in self.of("version") if f"{MODEL}/{version['number']}" == self.champion}
        found = [outcome["weights"] for outcome in self.of("outcome") if outcome["run"] in runs]
        return found[0] if found else None


def verify(world: Any) -> Books:
    """Everything that is always true, whenever a process was killed and whatever people did."""
    books = Books(world.ws.ledger)
    _cycles_follow_each_other(books)
    _each_training_belongs_to_its_cycle(books)
    _each_conclusion_is_true(books)
    _the_champion_is_legitimate(books)
    for subject in books.ledger.subjects():
        verify_chain(subject, books.ledger.events(subject))
    assert examine(world.ws).problems == ()
    return books


def _cycles_follow_each_other(books: Books) -> None:
    """Numbers have no gaps, and nothing newer is decided while a training is open."""
    assert [cycle["number"] for cycle in books.cycles] == list(range(1, len(books.cycles) + 1))
    assert [event.body["action"] for event in books.decisions] == [one["decision"]["action"] for one in books.cycles]
    for before, after in pairwise(books.decisions):
        end = books.conclusion(before)
        assert after.body["from"] == before.body["to"]
        assert (end is not None) == (before.body["action"] == "retrain")
        assert end is None or before.time <= end.time <= after.time
    assert len(books.of("cycle")) == len(books.decisions)


def _each_training_belongs_to_its_cycle(books: Books) -> None:
    """No work is done twice: one run, with one outcome, and one version, for a snapshot; begun while its cycle was open."""
    runs = books.of("run")
    assert max(Counter((run["snapshot"], run["type"]) for run in runs).values(), default=1) == 1
    assert max(Counter(outcome["run"] for outcome in books.of("outcome")).values(), default=1) == 1
    versions = books.of("version")
    assert [version["number"] for version in versions] == list(range(1, len(versions) + 1))
    assert max(Counter(version["run"] for version in versions).values(), default=1) == 1
    for run in runs:
        begun = books.ledger.events(f"run:{run['id']}")[0].time
        decision = books.decision_at(begun)
        end = books.conclusion(decision)
        assert decision.body["action"] == "retrain"
        assert books.records[decision.body["to"]]["snapshot"] == run["snapshot"]
        assert end is None or begun <= end.time


def _each_conclusion_is_true(books: Books) -> None:
    ends = [(decision, end) for decision in books.decisions if (end := books.conclusion(decision))]
    assert len(books.of("conclusion")) == len(ends)
    for decision, end in ends:
        told = books.records[end.body["to"]]
        assert told["cycle"] == decision.body["to"]
        passed = all(verdict["passed"] for verdict in told["verdicts"])
        before = [event for event in books.ledger.events(f"version:{told['version']}") if event.time <= end.time]
        types = {event.type for event in before}
        promoted = any(event.type == "version.promoted" and event.time >= decision.time for event in before)
        happened = {
            "failed": told["version"] is None,
            "refused": not passed or "version.rejected" in types,
            "promoted": passed and promoted,
            "waiting": passed and "version.approved" not in types,
            "overtaken": passed and not promoted,
        }
        assert happened[told["verdict"]], told


def _the_champion_is_legitimate(books: Books) -> None:
    """It changes by a person's word, or by the policy: once for a cycle, and never to what was champion before."""
    by_policy = [event for event in books.promotions if event.actor == POLICY]
    assert {event.actor for event in books.promotions} <= {POLICY, PERSON}
    for name in (lambda event: event.body["to"], lambda event: books.decision_at(event.time).digest):
        assert max(Counter(map(name, by_policy)).values(), default=1) == 1
    for event in by_policy:
        end = books.conclusion(books.decision_at(event.time))
        told = books.records[end.body["to"]] if end else None
        assert (told["verdict"], told["version"]) == ("promoted", event.body["to"]) if told else books.open
        assert end is None or event.time <= end.time
    standing = {pointer.subject: pointer.value for pointer in books.ledger.pointers(f"version:{MODEL}/")}
    in_use = [subject for subject, value in standing.items() if "@" in str(value)]
    assert in_use == ([f"version:{books.champion}"] if books.champion else [])
    assert all(standing[subject] == "approved@champion" for subject in in_use)


def tale(world: Any) -> list[Any]:
    """What a world went through, without what differs between two times: ids, seconds, how often it was killed, and what
    a file was called when it was first read."""
    books = verify(world)
    assert not books.open
    shown = ("number", "at", "snapshot", "base", "champion", "rows", "quarantined")
    told = ("verdict", "version", "verdicts", "against", "comparison", "failure")
    story: list[Any] = []
    for decision, cycle in zip(books.decisions, books.cycles, strict=True):
        end = books.conclusion(decision)
        checks = [(reason["check"], reason["says"]) for reason in cycle["decision"]["reasons"]]
        story.append([{name: cycle[name] for name in shown}, cycle["decision"]["action"], checks])
        story.append([books.records[end.body["to"]][name] for name in told] if end else None)
    states = [(one.subject, one.value) for one in books.ledger.pointers(f"version:{MODEL}/")]
    return [*story, states, books.champion, books.weights]


# ------------------------------------------------------------------------------------------- one cycle, killed everywhere

FEBRUARY, MARCH = datetime(2020, 3, 1, tzinfo=UTC), datetime(2020, 4, 1, tzinfo=UTC)


@pytest.fixture
def begun(world: Any) -> Any:
    """A champion of January, and a February that turned around and was not looked at yet."""
    world.deliver(1, rows=ROWS)
    world.retrain(1, recipe_of(world))
    world.deliver(2, rows=ROWS, slope=-3.0)
    return world


@pytest.fixture
def copies(begun: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    folder, numbers = tmp_path_factory.mktemp("copies"), count()
    return lambda: type(begun)(Path(shutil.copytree(begun.root, folder / str(next(numbers)))))


def look(world: Any, now: datetime = FEBRUARY) -> Any:
    return retrain(world.ws, recipe_of(world), world.source, now=now)


def killed(world: Any, fate: Fate) -> bool:
    """Whether it was killed while it looked at February."""
    with suppress(Killed):
        look(mortal(world, fate))
        assert not fate.dead
    return fate.dead


@pytest.mark.slow
def test_a_kill_at_any_write_costs_nothing(copies: Callable[[], Any]) -> None:
    whole, every = copies(), Fate()
    with whole.ws:
        assert look(mortal(whole, every)).conclusion.verdict == "promoted"
        expected = tale(whole)
    assert every.moments > 30
    for fate in (Fate(1, before=True), *(Fate(moment) for moment in range(1, every.moments + 1))):
        world = copies()
        with world.ws:
            assert killed(world, fate), fate.last
            verify(world)
            look(world)
            assert tale(world) == expected, fate.last
        shutil.rmtree(world.root)


def test_killed_again_and_again_it_comes_to_the_same_end(copies: Callable[[], Any]) -> None:
    whole, world = copies(), copies()
    with whole.ws, world.ws:
        look(whole)
        lives = next(life for life in count(1) if not killed(world, Fate(life)))
        assert lives > 10
        assert look(world).found
        assert tale(world) == tale(whole)


def test_what_was_decided_is_done_on_its_own_data_before_anything_newer(copies: Callable[[], Any]) -> None:
    whole, world = copies(), copies()
    with whole.ws, world.ws:
        look(whole)
        assert killed(world, Fate("cycle.decided"))
        for each in (whole, world):
            each.deliver(3, rows=ROWS)
            assert look(each, MARCH).cycle.number == 3
        assert tale(world) == tale(whole)


@pytest.mark.parametrize("last", STEPS[-3:])
def test_what_a_person_took_back_after_a_kill_is_not_done_again(begun: Any, last: str) -> None:
    assert killed(begun, Fate(last))
    rollback(begun.ws, MODEL, **WORD)
    look(begun)
    books = verify(begun)
    assert [event.actor for event in books.promotions] == [POLICY, POLICY, PERSON]
    assert books.champion == f"{MODEL}/1"


@pytest.mark.parametrize("last", ["version.candidate", "version.approved"])
def test_what_a_person_put_away_after_a_kill_is_not_promoted(begun: Any, last: str) -> None:
    assert killed(begun, Fate(last))
    (reject if last == "version.candidate" else archive)(begun.ws, f"{MODEL}/2", **WORD)
    look(begun)
    assert verify(begun).champion == f"{MODEL}/1"


# ------------------------------------------------------------------------------------------------------ the state machine


class Year(RuleBasedStateMachine):
    """A model through its months. A model without a twin has people who interfere while a training is open."""

    def __init__(self, make: Callable[[bool], Any]) -> None:
        super().__init__()
        self.make = make
        self.worlds: list[Any] = []

    @initialize(trained=st.booleans(), alone=st.booleans())
    def begin(self, trained: bool, alone: bool) -> None:
        self.worlds = [self.make(trained) for _ in range(1 if alone else 2)]
        self.alone = alone
        self.delivered = {1: "as before"} if trained else {}
        self.month, self.skipped, self.broken = len(self.delivered), list[int](), list[int]()
        self.now = datetime(2020, 2, 1, tzinfo=UTC)
        self.settings: dict[str, Any] = {}

    @property
    def world(self) -> Any:
        return self.worlds[0]

    @property
    def books(self) -> Books:
        return Books(self.world.ws.ledger)

    # ---------------------------------------------------------------------------------------------------- what arrives

    def bring(self, month: int, shape: str, name: str = "", change: Callable[[Any], Any] = lambda frame: frame) -> None:
        for world in self.worlds:
            frame = change(world.frame(month, **{"rows": ROWS, **SHAPES[shape]}))
            world.write(frame.clear() if shape == "empty" else frame, f"visits-{month:02}{name}")
        self.now = max(self.now, datetime(2020, month + 1, 1, tzinfo=UTC))

    @precondition(lambda self: self.month < 10)
    @rule(shape=st.sampled_from([*SHAPES, "turned around"]), last=LAST, asked=st.booleans())
    def a_month_arrives_and_is_looked_at(self, shape: str, last: int | str, asked: bool) -> None:
        self.month += 1
        self.delivered[self.month] = shape
        self.bring(self.month, shape)
        self.look(Fate(last), asked)

    @precondition(lambda self: self.month < 10)
    @rule()
    def a_month_is_late(self) -> None:
        self.month += 1
        self.skipped.append(self.month)

    @precondition(lambda self: self.skipped)
    @rule(shape=st.sampled_from([*SHAPES]))
    def a_late_month_arrives(self, shape: str) -> None:
        month = self.skipped.pop()
        self.delivered[month] = shape
        self.bring(month, shape)

    @precondition(lambda self: self.delivered)
    @rule(data=st.data(), name=st.sampled_from(["-again", "b"]), turned=st.booleans())
    def a_month_arrives_again(self, data: st.DataObject, name: str, turned: bool) -> None:
        """As it was, under a name that comes before or after the first one's; perhaps in other bytes."""
        month = data.draw(st.sampled_from([*self.delivered]))
        self.bring(month, self.delivered[month], name, lambda frame: frame.reverse() if turned else frame)

    @precondition(lambda self: self.month < 10 and self.delivered and not self.broken)
    @rule()
    def a_month_arrives_without_a_column(self) -> None:
        self.month += 1
        self.broken.append(self.month)
        self.bring(self.month, "as before", change=lambda frame: frame.drop("wants"))

    @precondition(lambda self: self.broken)
    @rule()
    def the_column_comes(self) -> None:
        month = self.broken.pop()
        self.delivered[month] = "as before"
        self.bring(month, "as before")

    @rule(days=st.integers(1, 9))
    def time_passes(self, days: int) -> None:
        self.now += timedelta(days=days)

    # -------------------------------------------------------------------------------------------------- what people do

    @precondition(lambda self: self.alone or not self.books.open)
    @rule(threshold=st.sampled_from([0.6, 0.99]), person=st.booleans())
    def the_recipe_is_edited(self, threshold: float, person: bool) -> None:
        self.settings = {"threshold": threshold, "person": person}

    @precondition(lambda self: (self.alone or not self.books.open) and self.books.of("version"))
    @rule(data=st.data(), act=st.sampled_from([rollback, promote, approve, archive, reject]))
    def a_person_acts(self, data: st.DataObject, act: Callable[..., Any]) -> None:
        number = data.draw(st.integers(1, len(self.books.of("version"))))
        for world in self.worlds:
            with suppress(StateError):
                act(world.ws, MODEL if act is rollback else f"{MODEL}/{number}", **WORD)

    # ------------------------------------------------------------------------------------------------------- the loop

    @rule(last=LAST, before=st.booleans(), asked=st.booleans())
    def a_look_is_taken(self, last: int | str, before: bool, asked: bool) -> None:
        self.look(Fate(last, before=before), asked)

    def look(self, fate: Fate, asked: bool) -> None:
        before, was_open = len(self.books.decisions), self.books.open
        outcome = self.look_of(mortal(self.world, fate), asked)
        if fate.dead and len(self.books.decisions) == before:
            return  # nothing was decided about this moment, so the twin does not look
        for twin in self.worlds[1:]:
            told = self.look_of(twin, asked)
            assert fate.dead or was_open or told == outcome
        if not self.books.open:
            stories = [tale(world) for world in self.worlds]
            assert stories[-1] == stories[0]

    def look_of(self, world: Any, asked: bool) -> object:
        """Whether it found nothing to do, or by what error the data was refused; None when it was killed."""
        recipe = recipe_of(world, **self.settings)
        try:
            return retrain(world.ws, recipe, world.source, now=self.now, asked=asked).found
        except self.expected() as error:
            return type(error)
        except Killed:
            return None

    def expected(self) -> tuple[type[DataError], ...]:
        """Data may be refused while there are no rows at all, or a column is missing."""
        rows = any(shape != "empty" for shape in self.delivered.values())
        return (*(() if rows else (DataError,)), *((SchemaError,) if self.broken else ()))

    @invariant()
    def the_books_are_true(self) -> None:
        for world in self.worlds[:1]:
            verify(world)

    def teardown(self) -> None:
        """In the end a look is taken that nobody kills."""
        try:
            if self.worlds and sys.exception() is None:
                self.look(Fate(), False)
                verify(self.world)
        finally:
            for world in self.worlds:
                world.ws.close()
                shutil.rmtree(world.root)


@pytest.mark.slow
def test_a_year_of_kills_ends_as_a_year_without(world: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, numbers = tmp_path_factory.mktemp("years"), count()
    world.deliver(1, rows=ROWS)
    world.retrain(1, recipe_of(world))

    def make(trained: bool) -> Any:
        root = folder / str(next(numbers))
        if trained:
            shutil.copytree(world.root, root)
        else:
            root.mkdir()
        return type(world)(root)

    quick = settings(max_examples=25, stateful_step_count=20, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: Year(make), settings=quick)  # type: ignore[no-untyped-call]


# ----------------------------------------------------------------------------------------------------------- two at once

WAITING = '''
from pathlib import Path
from time import sleep


def patient(target, prediction):
    """A metric that waits, so that the other one comes while this one works."""
    while not Path("go").exists():
        sleep(0.01)
    return float(prediction.mean())


recipe = '''


@pytest.mark.slow
def test_of_two_at_the_same_moment_one_works_and_the_other_is_told(tmp_path: Path) -> None:
    project = Project(tmp_path)
    customers(800).write_csv(tmp_path / "customers.csv")
    text = LINEAR.replace("recipe = ", WAITING).replace('"roc_auc", cohorts', '"roc_auc", metrics=[patient], cohorts')
    project.write("recipe.py", text)
    two = [project.start("retrain", "recipe.py", "--json") for _ in range(2)]
    try:
        while all(process.poll() is None for process in two):
            sleep(0.01)
        [late] = [process for process in two if process.poll() is not None]
        said = json.loads(late.communicate()[1].splitlines()[-1])
        [first] = [process for process in two if process is not late]
        assert (late.returncode, said["error"]) == (5, "RunHeld")
        assert said["received"].startswith((f"process {first.pid} of", "a process that has just begun"))
        project.write("go", "")
        assert json.loads(first.communicate()[0])["conclusion"]["verdict"] == "promoted"
    finally:
        for process in two:
            process.kill()
            process.communicate()
    assert project.json("retrain", "recipe.py")["found"]
    with open_folder(tmp_path) as ws:
        ((version,), runs) = (Books(ws.ledger).of(kind) for kind in ("version", "run"))
        assert (version["number"], sorted(run["type"] for run in runs)) == (1, ["refit", "train"])
        assert examine(ws).problems == ()
