"""The other commands, as a person and as a program would use them."""

from collections.abc import Callable

import pytest
from project import LINEAR, Project, customers

pytestmark = pytest.mark.slow

BY_PERSON = LINEAR.replace('vd.PolicyApproval("passed-gates")', "vd.PersonApproval()")


def test_a_person_approves_promotes_and_goes_back(make_project: Callable[..., Project]) -> None:
    project = make_project(recipe=BY_PERSON)
    first = project.json("run", "recipe.py")
    assert (first["state"], first["champion"]) == ("candidate", False)
    said = project.error("models", "promote", "churn/1", "--reason", "too early")
    assert (said["error"], said["exit_code"]) == ("StateError", 2)
    assert project.json("models", "approve", "churn/1", "--reason", "looks right")["state"] == "approved"
    assert project.json("models", "promote", "churn/1", "--reason", "go")["champion"] == "churn/1"

    second = project.json("run", "recipe.py", "--set", "learner.estimator.C=0.5")
    assert second["version"] == "churn/2"
    project.json("models", "approve", "churn/2", "--reason", "better")
    assert project.json("models", "promote", "churn/2", "--reason", "go")["champion"] == "churn/2"
    assert project.json("models", "rollback", "churn", "--reason", "regret")["champion"] == "churn/1"
    told = project.call("run", "recipe.py", "--set", "learner.estimator.C=0.5").stdout
    assert "next: velodrome models promote churn/2 --reason WHY" in told
    assert project.error("models", "archive", "churn/1", "--reason", "tidy")["error"] == "StateError"
    assert project.json("models", "archive", "churn/2", "--reason", "tidy")["state"] == "archived"
    trace = project.call("models", "trace", "churn@champion").stdout
    assert "regret" in trace
    assert "looks right" in trace

    assert project.json("runs", "reproduce", second["run"])["differs"] == []
    named = project.json("run", "recipe.py", "--set", "learner.estimator.parameters.C=0.5")
    assert (named["run"], named["found"]) == (second["run"], True)  # by the name that a search finds it by

    compared = project.json("runs", "compare", first["run"], second["run"])
    assert any(name.endswith("C") for name in compared["differences"])
    assert compared["metrics"]["roc_auc"][0] is not None


def test_new_files_only_are_read_and_snapshots_are_compared(make_project: Callable[..., Project]) -> None:
    project = make_project(recipe=BY_PERSON)
    checked = project.json("data", "check", "recipe.py")
    assert checked["rows"] + checked["quarantined"] == 800
    first = project.json("data", "snapshot", "recipe.py")
    assert (first["new_fragments"], first["reused"]) == (1, 0)
    customers(200, seed=5).write_csv(project.folder / "customers-2.csv")
    second = project.json("data", "snapshot", "recipe.py")
    assert (second["new_fragments"], second["reused"]) == (1, 1)
    diff = project.json("data", "diff", first["digest"][:12], "customers")
    assert diff["shared"] == 1
    assert diff["rows"] == [first["snapshot"]["rows"], second["snapshot"]["rows"]]
    assert "customers-2.csv" in project.call("data", "diff", first["digest"][:12], "customers").stdout
    assert project.error("data", "diff", "0123456789ab", "customers")["error"] == "NotFound"


def test_one_is_no_plural(project: Project) -> None:
    assert "1 file read, 0 known already" in project.call("data", "snapshot", "recipe.py").stdout
    assert project.call("data", "replay", "recipe.py").stdout.endswith(" stay in it, 0 went into it\n")
    project.call("audit", "anchor")
    assert "newest of 1 anchor:" in project.call("audit", "verify").stdout


def test_a_program_is_told_of_wrong_words_in_json(project: Project) -> None:
    for words, problem in [
        (("nonsense",), "No such command 'nonsense'"),
        (("predict", "churn"), "Missing argument 'IN'"),
        (("runs", "list", "--limit", "x"), "Invalid value for '--limit'"),
    ]:
        said = project.error(*words)
        assert (said["error"], said["exit_code"]) == ("ConfigurationError", 2)
        assert said["problem"].startswith(problem)
        assert said["received"] == f"{' '.join(words)} --json"


def test_the_version_is_told(project: Project) -> None:
    assert project.call("--version").stdout.startswith("velodrome ")
    assert project.error("--log-level", "loud", "doctor")["error"] == "ConfigurationError"


def test_half_a_character_is_refused_by_name(project: Project) -> None:
    said = project.error("runs", "show", "caf\udce9")
    assert (said["error"], said["received"]) == ("ConfigurationError", r"'caf\udce9'")
