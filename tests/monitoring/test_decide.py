"""The decision against a rule of one line, what can never lead to training, and the reasons as they are told."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velodrome.core.digest import canonical
from velodrome.core.errors import ConfigurationError, RecipeError
from velodrome.core.values import describe
from velodrome.evaluation.bootstrap import Estimate
from velodrome.monitoring.decide import Decision, Evidence, Reason, Retrain, decide

NOW = datetime(2013, 5, 1, tzinfo=UTC)
CHECKS = [
    "champion",
    "rows",
    "quarantine",
    "volume",
    "labels",
    "quality",
    "drift",
    "age",
    "person",
    "cool-down",
    "budget",
]


def days(count: float) -> timedelta:
    return timedelta(days=count)


def figure(value: float, reach: float | None = 0.005) -> Estimate:
    low, high = (None, None) if reach is None else (value - reach, value + reach)
    return Estimate(value=value, low=low, high=high, level=0.95, resamples=1000, rows=5000)


def quiet(**changes: Any) -> Evidence:
    """A sound month in which nothing happened: every check has something to say, and none of them asks for training."""
    usual: dict[str, Any] = {
        "champion": "late-arrivals/3",
        "rows": 27_000,
        "quarantined": 700,
        "labelled": 27_000,
        "rows_per_file": 27_000.0,
        "usual_rows_per_file": 26_000.0,
        "metric": "roc_auc",
        "now": figure(0.70),
        "promised": figure(0.70),
        "fall": figure(0.0),
        "compared": 24,
        "trained": NOW - days(31),
        "last_retrained": NOW - days(31),
        "spent": 60.0,
        "expected": 10.0,
    }
    return Evidence(**usual | changes)


def fallen(**changes: Any) -> Evidence:
    return quiet(**{"now": figure(0.65), "fall": figure(0.05)} | changes)


# Whatever the evidence -----------------------------------------------------------------------------------------------

TIMES = st.sampled_from([None, *(NOW - days(ago) for ago in (-1, 0, 6.9, 7, 60, 400))])
SECONDS = st.sampled_from([0.0, 1800.0, 1801.0, 3600.0])
FIGURES = st.builds(
    figure, st.sampled_from([-0.1, 0.0, 0.009, 0.01, 0.02, 0.1]), st.sampled_from([None, 0.0, 0.01, 0.05])
)
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "pending": st.just("late-arrivals/4"),
    "asked": st.just(True),
    "rows": st.sampled_from([0, 1, 2800, 2799]),
    "quarantined": st.sampled_from([0, 6750, 6751, 10**6]),
    "labelled": st.sampled_from([0, 1, 999, 1000]),
    "rows_per_file": st.sampled_from([None, 0.0, 15_600.0, 15_599.0]),
    "usual_rows_per_file": st.sampled_from([None, 0.0, 45_000.0, 45_001.0]),
    "unmeasured": st.just("the rows have one class only"),
    "now": st.none() | FIGURES,
    "promised": st.none(),
    "fall": st.none() | FIGURES,
    "compared": st.sampled_from([0, 2]),
    "drifted": st.just(("hour", "dest")),
    "trained": TIMES,
    "last_retrained": TIMES,
    "spent": SECONDS,
    "expected": SECONDS,
}
POLICIES = st.builds(
    Retrain,
    fall=st.sampled_from([0, 0.01, 0.02]),
    max_age=st.sampled_from([None, "0d", "60d"]),
    min_rows=st.sampled_from([1, 1000]),
    max_quarantined=st.sampled_from([0, 0.2, 1]),
    min_volume=st.sampled_from([0, 0.6, 1]),
    cool_down=st.sampled_from(["0d", "7d"]),
    budget=st.sampled_from(["0s", "1h"]),
)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    """A quiet month, or one with a fall, and up to five other changes."""
    changed = draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=5, unique=True))
    changes = {name: draw(CHANGES[name]) for name in changed}
    if draw(st.integers(0, 9)) == 0:
        of_champion = {"labelled", "unmeasured", "now", "promised", "fall", "compared", "drifted", "trained"}
        kept = {name: value for name, value in changes.items() if name not in of_champion}
        return Evidence(champion=None, **{"rows": 27_000, "quarantined": 700} | kept)
    return draw(st.sampled_from([quiet, fallen]))(**changes)


def by_check(decision: Decision) -> dict[str, Reason]:
    found = {reason.check: reason for reason in decision.reasons}
    assert len(found) == len(decision.reasons), "a check spoke twice"
    return found


def fell(evidence: Evidence, policy: Retrain) -> bool:
    fall = evidence.fall if evidence.now and evidence.promised else None
    return fall is not None and fall.value >= policy.fall and fall.low is not None and fall.low > 0


def calls_for_training(evidence: Evidence, policy: Retrain) -> bool:
    old = policy.max_age and evidence.trained and NOW - evidence.trained >= days(float(policy.max_age[:-1]))
    return evidence.champion is None or evidence.asked or bool(old) or fell(evidence, policy)


def is_sound(evidence: Evidence, policy: Retrain) -> bool:
    if evidence.asked:
        return evidence.rows > 0
    total = evidence.rows + evidence.quarantined
    kept = evidence.rows > 0 and evidence.quarantined <= policy.max_quarantined * total
    usual, now = evidence.usual_rows_per_file, evidence.rows_per_file
    full = not usual or now is None or now >= policy.min_volume * usual
    judged = evidence.champion is None or (evidence.labelled >= policy.min_rows and evidence.unmeasured is None)
    return kept and full and judged


def is_allowed(evidence: Evidence, policy: Retrain) -> bool:
    last, rest = evidence.last_retrained, days(float(policy.cool_down[:-1]))
    rested = evidence.asked or last is None or NOW - last >= rest
    affordable = evidence.spent + evidence.expected <= (3600 if policy.budget == "1h" else 0)
    return evidence.pending is None and rested and affordable


@settings(max_examples=500)
@given(evidences(), POLICIES)
def test_it_trains_when_something_calls_for_it_and_the_data_is_sound_and_nothing_forbids_it(
    evidence: Evidence, policy: Retrain
) -> None:
    wanted = calls_for_training(evidence, policy) and is_sound(evidence, policy) and is_allowed(evidence, policy)
    assert (decide(evidence, policy, NOW).action == "retrain") == wanted


@given(evidences(), POLICIES)
def test_the_same_evidence_is_decided_alike_and_left_alone(evidence: Evidence, policy: Retrain) -> None:
    before = canonical(evidence), canonical(describe(policy))
    assert decide(evidence, policy, NOW) == decide(evidence, policy, NOW)
    assert (canonical(evidence), canonical(describe(policy))) == before


@given(evidences(), POLICIES)
def test_there_is_always_a_reason_and_it_agrees_with_the_action(evidence: Evidence, policy: Retrain) -> None:
    decision = decide(evidence, policy, NOW)
    said = {reason.says for reason in decision.reasons}
    assert [reason.check for reason in decision.reasons] == [c for c in CHECKS if c in by_check(decision)]
    assert all(reason.why for reason in decision.reasons)
    assert decision.why
    assert (decision.action == "retrain") == ("retrain" in said and "wait" not in said)
    assert msgspec.json.decode(canonical(decision), type=Decision) == decision


@given(evidences(), POLICIES)
def test_every_number_is_one_of_the_evidence_or_the_policy(evidence: Evidence, policy: Retrain) -> None:
    total = evidence.rows + evidence.quarantined
    told = {
        check: (reason.value, reason.threshold) for check, reason in by_check(decide(evidence, policy, NOW)).items()
    }
    allowed: dict[str, Any] = {
        "champion": (None, None),
        "rows": (0.0, None),
        "quarantine": (evidence.quarantined / max(total, 1), policy.max_quarantined),
        "volume": ((evidence.rows_per_file or 0) / (evidence.usual_rows_per_file or 1), policy.min_volume),
        "labels": (None, None)
        if "labels" in told and told["labels"][0] is None
        else (evidence.labelled, policy.min_rows),
        "quality": (evidence.fall.value, policy.fall) if evidence.fall and evidence.promised else (None, None),
        "drift": (len(evidence.drifted), None),
        "person": (None, None),
        "budget": (evidence.spent + evidence.expected, 3600 if policy.budget == "1h" else 0),
    }
    if evidence.trained and policy.max_age:
        allowed["age"] = pytest.approx(((NOW - evidence.trained) / days(1), float(policy.max_age[:-1])))
    if evidence.last_retrained:
        allowed["cool-down"] = pytest.approx(((NOW - evidence.last_retrained) / days(1), float(policy.cool_down[:-1])))
    assert told == {check: allowed[check] for check in told}


# What never leads to training ----------------------------------------------------------------------------------------

UNSOUND: dict[str, tuple[dict[str, Any], str]] = {
    "no rows": ({"rows": 0, "quarantined": 0, "labelled": 0}, "rows"),
    "all of it in quarantine": ({"rows": 0, "quarantined": 27_000, "labelled": 0}, "quarantine"),
    "too much in quarantine": ({"rows": 20_000, "quarantined": 7_000}, "quarantine"),
    "half the volume": ({"rows_per_file": 13_000.0}, "volume"),
    "labels that never come": ({"labelled": 0, "unmeasured": "no new row has a label"}, "labels"),
    "few labels": ({"labelled": 999}, "labels"),
    "one class": ({"unmeasured": "every label is class 0", "now": None, "promised": None, "fall": None}, "labels"),
}


@pytest.mark.parametrize(("changes", "check"), UNSOUND.values(), ids=UNSOUND)
@pytest.mark.parametrize("wanted", [{}, {"trained": NOW - days(400)}], ids=["fell", "old"])
def test_data_that_is_not_sound_is_never_trained_on(changes: Any, check: str, wanted: Any) -> None:
    policy = Retrain(max_age="60d")
    assert decide(fallen(**wanted), policy, NOW).action == "retrain"
    decision = decide(fallen(**wanted | changes), policy, NOW)
    assert decision.action == "wait"
    assert by_check(decision)[check].says == "wait"


@pytest.mark.parametrize(("changes", "check"), UNSOUND.values(), ids=UNSOUND)
def test_a_person_who_asks_knows_better_than_doubts_about_the_data(changes: Any, check: str) -> None:
    decision = decide(fallen(**changes, asked=True), Retrain(), NOW)
    assert decision.action == ("retrain" if fallen(**changes).rows else "wait")
    assert check == "rows" or by_check(decision)[check].says == "note"


@given(evidences(), POLICIES)
def test_drift_changes_no_decision(evidence: Evidence, policy: Retrain) -> None:
    moved = msgspec.structs.replace(evidence, compared=24, drifted=tuple("abcdefghijklmnopqrstuvwx"))
    decision = decide(moved, policy, NOW)
    assert decision.action == decide(evidence, policy, NOW).action
    assert by_check(decision)["drift"].says == "note"


def test_where_nothing_arrived_labels_are_not_missed() -> None:
    decision = decide(quiet(rows=0, quarantined=12, labelled=0), Retrain(max_quarantined=1), NOW)
    assert decision.why == "no new rows arrived, 12 in quarantine"
    assert "labels" not in by_check(decision)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 20_000, "quarantined": 5_000},
        {"rows_per_file": 15_600.0, "usual_rows_per_file": 26_000.0},
        {"usual_rows_per_file": None},
        {"labelled": 1000},
        {"last_retrained": NOW - days(7)},
        {"last_retrained": None},
        {"spent": 7190.0, "expected": 10.0},
    ],
    ids=str,
)
def test_what_just_suffices_does(changes: dict[str, Any]) -> None:
    assert decide(fallen(**changes), Retrain(), NOW).action == "retrain"


def test_drift_alone_waits() -> None:
    decision = decide(quiet(drifted=("temperature", "dew_point", "weekday")), Retrain(), NOW)
    assert decision.action == "wait"
    assert "3 of 24 columns drifted: temperature, dew_point, weekday" in by_check(decision)["drift"].why


def test_nothing_in_particular_waits() -> None:
    decision = decide(quiet(), Retrain(max_age="60d"), NOW)
    assert decision.action == "wait"
    assert {reason.says for reason in decision.reasons} == {"note"}
    assert decision.why == by_check(decision)["quality"].why


@given(st.floats(0, 6.99), st.booleans())
def test_nothing_is_trained_in_the_cool_down_unless_a_person_asks(ago: float, asked: bool) -> None:
    decision = decide(fallen(last_retrained=NOW - days(ago), asked=asked), Retrain(cool_down="7d"), NOW)
    assert decision.action == ("retrain" if asked else "wait")


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.booleans())
def test_nothing_is_trained_beyond_the_budget_whoever_asks(spent: float, expected: float, asked: bool) -> None:
    decision = decide(fallen(spent=spent, expected=expected, asked=asked), Retrain(budget="2h"), NOW)
    assert (decision.action == "retrain") == (spent + expected <= 7200)


def test_a_version_that_waits_for_a_person_is_answered_first() -> None:
    decision = decide(fallen(pending="late-arrivals/4", asked=True), Retrain(), NOW)
    assert decision.action == "wait"
    assert decision.why == "late-arrivals/4 passed its gates and waits for a person"


# What does -----------------------------------------------------------------------------------------------------------


@given(evidences(), POLICIES, FIGURES, st.floats(0, 0.5))
def test_a_larger_fall_never_turns_training_into_waiting(
    evidence: Evidence, policy: Retrain, fall: Estimate, more: float
) -> None:
    low, high = (None, None) if fall.low is None or fall.high is None else (fall.low + more, fall.high + more)
    further = msgspec.structs.replace(fall, value=fall.value + more, low=low, high=high)
    less, worse = (decide(msgspec.structs.replace(evidence, fall=each), policy, NOW) for each in (fall, further))
    assert less.action == "wait" or worse.action == "retrain"


@pytest.mark.parametrize(
    ("fall", "action"),
    [
        (figure(0.02, 0.019), "retrain"),
        (figure(0.02, 0.02), "wait"),
        (figure(0.0199, 0.001), "wait"),
        (figure(0.3, None), "wait"),
        (figure(-0.3, 0.001), "wait"),
    ],
    ids=["enough and sure", "its bound is 0", "too little", "no interval", "it rose"],
)
def test_a_fall_counts_when_it_is_large_enough_and_surely_one(fall: Estimate, action: str) -> None:
    decision = decide(fallen(fall=fall), Retrain(fall=0.02), NOW)
    assert decision.action == action
    assert by_check(decision)["quality"].says == ("retrain" if action == "retrain" else "note")


def test_a_champion_without_a_report_has_nothing_to_fall_from() -> None:
    reason = by_check(decide(quiet(promised=None, fall=None), Retrain(fall=0), NOW))["quality"]
    assert (reason.says, reason.value) == ("note", None)
    assert "test report has no such figure" in reason.why


@pytest.mark.parametrize(("ago", "action"), [(59.9, "wait"), (60, "retrain"), (61, "retrain")])
def test_an_old_champion_is_trained_again_where_the_policy_says_so(ago: float, action: str) -> None:
    evidence = quiet(trained=NOW - days(ago), last_retrained=None)
    assert decide(evidence, Retrain(max_age="60d"), NOW).action == action
    assert decide(evidence, Retrain(), NOW).action == "wait"


def test_without_a_champion_the_first_rows_are_trained_on() -> None:
    decision = decide(Evidence(champion=None, rows=40, quarantined=0), Retrain(), NOW)
    assert decision.action == "retrain"
    assert decision.why == "there is no champion yet"


def test_a_person_may_ask() -> None:
    decision = decide(quiet(asked=True), Retrain(), NOW)
    assert (decision.action, decision.why) == ("retrain", "a person asked for it")


def test_every_reason_that_decided_is_told() -> None:
    decision = decide(fallen(trained=NOW - days(90)), Retrain(max_age="60d", fall=0.02), NOW)
    assert decision.why == "; ".join(reason.why for reason in decision.reasons if reason.says == "retrain")
    assert decision.why.startswith(
        "roc_auc is 0.6500 (0.6450 to 0.6550), promised were 0.7000 (0.6950 to 0.7050): worse by 0.0500"
    )
    assert "late-arrivals/3 is 90.0 days old, 60 at the most" in decision.why


# The policy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"fall": -0.01}, "Retrain.fall is 0 or more"),
        ({"fall": float("nan")}, "Retrain.fall is 0 or more"),
        ({"max_quarantined": 1.5}, "Retrain.max_quarantined is a share"),
        ({"min_volume": -0.1}, "Retrain.min_volume is a share"),
        ({"min_rows": 0}, "Retrain.min_rows is 1 or more"),
        ({"max_agee": "7d"}, "did you mean 'max_age'"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Retrain(**fields)


@pytest.mark.parametrize("field", ["max_age", "cool_down", "budget", "period"])
def test_a_duration_that_is_none_is_refused_where_it_stands(field: str) -> None:
    with pytest.raises(ConfigurationError, match="a duration is a number"):
        Retrain(**{field: "-7d"})
