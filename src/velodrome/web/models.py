"""What a page shows of a version of a model: the run that was judged, its refit, who decided what about it, and its cycles.

Cost: that of one or two runs' facts, and of the trace of the version.
"""

from datetime import datetime

import msgspec

from velodrome.core.digest import Digest
from velodrome.registry.lineage import Decision, trace
from velodrome.registry.versions import VersionState
from velodrome.store.workspace import Workspace
from velodrome.web.cycles import CycleFacts, cycle_facts
from velodrome.web.runs import RunFacts, run_facts

__all__ = ["ModelPage", "model_page"]


class ModelPage(msgspec.Struct, frozen=True, kw_only=True, tag_field="page", tag="model"):
    """The page of a version.

    Attributes:
        run: whose figures are shown: the run that was judged. refit: the run whose artifact it is, where that is another.
        decisions: the version's moves between states. moves: those of the model's aliases that it took part in.
        cycles: of the loop, those that made it or measured it as champion, oldest first.
    """

    made: datetime
    reference: str
    model: str
    state: VersionState
    aliases: tuple[str, ...]
    artifact: Digest
    run: RunFacts
    refit: RunFacts | None
    decisions: tuple[Decision, ...]
    moves: tuple[Decision, ...]
    cycles: tuple[CycleFacts, ...]


def model_page(ws: Workspace, reference: str) -> ModelPage:
    """The page of the version that `name/7`, `name@alias` or a name means.

    Raises:
        NotFound: no such version.
    """
    found = trace(ws, reference)
    own = run_facts(ws, found.runs[-1].run.id)
    judged = run_facts(ws, found.runs[0].run.id) if len(found.runs) > 1 else own
    model = found.reference.partition("/")[0]
    return ModelPage(
        made=ws.clock.now(),
        reference=found.reference,
        model=model,
        state=found.state,
        aliases=found.standing_as,
        artifact=found.artifact,
        run=judged,
        refit=own if own is not judged else None,
        decisions=found.decisions,
        moves=found.aliases,
        cycles=tuple(facts for facts in cycle_facts(ws, model) if facts.concerns(found.reference)),
    )
