"""How often attempts die here: what the best interval between checkpoints is computed from.

An attempt died if another one began after it without its having ended: a kill, a crash, a machine that went away. One that was
asked to leave, that failed by name, or that went back for a batch, has saved or told what it could, and does not count.
"""

from velodrome.registry.attempts import attempts_of
from velodrome.registry.search import list_runs
from velodrome.registry.time_spent import time_spent
from velodrome.store.workspace import Workspace

__all__ = ["mean_time_between_failures"]

_RUNS = 100
_SHORTEST = 60.0  # seconds: what died before its first step has told nothing of its time


def mean_time_between_failures(ws: Workspace) -> float | None:
    """Seconds of attempts for each attempt that died, over the newest hundred runs, at least 60; None: none of them died.

    Cost: two queries for each run, and the blocks of the series of those with an attempt that died.
    """
    seconds, died = 0.0, 0
    for run in list_runs(ws, limit=_RUNS):
        events, checkpoints = (ws.ledger.events(f"{kind}:{run.id}") for kind in ("run", "checkpoints"))
        dead = sum(attempt.end == "died" for attempt in attempts_of(events))
        seconds += sum(time_spent(events, checkpoints, ws.ledger.blocks(run.id) if dead else ()).values())
        died += dead
    return max(seconds / died, _SHORTEST) if died else None
