"""`velodrome report`: everything about a run, a version or a recipe, as a page, as tables or as JSON."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from velodrome.cli.options import Html
from velodrome.cli.output import Json, print_json, print_table, say

if TYPE_CHECKING:
    from velodrome.web.cycles import CycleFacts
    from velodrome.web.models import ModelPage
    from velodrome.web.recipes import RecipePage
    from velodrome.web.report import Page
    from velodrome.web.runs import RunFacts

__all__ = ["add_to", "report"]


def add_to(app: typer.Typer) -> None:
    """Give the program this command."""
    app.command()(report)


def report(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="A recipe's file or name, a version (name/7, name@champion), or the beginning of a run's id.",
        ),
    ],
    html: Html = None,
    as_json: Json = False,
) -> None:
    """All that is known of a run, a version of a model, or a recipe's year: curves, figures, drift, decisions, lineage."""
    from velodrome.store.files import write_atomic
    from velodrome.web.report import report as report_on
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        page = report_on(ws, what)
    if html is not None:
        from velodrome.web.render import render

        write_atomic(html, render(page).encode())
    if as_json:
        print_json(page)
    elif html is not None:
        say(f"wrote {html}")
    else:
        _show(page)
        say("")
        say(f"next: velodrome report {what} --html report.html")


def _show(page: "Page") -> None:
    from velodrome.web.models import ModelPage
    from velodrome.web.runs import RunPage

    if isinstance(page, RunPage):
        print_table([page.run.id, page.run.state], list(_of_run(page.run)))
    elif isinstance(page, ModelPage):
        print_table([page.reference, ", ".join([page.state, *page.aliases])], list(_of_model(page)))
    else:
        _show_recipe(page)


def _of_run(run: "RunFacts") -> Iterator[tuple[str, object]]:
    from velodrome.cli.summary import interval
    from velodrome.registry.time_spent import describe_time
    from velodrome.web.words import percent, plural

    yield "recipe", f"{run.name}, seed {run.seed}"
    if run.data:
        yield "data", f"{run.data.dataset}, {plural(run.data.rows, 'row')}, snapshot {run.data.snapshot[:12]}"
    if run.failure:
        yield "failure", f"{run.failure.error}: {run.failure.message}"
    for attempt in run.attempts:
        if attempt.restored_step is not None:
            yield (
                f"attempt {attempt.number}",
                f"from step {attempt.restored_step}, {plural(attempt.redone, 'step')} done again",
            )
    if run.outcome:
        yield "steps", f"{run.outcome.steps} of {run.outcome.planned_steps}, {run.outcome.seconds:.1f} s"
    if run.waited is not None:
        yield "waited for data", percent(run.waited)
    if run.time:
        yield "time", describe_time(run.time)
    if run.report:
        yield from (
            (name, f"{interval(found)} on {plural(found.rows, 'row')}") for name, found in run.report.metrics.items()
        )
    yield from (("gate passed" if verdict.passed else "gate FAILED", verdict.why) for verdict in run.verdicts)
    if run.version:
        yield "version", run.version


def _of_model(page: "ModelPage") -> Iterator[tuple[str, object]]:
    yield "judged", page.run.id
    yield from _of_run(page.run)
    if page.refit:
        yield "refit", page.refit.id
    for one in (*page.decisions, *page.moves):
        yield (
            one.what,
            f"{one.version}, {one.time:%Y-%m-%d %H:%M} by {one.actor}{f': {one.reason}' if one.reason else ''}",
        )


def _show_recipe(page: "RecipePage") -> None:
    champion = page.champion
    say(f"{page.name}: {f'{champion.reference} is champion' if champion else 'no champion'}")
    own = champion and champion.run.data and champion.run.data.own
    empty = "data of one's own is not watched" if own else "no cycle yet: velodrome retrain RECIPE"
    print_table(_COLUMNS, [_cycle(facts) for facts in page.cycles], empty=empty)
    for facts in page.cycles[-1:]:
        say(f"{facts.cycle.decision.action}: {facts.why}")
    for refusal in page.refusals:
        say(f"data refused before cycle {refusal.before}: {refusal.problem}")
    say("")
    rows = [
        (one.summary.reference, one.summary.state.value, ", ".join(one.summary.aliases), _interval(one.figure))
        for one in page.versions
    ]
    print_table(["version", "state", "alias", "figure"], rows, empty="no version yet: velodrome run RECIPE")


_COLUMNS = [
    "window",
    "rows",
    "quarantined",
    "drifted",
    "champion",
    "figure",
    "decision",
    "challenger",
    "figure",
    "verdict",
]


def _cycle(facts: "CycleFacts") -> tuple[object, ...]:
    cycle, end = facts.cycle, facts.conclusion
    return (
        cycle.window,
        cycle.rows,
        cycle.quarantined,
        f"{len(facts.drift.drifted)} of {cycle.evidence.compared}" if facts.drift and cycle.evidence.compared else None,
        cycle.champion,
        _interval(cycle.evidence.now),
        cycle.decision.action,
        end.version if end else None,
        _interval(end.challenger) if end else None,
        end.verdict if end else None,
    )


def _interval(estimate: Any) -> str | None:
    from velodrome.cli.summary import interval

    return interval(estimate) if estimate else None
