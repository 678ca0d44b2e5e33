"""What moved since the champion was trained, for a recipe as it is now: the verb behind `velodrome drift`."""

from velodrome.core.errors import StateError
from velodrome.data.snapshots import take_snapshot
from velodrome.monitoring.drift import DriftReport, detect_drift
from velodrome.recipe import Recipe
from velodrome.registry.runs import get_run
from velodrome.registry.versions import CHAMPION, find_alias
from velodrome.store.workspace import Workspace

__all__ = ["look_for_drift"]


def look_for_drift(ws: Workspace, recipe: Recipe) -> DriftReport:
    """Features and label of the data as it is now beside the champion's own snapshot; no row of that is read.

    Raises:
        StateError: there is no champion, or it was trained on no snapshot.
        DataError: as `take_snapshot`.
    """
    champion = find_alias(ws, recipe.name, CHAMPION)
    trained_on = get_run(ws, champion.run).snapshot if champion else None
    if trained_on is None:
        raise StateError(
            f"{recipe.name} has no champion with data to compare with",
            received=champion.reference if champion else None,
            remedy="run the recipe first: velodrome run RECIPE",
        )
    taken = take_snapshot(ws, recipe.data)
    return detect_drift(ws, trained_on, taken.digest, [*recipe.features, recipe.label], recipe.operate.retrain.drift)
