import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from velodrome.core.digest import digest_bytes
from velodrome.core.errors import ConfigurationError, NotFound, PointerMoved, StateError
from velodrome.registry.versions import (
    Version,
    VersionState,
    aliases_of,
    approve,
    archive,
    find_alias,
    list_versions,
    move_state,
    promote,
    register,
    reject,
    resolve,
    rollback,
    state_of,
)
from velodrome.store.ledger import digest_record, verify_chain
from velodrome.store.workspace import Workspace

WHY: dict[str, Any] = {"reason": "because", "actor": "ann"}
ARTIFACT = digest_bytes(b"artifact")
STATES = list(VersionState)


def registered(ws: Workspace, model: str = "late", state: VersionState = VersionState.DRAFT) -> Version:
    """A new version of a model, brought to a state."""
    version = register(ws, model=model, run=ws.new_id(), artifact=ARTIFACT, report=None)
    paths = {VersionState.APPROVED: ["candidate", "approved"]}
    for step in paths.get(state, [] if state is VersionState.DRAFT else [state.value]):
        move_state(ws, version.reference, VersionState(step), **WHY)
    return version


def approved(ws: Workspace, count: int) -> list[Version]:
    return [registered(ws, state=VersionState.APPROVED) for _ in range(count)]


def history(ws: Workspace, model: str = "late", alias: str = "champion") -> list[tuple[str | None, str | None]]:
    """The moves of an alias, checked to be one unbroken line: each begins where the one before ended."""
    events = ws.ledger.events(f"alias:{model}@{alias}")
    verify_chain(f"alias:{model}@{alias}", events)
    moves = [(event.body["from"], event.body["to"]) for event in events]
    assert [origin for origin, _ in moves] == [None, *(goal for _, goal in moves)][: len(moves)]
    return moves


# ------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_rise_by_one_within_a_model(ws: Workspace) -> None:
    assert [registered(ws).number for _ in range(3)] == [1, 2, 3]
    assert registered(ws, "other").reference == "other/1"


def test_a_run_is_one_version_however_often_it_is_registered(ws: Workspace) -> None:
    facts: dict[str, Any] = {"model": "late", "run": "r1", "artifact": ARTIFACT, "report": None}
    version = register(ws, **facts)
    assert register(ws, **facts) == version
    assert len(list_versions(ws)) == 1
    with pytest.raises(StateError, match="late/1 already"):
        register(ws, **facts | {"model": "other"})
    with pytest.raises(StateError, match="late/1 already"):
        register(ws, **facts | {"artifact": digest_bytes(b"another")})


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "-a", "a b", "a\n"])
def test_a_name_that_a_reference_could_not_say_is_refused(ws: Workspace, name: str) -> None:
    with pytest.raises(ConfigurationError, match="a model's name"):
        register(ws, model=name, run="r", artifact=ARTIFACT, report=None)


def test_a_run_without_a_model_cannot_be_registered(ws: Workspace) -> None:
    with pytest.raises(StateError, match="saved no model"):
        register(ws, model="late", run="r", artifact=None, report=None)


def test_a_version_points_at_what_it_was_made_from(ws: Workspace) -> None:
    report = digest_bytes(b"report")
    version = register(ws, model="late", run="r1", artifact=ARTIFACT, report=report)
    edges = {edge.role: edge.dst for edge in ws.ledger.edges(digest_record(version))}
    assert edges == {"run": "run:r1", "artifact": ARTIFACT, "report": report}


REGISTER = """if True:
    import sys
    from pathlib import Path
    from velodrome.registry.versions import register
    from velodrome.store.workspace import open_folder
    with open_folder(Path(sys.argv[1])) as ws:
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(5):
            for run in (f"{sys.argv[2]}-{number}", f"shared-{number}"):
                version = register(ws, model="late", run=run, artifact=64 * "a", report=None)
                print(version.run, version.number)
"""


def together(command: list[str], count: int) -> list[str]:
    """The words of `count` processes that begin at the same moment, each with its number as last argument."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(number)], **pipes) for number in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [line for process in processes for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * count
    return lines


@pytest.mark.slow
def test_numbers_have_no_gaps_when_eight_processes_race(ws: Workspace) -> None:
    lines = together([sys.executable, "-c", REGISTER, str(ws.root)], 8)
    numbers = dict(line.split() for line in lines)
    assert len(lines) == 80
    assert len(set(lines)) == len(numbers) == 45  # 8 * 5 runs of their own, and 5 that all of them register
    assert sorted(int(number) for number in numbers.values()) == list(range(1, 46))
    assert sorted(version.number for version in list_versions(ws)) == list(range(1, 46))


# -------------------------------------------------------------------------------------------------------------- states


def test_a_decision_is_kept_with_who_made_it_and_why(ws: Workspace) -> None:
    version = registered(ws, state=VersionState.CANDIDATE)
    approve(ws, version.reference, reason="better on every cohort", actor="policy:gates")
    event = ws.ledger.events("version:late/1")[-1]
    assert (event.type, event.actor) == ("version.approved", "policy:gates")
    assert event.body == {"reason": "better on every cohort", "from": "candidate", "to": "approved"}


def test_a_version_that_is_in_use_cannot_be_archived(ws: Workspace) -> None:
    first, second = approved(ws, 2)
    promote(ws, first.reference, **WHY)
    promote(ws, first.reference, alias="challenger", **WHY)
    assert aliases_of(ws, first) == ("challenger", "champion")
    with pytest.raises(StateError, match="late/1 is challenger, champion and cannot be archived"):
        archive(ws, first.reference, **WHY)
    promote(ws, second.reference, **WHY)
    with pytest.raises(StateError, match="late/1 is challenger and"):
        archive(ws, first.reference, **WHY)
    promote(ws, second.reference, alias="challenger", **WHY)
    archive(ws, first.reference, **WHY)
    assert state_of(ws, first) is VersionState.ARCHIVED


@pytest.mark.parametrize("state", [state for state in VersionState if state is not VersionState.APPROVED])
def test_only_an_approved_version_is_promoted(ws: Workspace, state: VersionState) -> None:
    version = registered(ws, state=state)
    with pytest.raises(StateError, match="only an approved version"):
        promote(ws, version.reference, **WHY)
    assert find_alias(ws, "late", "champion") is None


def meanwhile(ws: Workspace, action: Callable[[], object]) -> Workspace:
    """The workspace, in which `action` happens just before the next commit: between what a verb read and what it writes."""
    ledger = ws.ledger

    class Late(type(ledger)):  # type: ignore[misc]
        def commit(self, *arguments: Any, **named: Any) -> None:
            action()
            ledger.commit(*arguments, **named)

    late = Late(ledger.path)  # type: ignore[attr-defined]
    return replace(ws, ledger=late)


def test_of_promoting_and_archiving_at_once_only_the_first_happens(ws: Workspace) -> None:
    first, second = approved(ws, 2)
    with pytest.raises(PointerMoved):
        archive(meanwhile(ws, lambda: promote(ws, first.reference, **WHY)), first.reference, **WHY)
    assert (state_of(ws, first), aliases_of(ws, first)) == (VersionState.APPROVED, ("champion",))
    with pytest.raises(PointerMoved):
        promote(meanwhile(ws, lambda: archive(ws, second.reference, **WHY)), second.reference, **WHY)
    assert state_of(ws, second) is VersionState.ARCHIVED
    assert history(ws) == [(None, "late/1")]


def test_of_two_rollbacks_at_once_only_one_happens(ws: Workspace) -> None:
    for version in approved(ws, 3):
        promote(ws, version.reference, **WHY)
    with pytest.raises(PointerMoved):
        rollback(meanwhile(ws, lambda: rollback(ws, "late", **WHY)), "late", **WHY)
    assert history(ws)[-1] == ("late/3", "late/2")


PROMOTE = """if True:
    import sys
    from pathlib import Path
    from velodrome.core.errors import PointerMoved
    from velodrome.registry.versions import promote
    from velodrome.store.workspace import open_folder
    with open_folder(Path(sys.argv[1])) as ws:
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(15):
            try:
                promote(ws, f"late/{int(sys.argv[2]) + 1}", reason="race", actor=sys.argv[2])
            except PointerMoved:
                print("moved")
"""


@pytest.mark.slow
def test_the_history_of_an_alias_is_one_line_when_processes_race(ws: Workspace) -> None:
    versions = approved(ws, 4)
    together([sys.executable, "-c", PROMOTE, str(ws.root)], 4)
    moves = history(ws)
    champion = find_alias(ws, "late", "champion")
    assert champion is not None
    assert moves[-1][1] == champion.reference
    assert {goal for _, goal in moves} <= {version.reference for version in versions}
    standing = Counter(alias for version in versions for alias in aliases_of(ws, version))
    assert standing == {"champion": 1}
    assert aliases_of(ws, champion) == ("champion",)


# ------------------------------------------------------------------------------------------------------------- aliases


def test_promoting_again_writes_nothing(ws: Workspace) -> None:
    (version,) = approved(ws, 1)
    promote(ws, version.reference, **WHY)
    promote(ws, version.reference, **WHY)
    assert history(ws) == [(None, "late/1")]


def test_rolling_back_goes_back_one_promotion_each_time(ws: Workspace) -> None:
    for version in approved(ws, 3):
        promote(ws, version.reference, **WHY)
    assert rollback(ws, "late", **WHY).number == 2
    assert rollback(ws, "late", **WHY).number == 1
    with pytest.raises(StateError, match="no earlier champion"):
        rollback(ws, "late", **WHY)
    promote(ws, "late/3", **WHY)
    assert rollback(ws, "late", **WHY).number == 1


def test_rolling_back_passes_over_what_was_archived(ws: Workspace) -> None:
    for version in approved(ws, 3):
        promote(ws, version.reference, **WHY)
    archive(ws, "late/2", **WHY)
    assert rollback(ws, "late", **WHY).number == 1


def test_without_a_champion_there_is_nothing_to_roll_back(ws: Workspace) -> None:
    approved(ws, 1)
    with pytest.raises(StateError, match="no earlier champion"):
        rollback(ws, "late", **WHY)
    with pytest.raises(NotFound, match="did you mean 'late'"):
        rollback(ws, "lat", **WHY)


# ---------------------------------------------------------------------------------------------------------- references


def test_a_version_is_named_by_number_alias_or_model(ws: Workspace) -> None:
    first, second = approved(ws, 2)
    promote(ws, first.reference, **WHY)
    promote(ws, second.reference, alias="challenger", **WHY)
    assert [resolve(ws, name) for name in ("late/2", "late@challenger", "challenger")] == [second] * 3
    assert [resolve(ws, name) for name in ("late/1", "late@champion", "late", "champion")] == [first] * 4


def test_a_bare_alias_is_ambiguous_among_models(ws: Workspace) -> None:
    promote(ws, approved(ws, 1)[0].reference, **WHY)
    registered(ws, "other")
    with pytest.raises(NotFound, match="no such model"):
        resolve(ws, "champion")


def test_a_bare_name_is_the_only_version_or_says_what_to_write(ws: Workspace) -> None:
    only = registered(ws)
    assert resolve(ws, "late") == only
    registered(ws)
    with pytest.raises(NotFound, match=r"2 versions and no champion.*\n.*\n.*late/2"):
        resolve(ws, "late")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("lates", "did you mean 'late'"),
        ("lates/1", "did you mean 'late'"),
        ("lates@champion", "did you mean 'late'"),
        ("late/3", "its newest is late/1"),
        ("late/0", "number is 1, 2"),
        ("late/x", "number is 1, 2"),
        ("late@champ", "did you mean 'champion'"),
        ("late@", "no alias"),
        ("", "no such model"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told_the_nearest(ws: Workspace, reference: str, message: str) -> None:
    promote(ws, approved(ws, 1)[0].reference, **WHY)
    with pytest.raises(NotFound, match=message):
        resolve(ws, reference)


def test_versions_are_listed_newest_first(ws: Workspace) -> None:
    first = registered(ws.acting_as("bob"), state=VersionState.APPROVED)
    promote(ws, first.reference, **WHY)
    registered(ws, "later")
    registered(ws, "late")
    found = [(each.reference, each.state.value, each.aliases, each.created_by) for each in list_versions(ws)]
    assert found == [
        ("late/2", "draft", (), "ann"),
        ("later/1", "draft", (), "ann"),
        ("late/1", "approved", ("champion",), "bob"),
    ]
    assert [each.reference for each in list_versions(ws, "late")] == ["late/2", "late/1"]
    with pytest.raises(NotFound, match="did you mean 'later'"):
        list_versions(ws, "latr")


# ------------------------------------------------------------------------------------------------------ state machine

ALLOWED = {
    "draft": {"candidate", "rejected", "archived"},
    "candidate": {"approved", "rejected", "archived"},
    "approved": {"archived"},
    "rejected": {"candidate", "archived"},
    "archived": set[str](),
}
PICK = st.integers(0, 30)


class Lifecycle(RuleBasedStateMachine):
    """Versions of one model against a plain model of them: a state each, and the list of promotions still in force."""

    def __init__(self, ws: Workspace) -> None:
        super().__init__()
        self.ws, self.name = ws, ws.new_id()
        self.states: list[str] = []
        self.champions: list[int] = []
        self.moves = 0

    def reference(self, pick: int) -> tuple[int, str]:
        number = pick % len(self.states) + 1
        return number, f"{self.name}/{number}"

    @rule()
    def register(self) -> None:
        assert registered(self.ws, self.name).number == len(self.states) + 1
        self.states.append("draft")

    @precondition(lambda self: self.states)
    @rule(pick=PICK, to=st.sampled_from(STATES))
    def move(self, pick: int, to: VersionState) -> None:
        number, reference = self.reference(pick)
        in_use = self.champions[-1:] == [number]
        if to.value in ALLOWED[self.states[number - 1]] and not (to is VersionState.ARCHIVED and in_use):
            verb = {"approved": approve, "rejected": reject, "archived": archive}.get(to.value)
            verb(self.ws, reference, **WHY) if verb else move_state(self.ws, reference, to, **WHY)
            self.states[number - 1] = to.value
        else:
            with pytest.raises(StateError):
                move_state(self.ws, reference, to, **WHY)

    @precondition(lambda self: self.states)
    @rule(pick=PICK)
    def promote(self, pick: int) -> None:
        number, reference = self.reference(pick)
        if self.states[number - 1] != "approved":
            with pytest.raises(StateError):
                promote(self.ws, reference, **WHY)
            return
        promote(self.ws, reference, **WHY)
        if self.champions[-1:] != [number]:
            self.champions.append(number)
            self.moves += 1

    @precondition(lambda self: self.states)
    @rule()
    def rollback(self) -> None:
        earlier = [
            place
            for place, number in enumerate(self.champions[:-1])
            if self.states[number - 1] == "approved" and number != self.champions[-1]
        ]
        if not earlier:
            with pytest.raises(StateError):
                rollback(self.ws, self.name, **WHY)
            return
        self.champions = self.champions[: earlier[-1] + 1]
        self.moves += 1
        assert rollback(self.ws, self.name, **WHY).number == self.champions[-1]

    @precondition(lambda self: self.states)
    @invariant()
    def agrees(self) -> None:
        champion = self.champions[-1] if self.champions else None
        listed = {each.number: each for each in list_versions(self.ws, self.name)}
        assert [listed[number].state.value for number in sorted(listed)] == self.states
        assert [number for number, each in listed.items() if each.aliases] == ([champion] if champion else [])
        found = find_alias(self.ws, self.name, "champion")
        assert (found.number if found else None) == champion
        assert len(history(self.ws, self.name)) == self.moves


def test_states_champion_and_rollback_behave_as_the_model_says(ws: Workspace) -> None:
    quick = settings(max_examples=12, stateful_step_count=25, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: Lifecycle(ws), settings=quick)  # type: ignore[no-untyped-call]
