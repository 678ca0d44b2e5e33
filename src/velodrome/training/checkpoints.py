"""Checkpoints: written in a thread, digested, flushed, then recorded; the newest that verifies is restored.

The training thread pays for one copy of the state. The blob is durable before its record exists, so a kill at any point
leaves the checkpoint before. A checkpoint that no longer verifies is an event on the run's chain, and the one before it is
used. Kept: the newest few and the best; before one is dropped the newest is read back, and a dropped one is recorded as
dropped before its bytes go.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from velodrome.core.errors import IntegrityError, MissingBlob, StorageError
from velodrome.core.logging import logger
from velodrome.core.units import parse_duration, show_bytes
from velodrome.core.values import Record
from velodrome.store.files import free_bytes
from velodrome.store.ledger import Append, Link, Put, digest_record, read_record
from velodrome.store.workspace import Workspace
from velodrome.training.learners import Checkpoints

__all__ = [
    "Checkpoint",
    "Checkpointer",
    "Interval",
    "checkpoints_of",
    "damaged_steps",
    "newest_verified",
    "pass_over",
    "require_space",
    "young_daly",
]

_AT_ONCE = 2  # beside what is kept: the one being written, and the one to be dropped


class Checkpoint(Record, frozen=True, kw_only=True, tag="checkpoint"):
    """The state after `step` steps of a run; `score` is the validation loss at that step, where there was one."""

    run: str
    attempt: int
    step: int
    blob: str
    size: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """When to save: after so many steps, so many seconds, or as often as failures and the cost of a save make best."""

    steps: int = 0
    seconds: float = math.inf
    failure_seconds: float = 0.0

    @classmethod
    def of(cls, settings: Checkpoints, steps: int, measured: Callable[[], float | None] = lambda: None) -> "Interval":
        """What a recipe says.

        Args:
            steps: where it says nothing about steps.
            measured: the seconds between failures, asked for where it says "auto"; None: there was none yet.
        """
        seconds, failures = settings.lose_at_most, settings.failures_every
        between = measured() if failures == "auto" else parse_duration(failures).total_seconds() if failures else None
        return cls(
            settings.every or steps, parse_duration(seconds).total_seconds() if seconds else math.inf, between or 0.0
        )

    def reached(self, steps: int, seconds: float, stall: float) -> bool:
        """Whether a save is due, `seconds` after the last one, when each makes the training wait `stall` seconds."""
        wanted = min(self.seconds, young_daly(stall, self.failure_seconds) if self.failure_seconds else math.inf)
        return (self.steps > 0 and steps % self.steps == 0) or seconds >= wanted


def young_daly(cost: float, failures: float) -> float:
    """The seconds between saves that lose least, for saves of `cost` seconds and failures every so many seconds.

    Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006, equation 37; its first term
    is that of Young, 1974.

    >>> round(young_daly(2.0, 3600.0))
    119
    """
    if cost >= 2 * failures:
        return failures
    share = cost / (2 * failures)
    return math.sqrt(2 * cost * failures) * (1 + math.sqrt(share) / 3 + share / 9) - cost


class Checkpointer:
    """Saves the state of one run, one save at a time; the failure of a save is raised by the next call.

    Args:
        flush: makes the histories durable; called in the writing thread before a checkpoint is recorded, so that a restored
            step always has its history.
        facts: what the event of a save says beside the checkpoint, such as where the time went.
    """

    def __init__(
        self,
        ws: Workspace,
        run: str,
        attempt: int,
        flush: Callable[[], object],
        *,
        interval: Interval | None = None,
        facts: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._ws, self._run, self._attempt, self._flush = ws, run, attempt, flush
        self._interval, self._facts = interval or Interval(), facts
        self._live: list[Checkpoint] | None = (
            None  # until the first save: a resumed run may yet find some of them damaged
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._saved_at, self._stall = ws.clock.monotonic(), 0.0

    def due(self, step: int, now: float) -> bool:
        """Whether the interval is over after that step, at that moment of the workspace's monotonic clock.

        Raises:
            StorageError: the last save failed.
        """
        if self._pending is not None and self._pending.done():
            self.wait()
        return self._interval.reached(step, now - self._saved_at, self._stall)

    def save(self, step: int, copy: Callable[[], Callable[[], bytes | memoryview]], score: float | None = None) -> None:
        """Copy the state and save it in the background.

        Args:
            copy: copies the state now; what it returns is called in the writing thread and gives the bytes.
        """
        begun = self._ws.clock.monotonic()
        self.wait()
        encode, facts = copy(), self._facts()
        self._pending = self._thread.submit(self._write, step, encode, score, facts)
        self._saved_at = self._ws.clock.monotonic()
        self._stall = self._saved_at - begun

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

    def _write(
        self, step: int, encode: Callable[[], bytes | memoryview], score: float | None, facts: dict[str, Any]
    ) -> None:
        blob = self._ws.blobs.put(encode())
        self._flush()
        record = Checkpoint(
            run=self._run, attempt=self._attempt, step=step, blob=blob.digest, size=blob.size, score=score
        )
        before = checkpoints_of(self._ws, self._run) if self._live is None else self._live
        live = sorted([*before, record], key=lambda checkpoint: checkpoint.step)
        self._ws.commit(
            Put(record, self._run),
            Link(f"run:{self._run}", digest_record(record), "checkpoint"),
            Link(digest_record(record), record.blob, "blob"),
            _event(record, "checkpoint.saved", **facts),
        )
        self._live = live
        self._drop(live, _kept(live, self._ws.config.keep_checkpoints))

    def _drop(self, live: list[Checkpoint], kept: list[Checkpoint]) -> None:
        """Let go of all but those, unless the newest does not read back: then all stay."""
        dropped = [checkpoint for checkpoint in live if checkpoint not in kept]
        if not dropped:
            return
        try:
            self._ws.blobs.local(live[-1].blob)
        except StorageError as error:
            logger().warning("checkpoint.not_read_back", run=self._run, problem=error.problem)
            return
        self._ws.commit(*(_event(checkpoint, "checkpoint.dropped") for checkpoint in dropped))
        self._live = kept
        used = {checkpoint.blob for checkpoint in kept}
        for checkpoint in dropped:
            if checkpoint.blob not in used:
                self._ws.blobs.delete(checkpoint.blob)


def require_space(ws: Workspace, size: int) -> None:
    """Refuse to begin what its checkpoints of `size` bytes would not let end, where they go to a disk of this machine.

    Raises:
        StorageError: says how much there is, and how much it takes.
    """
    folder = getattr(ws.blobs, "root", None)
    if not isinstance(folder, Path):
        return
    needed, free = size * (ws.config.keep_checkpoints + _AT_ONCE), free_bytes(folder)
    if free < needed:
        raise StorageError(
            f"the disk of {folder} has no room for the checkpoints of this run",
            received=f"{show_bytes(free)} free; {show_bytes(needed)} for {ws.config.keep_checkpoints} checkpoints and two more",
            remedy="make room (velodrome gc), or keep fewer: keep_checkpoints in velodrome.toml",
        )


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


def damaged_steps(ws: Workspace, run: str) -> set[int]:
    """The steps whose checkpoint was found damaged, and was not saved again."""
    last = {event.body["step"]: event.type for event in ws.ledger.events(f"checkpoints:{run}")}
    return {step for step, type_ in last.items() if type_ == "checkpoint.damaged"}


def newest_verified(ws: Workspace, run: str) -> tuple[Checkpoint, bytes] | None:
    """The newest checkpoint whose bytes verify, with them; damaged ones on the way are recorded, told and passed over.

    Raises:
        StorageError: the blobs cannot be reached; that says nothing about a checkpoint.
    """
    for checkpoint in reversed(checkpoints_of(ws, run)):
        try:
            return checkpoint, ws.blobs.read(checkpoint.blob)
        except (IntegrityError, MissingBlob) as error:  # its bytes stay, for whoever looks into it
            pass_over(ws, checkpoint, error.problem)
    if ws.ledger.events(f"checkpoints:{run}"):
        logger().warning("checkpoint.none_is_left", run=run, then="the training starts anew")
    return None


def pass_over(ws: Workspace, checkpoint: Checkpoint, reason: str) -> None:
    """Record, and tell, that a checkpoint is of no use; from now on it is none of the run's."""
    ws.commit(_event(checkpoint, "checkpoint.damaged", reason=reason))
    logger().warning("checkpoint.damaged", run=checkpoint.run, step=checkpoint.step, problem=reason)


def _event(checkpoint: Checkpoint, type_: str, **why: Any) -> Append:
    body = {"step": checkpoint.step, "checkpoint": digest_record(checkpoint), **why}
    return Append(f"checkpoints:{checkpoint.run}", type_, body)
