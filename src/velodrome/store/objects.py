"""Blobs in a bucket: Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure.

Nothing rests on conditional requests, which many servers ignore: names are digests, so that two writers of one name write
the same bytes. Nothing rests on ranges, or on what a server says about itself: what was put is looked at again, what is
read is hashed. Amazon, Google and Azure replace an object at once, and TLS (at Amazon also a signed hash) guards the way to
them. A server at an endpoint of one's own may do without either: a gateway over a folder may write a plain PUT in place,
half of it visible, remove the object where the connection breaks, and take a part whose bits have flipped (rclone 1.75 does
all three), but it moves a finished multipart upload into place. So we are wary there: every upload is multipart, also a
small one, and all of it is read back.

Each request is tried again by obstore, and each operation (but a listing that has begun) by us, after random waits that grow, until
`patience` is over. What a broken upload has left in the server (uncompleted parts) is invisible; a lifecycle rule of the
bucket removes it. Ctrl-C is heard between two requests of ours, not while obstore works on one.
Memory: four parts of 8 MiB (of a 9000th, above 72 GB). Cost: a put of a new blob is four requests, or six where we are
wary; a read is one. A copy is the server's own up to 5 GiB, which is all that S3 does; above, it goes through this machine.
"""

import os
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from velodrome.core.clock import Clock, SystemClock
from velodrome.core.digest import CHUNK, Digest, Hasher
from velodrome.core.errors import ConfigurationError, StorageError, nearest
from velodrome.store.marked import MarkedObjects
from velodrome.store.named import AddressedBlobs, Content, Held, Piece, after, hashed, spooled

__all__ = ["OPTIONS", "SCHEMES", "Bucket", "BucketObjects", "ObjectBlobs", "Patience"]

SCHEMES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}
"""Scheme of the URL → what the names of the environment variables with its credentials begin with."""

OPTIONS = {
    "account_name": "Azure: the storage account",
    "endpoint": "address of the server, where it is not the provider's own",
    "region": "S3: region of the bucket",
    "request_payer": "S3: whether the requester pays",
    "skip_signature": "whether requests are anonymous",
    "virtual_hosted_style_request": "S3: whether the bucket is part of the host's name",
}
"""Every option, none of them secret: credentials come from the environment."""

_ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_PART = 8 << 20
_PARTS = 9000
_AT_ONCE = 4
_READ_BACK = 1 << 20
_PAGE = 1000
_COPIED = 5 << 30  # S3 copies no larger object in one request
_FORBIDDEN = {401, 403}
_SHARE = 4  # of our patience obstore gets a quarter: it hears no Ctrl-C while it tries again
_LATER = {404, 408, 409, 425, 429}

# What obstore says about a transport that failed → what we say: its own words may hold addresses with credentials.
_TRANSPORT = {
    "169.254.169.254": "no credentials were found",
    "ConnectionRefused": "the connection was refused",
    "dns error": "the server's name is not known",
    "Timeout": "the server did not answer in time",
    "TimedOut": "the server did not answer in time",
    "kind: Connect": "there was no connection",
    "kind: Body": "the connection broke",
    "kind: Request": "the connection broke",
    "NoSuchUpload": "it gave up the upload half way (is its disk full?)",
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an operation is tried: seconds in all, for a server that says nothing, and of the waits between tries.

    The n-th wait is drawn evenly from 0 to min(`longest`, `first` · 2ⁿ) ("full jitter": Brooker, AWS Architecture Blog,
    2015), so that many clients that failed together do not come back together.
    """

    seconds: float = 120.0
    silence: float = 60.0
    first: float = 0.1
    longest: float = 10.0

    def wait(self, failures: int, draw: float) -> float:
        """Seconds to wait after so many failures; `draw` is even on [0, 1).

        >>> [Patience().wait(failures, 0.5) for failures in (1, 2, 20)]
        [0.1, 0.2, 5.0]
        """
        return draw * min(self.longest, self.first * 2.0 ** min(failures, 60))


class ObjectBlobs(AddressedBlobs):
    """Blobs in `url`: s3://bucket/prefix, gs://bucket/prefix or az://container/prefix. Arguments as of `BucketObjects`."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, str | bool] | None = None,
        *,
        patience: Patience | None = None,
        wary: bool | None = None,
        lease: timedelta | None = None,
        scratch: Path | None = None,
    ) -> None:
        super().__init__(BucketObjects(url, options, patience=patience, wary=wary, lease=lease), scratch)


class BucketObjects(MarkedObjects):
    """Objects in a bucket. Arguments as of `Bucket` and of `MarkedObjects`."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, str | bool] | None = None,
        *,
        patience: Patience | None = None,
        wary: bool | None = None,
        lease: timedelta | None = None,
    ) -> None:
        super().__init__(Bucket(url, options, patience=patience, wary=wary), lease=lease)


class Bucket:
    """A bucket, below a prefix. Nothing is sent before the first call; refuses use after a fork.

    Args:
        options: see `OPTIONS`.
        wary: whether to send even small objects in parts, and to read back large ones. None: at an endpoint of one's own.

    Raises:
        ConfigurationError: an address or an option that is not understood, or that holds a credential.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, str | bool] | None = None,
        *,
        patience: Patience | None = None,
        wary: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        options = dict(options or {})
        self._scheme = _check_url(url)
        _check_options(options)
        own_endpoint = "endpoint" in options or any(name in os.environ for name in _ENDPOINTS)
        self._url = url
        self._patience = patience or Patience()
        self._wary = own_endpoint if wary is None else wary
        self._clock = clock or SystemClock()
        self._pid = os.getpid()
        self._opened = _open(url, options, self._patience)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    @property
    def where(self) -> str:
        return self._url

    def put(self, name: str, content: Content) -> None:
        tries = self._tries("store in")
        while True:
            try:
                sent = self._upload(name, content)
                self._confirm(name, content.size, sent)
                return
            except (BaseError, FileNotFoundError, _Unconfirmed) as error:
                tries.failed(error)

    def get(self, name: str) -> Iterator[Piece]:
        given = 0
        tries = self._tries("read from")
        while True:
            try:
                for piece in after(given, self._stream(name)):
                    given += len(piece)
                    tries.progress()
                    yield piece
                return
            except FileNotFoundError as error:
                raise tries.absent(error, name) from None
            except BaseError as error:
                tries.failed(error)

    def touch(self, name: str) -> None:
        self._persist("store in", name, lambda: obstore.put(self._store, name, b"", use_multipart=False))

    def head(self, name: str) -> Held | None:
        try:
            return _held(self._persist("look into", name, lambda: obstore.head(self._store, name)))
        except FileNotFoundError:
            return None

    def copy(self, name: str, goal: str) -> None:
        held = self.head(name)
        if held is None:
            raise FileNotFoundError(name)
        if held.size > _COPIED:
            self._carry(name, goal)
        else:
            self._persist("copy in", name, lambda: self._copied(name, goal, held.size))

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._persist("delete from", name, lambda: obstore.delete(self._store, name))

    def entries(self, folder: str = "") -> Iterator[Held]:
        tries, begun = self._tries("list"), False
        while True:
            try:
                for page in obstore.list(self._store, folder or None, chunk_size=_PAGE):
                    begun = True
                    yield from map(_held, page)
                return
            except FileNotFoundError as error:
                raise tries.failure(error) from None
            except BaseError as error:
                if begun:
                    raise tries.failure(error) from None
                tries.failed(error)

    @property
    def _store(self) -> Any:
        if os.getpid() != self._pid:
            raise StorageError("a bucket was used after a fork", remedy="open the workspace again in the child process")
        return self._opened

    def _stream(self, name: str) -> Iterator[memoryview]:
        for piece in obstore.get(self._store, name).stream(min_chunk_size=CHUNK):
            yield memoryview(piece)

    def _copied(self, name: str, goal: str, size: int) -> None:
        obstore.copy(self._store, name, goal)
        if obstore.head(self._store, goal)["size"] != size:
            raise _Unconfirmed

    def _carry(self, name: str, goal: str) -> None:
        """Copy by way of this machine."""
        pieces = self.get(name)
        with spooled(chain([next(pieces, b"")], pieces)) as content:
            self.put(goal, content)

    def _upload(self, name: str, content: Content) -> Digest:
        """Send the content; the digest of what was sent."""
        hasher = Hasher()
        pieces = hashed(hasher, content.pieces())
        if content.size <= _PART and not self._wary:
            obstore.put(self._store, name, b"".join(pieces), use_multipart=False)
        else:
            part = max(_PART, -(-content.size // _PARTS))
            obstore.put(self._store, name, pieces, use_multipart=True, chunk_size=part, max_concurrency=_AT_ONCE)
        return hasher.digest()

    def _confirm(self, name: str, size: int, sent: Digest) -> None:
        """Look at what the server has now: all of it, or where that is large and the server is known, its size."""
        if self._wary or size <= _READ_BACK:
            hasher = Hasher()
            deque(hashed(hasher, self._stream(name)), maxlen=0)
            confirmed = hasher.digest() == sent
        else:
            confirmed = obstore.head(self._store, name)["size"] == size
        if not confirmed:
            raise _Unconfirmed

    def _persist(self, doing: str, name: str, action: Callable[[], _T]) -> _T:
        tries = self._tries(doing)
        while True:
            try:
                return action()
            except FileNotFoundError as error:
                raise tries.absent(error, name) from None
            except (BaseError, _Unconfirmed) as error:
                tries.failed(error)

    def _tries(self, doing: str) -> "_Tries":
        return _Tries(doing, self._url, self._scheme, self._patience, self._clock)


class _Unconfirmed(Exception):
    """What the server holds is not what was sent."""


class _Tries:
    """The tries of one operation: waits after each failure, and ends them with an error that holds no secret."""

    def __init__(self, doing: str, url: str, scheme: str, patience: Patience, clock: Clock) -> None:
        self._doing, self._url, self._scheme = doing, url, scheme
        self._patience, self._clock = patience, clock
        self._begun = clock.monotonic()
        self._failures = 0

    def progress(self) -> None:
        """Something came: patience begins anew."""
        self._begun, self._failures = self._clock.monotonic(), 0

    def failed(self, error: Exception) -> None:
        """Wait, and return for the next try.

        Raises:
            StorageError: another try would not help, or the patience is over.
        """
        self._failures += 1
        wait = self._patience.wait(self._failures, random.random())  # noqa: S311 - spreads clients, hides nothing
        elapsed = self._clock.monotonic() - self._begun
        if _is_final(error) or elapsed + wait > self._patience.seconds:
            raise self.failure(error) from None
        self._clock.sleep(wait)

    def absent(self, error: FileNotFoundError, name: str) -> Exception:
        """What to raise when nothing has that name, or when there is not even a bucket."""
        return self.failure(error) if "NoSuchBucket" in str(error) else FileNotFoundError(name)

    def failure(self, error: Exception) -> StorageError:
        seconds = self._clock.monotonic() - self._begun
        return StorageError(
            f"cannot {self._doing} {self._url}: {_reason(error)}",
            received=f"given up after {seconds:.0f} s" if seconds >= 1 else None,
            remedy=self._remedy(error),
        )

    def _remedy(self, error: Exception) -> str:
        if "NoSuchBucket" in str(error):
            return "make the bucket, or mend the address in velodrome.toml"
        if _status(error) in _FORBIDDEN or "169.254.169.254" in str(error):
            return f"check the credentials in the environment ({SCHEMES[self._scheme]}_...) and what they may do"
        return "check the network, the endpoint and the server, then try again: nothing that was stored is harmed"


def _is_final(error: Exception) -> bool:
    """Whether another try would end in the same way."""
    if isinstance(error, _Unconfirmed):
        return False
    status = _status(error)
    refused = status is not None and 400 <= status < 500 and status not in _LATER
    return refused or "NoSuchBucket" in str(error)


def _status(error: Exception) -> int | None:
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _reason(error: Exception) -> str:
    """Why a request failed, in words from here: statuses, the codes of S3 and the table above."""
    text = str(error)
    if isinstance(error, _Unconfirmed):
        return "it holds other bytes than it was sent"
    for sign, words in _TRANSPORT.items():
        if sign in text:
            return words
    code = re.search(r"<Code>([A-Za-z]{1,60})</Code>", text)
    if status := _status(error):
        return f"it answered {status}" + (f" ({code[1]})" if code else "")
    return f"the request failed ({type(error).__name__})"


def _held(found: Any) -> Held:
    return Held(found["path"], found["size"], found["last_modified"])


def _check_url(url: str) -> str:
    """The scheme of an address that is understood and holds no credential; an error never shows more of it."""
    parts = _split(url)
    if parts.scheme not in SCHEMES:
        raise ConfigurationError(
            "blobs are in a folder or in a bucket of a known kind",
            received=f"{parts.scheme}://..." if parts.scheme else None,
            remedy=", ".join(f"{scheme}://bucket/prefix" for scheme in SCHEMES),
        )
    if set(parts.netloc) & set("@:") or parts.query or parts.fragment:
        raise ConfigurationError(
            "the address holds more than a bucket and a prefix; it is not shown, since that may be secret",
            remedy="put credentials into the environment, and other options into `blob_options`",
        )
    if not parts.netloc:
        raise ConfigurationError("the address of a bucket has no bucket", remedy=f"{parts.scheme}://bucket/prefix")
    return parts.scheme


def _check_options(options: Mapping[str, str | bool]) -> None:
    for name in options:
        if name not in OPTIONS:
            raise ConfigurationError(
                f"a bucket has no option {name!r}",
                remedy=f"{nearest(name, OPTIONS)}; credentials belong into the environment",
            )
    endpoint = _split(str(options.get("endpoint", "https://")))
    if endpoint.scheme not in {"http", "https"} or "@" in endpoint.netloc or endpoint.query:
        raise ConfigurationError(
            "an endpoint is http:// or https:// and a host, without credentials", remedy="put them into the environment"
        )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise ConfigurationError("this is no address", remedy="s3://bucket/prefix") from None


def _open(url: str, options: Mapping[str, str | bool], patience: Patience) -> Any:
    settings: dict[str, Any] = {
        "config": {**options, **({"disable_bulk_delete": True} if url.startswith("s3:") else {})},
        "client_options": {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=min(5.0, patience.silence)),
            "read_timeout": timedelta(seconds=patience.silence),
            "timeout": timedelta(days=30),
        },
        "retry_config": {
            "max_retries": 1000,
            "retry_timeout": timedelta(seconds=patience.seconds / _SHARE),
            "backoff": {
                "init_backoff": timedelta(seconds=patience.first),
                "max_backoff": timedelta(seconds=patience.longest),
                "base": 2,
            },
        },
    }
    try:
        return from_url(url, **settings)
    except (BaseError, OSError, ValueError) as error:
        raise _unopened(url, error) from None


def _unopened(url: str, error: Exception) -> ConfigurationError:
    if "Account must be specified" in str(error):
        return ConfigurationError(
            f"there is no storage account for {url}",
            remedy="set account_name in `blob_options`, or AZURE_STORAGE_ACCOUNT_NAME in the environment",
        )
    return ConfigurationError(
        f"cannot use {url} ({type(error).__name__})", remedy="check the address, `blob_options` and the environment"
    )
