"""Keys by reference: where a master key is, never what it is.

A reference is `file:PATH`, `env:NAME` or `command:WORDS`; behind it are 32 bytes, as base64 or hexadecimal. The key is read
when the store is opened, stays in memory, and is in no record, error, log or repr: what names it is its `id`, a digest
that tells nothing about it. A file that anybody else may read is refused; a command is run without a shell.
"""

import base64
import os
import shlex
import signal
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from velodrome.core.errors import ConfigurationError, IntegrityError

__all__ = ["KEY_BYTES", "WrappingKey", "read_key"]

KEY_BYTES = 32
"""AES-256."""

_NONCE = 12
_COMMAND_SECONDS = 60.0
_EVERYBODY_ELSE = stat.S_IRWXG | stat.S_IRWXO


class WrappingKey:
    """A key that wraps other keys (AES-256-GCM, a random nonce for each).

    What it is does not come out of it: not by repr, not by pickling, not in an error.
    """

    __slots__ = ("_aead", "_material", "id")

    def __init__(self, material: bytes) -> None:
        if len(material) != KEY_BYTES:
            raise ConfigurationError(f"a key is {KEY_BYTES} bytes", received=f"{len(material)} bytes", remedy=_MAKE)
        self._material = material
        self._aead = AESGCM(material)
        self.id = self.derive("velodrome 2026 key id", 8).hex()

    def __repr__(self) -> str:
        return f"WrappingKey(id={self.id!r})"

    def __reduce__(self) -> str:
        raise TypeError("a key does not travel: send its reference")

    def derive(self, purpose: str, size: int) -> bytes:
        """Bytes that follow from the key and the purpose, and tell nothing about the key (BLAKE3's key derivation)."""
        return blake3.blake3(self._material, derive_key_context=purpose).digest(length=size)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """The key, encrypted and bound to its context."""
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The key that was wrapped.

        Raises:
            IntegrityError: a bit of it or of its context has changed, or another key wrapped it.
        """
        try:
            return self._aead.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], context)
        except (InvalidTag, ValueError):
            raise IntegrityError("a wrapped key does not open", received=f"key {self.id}") from None


def read_key(reference: str, root: Path | None = None) -> WrappingKey:
    """The key behind a reference; a relative path is meant from `root`.

    Raises:
        ConfigurationError: the reference is not understood, nothing is behind it, it is no key, or a file is not private.
    """
    kind, _, rest = reference.partition(":")
    if _decoded(reference) or _decoded(rest):
        raise ConfigurationError(
            "a key itself stands where its reference should: it is not shown, but it is no secret any more",
            remedy=_MAKE,
        )
    if kind not in _READERS or not rest:
        raise ConfigurationError(
            "a key is named by where it is",
            received=f"{kind}:..." if ":" in reference else None,
            remedy=f"one of {', '.join(f'{name}:...' for name in _READERS)}; {_MAKE}",
        )
    text = _READERS[kind](rest, root or Path())
    if (material := _decoded(text)) is None:
        raise ConfigurationError(
            f"what is behind a `{kind}:` reference is no key of {KEY_BYTES} bytes in base64 or hexadecimal",
            received=f"{len(text.strip())} characters",
            remedy=_MAKE,
        )
    return WrappingKey(material)


def _from_file(rest: str, root: Path) -> str:
    path = root / Path(rest).expanduser()
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if found.st_mode & _EVERYBODY_ELSE:
                raise ConfigurationError(
                    f"others may read the key file {path}",
                    received=stat.filemode(found.st_mode),
                    remedy=f"chmod 600 {path}; if others may have read it, make a new key and rotate",
                )
            return stream.read(1000).decode(errors="replace")
    except OSError as error:
        raise ConfigurationError(f"cannot read the key file {path}: {error.strerror}", remedy=_MAKE) from error


def _from_environment(rest: str, _: Path) -> str:
    if rest not in os.environ:
        raise ConfigurationError(f"there is no variable {rest} in the environment", remedy=f"set it; {_MAKE}")
    return os.environ[rest]


def _from_command(rest: str, root: Path) -> str:
    """What the command prints. Its arguments and what it says on standard error may be secret: neither is shown."""
    try:
        words = shlex.split(rest)
        program = words[0]
    except (ValueError, IndexError):
        raise ConfigurationError("a key's command does not read as words", remedy="quote as for a shell") from None
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
            words,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot run {program!r} for a key: {error.strerror}", remedy="check the path"
        ) from None
    with process:
        try:
            output, _ = process.communicate(timeout=_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise ConfigurationError(
                f"{program!r} gave no key within {_COMMAND_SECONDS:.0f} s", remedy="run it by hand"
            ) from None
    if process.returncode:
        raise ConfigurationError(
            f"{program!r} gave no key", received=f"exit code {process.returncode}", remedy="run it by hand"
        )
    return output.decode(errors="replace")


_READERS: dict[str, Callable[[str, Path], str]] = {
    "file": _from_file,
    "env": _from_environment,
    "command": _from_command,
}
_MAKE = "`umask 077; head -c 32 /dev/urandom | base64 > velodrome.key` makes one: keep a copy elsewhere"


def _decoded(text: str) -> bytes | None:
    """The bytes of a key in hexadecimal or base64 (either alphabet, padded or not); None where it is neither."""
    text = "".join(text.split())
    for decode in (bytes.fromhex, _from_base64):
        with suppress(ValueError):
            material = decode(text)
            if len(material) == KEY_BYTES:
                return material
    return None


def _from_base64(text: str) -> bytes:
    padded = text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4)
    return base64.b64decode(padded, validate=True)
