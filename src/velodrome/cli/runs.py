"""`velodrome runs`: list and search, show, compare, tag."""

from typing import Annotated

import typer

from velodrome.cli.output import Json, print_json, print_table, say

__all__ = ["app", "compare", "list_", "show", "tag"]

app = typer.Typer(
    help="Training runs: what they were made from and what came out.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_(
    query: Annotated[
        str, typer.Argument(help='Which runs, and in which order: "metrics.auc > 0.7 order by metrics.auc desc".')
    ] = "",
    name: Annotated[str | None, typer.Option("--name", help="Only runs of this recipe.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="How many.")] = 50,
    after: Annotated[
        str | None, typer.Option("--after", help="Go on after a page: the cursor that it ended with.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Runs, newest first or in the order that is asked for. docs/search.md lists what can be asked."""
    from velodrome.registry.search import search_runs
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        page = search_runs(ws, query, name=name, limit=limit, after=after)
    if as_json:
        print_json(page)
        return
    rows = [
        (r.id, r.name, r.type, r.state.value, r.attempts, r.metric or "", f"{r.started:%Y-%m-%d %H:%M}")
        for r in page.runs
    ]
    print_table(
        ["run", "recipe", "type", "state", "attempts", "figure", "started"],
        rows,
        empty="no run is found" if query or name or after else "no run yet: velodrome run RECIPE makes one",
    )
    if page.next:
        say(f"there are more: --after {page.next}")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's id, or its unique beginning.")], as_json: Json = False
) -> None:
    """One run: inputs, outcome, attempts, tags, last values of its series."""
    from velodrome.registry.runs import show_run
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        shown = show_run(ws, run)
    if as_json:
        print_json(shown)
    else:
        print_table([shown.run.id, shown.state.value], shown.lines())


@app.command()
def compare(runs: Annotated[list[str], typer.Argument(help="Two or more runs.")], as_json: Json = False) -> None:
    """What differs between runs: parameters, data, code, environment, seed, figures."""
    from velodrome.registry.runs import compare as compare_runs
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        comparison = compare_runs(ws, runs)
    if as_json:
        print_json(comparison)
        return
    print_table(["", *comparison.runs], comparison.lines(), empty="the runs do not differ")


@app.command()
def tag(
    run: Annotated[str, typer.Argument(help="A run's id, or its unique beginning.")],
    tags: Annotated[list[str] | None, typer.Argument(help="Tags to set, as texts: team=x.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A tag to take away; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Set tags of a run, to find it by: velodrome runs list "tags.team = 'x'"."""
    from velodrome.registry.tags import read_tags
    from velodrome.registry.tags import tag as tag_run
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        known = tag_run(ws, run, read_tags(tags or []) | dict.fromkeys(remove or []))
    if as_json:
        print_json(known)
    else:
        print_table(["tag", "value"], list(known.items()), empty="the run has no tags")
