"""`velodrome runs`: list, show, compare."""

from typing import Annotated

import typer

from velodrome.cli.output import Json, print_json, print_table

__all__ = ["app", "compare", "list_", "show"]

app = typer.Typer(
    help="Training runs: what they were made from and what came out.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only runs of this recipe.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="How many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """Runs, newest first."""
    from velodrome.registry.runs import list_runs
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        runs = list_runs(ws, name, limit=limit)
    if as_json:
        print_json(runs)
        return
    rows = [
        (r.id, r.name, r.type, r.state.value, r.attempts, r.metric or "", f"{r.started:%Y-%m-%d %H:%M}") for r in runs
    ]
    print_table(
        ["run", "recipe", "type", "state", "attempts", "figure", "started"],
        rows,
        empty="no run yet: velodrome run RECIPE makes one",
    )


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's id, or its unique beginning.")], as_json: Json = False
) -> None:
    """One run: inputs, outcome, attempts, last values of its series."""
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
