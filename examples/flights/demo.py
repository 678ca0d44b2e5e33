"""A model's year: `make demo`, or `python examples/flights/demo.py`.

January to March 2013 make the first champion. Then April to December arrive month by month, each on the first of the next, and
the loop looks at it: what moved, how good the champion still is, whether to train again, and whether the challenger may take
over. One delivery is poisoned. Running it again finds everything done; remove the folder `.velodrome` beside this script to see
it from the beginning.
"""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
import prepare
import year

from velodrome.cli.output import print_error, print_table
from velodrome.cli.progress import reporter
from velodrome.cli.summary import interval, print_result
from velodrome.control.cycles import Conclusion, Cycle, cycles
from velodrome.control.declaring import source_of
from velodrome.control.loading import load_recipe
from velodrome.control.pipeline import run
from velodrome.control.retraining import retrain
from velodrome.core.errors import ContractError
from velodrome.recipe import Recipe
from velodrome.store.files import write_atomic
from velodrome.store.workspace import Workspace
from velodrome.web.render import render
from velodrome.web.report import report
from velodrome.workspace import open as open_workspace

HERE = Path(__file__).parent
DATA, FILE = Path("data"), Path("recipe.py")
FIRST, POISONED = range(1, 4), 7
COLUMNS = ["month", "rows", "quarantined", "drifted", "champion", "AUC", "decision", "challenger", "verdict", "s"]


def main() -> None:
    os.chdir(HERE)  # the example is a project of its own: velodrome.toml lies here
    begun = time.perf_counter()
    with open_workspace() as opened:
        ws, recipe = opened.reporting_to(reporter(quiet=False)), load_recipe(FILE)
        first_quarter(ws, recipe, begun)
        months = list(rest_of_the_year(ws, recipe))
        print()
        print_table(COLUMNS, months)
        print()
        year.tell(ws, recipe, FILE, Path("year.html"))
        write_atomic(Path("report.html"), render(report(ws, recipe.name)).encode())
    print()
    print(f"wrote {HERE / 'year.html'}, the chart, and {HERE / 'report.html'}, all that the loop saw and did")
    print()
    print(
        f"all of it took {time.perf_counter() - begun:.0f} s; the commands above are meant from the folder examples/flights"
    )


def first_quarter(ws: Workspace, recipe: Recipe, begun: float) -> None:
    """January to March: the first champion, and where it is weakest."""
    forget_undecided(ws, recipe)
    prepare.prepare(DATA, months=FIRST)
    print(f"flights of January to March 2013, three files in {time.perf_counter() - begun:.1f} s")
    if not cycles(ws, recipe.name):
        retrain(ws, recipe, source_of(ws, FILE, ()), now=datetime(2013, 4, 1, tzinfo=UTC))
        print()
        result = msgspec.structs.replace(run(ws, recipe, file=FILE), found=False)  # what the line before did
        print_result(result)
        cohorts = sorted(result.report.cohorts, key=lambda cohort: cohort.estimate.value if cohort.estimate else 1.0)
        rows = [(c.column, c.value, c.rows, interval(c.estimate)) for c in cohorts if c.estimate][:5]
        print()
        print_table(["where it is weakest", "value", "test flights", result.report.primary], rows)
        print(f"up to here {time.perf_counter() - begun:.1f} s")


def rest_of_the_year(ws: Workspace, recipe: Recipe) -> Iterator[tuple[object, ...]]:
    """April to December as they arrive: a row of the table for each, new or found."""
    for month in range(FIRST.stop, 13):
        known = {cycle.window: (cycle, end) for cycle, end in cycles(ws, recipe.name)}
        begun = time.perf_counter()
        if f"flights-2013-{month:02}" not in known:
            if month == POISONED:
                refuse_poison(ws, recipe, month)
            prepare.prepare(DATA, months=[month])
            done = look(ws, recipe, month)
        else:
            done = known[f"flights-2013-{month:02}"]
        yield row(*done, seconds=time.perf_counter() - begun)
        print(f"{done[0].window}: {done[0].decision.action}: {done[0].decision.why}")


def look(ws: Workspace, recipe: Recipe, month: int) -> tuple[Cycle, Conclusion | None]:
    """The loop, on the first of the next month."""
    now = datetime(2013 + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    found = retrain(ws, recipe, source_of(ws, FILE, ()), now=now)
    return found.cycle, found.conclusion


def refuse_poison(ws: Workspace, recipe: Recipe, month: int) -> None:
    """The month with the delays of one airport in hundredths of a minute: the contract stops it before anything learns."""
    (path,) = prepare.prepare(DATA, months=[month])
    factor = pl.when(pl.col("origin") == "EWR").then(100).otherwise(1)
    poisoned = pl.read_parquet(path).with_columns(pl.col("dep_delay", "arr_delay") * factor)
    prepare.write(poisoned.with_columns(late=(pl.col("arr_delay") > prepare.LATE_AFTER_MINUTES).cast(pl.Int64)), path)
    try:
        look(ws, recipe, month)
    except ContractError as error:
        print(f"{path.stem}, poisoned:")
        print_error(error, as_json=False)
    else:
        raise SystemExit("a poisoned month was accepted")


def row(cycle: Cycle, end: Conclusion | None, seconds: float) -> tuple[object, ...]:
    said = cycle.evidence.now
    asking = [reason.check for reason in cycle.decision.reasons if reason.says == cycle.decision.action]
    large = any(one.check == "quality" and one.value >= one.threshold for one in cycle.decision.reasons)
    quiet = "a fall that may be chance" if large else "no fall"
    return (
        cycle.window.removeprefix("flights-"),
        cycle.rows,
        cycle.quarantined,
        f"{len(cycle.evidence.drifted)} of {cycle.evidence.compared}",
        (cycle.champion or "").partition("/")[2],
        interval(said) if said else None,
        f"{cycle.decision.action}: {', '.join(asking) or quiet}",
        f"{end.challenger.value:.4f}" if end and end.challenger else None,
        end.verdict if end else "",
        f"{seconds:.1f}",
    )


def forget_undecided(ws: Workspace, recipe: Recipe) -> None:
    """Take away months that were delivered but not looked at, by a demo that was killed: they will arrive again."""
    decided = {cycle.window for cycle, _ in cycles(ws, recipe.name)}
    for month in range(FIRST.stop, 13):
        path = DATA / f"flights-2013-{month:02}.parquet"
        if path.stem not in decided:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
