"""Which batch fits in memory, and which is quick enough, as functions of what was measured for some sizes.

A step costs some time however few rows it has, so rows a second grow with the batch until the machine is busy. From there on a
larger batch only makes fewer steps of an epoch. `training.torch_trials` measures.
"""

from collections.abc import Iterator, Sequence

import msgspec

__all__ = ["SizeSuggestion", "SizeTrial", "doubled", "may_fit", "suggest_size"]

_NEAR = 0.95


class SizeTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Some steps with so many rows.

    Attributes:
        memory: bytes at most in use beyond what was before the first trial. None, as the speed: memory ran out.
    """

    size: int
    fits: bool
    rows_per_second: float | None = None
    memory: int | None = None


class SizeSuggestion(msgspec.Struct, frozen=True, kw_only=True):
    """What the trials say.

    Attributes:
        largest: that fits. fastest: with the most rows a second. enough: the smallest within 5 % of that.
    """

    largest: int
    fastest: int
    enough: int


def doubled(start: int, most: int) -> Iterator[int]:
    """`start` and each double of it up to `most`.

    >>> list(doubled(32, 200))
    [32, 64, 128]
    """
    while start <= most:
        yield start
        start *= 2


def may_fit(trials: Sequence[SizeTrial], budget: int | None) -> bool:
    """Whether twice the size of the last trial surely stays within so many bytes; None: the device itself says when it is full.

    What a step takes is a constant and a share for each row, so twice the rows take at most twice the memory.
    """
    if not trials:
        return True
    last = trials[-1]
    return last.fits and (budget is None or last.memory is None or 2 * last.memory <= budget)


def suggest_size(trials: Sequence[SizeTrial]) -> SizeSuggestion | None:
    """The sizes that the trials recommend; None where none fits."""
    speeds = {each.size: each.rows_per_second or 0.0 for each in trials if each.fits}
    if not speeds:
        return None
    fastest = max(speeds, key=lambda size: speeds[size])
    enough = min(size for size, speed in speeds.items() if speed >= _NEAR * speeds[fastest])
    return SizeSuggestion(largest=max(speeds), fastest=fastest, enough=enough)
