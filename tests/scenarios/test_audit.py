"""What is in production and why, through the program; and that a forgery is found."""

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest
from project import LINEAR, Project

pytestmark = pytest.mark.slow


def test_lineage_history_and_audit_through_the_program(make_project: Callable[..., Project]) -> None:
    project = make_project(recipe=LINEAR)
    result = project.json("run", "recipe.py")

    up = project.json("trace", "churn@champion")
    assert {"file", "code", "environment", "decision"} <= {node["kind"] for node in up["nodes"].values()}
    down = project.json("trace", "customers.csv", "--down")
    assert [node["aliases"] for node in down["nodes"].values() if node["kind"] == "version"] == [["champion"]]
    tree = project.call("trace", result["snapshot"][:12], "--down", "--depth", "3").stdout
    assert "version churn/1 (approved, champion)" in tree
    assert "versions that came of it: 1; churn/1 is champion" in tree
    assert "customers.csv" in project.error("trace", "custmers.csv")["remedy"]

    (standing,) = project.json("models", "history", "churn")
    assert (standing["version"], standing["until"]) == ("churn/1", None)
    assert project.json("models", "history", "churn", "--at", standing["since"])["version"] == "churn/1"
    assert project.json("models", "history", "churn", "--at", "2020-01-01")["version"] is None
    assert project.error("models", "history", "churn", "--at", "yesterday")["error"] == "ConfigurationError"

    sound = project.json("audit", "verify")
    assert (sound["anchors"], sound["damages"]) == (1, [])  # the run made it
    kept = project.json("audit", "anchor")["digest"]
    assert project.json("audit", "verify", "--anchor", kept)["damages"] == []
    assert "sound" in project.call("audit", "verify", "--no-histories").stdout

    with closing(sqlite3.connect(project.folder / ".velodrome" / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE record SET actor = 'nobody' WHERE kind = 'version'")
    said = project.error("audit", "verify", "--anchor", kept)
    assert (said["error"], said["exit_code"]) == ("IntegrityError", 4)
    assert "record of version churn" in said["received"]
    assert project.error("audit", "verify", "--anchor", 64 * "0")["problem"].endswith(": 2 things")
