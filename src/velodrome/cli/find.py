"""`velodrome find`: a learning rate, a batch size, measured on the recipe's own rows before anything is trained."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velodrome.cli.output import Json, print_json, print_table, say

if TYPE_CHECKING:
    from velodrome.control.finding import FoundBatch, FoundRate
    from velodrome.web.finders import FinderPage

__all__ = ["app", "batch", "lr"]

_ROWS = 16

app = typer.Typer(
    help="A good learning rate, a good batch size: measured, nothing is recorded.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_RecipeFile = Annotated[Path, typer.Argument(help="The recipe's Python file.")]
_Settings = Annotated[list[str] | None, typer.Option("--set", help="PATH=VALUE, for example learner.batch=512.")]
_Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
_Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:1; else as configured.")]
_Html = Annotated[
    Path | None, typer.Option("--html", help="Write a page with the curve to this file; it needs nothing else.")
]


@app.command()
def lr(
    recipe: _RecipeFile,
    steps: Annotated[int, typer.Option("--steps", help="Steps of the test, one at each rate.")] = 100,
    low: Annotated[float, typer.Option("--from", help="The first rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--to", help="The last rate.")] = 10.0,
    settings: _Settings = None,
    seed: _Seed = 0,
    device: _Device = None,
    html: _Html = None,
    as_json: Json = False,
) -> None:
    """Train with a rate that grows from step to step, and say where the loss falls most steeply (Smith, 2017)."""
    from velodrome.cli.progress import reporter
    from velodrome.control.declaring import source_of
    from velodrome.control.finding import find_lr
    from velodrome.control.loading import load_recipe, override, parse_overrides
    from velodrome.web.finders import rate_page
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        declared = override(load_recipe(recipe), parse_overrides(settings or []))
        using = (ws.on_device(device) if device else ws).reporting_to(reporter(as_json))
        found = find_lr(using, declared, source_of(ws, recipe, ()), steps=steps, low=low, high=high, seed=seed)
        now = ws.clock.now()
    command = _command(recipe, settings, seed, device, found.setting)
    if html is not None:
        _write(html, rate_page(found, command, now))
    if as_json:
        print_json(found)
        return
    print_table(["rate", "loss", "smoothed", ""], list(_rates(found)))
    say("")
    for line in _of_rate(found):
        say(line)
    _end(html, command)


@app.command()
def batch(
    recipe: _RecipeFile,
    steps: Annotated[int, typer.Option("--steps", help="Steps that are timed for each size.")] = 5,
    start: Annotated[int, typer.Option("--from", help="The first size; each further one is twice as large.")] = 32,
    most: Annotated[int | None, typer.Option("--to", help="The largest size; else all training rows.")] = None,
    share: Annotated[
        float, typer.Option("--memory", help="Share of the free memory that may be taken on a CPU.")
    ] = 0.5,
    settings: _Settings = None,
    seed: _Seed = 0,
    device: _Device = None,
    html: _Html = None,
    as_json: Json = False,
) -> None:
    """Rows a second and memory by size of the batch, or of the micro-batch where the recipe has one."""
    from velodrome.cli.progress import reporter
    from velodrome.control.declaring import source_of
    from velodrome.control.finding import find_batch
    from velodrome.control.loading import load_recipe, override, parse_overrides
    from velodrome.web.finders import batch_page
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        declared = override(load_recipe(recipe), parse_overrides(settings or []))
        using = (ws.on_device(device) if device else ws).reporting_to(reporter(as_json))
        source = source_of(ws, recipe, ())
        found = find_batch(using, declared, source, start=start, most=most, steps=steps, share=share, seed=seed)
        now = ws.clock.now()
    command = _command(recipe, settings, seed, device, found.setting)
    if html is not None:
        _write(html, batch_page(found, command, now))
    if as_json:
        print_json(found)
        return
    print_table([found.field, "for an epoch", "rows a second", "memory", ""], list(_sizes(found)))
    say("")
    for line in _of_batch(found):
        say(line)
    _end(html, command)


def _command(recipe: Path, settings: Sequence[str] | None, seed: int, device: str | None, setting: str) -> str:
    """What to type next: a run with what was asked for here, and what was found."""
    import shlex

    changed = setting.partition("=")[0]
    kept = [each for each in settings or [] if each.partition("=")[0].strip() != changed]
    words = ["velodrome", "run", str(recipe), *(word for each in (*kept, setting) for word in ("--set", each))]
    words += [*(["--seed", str(seed)] if seed else []), *(["--device", device] if device else [])]
    return shlex.join(words)


def _write(file: Path, page: "FinderPage") -> None:
    from velodrome.store.files import write_atomic
    from velodrome.web.render import render

    write_atomic(file, render(page).encode())


def _end(html: Path | None, command: str) -> None:
    if html is not None:
        say(f"wrote {html}")
    say("")
    say(f"next: {command}")


def _rates(found: "FoundRate") -> Iterator[tuple[object, ...]]:
    """Some of the steps, and those that matter."""
    last = len(found.curve) - 1
    marks = {
        _nearest(found, found.suggestion.rate): "steepest fall",
        _nearest(found, found.suggestion.lowest): "lowest",
    }
    if found.ended == "exploded":
        marks[last] = "exploded"
    shown = {round(place * last / (_ROWS - 1)) for place in range(_ROWS)} | marks.keys()
    for place in sorted(shown):
        step = found.curve[place]
        yield f"{step.rate:.1e}", step.loss, step.smoothed, marks.get(place, "")


def _nearest(found: "FoundRate", rate: float) -> int:
    return min(range(len(found.curve)), key=lambda place: abs(found.curve[place].rate / rate - 1))


def _of_rate(found: "FoundRate") -> Iterator[str]:
    said = found.suggestion
    yield f"the loss falls most steeply at {said.rate:g}; the recipe has {found.present:g}"
    yield f"a decade below its lowest, the other rule of thumb, is {said.cautious:g}"


def _sizes(found: "FoundBatch") -> Iterator[tuple[object, ...]]:
    from velodrome.core.units import show_bytes

    said = found.suggestion
    marks = {said.fastest: "fastest", said.enough: "fast enough", found.present: "the recipe's"}
    for each in found.trials:
        speed = None if each.rows_per_second is None else f"{each.rows_per_second:,.0f}"
        memory = None if each.memory is None else show_bytes(each.memory)
        mark = marks.get(each.size, "") if each.fits else "does not fit"
        yield each.size, -(-found.rows // each.size), speed, memory, mark


def _of_batch(found: "FoundBatch") -> Iterator[str]:
    from velodrome.core.units import show_bytes

    said = found.suggestion
    share = "the device" if found.budget is None else f"the {show_bytes(found.budget)} that may be taken"
    why = {
        "memory": f"the next may take more than {share}",
        "rows": "there are no more training rows",
        "batch": "the recipe's batch has no more rows",
        "asked": "no larger one was asked for",
    }
    yield f"the largest that fits is {said.largest}: {why[found.ended]}"
    yield f"{said.enough} is the smallest within 5 % of the most rows a second; the recipe has {found.present}"
    if found.field == "batch" and said.largest < found.present:
        yield f"to keep the recipe's batch, learn it in parts: --set learner.micro_batch={said.largest}"
    elif found.field == "batch" and said.enough != found.present:
        yield f"another batch wants another rate: velodrome find lr RECIPE --set {found.setting}"
