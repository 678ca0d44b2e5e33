"""Runs side by side: what they were made from and what came out, as far as it differs.

Cost: some six small queries and the code's manifest for each run.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from velodrome.core.errors import ConfigurationError
from velodrome.registry.differences import differing, flatten
from velodrome.registry.environment import Environment
from velodrome.registry.provenance import Provenance
from velodrome.registry.runs import Run, code_of, get_run, report_of
from velodrome.store.ledger import read_record
from velodrome.store.workspace import Workspace

__all__ = ["RunComparison", "compare"]


class RunComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Runs side by side: each value has one entry for each of `runs`, None where a run has no such thing.

    Attributes:
        differences: what they were made from, as far as it differs, by dotted name.
        metrics: every figure that one of them has.
    """

    runs: tuple[str, ...]
    differences: dict[str, tuple[Any, ...]]
    metrics: dict[str, tuple[float | None, ...]]

    def lines(self) -> list[tuple[object, ...]]:
        """(label, value of the first, value of the second, ...) for a person."""
        return [(label, *values) for label, values in (self.differences | self.metrics).items()]


def compare(ws: Workspace, references: Sequence[str]) -> RunComparison:
    """What differs between runs: recipe, data, code file by file, environment, commit, seed; and their figures.

    Raises:
        ConfigurationError: fewer than two runs. NotFound: no such run, or several.
    """
    if len(references) < 2:
        raise ConfigurationError("two or more runs are compared", received=", ".join(references), remedy="name another")
    runs = [get_run(ws, reference) for reference in references]
    reports = [report_of(ws, run.id) for run in runs]
    figures = [{name: each.value for name, each in report.metrics.items()} if report else {} for report in reports]
    names = dict.fromkeys(name for each in figures for name in each)
    return RunComparison(
        runs=tuple(run.id for run in runs),
        differences=differing([_inputs(ws, run) for run in runs]),
        metrics={name: tuple(each.get(name) for each in figures) for name in names},
    )


def _inputs(ws: Workspace, run: Run) -> dict[str, Any]:
    """Everything that a run was made from, flat: what `compare` compares."""
    code = {path: digest[:12] for path, digest in code_of(ws, run).items()}
    environment = read_record(ws.ledger, run.environment, Environment)
    repository = read_record(ws.ledger, run.provenance, Provenance).repository
    named = {role: getattr(run, role) for role in ("name", "type", "snapshot", "seed", "owner", "judge")}
    of_git = {"commit": repository.commit, "uncommitted": repository.diff} if repository else {}
    return flatten(
        {"recipe": run.recipe} | named | {"code": code, "environment": msgspec.to_builtins(environment)} | of_git
    )
