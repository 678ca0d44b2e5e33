"""The commands that do the work: init, run, predict, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from velodrome.cli.options import Device, RecipeFile, Seed, Settings
from velodrome.cli.output import Json, print_json, print_table, say

__all__ = ["add_to", "doctor", "init", "predict", "run"]


def add_to(app: typer.Typer) -> None:
    """Give the program these commands."""
    for command in (init, run, predict, doctor):
        app.command()(command)


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet file with the data.")],
    label: Annotated[str, typer.Option("--label", help="Column to predict.")],
    out: Annotated[Path, typer.Option("--out", help="Recipe to write.")] = Path("recipe.py"),
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Look at a file and write a commented recipe that runs."""
    from velodrome.control.starting import write_recipe
    from velodrome.web.words import plural

    started = write_recipe(file, label, out, force=force)
    if as_json:
        print_json(started)
        return
    say(f"wrote {started.recipe}: predicts {label} ({started.task}) from {plural(len(started.features), 'column')}")
    for column, reason in started.left_out.items():
        say(f"  left out {column}: {reason}")
    say(f"next: velodrome run {started.recipe}")


def run(
    recipe: RecipeFile,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again even if the same run is recorded.")] = False,
    allow_missing: Annotated[
        list[str] | None,
        typer.Option("--allow-missing", help="Go on from a checkpoint that lacks this: it is not reproducible then."),
    ] = None,
    profile: Annotated[Path | None, typer.Option("--profile", help="Write a trace of some steps here.")] = None,
    as_json: Json = False,
) -> None:
    """Data, checks, training, evaluation, gates, approval: all of a recipe, or what of it is not done yet."""
    from velodrome.cli.progress import reporter
    from velodrome.cli.summary import print_result
    from velodrome.control.loading import load_recipe, override, parse_overrides
    from velodrome.control.pipeline import run as run_recipe
    from velodrome.core.errors import Refused
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        declared = override(load_recipe(recipe), parse_overrides(settings or []))
        using = ws.on_device(device) if device else ws
        result = run_recipe(
            using.reporting_to(reporter(as_json)),
            declared,
            file=recipe,
            seed=seed,
            fresh=fresh,
            allow_missing=tuple(allow_missing or ()),
            profile=profile,
        )
        if as_json:
            print_json(result)
        else:
            print_result(result)
    if not result.passed:
        failed = [verdict.why.rstrip(".") for verdict in result.verdicts if not verdict.passed]
        raise Refused(
            f"{result.version} did not pass its gates",
            received="; ".join(failed),
            remedy=f"see where it is weak: velodrome report {result.run} --html report.html",
        )


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="name@champion, name/7, or a name.")],
    source: Annotated[Path, typer.Argument(metavar="IN", help="CSV or Parquet file with the model's input columns.")],
    out: Annotated[Path, typer.Option("--out", help="CSV or Parquet file to write: the input with the predictions.")],
    as_json: Json = False,
) -> None:
    """Predict every row of a file."""
    from velodrome.serving.batch import predict_file
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        done = predict_file(ws, model, source, out)
    if as_json:
        print_json(done)
    else:
        say(f"{done.model} predicted {plural(done.rows, 'row')}: {done.out}")
        if done.probability_of is not None:
            say(f"`probability` is that of {done.probability_of!r}")


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out what reads all bytes: blobs, histories, caches.")
    ] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="First make anew what follows from the rest: facts, caches, copies of keys.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check every invariant of the workspace; exit 4 when something is wrong. docs/doctor.md lists what may be found."""
    from velodrome.cli.progress import reporter
    from velodrome.control.checkup import examine
    from velodrome.control.checkup import mend as make_anew
    from velodrome.core.errors import IntegrityError
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        mended = make_anew(ws) if mend else []
        findings = examine(ws.reporting_to(reporter(as_json)), quick=quick)
    if as_json:
        print_json(
            {"mended": mended, "problems": findings.problems, "notes": findings.notes, "summary": findings.summary}
        )
    else:
        for done in mended:
            say(done)
        print_table(
            ["what", "finding", "to mend"],
            [(f.subject, f.finding, f.remedy) for f in findings.problems],
            empty=f"healthy: {findings.summary}",
        )
        for note in findings.notes:
            say(f"note: {note.subject}: {note.finding}; {note.remedy}")
    if findings.problems:
        raise IntegrityError(
            f"wrong in the workspace: {plural(len(findings.problems), 'thing')}",
            received=findings.problems[0].finding,
            remedy=findings.problems[0].remedy,
        )
