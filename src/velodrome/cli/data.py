"""`velodrome data`: check, snapshot, replay, diff."""

from typing import TYPE_CHECKING, Annotated

import typer

from velodrome.cli.options import RecipeFile
from velodrome.cli.output import Json, print_json, print_table, say

if TYPE_CHECKING:
    from velodrome.data.snapshots import Taken

__all__ = ["app", "check", "diff", "replay", "snapshot"]

app = typer.Typer(help="Check, freeze and compare data.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def check(recipe: RecipeFile, as_json: Json = False) -> None:
    """What the contract says about the data as it is now; nothing is recorded."""
    from velodrome.control.loading import load_recipe
    from velodrome.data.snapshots import check as check_dataset
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        report = check_dataset(ws, load_recipe(recipe).data)
    if as_json:
        print_json(report)
        return
    print_table(
        ["rule", "action", "rows"],
        [(found.rule, found.action, found.rows) for found in report.violations],
        empty="every rule holds",
    )
    passing = "row passes" if report.rows == 1 else "rows pass"
    say(f"{report.rows:,} {passing}, {report.quarantined:,} would go to quarantine")


@app.command()
def snapshot(recipe: RecipeFile, as_json: Json = False) -> None:
    """Check and freeze the data of a recipe; only new files are read."""
    from velodrome.cli.progress import reporter
    from velodrome.control.loading import load_recipe
    from velodrome.data.snapshots import take_snapshot
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        taken = take_snapshot(ws.reporting_to(reporter(as_json)), load_recipe(recipe).data)
    if as_json:
        print_json(
            {
                "digest": taken.digest,
                "new_fragments": taken.new_fragments,
                "reused": taken.reused,
                "snapshot": taken.snapshot,
            }
        )
        return
    _tell(taken)
    say(f"{plural(taken.new_fragments, 'file')} read, {taken.reused:,} known already")


@app.command()
def replay(recipe: RecipeFile, as_json: Json = False) -> None:
    """Take quarantined rows through the present contract; the files themselves need not be there any more."""
    from velodrome.cli.progress import reporter
    from velodrome.control.loading import load_recipe
    from velodrome.data.replay import replay as replay_rows
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        found = replay_rows(ws.reporting_to(reporter(as_json)), load_recipe(recipe).data)
    if as_json:
        print_json(
            {
                "digest": found.taken.digest,
                "released": found.released,
                "withdrawn": found.withdrawn,
                "kept": found.kept,
                "snapshot": found.taken.snapshot,
            }
        )
        return
    _tell(found.taken)
    say(f"{plural(found.released, 'row')} left quarantine, {found.kept:,} stay in it, {found.withdrawn:,} went into it")


@app.command()
def diff(
    before: Annotated[
        str, typer.Argument(metavar="BEFORE", help="A snapshot's digest (its beginning is enough) or a dataset's name.")
    ],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The other one.")],
    as_json: Json = False,
) -> None:
    """What differs between two snapshots: fragments, schema, rows, columns."""
    from velodrome.data.diff import diff as diff_snapshots
    from velodrome.data.snapshots import find_snapshot
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        found = diff_snapshots(ws, find_snapshot(ws, before), find_snapshot(ws, after))
    if as_json:
        print_json(found)
    else:
        print_table(["", "before → after"], found.lines(), empty="the snapshots are the same")


def _tell(taken: "Taken") -> None:
    from velodrome.web.words import plural

    snapshot = taken.snapshot
    say(f"snapshot {taken.digest[:12]}: {plural(snapshot.rows, 'row')}, {snapshot.quarantined:,} in quarantine")
