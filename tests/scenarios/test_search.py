"""Runs found, tagged and listed page by page, from Python and from the command line."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from project import LINEAR, Project

import velodrome as vd

pytestmark = pytest.mark.slow

TAGGED = """
import sys
import velodrome as vd
from recipe import recipe

result = vd.run(recipe, tags={"team": sys.argv[1]})
assert vd.run(recipe, tags={"again": True}).found
print(result.run, result.artifact_run)
"""


def test_a_recipe_s_runs_are_tagged_and_found(make_project: Callable[..., Project]) -> None:
    project = make_project(recipe=LINEAR)
    script = project.write("tagged.py", TAGGED)
    command = [sys.executable, str(script), "x"]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=True)
    judge, refit = done.stdout.split()
    assert judge != refit
    with vd.open(project.folder) as ws:
        frame = vd.runs("tags.team = 'x' and tags.again = true order by metrics.roc_auc desc", ws=ws)
        assert frame["id"].to_list() == [judge, refit]
        assert frame["metrics.roc_auc"].is_null().to_list() == [False, True]  # the judge's figures stand for its refit
        assert frame["params.learner.estimator.parameters.C"].to_list() == [1.0, 1.0]
        assert vd.runs("params.split.test > 0.1", name="churn", limit=1, ws=ws)["id"].to_list() == [refit]
        assert vd.runs("tags.team != 'x'", ws=ws).height == 0

    assert project.json("runs", "tag", refit[:25], "team=y", "--remove", "again") == {"team": "y"}
    first = project.json("runs", "list", "order by tags.team", "--limit", "1")
    assert [run["tags"] for run in first["runs"]] == [{"again": "true", "team": "x"}]
    rest = project.json("runs", "list", "ORDER BY tags.team asc", "--after", first["next"])
    assert ([run["id"] for run in rest["runs"]], rest["next"]) == ([refit], None)
    assert "no run is found" in project.call("runs", "list", "tags.team = 'z'").stdout
    said = project.error("runs", "list", "metrics.roc_acu > 0.5")
    assert (said["exit_code"], said["remedy"]) == (2, "did you mean 'metrics.roc_auc'?")
    assert said["received"].splitlines()[0] == "metrics.roc_acu > 0.5"
    assert project.error("runs", "list", "--after", first["next"])["problem"] == "the cursor belongs to another query"
    assert "--after" in project.call("runs", "list", "--limit", "1").stdout
