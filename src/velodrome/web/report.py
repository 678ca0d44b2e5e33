"""What a person means by a word, and the page about it: a run, a version of a model, or a recipe."""

from pathlib import Path
from typing import TypeAlias

from velodrome.control.loading import load_recipe
from velodrome.core.errors import NotFound, nearest
from velodrome.registry.runs import Run
from velodrome.registry.versions import find_alias
from velodrome.store.workspace import Workspace
from velodrome.web.models import ModelPage, model_page
from velodrome.web.recipes import RecipePage, recipe_page
from velodrome.web.runs import RunPage, run_page

__all__ = ["Page", "report"]

Page: TypeAlias = RunPage | ModelPage | RecipePage


def report(ws: Workspace, what: str) -> Page:
    """The page about `what`: a recipe's file (it ends with .py) or name, `name/7`, `name@alias`, an alias, or a run's id.

    A name that is both a recipe's and the beginning of a run's id means the recipe.

    Raises:
        NotFound: nothing is called so; the nearest is named.
        RecipeError: the recipe's file does not run.
    """
    if what.endswith(".py"):
        recipe = load_recipe(Path(what))
        return recipe_page(ws, recipe.name, recipe)
    if what in _names(ws):
        return recipe_page(ws, what)
    if "@" in what or "/" in what or _alone(ws, what):
        return model_page(ws, what)
    if not ws.ledger.pointers(f"run:{what}"):
        raise _unknown(ws, what)
    return run_page(ws, what)


def _names(ws: Workspace) -> set[str]:
    """Every recipe that something is recorded of: a version, a cycle or a run."""
    pointers = [*ws.ledger.pointers("model:"), *ws.ledger.pointers("cycle:")]
    named = {pointer.subject.partition(":")[2] for pointer in pointers}
    return named | {stored.name for stored in ws.ledger.records(Run.kind())}


def _alone(ws: Workspace, what: str) -> bool:
    """Whether it is an alias of the only model."""
    models = [pointer.subject.removeprefix("model:") for pointer in ws.ledger.pointers("model:")]
    return len(models) == 1 and find_alias(ws, models[0], what) is not None


def _unknown(ws: Workspace, what: str) -> NotFound:
    """What to say of a word that means nothing; it is held against the ids of runs only if it looks like one."""
    runs = [pointer.subject.removeprefix("run:") for pointer in ws.ledger.pointers("run:")]
    known = [*_names(ws), *(runs if what[:1].isdigit() else [])]
    return NotFound("there is no recipe, version or run of that name", received=what, remedy=nearest(what, known))
