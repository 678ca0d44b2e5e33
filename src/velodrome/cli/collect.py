"""`velodrome gc`: what retention gives up, and the bytes that nothing needs."""

from typing import Annotated

import typer

from velodrome.cli.output import Json, print_json, print_table, say

__all__ = ["add_to", "gc"]


def add_to(app: typer.Typer) -> None:
    """Give the program this command."""
    app.command()(gc)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Give up what the retention rules say and remove the bytes that nothing needs; safe while others work.

    Nothing goes that a version which stands, stood or may stand behind an alias rests on.
    """
    from velodrome.cli.progress import reporter
    from velodrome.control.collecting import collect
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        collected = collect(ws.reporting_to(reporter(as_json)), dry_run=dry_run)
        grace = ws.config.gc_grace
    if as_json:
        print_json(collected)
        return
    print_table(["would go" if dry_run else "went", ""], collected.lines(), empty="nothing to collect")
    if collected.waiting.blobs:
        say(f"waiting: for whoever may still be at work; a collection takes it when {grace} have passed (gc_grace)")
