"""Checkpoints: written in a thread, digested, flushed, then recorded; the newest that verifies is restored.

The training thread pays for one copy of the state. The blob is durable before its record exists, so a kill at any point
leaves the checkpoint before. A checkpoint that no longer verifies is an event on the run's chain, and the one before it is
used. Kept: the newest few and the best; a dropped one is recorded as dropped before its bytes go.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from velodrome.core.errors import IntegrityError, MissingBlob
from velodrome.core.values import Record
from velodrome.store.ledger import Append, Link, Put, digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = ["Checkpoint", "Checkpointer", "checkpoints_of", "newest_verified"]


class Checkpoint(Record, frozen=True, kw_only=True, tag="checkpoint"):
    """The state after `step` steps of a run; `score` is the validation loss at that step, where there was one."""

    run: str
    attempt: int
    step: int
    blob: str
    size: int
    score: float | None = None


class Checkpointer:
    """Saves the state of one run, one save at a time; the failure of a save is raised by the next call.

    Args:
        flush: makes the histories durable; called in the writing thread before a checkpoint is recorded, so that a restored
            step always has its history.
    """

    def __init__(self, ws: Workspace, run: str, attempt: int, flush: Callable[[], object]) -> None:
        self._ws, self._run, self._attempt, self._flush = ws, run, attempt, flush
        self._live = checkpoints_of(ws, run)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, encode: Callable[[], bytes], score: float | None = None) -> None:
        """Save in the background what `encode` returns; it runs in the writing thread on a copy that nobody changes."""
        self.wait()
        self._pending = self._thread.submit(self._write, step, encode, score)

    def wait(self) -> None:
        """Return when the last save is durable and recorded.

        Raises:
            StorageError: it could not be saved.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, step: int, encode: Callable[[], bytes], score: float | None) -> None:
        blob = self._ws.blobs.put(encode())
        self._flush()
        record = Checkpoint(
            run=self._run, attempt=self._attempt, step=step, blob=blob.digest, size=blob.size, score=score
        )
        digest = digest_record(record)
        live = sorted([*self._live, record], key=lambda checkpoint: checkpoint.step)
        kept = _kept(live, self._ws.config.keep_checkpoints)
        dropped = [checkpoint for checkpoint in live if checkpoint not in kept]
        self._ws.commit(
            Put(record, self._run),
            Link(f"run:{self._run}", digest, "checkpoint"),
            Link(digest, record.blob, "blob"),
            _event(record, "checkpoint.saved"),
            *(_event(checkpoint, "checkpoint.dropped") for checkpoint in dropped),
        )
        self._live = kept
        for checkpoint in dropped:
            self._ws.blobs.delete(checkpoint.blob)


def _kept(live: list[Checkpoint], newest: int) -> list[Checkpoint]:
    """The newest few, and the one with the lowest validation loss (the earliest of equals)."""
    scored = [(checkpoint.score, checkpoint.step) for checkpoint in live if checkpoint.score is not None]
    best = min(scored)[1] if scored else None
    return [
        checkpoint
        for position, checkpoint in enumerate(live, 1)
        if position > len(live) - newest or checkpoint.step == best
    ]


def checkpoints_of(ws: Workspace, run: str) -> list[Checkpoint]:
    """The checkpoints of a run that were neither dropped nor found damaged, by step."""
    live: dict[str, None] = {}
    for event in ws.ledger.events(f"checkpoints:{run}"):
        if event.type == "checkpoint.saved":
            live[event.body["checkpoint"]] = None
        else:
            live.pop(event.body["checkpoint"], None)
    found = [read_record(ws.ledger, digest, Checkpoint) for digest in live]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_verified(ws: Workspace, run: str) -> tuple[Checkpoint, bytes] | None:
    """The newest checkpoint whose bytes verify, with them; damaged ones on the way are recorded and passed over.

    Raises:
        StorageError: the blobs cannot be reached; that says nothing about a checkpoint.
    """
    for checkpoint in reversed(checkpoints_of(ws, run)):
        try:
            return checkpoint, ws.blobs.read(checkpoint.blob)
        except (IntegrityError, MissingBlob) as error:  # its bytes stay, for whoever looks into it
            ws.commit(_event(checkpoint, "checkpoint.damaged", reason=error.problem))
    return None


def _event(checkpoint: Checkpoint, type_: str, **why: str) -> Append:
    body = {"step": checkpoint.step, "checkpoint": digest_record(checkpoint), **why}
    return Append(f"checkpoints:{checkpoint.run}", type_, body)
