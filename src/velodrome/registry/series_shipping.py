"""Points on their way into the ledger: how they lie in a spool, which blocks they become, and what is known of them then.

A series of an attempt has one open block, which grows in place until it has 1,024 points, since a block takes the place of
the one that began at the same step. So days of shipping every few seconds leave few blocks, and there is nothing to compact;
the price is that the open blocks, 8 kB a series at most, are written with every ship. Steps of a series only rise within an
attempt and are shipped in their order, so what was shipped before ends at the last step that the ledger has: shipping again
changes nothing.
The facts of a series (last, min, max, count) travel in the commit of its blocks. They are counted on from the facts before,
and anew from all blocks when an attempt begins, restores a step, logs a step that an earlier one logged, or is no longer the
newest. Cost: one query and one commit for each ship.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from velodrome.registry.series import (
    Summary,
    attempt_mark,
    decode_block,
    encode_block,
    merge_blocks,
    restored_steps,
    series_facts,
    summarise,
)
from velodrome.store.ledger import Block, Fact, Write
from velodrome.store.workspace import Workspace

__all__ = ["Points", "Shipper", "pack_points", "settle_facts", "unpack_points"]

_FULL = 1024
"""Points of a block that no longer grows."""

_LARGEST = 65_536
"""Points of the largest block."""

_Curve: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


class Points(msgspec.Struct, frozen=True):
    """Points of series that were logged together: steps int64 (n,), strictly increasing, values float64 (names, n)."""

    names: tuple[str, ...]
    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    @property
    def count(self) -> int:
        return self.values.size


def pack_points(points: Iterable[Points]) -> bytes:
    """Points as a payload of a spool."""
    packed = [(each.names, each.steps.astype("<i8").tobytes(), each.values.astype("<f8").tobytes()) for each in points]
    return msgspec.msgpack.encode(packed)


def unpack_points(payload: bytes) -> list[Points]:
    """The points in a payload of a spool."""
    packed = msgspec.msgpack.decode(payload, type=list[tuple[tuple[str, ...], bytes, bytes]])
    return [
        Points(names, np.frombuffer(steps, "<i8"), np.frombuffer(values, "<f8").reshape(len(names), -1))
        for names, steps, values in packed
    ]


class Shipper:
    """Brings the points of one attempt into the ledger. There is one at a time for an attempt: who has its spool open.

    Args:
        guard: what else goes into each commit, for it to fail where something is not as it was.
    """

    def __init__(self, ws: Workspace, run: str, attempt: int, *guard: Write) -> None:
        self._ws, self._run, self._attempt, self._guard = ws, run, attempt, guard
        self._standing: tuple[int, Mapping[int, int]] | None = None  # of the run, at the last ship
        self._newest = True
        self._known: dict[str, Summary] = {}
        self._last: dict[str, int] = {}
        self._open: dict[str, _Curve] = {}

    def ship(self, points: Iterable[Points]) -> int:
        """Commit those points that the ledger has not, with the facts that follow; returns how many these were.

        Raises:
            StorageError: nothing was committed, or nobody knows; ship the same again.
            PointerMoved: the guard.
        """
        standing = _standing(self._ws, self._run)
        stored = None
        if standing != self._standing:
            stored = self._ws.ledger.blocks(self._run)
            self._take_up(stored, newest=standing[0])
        fresh = self._fresh(points)
        if not fresh:
            return 0
        if stored is None and not self._counts_on(fresh):
            stored = self._ws.ledger.blocks(self._run)
        grown = {name: self._grown(name, curve) for name, curve in fresh.items()}
        blocks = [block for made in grown.values() for block in made]
        writes: list[Write] = [*blocks]
        if stored is None:
            known = {name: self._known.get(name, Summary()).then(*curve) for name, curve in fresh.items()}
        else:
            stored = _replaced(stored, blocks)
            known = _counted(stored, standing[1])
            writes += [attempt_mark(self._run, attempt) for attempt in {block.attempt for block in stored}]
        self._ws.commit(*self._guard, *writes, *series_facts(self._run, known))
        self._standing, self._known = standing, self._known | known
        self._remember([made[-1] for made in grown.values()])
        return sum(len(steps) for steps, _ in fresh.values())

    def _take_up(self, stored: Sequence[Block], newest: int) -> None:
        """Go on where this attempt's blocks in the ledger end."""
        self._newest = self._attempt >= max([newest, *(block.attempt for block in stored)])
        self._remember([block for block in stored if block.attempt == self._attempt and block.count])

    def _remember(self, blocks: Iterable[Block]) -> None:
        """What the ledger has of this attempt, in the order of its steps."""
        for block in blocks:
            self._last[block.series] = block.last_step
            self._open.pop(block.series, None)
            if block.count < _FULL:
                self._open[block.series] = decode_block(block)[1:]

    def _fresh(self, points: Iterable[Points]) -> dict[str, _Curve]:
        """By series, the points after the last that the ledger has."""
        parts: defaultdict[str, list[_Curve]] = defaultdict(list)
        for each in points:
            for name, values in zip(each.names, each.values, strict=True):
                later = each.steps > self._last[name] if name in self._last else slice(None)
                parts[name].append((each.steps[later], values[later]))
        curves = {name: _joined(found) for name, found in parts.items()}
        return {name: curve for name, curve in curves.items() if len(curve[0])}

    def _counts_on(self, fresh: Mapping[str, _Curve]) -> bool:
        """Whether the new points are behind all that are known, so that what is known need only be added to."""
        ends = {name: self._known[name].last_step for name in fresh if name in self._known}
        return self._newest and all(end is None or fresh[name][0][0] > end for name, end in ends.items())

    def _grown(self, name: str, fresh: _Curve) -> list[Block]:
        """The open block with the new points, and those that follow where it would be too large."""
        steps, values = _joined([self._open[name], fresh]) if name in self._open else fresh
        return [
            encode_block(self._run, name, self._attempt, steps[cut : cut + _LARGEST], values[cut : cut + _LARGEST])
            for cut in range(0, len(steps), _LARGEST)
        ]


def settle_facts(ws: Workspace, run: str, *guard: Write) -> bool:
    """Make what the ledger knows of a run's series what their blocks say, if it is not; whether it was not.

    Cost: reads all blocks of the run, and writes what differs.
    """
    subject = f"run:{run}"
    counted = _counted(ws.ledger.blocks(run), restored_steps(ws.ledger.events(subject)))
    wanted = {fact.key: fact for fact in series_facts(run, counted)}
    known = ws.ledger.facts([subject], "series.")[subject]
    stale = [Fact(subject, key, None) for key in known if key not in wanted]
    wrong = [fact for key, fact in wanted.items() if known.get(key) != _as_known(fact)]
    if stale or wrong:
        ws.commit(*guard, *stale, *wrong)
    return bool(stale or wrong)


def _as_known(fact: Fact) -> float | str | None:
    return None if isinstance(fact.value, float) and math.isnan(fact.value) else fact.value


def _standing(ws: Workspace, run: str) -> tuple[int, dict[int, int]]:
    """The number of the newest attempt that its events tell of, and attempt → step for those that restored one."""
    events = ws.ledger.events(f"run:{run}")
    return max((event.body.get("attempt", 0) for event in events), default=0), restored_steps(events)


def _counted(blocks: Iterable[Block], restored: Mapping[int, int]) -> dict[str, Summary]:
    return {name: summarise(series) for name, series in merge_blocks(blocks, restored).items()}


def _replaced(stored: Iterable[Block], blocks: Iterable[Block]) -> list[Block]:
    """The blocks as the ledger will hold them."""
    return list({(block.series, block.attempt, block.first_step): block for block in (*stored, *blocks)}.values())


def _joined(curves: Sequence[_Curve]) -> _Curve:
    return np.concatenate([steps for steps, _ in curves]), np.concatenate([values for _, values in curves])
