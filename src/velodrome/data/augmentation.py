"""Seeded augmentation: what is done to a row in an epoch is a function of (seed, epoch, row id) and of nothing else.

Each draw is a hash of a counter that holds the epoch and the id (`velodrome.core.counter`), never the next number of a
generator: the same row of the same epoch is changed the same way whatever batch it comes in, whoever prepares it, and
wherever a run was resumed. So nothing of it needs to be saved.
An operation changes fresh copies of rows in place, many at once. All images of a row are moved together; columns of a table
are drawn one by one, each under its own name, so that a further column changes no other. Targets are left alone.
Normal numbers are the inverse of the distribution function at a uniform number (Devroye, "Non-uniform random variate
generation", 1986, II.2), tabulated at 2**16 equally probable points: four from one hash, none beyond 4.3 deviations, and the
same wherever in a batch a row lies, which a vectorised logarithm does not promise.
Cost: some 50 µs for each operation and 2**15 numbers; for a batch of 128 images of 3 x 32 x 32, 0.1 ms to mirror, 0.3 to 0.7 ms
to crop, erase or spread, 1.6 ms of noise; for 1,024 rows of 32 columns 0.4 ms to mask or for noise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import scipy.special
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from velodrome.core.counter import derive_seed, hash64, uniform
from velodrome.core.digest import digest_bytes
from velodrome.core.errors import RecipeError, nearest
from velodrome.core.values import Value

__all__ = [
    "Augmentation",
    "Brightness",
    "Contrast",
    "Draws",
    "Erase",
    "GaussianNoise",
    "HorizontalFlip",
    "MaskFields",
    "RandomCrop",
    "augment",
    "counters",
]

_Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Inputs by name, each (n, ...), which may be written to."""

_LEVELS = 1 << 16
_LEAST_ROWS, _TOGETHER_NUMBERS = 64, 1 << 15
"""How much is changed at once: what lies between should stay in the processor's cache. No result depends on it."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers for some rows; `stream` tells the draws of one operation apart.

    Attributes:
        counters: uint64 (n,), one for each row and epoch; see `counters`.
    """

    counters: NDArray[np.uint64]
    seed: int

    def uniform(self, stream: int = 0) -> NDArray[np.float64]:
        """In [0, 1), float64 (n,)."""
        return uniform(self.counters, _seed(self.seed, stream))

    def below(self, limit: NDArray[np.int64] | int, stream: int = 0) -> NDArray[np.int64]:
        """Whole numbers in 0 .. limit - 1, int64 (n,); the limit, at most 2**31, may be each row's own."""
        high: NDArray[np.uint64] = hash64(self.counters, _seed(self.seed, stream)) >> np.uint64(32)
        return (high * np.asarray(limit, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)

    def of_each(self, names: Sequence[str]) -> NDArray[np.uint64]:
        """64 random bits for each row and name, uint64 (n, names); those of one name do not depend on the others."""
        streams = np.array([_stream(name) for name in names], dtype=np.uint64)
        return self._words(streams)

    def normal(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Of mean 0 and deviation 1 for each row and name, float32 (n, names)."""
        return _normal_levels().take(_quarters(self.of_each(names))[:, ::4])

    def normal_array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Of mean 0 and deviation 1 for each row, float32 (n, *shape)."""
        size = math.prod(shape)
        words = _stream(name) + np.arange(-(-size // 4), dtype=np.uint64)
        levels = _quarters(self._words(words))[:, :size]
        return _normal_levels().take(levels).reshape(len(levels), *shape)

    def _words(self, streams: NDArray[np.uint64]) -> NDArray[np.uint64]:
        rows = hash64(self.counters, self.seed)[:, None]
        return hash64(rows + streams, self.seed)


class HorizontalFlip(Value, frozen=True, tag="horizontal-flip"):
    """Mirror images left to right.

    Attributes:
        p: with which probability.
        columns: which, each (channels, height, width) in a row, float32 or uint8; None takes all that are so.
    """

    p: float = 0.5
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self, "p", self.p, 0.0, 1.0)

    def apply(self, inputs: _Arrays, draws: Draws) -> None:
        flipped = np.flatnonzero(draws.uniform() < self.p)
        for image in _images(self, inputs):
            image[flipped] = image[flipped, :, :, ::-1]


class RandomCrop(Value, frozen=True, tag="random-crop"):
    """Move images by up to `padding` pixels in each direction; what moves in is 0: a crop of the padded image.

    Attributes:
        columns: as in `HorizontalFlip`.
    """

    padding: int = 4
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self, "padding", self.padding, 0, 1 << 16)

    def apply(self, inputs: _Arrays, draws: Draws) -> None:
        side = self.padding
        down, across = draws.below(2 * side + 1, 0), draws.below(2 * side + 1, 1)
        for image in _images(self, inputs):
            rows, channels, height, width = image.shape
            padded = np.zeros((rows, channels, height + 2 * side, width + 2 * side), image.dtype)
            padded[:, :, side : side + height, side : side + width] = image
            windows = sliding_window_view(padded, (height, width), axis=(2, 3))
            image[...] = windows[np.arange(rows), :, down, across]


class Erase(Value, frozen=True, tag="erase"):
    """Set a rectangle of an image to 0 (Zhong et al., "Random erasing data augmentation", AAAI 2020).

    Attributes:
        p: with which probability.
        scale: the smallest and largest share of the image that is erased.
        ratio: the smallest and largest height for a width of 1. A side longer than the image's is cut to it.
        columns: as in `HorizontalFlip`.
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self, "p", self.p, 0.0, 1.0)
        _between(self, "scale", self.scale[0], 0.0, self.scale[1])
        _between(self, "scale", self.scale[1], self.scale[0], 1.0)
        _between(self, "ratio", self.ratio[0], 1e-6, self.ratio[1])

    def apply(self, inputs: _Arrays, draws: Draws) -> None:
        erased = np.flatnonzero(draws.uniform(0) < self.p)
        area, ratio = _scaled(draws.uniform(1), self.scale), _scaled(draws.uniform(2), self.ratio)
        for image in _images(self, inputs):
            pixels = area * image.shape[2] * image.shape[3]
            rows = _interval(np.sqrt(pixels * ratio), image.shape[2], draws, 3)[erased]
            columns = _interval(np.sqrt(pixels / ratio), image.shape[3], draws, 4)[erased]
            chosen = image[erased]
            np.copyto(chosen, 0, where=(rows[:, :, None] & columns[:, None, :])[:, None])
            image[erased] = chosen


class Brightness(Value, frozen=True, tag="brightness"):
    """Multiply an image with a number between 1 - scale and 1 + scale; bytes are rounded and kept in 0 .. 255.

    Attributes:
        columns: as in `HorizontalFlip`.
    """

    scale: float = 0.2
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self, "scale", self.scale, 0.0, 1.0)

    def apply(self, inputs: _Arrays, draws: Draws) -> None:
        factor = _scaled(draws.uniform(), (1.0 - self.scale, 1.0 + self.scale))
        for image in _images(self, inputs):
            _spread(image, factor)


class Contrast(Value, frozen=True, tag="contrast"):
    """Multiply an image's distance from its own mean with a number between 1 - scale and 1 + scale; bytes as above.

    Attributes:
        columns: as in `HorizontalFlip`.
    """

    scale: float = 0.2
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self, "scale", self.scale, 0.0, 1.0)

    def apply(self, inputs: _Arrays, draws: Draws) -> None:
        factor = _scaled(draws.uniform(), (1.0 - self.scale, 1.0 + self.scale))
        for image in _images(self, inputs):
            _spread(image, factor, image.reshape(len(image), math.prod(image.shape[1:])).mean(axis=1))


class GaussianNoise(Value, frozen=True, tag="gaussian-noise"):
    """Add normal noise.

    Attributes:
        scale: its standard deviation, in the unit of the prepared column: after `vd.Scale()` that of the training rows.
        columns: which, of numbers; None takes all of them, one-hot rows among them, but no codes and no bytes.
    """

    scale: float = 0.1
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self, "scale", self.scale, 0.0, np.inf)

    def apply(self, inputs: _Arrays, draws: Draws) -> None:
        names = _chosen(self, inputs, _is_real, "numbers")
        single = [name for name in names if inputs[name].ndim == 1]
        scale = np.float32(self.scale)
        for name, noise in zip(single, (draws.normal(single) * scale).T, strict=True):
            inputs[name][...] += noise
        for name in (name for name in names if inputs[name].ndim > 1):
            inputs[name][...] += draws.normal_array(name, inputs[name].shape[1:]) * scale


class MaskFields(Value, frozen=True, tag="mask-fields"):
    """Take a field away from a row: codes become 0, which is unknown, one-hot rows all zeros, numbers 0, which is the mean
    after `vd.Scale()`.

    Attributes:
        p: with which probability, for each row and field.
        columns: which; None takes all of them.
    """

    p: float = 0.1
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _between(self, "p", self.p, 0.0, 1.0)

    def apply(self, inputs: _Arrays, draws: Draws) -> None:
        names = _chosen(self, inputs, _is_any, "numbers or codes")
        for name, masked in zip(names, (_unit(draws.of_each(names)) < self.p).T, strict=True):
            inputs[name][masked] = 0


Augmentation: TypeAlias = HorizontalFlip | RandomCrop | Erase | Brightness | Contrast | GaussianNoise | MaskFields


def counters(epoch: int | NDArray[np.uint64], ids: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One number for each row and epoch, uint64 (n,): no two are equal for epochs below 2**32.

    >>> counters(2, np.array([5], dtype=np.uint32)).tolist() == [2 * 2**32 + 5]
    True
    """
    return (np.asarray(epoch, dtype=np.uint64) << np.uint64(32)) | ids


def augment(operations: Sequence[Augmentation], inputs: _Arrays, rows: NDArray[np.uint64], seed: int) -> None:
    """Change the inputs in place by each operation in turn.

    Args:
        inputs: by name, each (n, ...), the caller's own.
        rows: uint64 (n,); see `counters`.

    Raises:
        RecipeError: an operation names a column that is not there or is of another kind, or finds none that it could change.
    """
    numbers = sum(math.prod(values.shape[1:]) for values in inputs.values())
    piece = max(_LEAST_ROWS, _TOGETHER_NUMBERS // max(1, numbers))
    for start in range(0, max(1, len(rows)), piece):
        some = slice(start, start + piece)
        views = {name: values[some] for name, values in inputs.items()}
        for number, operation in enumerate(operations):
            operation.apply(views, Draws(rows[some], _seed(seed, number)))


@cache
def _seed(*parts: int) -> int:
    return derive_seed(*parts)


def _stream(name: str) -> int:
    return int(digest_bytes(name.encode())[:16], 16)


def _unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _quarters(words: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Each word, uint64 (n, k), as four numbers of 16 bits, the lowest first: (n, 4 k)."""
    return words.astype("<u8", copy=False).view("<u2")


@cache
def _normal_levels() -> NDArray[np.float32]:
    """The normal quantiles of the middles of 2**16 equal parts of [0, 1]: 256 kB."""
    middles = (np.arange(_LEVELS) + 0.5) / _LEVELS
    return scipy.special.ndtri(middles).astype(np.float32)  # type: ignore[no-any-return]


def _scaled(draws: NDArray[np.float64], ends: tuple[float, float]) -> NDArray[np.float64]:
    return ends[0] + (ends[1] - ends[0]) * draws


def _interval(length: NDArray[np.float64], whole: int, draws: Draws, stream: int) -> NDArray[np.bool_]:
    """Which of `whole` places an interval of each row's own length covers, somewhere within: bool (n, whole)."""
    covered = np.clip(np.rint(length), 1, whole).astype(np.int64)
    first = draws.below(whole - covered + 1, stream)
    places = np.arange(whole)
    return (places >= first[:, None]) & (places < (first + covered)[:, None])


def _spread(image: NDArray[Any], factor: NDArray[np.float64], centre: NDArray[Any] | None = None) -> None:
    """Multiply each image's distance from its centre (or 0) with its factor, in place and in float32."""
    values = image.astype(np.float32, copy=False)
    middle = None if centre is None else _of_each(centre)
    if middle is not None:
        values -= middle
    values *= _of_each(factor)
    if middle is not None:
        values += middle
    if image.dtype == np.uint8:
        np.rint(values, out=values)
        image[...] = np.clip(values, 0, 255, out=values)


def _of_each(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """One number for each image, to be spread over its pixels."""
    return numbers.astype(np.float32)[:, None, None, None]


def _images(operation: Any, inputs: _Arrays) -> list[NDArray[Any]]:
    return [inputs[name] for name in _chosen(operation, inputs, _is_image, "images (channels, height, width)")]


def _is_image(values: NDArray[Any]) -> bool:
    return values.ndim == 4 and values.dtype.name in {"float32", "uint8"}


def _is_real(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "f"


def _is_any(values: NDArray[Any]) -> bool:
    return True


def _chosen(operation: Any, inputs: _Arrays, fits: Callable[[NDArray[Any]], bool], what: str) -> list[str]:
    """The columns that an operation names, which must fit, or all that do."""
    kind = type(operation).__name__
    names = operation.columns if operation.columns is not None else [name for name in inputs if fits(inputs[name])]
    for name in names:
        if name not in inputs:
            raise RecipeError(f"{kind} names an input that is not there", received=name, remedy=nearest(name, inputs))
        if not fits(inputs[name]):
            raise RecipeError(
                f"{kind} cannot change {name!r}: it takes {what}",
                received=f"{inputs[name].dtype} of shape {('n', *inputs[name].shape[1:])}",
            )
    if not names:
        raise RecipeError(f"{kind} finds nothing to change: it takes {what}", received=", ".join(inputs))
    return list(names)


def _between(operation: Value, name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise RecipeError(
            f"{type(operation).__name__}.{name} lies between {least:g} and {most:g}", received=getattr(operation, name)
        )
