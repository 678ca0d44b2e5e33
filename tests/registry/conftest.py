"""A workspace in a folder of its own, and runs that stand for trainings: what is recorded is real, only nobody trained."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from velodrome.core.clock import ManualClock
from velodrome.core.digest import digest_bytes, digest_json
from velodrome.registry.environment import describe_environment
from velodrome.registry.provenance import collect_provenance
from velodrome.registry.runs import Run
from velodrome.store.ledger import Put, digest_record
from velodrome.store.trees import put_tree
from velodrome.store.workspace import Workspace, open_folder


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_folder(tmp_path) as opened:
        yield replace(opened, actor="ann", clock=ManualClock(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))


@pytest.fixture
def make_run(ws: Workspace) -> Callable[..., Run]:
    """A run with its inputs recorded; `start` is the test's to call."""
    environment = describe_environment((), device="cpu", capability="none", threads=1)
    provenance = collect_provenance(ws, ws.root)
    ws.commit(Put(environment), Put(provenance))

    def make(**fields: Any) -> Run:
        ws.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]
        files = fields.pop("files", {"recipe.py": b"pass"})
        facts: dict[str, Any] = {
            "id": ws.new_id(),
            "name": "late",
            "key": digest_json(fields.get("seed", 0)),
            "type": "train",
            "snapshot": digest_bytes(b"snapshot"),
            "code": put_tree(ws.blobs, files),
            "environment": digest_record(environment),
            "provenance": digest_record(provenance),
            "recipe": {"learner": {"epochs": 6}, "features": ["a", "b"]},
            "seed": 0,
        }
        return Run(**facts | fields)

    return make
