"""From real flights to an approved champion: `make demo`, or `python examples/flights/demo.py`.

Prepares January to March 2013 as three files, runs the recipe beside this script, and tells what came of it. Running it again
finds everything done; remove the folder `.velodrome` beside this script to see it from the beginning.
"""

import os
import time
from pathlib import Path

import prepare

from velodrome.cli.output import print_table
from velodrome.cli.progress import reporter
from velodrome.cli.summary import interval, print_result
from velodrome.control.loading import load_recipe
from velodrome.control.pipeline import run
from velodrome.workspace import open as open_workspace

HERE = Path(__file__).parent


def main() -> None:
    os.chdir(HERE)  # the example is a project of its own: velodrome.toml lies here
    begun = time.perf_counter()
    prepare.prepare(Path("data"), months=range(1, 4))
    prepared = time.perf_counter()
    print(f"flights of January to March 2013, three files in {prepared - begun:.1f} s")

    with open_workspace() as ws:
        result = run(ws.reporting_to(reporter(quiet=False)), load_recipe(Path("recipe.py")), file=Path("recipe.py"))
    print()
    print_result(result)
    cohorts = sorted(result.report.cohorts, key=lambda cohort: cohort.estimate.value if cohort.estimate else 1.0)
    print()
    print("where it is weakest:")
    rows = [(c.column, c.value, c.rows, interval(c.estimate)) for c in cohorts if c.estimate][:5]
    print_table(["cohort", "value", "test flights", result.report.primary], rows)
    print()
    print(
        f"the work itself took {time.perf_counter() - begun:.1f} s; the commands above are meant from the folder examples/flights"
    )


if __name__ == "__main__":
    main()
