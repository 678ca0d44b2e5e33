"""The commands that keep a model good: drift, retrain."""

from typing import TYPE_CHECKING, Annotated

import typer

from velodrome.cli.options import RecipeFile, Seed
from velodrome.cli.output import Json, moment, print_error, print_json, print_table, say

if TYPE_CHECKING:
    from velodrome.control.retraining import Cycled
    from velodrome.monitoring.drift import DriftReport

__all__ = ["add_to", "drift", "retrain"]

_LONGEST = 30 * 86_400


def add_to(app: typer.Typer) -> None:
    """Give the program these commands."""
    for command in (drift, retrain):
        app.command()(command)


def drift(
    recipe: RecipeFile,
    every: Annotated[bool, typer.Option("--all", help="Show the columns that did not drift as well.")] = False,
    as_json: Json = False,
) -> None:
    """What moved in the data since the champion was trained: which columns, which values, since when."""
    from velodrome.cli.progress import reporter
    from velodrome.control.loading import load_recipe
    from velodrome.control.watching import look_for_drift
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        report = look_for_drift(ws.reporting_to(reporter(as_json)), load_recipe(recipe))
    if as_json:
        print_json(report)
    else:
        _print_drift(report, every)


def retrain(
    recipe: RecipeFile,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and look again and again.")] = False,
    interval: Annotated[str, typer.Option("--every", help="With --watch: how often to look, such as 1m or 6h.")] = "1m",
    force: Annotated[bool, typer.Option("--force", help="Train whatever quality says, if the data is sound.")] = False,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Decide for this moment, such as 2013-05-01, to replay the past.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Look at what arrived, decide whether to train again, and if so train, judge, and promote or refuse.

    Does nothing when nothing arrived. After a kill the same command goes on where it stopped.
    """
    from velodrome.cli.progress import reporter
    from velodrome.control.declaring import source_of
    from velodrome.control.loading import load_recipe
    from velodrome.control.retraining import retrain as retrain_recipe
    from velodrome.control.retraining import watch as watch_recipe
    from velodrome.core.errors import ConfigurationError, VelodromeError
    from velodrome.core.units import parse_duration
    from velodrome.workspace import open as open_workspace

    if watch and (force or as_of):
        raise ConfigurationError("--watch takes neither --force nor --as-of", remedy="give them to a single `retrain`")
    with open_workspace() as opened:
        ws, declared = opened.reporting_to(reporter(as_json)), load_recipe(recipe)
        source = source_of(ws, recipe, ())
        if not watch:
            _show(retrain_recipe(ws, declared, source, seed=seed, now=moment("--as-of", as_of), asked=force), as_json)
            return
        seconds = parse_duration(interval).total_seconds()
        if not 0 < seconds <= _LONGEST:
            raise ConfigurationError("--every lies between 0 and 30 days", received=interval, remedy="--every 6h")
        for news in watch_recipe(ws, declared, source, every=seconds, seed=seed):
            if isinstance(news, VelodromeError):
                print_error(news, as_json=as_json)
            else:
                _show(news, as_json)


def _show(cycled: "Cycled", as_json: bool) -> None:
    if as_json:
        print_json(cycled)
        return
    cycle, end = cycled.cycle, cycled.conclusion
    if cycled.found:
        came = f", {end.version or 'training'} {end.verdict}" if end else ""
        say(f"nothing new since cycle {cycle.number}, {cycle.window}: {cycle.decision.action}{came}")
        return
    say(
        f"{cycle.window}: {cycle.rows:,} new rows, {cycle.quarantined:,} in quarantine; champion {cycle.champion or '–'}"
    )
    print_table(["check", "says", "because"], [(one.check, one.says, one.why) for one in cycle.decision.reasons])
    say(f"decision: {cycle.decision.action}: {cycle.decision.why}")
    if end and end.version:
        print_table(["gate", "passed", "because"], [(one.gate, one.passed, one.why) for one in end.verdicts])
    if end:
        say(
            f"{end.version or 'training'} {end.verdict}{f': {end.failure}' if end.failure else ''} ({end.seconds:.1f} s)"
        )


def _print_drift(report: "DriftReport", every: bool) -> None:
    if not report.windows:
        say("nothing arrived since the champion was trained")
        return
    newest = report.windows[-1]
    shown = [column for column in newest.columns if every or column.drifted]
    print_table(
        ["column", "psi", "js", "q", "missing", "since", "what moved"],
        [
            (
                one.column,
                one.psi,
                one.js,
                one.q_value,
                one.missing_after,
                report.since(one.column),
                one.skipped or one.why,
            )
            for one in shown
        ],
        empty="no column drifted",
    )
    say(
        f"{newest.window}: {len(newest.drifted)} of {len(newest.columns)} columns drifted, {newest.rows:,} rows beside "
        f"the {report.reference_rows:,} that the champion was trained on"
    )
