"""BLAKE3 digests of bytes, streams and canonical JSON, and the canonical JSON itself.

A digest is 64 lower-case hexadecimal characters. Canonical JSON has sorted keys, no white space, UTF-8, values in the
type of their field (1 in a float field is 1.0) and no NaN or infinity, so that equal values have equal digests.
Cost: BLAKE3 runs at several GB/s on one thread, far above what a disk delivers.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, NewType, TypeVar

import blake3
import msgspec

from velodrome.core.errors import IntegrityError, VelodromeError

__all__ = [
    "CHUNK",
    "Digest",
    "Hasher",
    "canonical",
    "decode",
    "digest_bytes",
    "digest_json",
    "digest_stream",
    "is_digest",
]

Digest = NewType("Digest", str)

CHUNK = 1 << 20

_T = TypeVar("_T")
_encoder = msgspec.json.Encoder(order="sorted")


class Hasher:
    """A digest fed piece by piece.

    >>> hasher = Hasher()
    >>> hasher.update(b"velo"); hasher.update(b"drome")
    >>> hasher.digest() == digest_bytes(b"velodrome")
    True
    """

    def __init__(self) -> None:
        self._state = blake3.blake3()

    def update(self, data: bytes | memoryview) -> None:
        self._state.update(data)

    def digest(self) -> Digest:
        return Digest(self._state.hexdigest())


def digest_bytes(data: bytes | memoryview) -> Digest:
    return Digest(blake3.blake3(data).hexdigest())


def digest_stream(stream: BinaryIO) -> Digest:
    hasher = Hasher()
    while chunk := stream.read(CHUNK):
        hasher.update(chunk)
    return hasher.digest()


def digest_json(value: object) -> Digest:
    return digest_bytes(canonical(value))


def is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def canonical(value: object) -> bytes:
    """Canonical JSON of a struct, or of plain JSON values.

    Raises:
        VelodromeError: a NaN or an infinity, which JSON cannot say; the path to it is named.

    >>> canonical({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    if isinstance(value, msgspec.Struct):
        value = msgspec.convert(msgspec.to_builtins(value), type(value))
    plain = msgspec.to_builtins(value)
    for path, number in _floats(plain, "$"):
        if not math.isfinite(number):
            raise VelodromeError(
                f"canonical JSON has no {number} at {path}", remedy="record None, or leave the value out"
            )
    return _encoder.encode(value)


def decode(data: bytes, type_: type[_T]) -> _T:
    """The value of `type_` in `data`.

    Raises:
        IntegrityError: the bytes are not JSON of that type.
    """
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"a stored {type_.__name__} does not read: {error}",
            received=repr(data[:80]),
            remedy="it was written by another version of velodrome or changed by hand; run `velodrome doctor`",
        ) from error


def _floats(value: Any, path: str) -> Iterable[tuple[str, float]]:
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _floats(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _floats(item, f"{path}[{index}]")
