"""A recipe's file as a `Recipe`, with the user's overrides, and errors that name the line."""

import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from sklearn.base import BaseEstimator, clone

from velodrome.core.config import CONFIG_NAME
from velodrome.core.errors import NotFound, RecipeError, VelodromeError, nearest
from velodrome.recipe import Recipe

__all__ = ["load_recipe", "override", "parse_overrides", "project_root"]


def project_root(file: Path) -> Path:
    """The root of the project that `file` belongs to: the nearest folder above with a velodrome.toml, else its own folder."""
    folder = file.resolve().parent
    return next((parent for parent in (folder, *folder.parents) if (parent / CONFIG_NAME).is_file()), folder)


def load_recipe(file: Path) -> Recipe:
    """The recipe that `file` declares: its variable `recipe`, or its only Recipe. Runs the file, as an import does.

    Raises:
        NotFound: there is no such file.
        RecipeError: the file does not run, or declares no recipe or several; the line is named.
    """
    if not file.is_file():
        beside = [path.name for path in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise NotFound("there is no such recipe", received=str(file), remedy=nearest(file.name, beside))
    module = _execute(file.resolve(), project_root(file))
    named = getattr(module, "recipe", None)
    found = (
        [named]
        if isinstance(named, Recipe)
        else [value for value in vars(module).values() if isinstance(value, Recipe)]
    )
    if len(found) != 1:
        raise RecipeError(
            f"{file} declares {len(found)} recipes",
            received=", ".join(recipe.name for recipe in found) or None,
            remedy="assign one to the variable `recipe`",
        )
    return found[0]


def override(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted fields replaced, such as {"learner.optimizer.lr": 1e-3}.

    Raises:
        RecipeError: a path that leads nowhere, or a value of the wrong type.
    """
    for path, value in settings.items():
        recipe = _replaced(recipe, path.split("."), value, path)
    return recipe


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """`a.b=1e-3` texts as values: JSON where the right side is JSON, else text.

    >>> parse_overrides(["learner.epochs=3", "label=late"])
    {'learner.epochs': 3, 'label': 'late'}
    """
    settings = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(
                "--set takes PATH=VALUE", received=text, remedy="write for example --set learner.optimizer.lr=1e-3"
            )
        try:
            settings[path.strip()] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            settings[path.strip()] = value.strip()
    return settings


def _replaced(value: Any, path: list[str], new: Any, whole: str) -> Any:
    name, known = path[0], _settings(value)
    if name == "parameters" and isinstance(value, BaseEstimator) and name not in known and path[1:]:
        return _replaced(value, path[1:], new, whole)  # so a run's record, and a search, name an estimator's
    if name not in known:
        raise RecipeError(f"{whole} leads to no field of the recipe", received=name, remedy=nearest(name, known))
    inner = _replaced(known[name], path[1:], new, whole) if path[1:] else new
    if isinstance(value, BaseEstimator):
        return clone(value).set_params(**{name: inner})
    return type(value)(**(known | {name: inner}))


def _settings(value: Any) -> dict[str, Any]:
    """What can be set in a value of a recipe: the fields of a struct, the parameters of an estimator."""
    if isinstance(value, BaseEstimator):
        return dict(value.get_params(deep=False))
    return (
        {field: getattr(value, field) for field in value.__struct_fields__} if isinstance(value, msgspec.Struct) else {}
    )


def _execute(file: Path, root: Path) -> ModuleType:
    name = ".".join(file.relative_to(root).with_suffix("").parts)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise RecipeError("a recipe is a Python file", received=str(file), remedy="give it the ending .py")
    module = importlib.util.module_from_spec(spec)
    for folder in (str(root), str(file.parent)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except VelodromeError as error:
        error.problem = f"{file.name} line {_line(error, file)}: {error.problem}"
        raise
    except Exception as error:
        raise RecipeError(
            f"{file.name} line {_line(error, file)}: {type(error).__name__}: {error}",
            remedy="mend that line; `python` runs the file too",
        ) from error
    return module


def _line(error: Exception, file: Path) -> int:
    if isinstance(error, SyntaxError) and error.lineno:
        return error.lineno
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return (frames[-1] or 1) if frames else 1
