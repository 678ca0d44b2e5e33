"""The sample ledger: one chain of digests over what every step learned from and what came of it.

The link of a step covers the link before, the step, the ids of its rows, and the bits of its loss, gradient norm and learning
rate. Equal chains therefore mean equal training; the first link that differs names the step. The first 48 bits of each link
are the value series `step_digest`, which a float64 holds exactly; the chain's end is in every checkpoint and in the run's
outcome. Since the order of rows is a function of the seed, the ids need not be stored: `check_samples` computes them again and
proves from the recorded series alone that each epoch used each row once.
Cost: steps are collected and hashed many at a time, about a microsecond for each.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy.typing as npt
from blake3 import blake3

from velodrome.core.errors import IntegrityError

__all__ = ["SampleLedger", "check_samples", "links"]

_TOGETHER = 1024
_STEP = struct.Struct("<qddd")


class _Recorder(Protocol):
    def log(self, step: int, /, **values: float) -> None: ...


class SampleLedger:
    """The chain of one attempt; `chain` is where a restored one goes on."""

    def __init__(self, recorder: _Recorder, chain: str = "") -> None:
        self._recorder = recorder
        self._chain = bytes.fromhex(chain)
        self._pending: list[tuple[int, npt.NDArray[Any], float, float, float]] = []

    def add(self, step: int, ids: npt.NDArray[Any], loss: float, norm: float, lr: float) -> None:
        """A step that was done: its number from 1, the ids of its rows, what came out."""
        self._pending.append((step, ids, loss, norm, lr))
        if len(self._pending) >= _TOGETHER:
            self.seal()

    def seal(self) -> str:
        """The chain's present end, in hexadecimal; what was added is in it and in the series."""
        for done in self._pending:
            self._chain = _link(self._chain, *done)
            self._recorder.log(done[0], step_digest=_short(self._chain))
        self._pending.clear()
        return self._chain.hex()


def links(
    steps: Iterator[tuple[int, npt.NDArray[Any], float, float, float]], chain: str = ""
) -> Iterator[tuple[int, float]]:
    """(step, value of `step_digest`) for steps given as to `SampleLedger.add`."""
    link = bytes.fromhex(chain)
    for done in steps:
        link = _link(link, *done)
        yield done[0], _short(link)


def check_samples(
    batches: Iterator[tuple[int, npt.NDArray[Any]]], series: Mapping[str, Mapping[int, float]], last: int
) -> None:
    """Check that steps 1 to `last` used exactly the rows that the order gives them, in that order.

    Args:
        batches: (step from 0, ids) in the order that the run's seed gives.
        series: `loss`, `gradient_norm`, `lr` and `step_digest` by step.

    Raises:
        IntegrityError: names the first step whose link is another.
    """
    link = b""
    for before, ids in batches:
        step = before + 1
        if step > last:
            return
        if step not in series["step_digest"]:
            raise IntegrityError(
                f"step {step} has no link in the sample ledger", remedy="was the run trained by this version?"
            )
        link = _link(link, step, ids, *(series[name][step] for name in ("loss", "gradient_norm", "lr")))
        if _short(link) != series["step_digest"][step]:
            raise IntegrityError(
                f"step {step} did not learn from the rows that its seed gives it, or its figures were changed",
                received=f"link {int(series['step_digest'][step]):012x}, computed {int(_short(link)):012x}",
                remedy="look at the run's history with: velodrome audit verify",
            )


def _link(previous: bytes, step: int, ids: npt.NDArray[Any], loss: float, norm: float, lr: float) -> bytes:
    return blake3(previous + _STEP.pack(step, loss, norm, lr) + ids.astype("<u4", copy=False).tobytes()).digest()


def _short(link: bytes) -> float:
    return float(int.from_bytes(link[:6], "little"))
