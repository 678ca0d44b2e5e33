"""`velodrome models`: list, show, approve, reject, archive, promote, rollback, history, trace."""

from datetime import datetime
from typing import Annotated, Any

import typer

from velodrome.cli.output import Json, moment, print_json, print_table, say

__all__ = ["app", "approve", "archive", "history", "list_", "promote", "reject", "rollback", "show", "trace"]

app = typer.Typer(
    help="Versions of models: their states, who is champion, and why.", no_args_is_help=True, rich_markup_mode=None
)

_Reference = Annotated[str, typer.Argument(metavar="VERSION", help="name/7, name@champion, or a name.")]
_Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept with the decision.")]


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only this model.")] = None,
    as_json: Json = False,
) -> None:
    """All versions, newest first."""
    from velodrome.registry.versions import list_versions
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        versions = list_versions(ws, name)
    if as_json:
        print_json(versions)
        return
    rows = [(v.reference, v.state.value, ", ".join(v.aliases), v.run, f"{v.created:%Y-%m-%d %H:%M}") for v in versions]
    print_table(
        ["version", "state", "alias", "run", "registered"], rows, empty="no version yet: velodrome run RECIPE makes one"
    )


@app.command()
def show(reference: _Reference, as_json: Json = False) -> None:
    """One version: state, figures, cohorts, inputs."""
    from velodrome.cli.summary import interval
    from velodrome.evaluation.report import Report
    from velodrome.registry.versions import resolve, state_of
    from velodrome.store.ledger import read_record
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        version = resolve(ws, reference)
        state = state_of(ws, version).value
        report = read_record(ws.ledger, version.report, Report) if version.report else None
    if as_json:
        print_json({"version": version, "state": state, "report": report})
        return
    figures = [(name, interval(estimate)) for name, estimate in report.metrics.items()] if report else []
    print_table([version.reference, state], [("run", version.run), ("artifact", version.artifact), *figures])
    if report and report.cohorts:
        say("")
        rows = [(c.column, c.value, c.rows, interval(c.estimate) if c.estimate else c.skipped) for c in report.cohorts]
        print_table(["cohort", "value", "rows", report.primary], rows)


@app.command()
def approve(reference: _Reference, reason: _Reason, as_json: Json = False) -> None:
    """Approve a candidate."""
    _moved("approve", reference, reason, as_json)


@app.command()
def reject(reference: _Reference, reason: _Reason, as_json: Json = False) -> None:
    """Reject a candidate."""
    _moved("reject", reference, reason, as_json)


@app.command()
def archive(reference: _Reference, reason: _Reason, as_json: Json = False) -> None:
    """Put a version away; a champion cannot be archived."""
    _moved("archive", reference, reason, as_json)


@app.command()
def promote(reference: _Reference, reason: _Reason, as_json: Json = False) -> None:
    """Make an approved version the champion."""
    _moved("promote", reference, reason, as_json)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    reason: _Reason,
    as_json: Json = False,
) -> None:
    """Make the champion before the present one the champion again."""
    _moved("rollback", model, reason, as_json)


@app.command()
def history(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    alias: Annotated[str, typer.Option("--alias", help="Of which alias.")] = "champion",
    at: Annotated[
        str | None, typer.Option("--at", help="Only what stood there at this moment, such as 2026-03-01T06:00 (UTC).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which version stood behind an alias, from when to when, and who moved it and why."""
    from velodrome.registry.history import alias_history, standing_at
    from velodrome.workspace import open as open_workspace

    time = moment("--at", at)
    with open_workspace() as ws:
        if time:
            found = standing_at(ws, model, time, alias)
            stood = found.reference if found else None
            if as_json:
                print_json({"alias": alias, "at": time, "version": stood})
            else:
                say(f"{alias} of {model} at {time:%Y-%m-%d %H:%M:%S}: {stood or 'none'}")
            return
        standings = alias_history(ws, model, alias)
    if as_json:
        print_json(standings)
        return
    rows = [
        (_when(each.since), each.version, each.how, each.actor, each.reason, _when(each.until)) for each in standings
    ]
    print_table(["since", "version", "how", "by", "reason", "until"], rows, empty=f"{model} never had a {alias}")


@app.command()
def trace(reference: _Reference, as_json: Json = False) -> None:
    """What a version was made from, who approved it, and when it was champion."""
    from velodrome.registry.lineage import trace as trace_version
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        found = trace_version(ws, reference)
    if as_json:
        print_json(found)
    else:
        print_table([found.reference, ""], found.lines())


def _when(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else ""


def _moved(verb: str, reference: str, reason: str, as_json: bool) -> None:
    from velodrome.registry import versions
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        move: Any = getattr(versions, verb)
        version = move(ws, reference, reason=reason, actor=ws.actor)
        state = versions.state_of(ws, version).value
        champion = versions.find_alias(ws, version.model, "champion")
    facts = {"version": version.reference, "state": state, "champion": champion.reference if champion else None}
    if as_json:
        print_json(facts)
    else:
        say(f"{facts['version']} is {state}; champion of {version.model}: {facts['champion'] or 'none'}")
