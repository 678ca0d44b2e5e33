"""A run as its record has it: what it was made from, ready to be done again or looked at, without the present project.

The code comes from the run's own tree, the rows from its snapshot (those of one's own from where the user has them, held to the
snapshot), the seed and the settings from its record.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from velodrome.control.declaring import Source, declare
from velodrome.control.loading import load_recipe, override
from velodrome.control.training import Assignment, Trained
from velodrome.core.config import CONFIG_NAME
from velodrome.core.digest import Digest
from velodrome.core.errors import ConfigurationError, IntegrityError
from velodrome.core.values import describe
from velodrome.data.own_snapshots import OwnTaken, retake
from velodrome.data.snapshots import Snapshot, Taken
from velodrome.data.sources import Own
from velodrome.recipe import Recipe
from velodrome.registry.differences import flatten
from velodrome.registry.runs import Run, get_run, outcome_of, require_whole
from velodrome.store.files import temporary_folder, within, write_atomic
from velodrome.store.ledger import read_record
from velodrome.store.trees import read_tree
from velodrome.store.workspace import Workspace

__all__ = ["recorded"]


@contextmanager
def recorded(ws: Workspace, run: Run) -> Iterator[Assignment]:
    """The run as it was assigned, with its code laid out in a folder that lasts as long as the block, as do its bytes.

    Raises:
        ConfigurationError: it was made from no recipe. Gone: it, or what it was made from, was collected.
        DataError: data of one's own is not what the run learned from.
    """
    if not run.entry or run.type == "track" or run.snapshot is None:
        raise ConfigurationError(
            f"the run {run.id} is of a script or notebook, which velodrome does not execute",
            remedy="run it again yourself, and compare: velodrome runs compare",
        )
    with ws.writing(), temporary_folder(ws.store / "scratch") as folder:
        require_whole(ws, run.id)
        root = folder.resolve()
        for path, leaf in read_tree(ws.blobs, run.code).items():
            write_atomic(within(root, path), ws.blobs.read(leaf.digest))
        write_atomic(root / CONFIG_NAME, b"")  # so that the folder is the project's root
        file = root / run.entry
        recipe = override(load_recipe(file), _changed(describe(load_recipe(file)), run.recipe))
        if describe(recipe) != run.recipe:
            raise IntegrityError(
                "the run's code does not declare its recipe", received=run.id, remedy="velodrome doctor"
            )
        taken = _taken(ws, recipe, run.snapshot)
        declared = declare(ws, recipe, Source(root, file), run.seed, taken=taken)
        yield Assignment(ws, declared, run, _judge(ws, run))


def _taken(ws: Workspace, recipe: Recipe, snapshot: Digest) -> Taken | OwnTaken:
    """The data as it was: out of the store, or where the user has it, if it is still that."""
    if isinstance(recipe.data.source, Own):
        return retake(ws, recipe.data, recipe.label, snapshot)
    return Taken(snapshot, read_record(ws.ledger, snapshot, Snapshot), 0, 0)


def _changed(declared: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given beside the recipe, by dotted name."""
    before, after = flatten(declared), flatten(recorded)
    return {name: value for name, value in after.items() if before.get(name, value) != value or name not in before}


def _judge(ws: Workspace, run: Run) -> Trained | None:
    if run.judge is None:
        return None
    outcome = outcome_of(ws, run.judge)
    assert outcome is not None
    return Trained(get_run(ws, run.judge), outcome, found=True)
