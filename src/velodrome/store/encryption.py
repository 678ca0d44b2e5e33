"""Encryption at rest: any place of objects, with everything in it encrypted and authenticated (AES-256-GCM).

Three layers of keys, each 256 random bits. The *master key* is the user's, and is only ever referred to. It wraps the
*store keys*, which lie in the store itself, in `keyring/`. A store key wraps the *data key* that each object has for
itself. So rotation is a new master key that wraps the few store keys again, and a new store key for what is stored from
now on; no object is touched. (A data key lies in its object's head, which a bucket cannot change without rewriting the
object; beside it, in an object of its own, two writers of one name could leave one's key with the other's bytes.)

An object is: format, number of its store key, wrapped data key, then chunks of 1 MiB, each encrypted with its position and
with whether it is the last: the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption
and its Nonce-Reuse Misuse-Resistance, CRYPTO 2015), its prefix empty since a data key serves one object. The wrapped key
is bound to the object's name. So a flipped bit, a cut, chunks in another order or another object's bytes are IntegrityError.

Names are encrypted by AES-SIV (RFC 5297), which gives a name the same form each time: whoever reads the store sees how
many objects it holds, how large they are and when they came, not which; and `list` needs no index. The key of the names
follows from the first master key, so that two processes that begin a store at once agree on it, and is kept with the
store keys when the master changes. The store keys lie there twice: they are the one thing that everything rests on.
Cost: 72 bytes and 16 for each 1 MiB; 2 to 8 GB/s.
"""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import chain
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

from velodrome.core.digest import CHUNK
from velodrome.core.errors import ConfigurationError, IntegrityError, StorageError, WrongKey
from velodrome.store.blobs import FolderBlobs
from velodrome.store.keys import KEY_BYTES, WrappingKey
from velodrome.store.named import AddressedBlobs, Content, FolderObjects, Held, Objects, Piece

__all__ = ["EncryptedBlobs", "EncryptedObjects"]

_FORMAT = b"VEL1"
_NUMBER = 8
_WRAPPED = 12 + KEY_BYTES + 16
_HEAD = len(_FORMAT) + _NUMBER + _WRAPPED
_TAG = 16
_KEYRING = "keyring"
_COPIES = "ab"
_NAME_KEY_BYTES = 64


class EncryptedBlobs(AddressedBlobs):
    """The blobs of `inner`'s place, encrypted. What is there must be encrypted already, or nothing.

    `local` leaves plain bytes below `scratch`, readable for this user, as long as this object lives: put that on a disk that
    is encrypted itself, or in memory.
    """

    def __init__(self, inner: AddressedBlobs | FolderBlobs, master: WrappingKey, scratch: Path | None = None) -> None:
        objects = FolderObjects(inner.root) if isinstance(inner, FolderBlobs) else inner.objects
        self._encrypted = EncryptedObjects(objects, master)
        super().__init__(self._encrypted, scratch)

    def rotate(self, new: WrappingKey) -> int:
        """See `EncryptedObjects.rotate`."""
        return self._encrypted.rotate(new)


@dataclass(frozen=True)
class _StoreKey:
    """A key of the store. Numbers rise, so that the greatest names the key of what is stored from now on."""

    number: str
    material: bytes = field(repr=False)
    names: bytes = field(repr=False)

    @cached_property
    def wrapping(self) -> WrappingKey:
        return WrappingKey(self.material)

    @cached_property
    def naming(self) -> AESSIV:
        return AESSIV(self.names)


class _Keyring:
    """The store keys in `objects`, each wrapped with a master key, twice: `keyring/NUMBER-MASTER-COPY`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def masters(self) -> dict[str, set[str]]:
        """Number of each store key → ids of the master keys that it is wrapped with.

        Raises:
            StorageError: there are objects, but no keys.
        """
        found = self._masters()
        if not found and next(self._objects.list(), None) is not None:
            found = self._masters()  # unless somebody began the store between the two looks
            if not found:
                raise StorageError(
                    f"no keys lie beside what is in {self._objects.where}",
                    remedy="blobs from before the encryption: back them up, and restore them into an empty place; "
                    "else its keyring is lost: restore it from a backup",
                )
        return found

    def add(self, key: _StoreKey, master: WrappingKey) -> None:
        """Store a key wrapped with a master key, and see that it opens."""
        wrapped = master.wrap(key.material + key.names, key.number.encode())
        for copy in _COPIES:
            self._objects.put(_entry(key.number, master, copy), Content(len(wrapped), lambda: iter([wrapped])))
            self._open(key.number, master, copy)

    def open(self, number: str, master: WrappingKey) -> _StoreKey:
        """A store key; from its second copy, where the first is damaged."""
        try:
            return self._open(number, master, _COPIES[0])
        except (FileNotFoundError, IntegrityError):
            return self._second(number, master)

    def remove(self, number: str, master: WrappingKey) -> None:
        for copy in _COPIES:
            self._objects.delete(_entry(number, master, copy))

    def damaged(self, master: WrappingKey) -> Iterator[tuple[str, str]]:
        """Number and name of each copy that is missing or does not open."""
        for number, ids in sorted(self.masters().items()):
            for copy in _COPIES if master.id in ids else ():
                try:
                    self._open(number, master, copy)
                except (FileNotFoundError, IntegrityError):
                    yield number, _entry(number, master, copy)

    def _masters(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name in self._objects.list(_KEYRING):
            if entry := re.fullmatch(rf"{_KEYRING}/([0-9a-f]+)-([0-9a-f]+)-[{_COPIES}]", name):
                found.setdefault(entry[1], set()).add(entry[2])
        return found

    def _second(self, number: str, master: WrappingKey) -> _StoreKey:
        try:
            return self._open(number, master, _COPIES[1])
        except FileNotFoundError as error:
            raise StorageError(
                f"a key of {self._objects.where} went while it was looked for",
                received=f"wrapped with key {master.id}",
                remedy="somebody rotates the master key, or half of a keyring is lost: try again with the new master key",
            ) from error

    def _open(self, number: str, master: WrappingKey, copy: str) -> _StoreKey:
        wrapped = b"".join(self._objects.get(_entry(number, master, copy)))
        keys = master.unwrap(wrapped, number.encode())
        return _StoreKey(number, keys[:KEY_BYTES], keys[KEY_BYTES:])


class EncryptedObjects(Objects):
    """Everything in `inner`, encrypted. The store keys are read when the first is needed, and again when an unknown one is.

    Each method may raise WrongKey, where the store keys are wrapped with another master key than `master`, and
    IntegrityError, where bytes are not as they were written.
    """

    def __init__(self, inner: Objects, master: WrappingKey) -> None:
        self._inner = inner
        self._master = master
        self._keyring = _Keyring(inner)
        self._keys: dict[str, _StoreKey] = {}
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        return self._inner.where

    def put(self, name: str, content: Content) -> None:
        key = self._newest()
        chunks = max(1, -(-content.size // CHUNK))
        size = _HEAD + content.size + chunks * _TAG
        self._inner.put(_hidden(key, name), Content(size, lambda: _sealed(key, name, content)))

    def get(self, name: str) -> Iterator[Piece]:
        if not (keys := self._known()):
            raise FileNotFoundError(name)
        head, rest = _beheaded(self._inner.get(_hidden(_any(keys), name)))
        context, wrapped = head[:-_WRAPPED] + name.encode(), head[-_WRAPPED:]
        key = self._numbered(head[len(_FORMAT) : -_WRAPPED].hex())
        yield from _opened(key.wrapping.unwrap(wrapped, context), rest)

    def has(self, name: str) -> bool:
        keys = self._known()
        return bool(keys) and self._inner.has(_hidden(_any(keys), name))

    def keep(self, name: str) -> bool:
        keys = self._known()  # none: nothing was ever stored, so what collectors see next is young
        return bool(keys) and self._inner.keep(_hidden(_any(keys), name))

    def delete(self, name: str) -> None:
        if keys := self._known():
            self._inner.delete(_hidden(_any(keys), name))

    def list(self, folder: str = "") -> Iterator[str]:
        if keys := self._known():
            names = (_revealed(_any(keys), hidden) for hidden in self._inner.list())
            yield from (name for name in names if name and name.startswith(f"{folder}/" if folder else ""))

    def entries(self) -> Iterator[Held]:
        if keys := self._known():
            for held in self._inner.entries():
                if name := _revealed(_any(keys), held.name):
                    yield Held(name, held.size, held.time)

    def collect(self, name: str, before: datetime) -> bool:
        keys = self._known()
        return bool(keys) and self._inner.collect(_hidden(_any(keys), name), before)

    def sweep(self, before: datetime) -> int:
        return self._inner.sweep(before)

    def under(self, master: WrappingKey) -> "EncryptedObjects":
        """The same place, with another master key."""
        return EncryptedObjects(self._inner, master)

    def rotate(self, new: WrappingKey, *, dry_run: bool = False) -> int:
        """Let `new` take the place of the master key: the store keys are wrapped again, what is stored from now on gets a
        new one, and the old master key opens nothing any more. No object is touched.

        May be killed and called again at any point: until the store keys are seen to open with the new master key, they do
        with the old. Other processes must be started again with the new key; rotate once at a time. Whoever has the old
        master key *and* a copy of the old keyring can still read what was stored before; whoever has the first master key
        can tell whether bytes that they know are stored.

        Args:
            dry_run: only open what is there.

        Returns:
            How many store keys were wrapped with the old master key.

        Raises:
            WrongKey: neither key opens the store.
        """
        if new.id == self._master.id:
            raise ConfigurationError("the new key is the old one", received=f"key {new.id}", remedy="make another key")
        with self._lock:
            count = 0
            while True:  # somebody may begin the store, or mend its keys, with the old master key meanwhile
                old, keys = self._of_both(new)
                count += len(old)
                if dry_run:
                    return count
                if not old:
                    self._master, self._keys = new, {key.number: key for key in keys}
                    return count
                for key in keys:
                    self._keyring.add(key, new)
                for number in old:
                    self._keyring.remove(number, self._master)

    def _of_both(self, new: WrappingKey) -> tuple[set[str], Sequence[_StoreKey]]:
        """The numbers of the keys that the old master key wraps; and all keys, with one that only the new one is to know."""
        masters = self._keyring.masters()
        old = {number for number, ids in masters.items() if self._master.id in ids}
        done = {number for number, ids in masters.items() if new.id in ids}
        if masters and not old | done:
            raise self._wrong_key()
        keys = [self._keyring.open(number, self._master if number in old else new) for number in old | done]
        if old and not done - old:
            keys.append(_made(max(old), keys[0].names))
        return old, keys

    def damaged_keys(self) -> Sequence[str]:
        """The names, in the place itself, of copies of store keys that are missing or do not open."""
        return [name for _, name in self._keyring.damaged(self._master)]

    def mend_keys(self) -> int:
        """Store anew each key of which a copy is damaged, out of the other copy; how many.

        Raises:
            IntegrityError, StorageError: both copies of a key are damaged: what it encrypts is lost.
        """
        numbers = {number for number, _ in self._keyring.damaged(self._master)}
        for number in numbers:
            self._keyring.add(self._keyring.open(number, self._master), self._master)
        return len(numbers)

    def _known(self) -> dict[str, _StoreKey]:
        """The keys of the store by number; none where nothing was ever stored."""
        with self._lock:
            if not self._keys:
                self._keys = self._opened_keys()
            return self._keys

    def _newest(self) -> _StoreKey:
        """The key of what is stored from now on. The first is made here: two processes may do so at once, and both count."""
        with self._lock:
            if not self._keys:
                self._keys = self._opened_keys()
            if not self._keys:
                first = _made("", self._master.derive("velodrome 2026 names of objects", _NAME_KEY_BYTES))
                self._keyring.add(first, self._master)
                self._keys = self._opened_keys()
            return self._keys[max(self._keys)]

    def _numbered(self, number: str) -> _StoreKey:
        keys = self._known()
        if number not in keys:
            with self._lock:
                keys = self._keys = self._opened_keys()
        if number in keys:
            return keys[number]
        if number in self._keyring.masters():
            raise self._wrong_key()
        raise IntegrityError("an object names a store key that does not exist", received=number)

    def _opened_keys(self) -> dict[str, _StoreKey]:
        masters = self._keyring.masters()
        mine = [number for number, ids in masters.items() if self._master.id in ids]
        if masters and not mine:
            raise self._wrong_key()
        return {number: self._keyring.open(number, self._master) for number in mine}

    def _wrong_key(self) -> WrongKey:
        others = sorted(set().union(*self._keyring.masters().values()) - {self._master.id})
        return WrongKey(
            f"{self.where} is encrypted under another master key",
            received=f"key {self._master.id}",
            remedy=f"let `encryption_key` name key {' or '.join(others)}; if a rotation was broken off, finish it",
        )


def _any(keys: dict[str, _StoreKey]) -> _StoreKey:
    """One of them, for what all have in common: the key of the names."""
    return next(iter(keys.values()))


def _made(last: str, names: bytes) -> _StoreKey:
    """A new key of the store: its number is above `last`, and nobody else's."""
    count = int(last[:8] or "0", 16) + 1
    return _StoreKey(f"{count:08x}{os.urandom(4).hex()}", os.urandom(KEY_BYTES), names)


def _entry(number: str, master: WrappingKey, copy: str) -> str:
    return f"{_KEYRING}/{number}-{master.id}-{copy}"


def _hidden(key: _StoreKey, name: str) -> str:
    hidden = key.naming.encrypt(name.encode(), None).hex()
    return f"{hidden[:2]}/{hidden[2:]}"


def _revealed(key: _StoreKey, hidden: str) -> str | None:
    """The name behind a hidden one; None for what is not ours."""
    try:
        return key.naming.decrypt(bytes.fromhex(hidden.replace("/", "")), None).decode()
    except (InvalidTag, ValueError):
        return None


def _sealed(key: _StoreKey, name: str, content: Content) -> Iterator[Piece]:
    data_key = os.urandom(KEY_BYTES)
    head = _FORMAT + bytes.fromhex(key.number)
    yield head + key.wrapping.wrap(data_key, head + name.encode())
    aead, last = AESGCM(data_key), max(0, content.size - 1) // CHUNK
    for index, chunk in enumerate(_regrouped(content.pieces(), CHUNK)):
        yield aead.encrypt(_nonce(index, index == last), chunk, None)
    if content.size == 0:
        yield aead.encrypt(_nonce(0, True), b"", None)


def _opened(data_key: bytes, pieces: Iterator[Piece]) -> Iterator[Piece]:
    aead, waiting, index = AESGCM(data_key), None, 0
    for chunk in _regrouped(pieces, CHUNK + _TAG):
        if waiting is not None:
            yield _decrypted(aead, index, False, waiting)
            index += 1
        waiting = chunk
    yield _decrypted(aead, index, True, waiting or b"")


def _decrypted(aead: AESGCM, index: int, last: bool, chunk: Piece) -> bytes:
    try:
        return aead.decrypt(_nonce(index, last), chunk, None)
    except InvalidTag:
        raise IntegrityError(f"chunk {index} of an encrypted object is not as it was written") from None


def _nonce(index: int, last: bool) -> bytes:
    return index.to_bytes(11, "big") + bytes([last])


def _beheaded(pieces: Iterator[Piece]) -> tuple[bytes, Iterator[Piece]]:
    """The head of an encrypted object, and the rest of its pieces."""
    held = b""
    for piece in pieces:
        held += piece
        if len(held) >= _HEAD:
            break
    if len(held) < _HEAD or not held.startswith(_FORMAT):
        raise IntegrityError("an object does not begin as an encrypted one", received=f"{len(held)} bytes")
    return held[:_HEAD], chain([memoryview(held)[_HEAD:]], pieces)


def _regrouped(pieces: Iterator[Piece], size: int) -> Iterator[memoryview]:
    """The same bytes in pieces of `size`, but for the last. Bytes are copied only where a piece crosses the border."""
    held = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        if held:
            missing = size - len(held)
            held += view[:missing]
            view = view[missing:]
            if len(held) < size:
                continue
            yield memoryview(held)
        whole = len(view) - len(view) % size
        yield from (view[begin : begin + size] for begin in range(0, whole, size))
        held = bytearray(view[whole:])
    if held:
        yield memoryview(held)
