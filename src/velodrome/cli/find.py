"""`velodrome find`: a learning rate, a batch size, measured on the recipe's own rows before anything is trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velodrome.cli.options import Device, Html, RecipeFile, Seed, Settings
from velodrome.cli.output import Json, print_json, print_table, say

if TYPE_CHECKING:
    from velodrome.control.declaring import Source
    from velodrome.control.finding import FoundBatch, FoundRate
    from velodrome.recipe import Recipe
    from velodrome.store.workspace import Workspace
    from velodrome.web.finders import FinderPage

__all__ = ["app", "batch", "lr"]

_ROWS = 16

app = typer.Typer(
    help="A good learning rate, a good batch size: measured, nothing is recorded.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What both commands are given, and what is done with it."""

    recipe: Path
    settings: list[str] | None
    seed: int
    device: str | None
    as_json: bool

    @contextmanager
    def measuring(self) -> "Iterator[tuple[Workspace, Recipe, Source]]":
        """Where to measure, the recipe with its settings, and where that was declared."""
        from velodrome.cli.progress import reporter
        from velodrome.control.declaring import source_of
        from velodrome.control.loading import load_recipe, override, parse_overrides
        from velodrome.workspace import open as open_workspace

        with open_workspace() as ws:
            declared = override(load_recipe(self.recipe), parse_overrides(self.settings or []))
            using = (ws.on_device(self.device) if self.device else ws).reporting_to(reporter(self.as_json))
            yield using, declared, source_of(ws, self.recipe, ())

    def command(self, setting: str) -> str:
        """What to type next: a run with what was asked for here, and what was found."""
        import shlex

        changed = setting.partition("=")[0]
        kept = [each for each in self.settings or [] if each.partition("=")[0].strip() != changed]
        words = ["velodrome", "run", str(self.recipe), *(word for each in (*kept, setting) for word in ("--set", each))]
        words += [
            *(["--seed", str(self.seed)] if self.seed else []),
            *(["--device", self.device] if self.device else []),
        ]
        return shlex.join(words)


@app.command()
def lr(
    recipe: RecipeFile,
    steps: Annotated[int, typer.Option("--steps", help="Steps of the test, one at each rate.")] = 100,
    low: Annotated[float, typer.Option("--from", help="The first rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--to", help="The last rate.")] = 10.0,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = None,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Train with a rate that grows from step to step, and say where the loss falls most steeply (Smith, 2017)."""
    from velodrome.control.finding import find_lr
    from velodrome.web.finders import rate_page

    asked = _Asked(recipe, settings, seed, device, as_json)
    with asked.measuring() as (ws, declared, source):
        found = find_lr(ws, declared, source, steps=steps, low=low, high=high, seed=seed)
        now = ws.clock.now()
    command = asked.command(found.setting)
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
    recipe: RecipeFile,
    steps: Annotated[int, typer.Option("--steps", help="Steps that are timed for each size.")] = 5,
    start: Annotated[int, typer.Option("--from", help="The first size; each further one is twice as large.")] = 32,
    most: Annotated[int | None, typer.Option("--to", help="The largest size; else all training rows.")] = None,
    share: Annotated[
        float, typer.Option("--memory", help="Share of the free memory that may be taken on a CPU.")
    ] = 0.5,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = None,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Rows a second and memory by size of the batch, or of the micro-batch where the recipe has one."""
    from velodrome.control.finding import find_batch
    from velodrome.web.finders import batch_page

    asked = _Asked(recipe, settings, seed, device, as_json)
    with asked.measuring() as (ws, declared, source):
        found = find_batch(ws, declared, source, start=start, most=most, steps=steps, share=share, seed=seed)
        now = ws.clock.now()
    command = asked.command(found.setting)
    if html is not None:
        _write(html, batch_page(found, command, now))
    if as_json:
        print_json(found)
        return
    print_table([found.field, "for an epoch", "rows a second", "memory", ""], list(_sizes(found)))
    say("")
    for line in _of_batch(found, recipe):
        say(line)
    _end(html, command)


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


def _of_batch(found: "FoundBatch", recipe: Path) -> Iterator[str]:
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
        yield f"another batch wants another rate: velodrome find lr {recipe} --set {found.setting}"
