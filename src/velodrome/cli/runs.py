"""`velodrome runs`: list and search, show, compare, tag."""

from typing import Annotated

import typer

from velodrome.cli.options import RunId
from velodrome.cli.output import Json, print_json, print_table, say

__all__ = ["app", "compare", "list_", "prove", "reproduce", "samples", "show", "tag"]

app = typer.Typer(
    help="Training runs: what they were made from and what came out.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_(
    query: Annotated[
        str,
        typer.Argument(
            metavar="QUERY", help='Which runs, and in which order: "metrics.auc > 0.7 order by metrics.auc desc".'
        ),
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
def show(run: RunId, as_json: Json = False) -> None:
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
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Two or more runs.")], as_json: Json = False
) -> None:
    """What differs between runs: parameters, data, code, environment, seed, figures."""
    from velodrome.registry.comparison import compare as compare_runs
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        comparison = compare_runs(ws, runs)
    if as_json:
        print_json(comparison)
        return
    print_table(["", *comparison.runs], comparison.lines(), empty="the runs do not differ")


@app.command()
def tag(
    run: RunId,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Tags to set, as texts: team=x.")
    ] = None,
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


@app.command()
def prove(
    run: RunId,
    steps: Annotated[int, typer.Option("--steps", help="How many steps are done again.")] = 20,
    checkpoint: Annotated[
        int | None, typer.Option("--checkpoint", help="Step of the checkpoint to begin from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Do steps of a run again from a checkpoint, from its record alone, and compare them bit by bit; exit 4 if one differs."""
    from velodrome.cli.progress import reporter
    from velodrome.control.proving import prove as prove_run
    from velodrome.core.errors import IntegrityError
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        proof = prove_run(ws.reporting_to(reporter(as_json)), run, steps=steps, checkpoint=checkpoint)
    if as_json:
        print_json(proof)
    elif proof.holds:
        say(f"{proof.run}: the same, bit by bit: {plural(proof.steps, 'step')} from step {proof.checkpoint} on")
    _print_environment(proof.environment, as_json)
    if not proof.holds:
        raise IntegrityError(
            f"step {proof.differs} of {proof.run} came out differently",
            received=f"then {proof.then}, now {proof.now}",
            remedy="another environment explains it, or memory that ran out (velodrome runs show); else a step draws from what no "
            "seed names, or the network keeps something outside of its parameters and buffers: docs/resume.md",
        )


@app.command()
def reproduce(
    run: RunId,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also where equal bits cannot be expected.")] = False,
    as_json: Json = False,
) -> None:
    """Do a whole run again from its record alone and say whether the result is the same; exit 4 if it is not."""
    from velodrome.cli.progress import reporter
    from velodrome.control.proving import reproduce as reproduce_run
    from velodrome.core.errors import IntegrityError, StateError
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        done = reproduce_run(ws.reporting_to(reporter(as_json)), run, anyway=anyway)
    if as_json:
        print_json(done)
    elif done.identical:
        say(f"{done.run} is reproduced by {done.by}: weights, history and sample ledger are identical")
    _print_environment(done.environment, as_json)
    if done.by is None:
        raise StateError(
            "the environment is another than the run's, so equal bits cannot be expected",
            received=", ".join(done.environment),
            remedy="install what the run had (its lock is in velodrome runs show), or add --anyway",
        )
    if done.differs:
        raise IntegrityError(
            f"{done.by} did not come to what {done.run} came to",
            received=f"{', '.join(done.differs)} differ{'' if done.first is None else f', from step {done.first} on'}",
            remedy="another environment explains it; else a step draws from what no seed names",
        )


@app.command()
def samples(
    run: RunId,
    step: Annotated[int | None, typer.Option("--step", help="Show the rows that this step learned from.")] = None,
    as_json: Json = False,
) -> None:
    """Prove from its record which rows each step of a run learned from; with --step, show them; exit 4 if it does not hold."""
    from velodrome.cli.progress import reporter
    from velodrome.control.sampling import Samples, check, rows_of
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as opened:
        ws = opened.reporting_to(reporter(as_json))
        found = check(ws, run) if step is None else rows_of(ws, run, step)
    if as_json:
        print_json(found)
    elif isinstance(found, Samples):
        used = ", ".join(f"{plural(rows, 'row')} {plural(times, 'time')}" for times, rows in found.uses.items())
        steps = plural(found.steps, "step")
        say(f"{found.run}: {steps} learned from the rows that the seed gives them: {used}; none twice in an epoch")
    else:
        say(f"step {found.step}, epoch {found.epoch}:")
        print_table(list(found.rows[0]), [tuple(row.values()) for row in found.rows])


def _print_environment(other: dict[str, tuple[object, object]], as_json: bool) -> None:
    if other and not as_json:
        print_table(["environment", "then", "now"], [(name, *values) for name, values in other.items()])
