"""What blobs cost beyond the least that a disk could do: put and get of 64 MB and of 4 kB.

The limit of a put of 64 MB is write and fsync; of 4 kB write, fsync, rename and fsync of the folder, without which a power
cut may lose it. The limit of a get is a read and a BLAKE3 digest. Ours are `FolderBlobs.put` and `.read`. Both take turns
in one process, with new bytes each time, so that a noisy machine hits both; a ratio is the median over the turns.
Told beside it, without a goal: the same encrypted (twice the work: authenticated encryption and a digest), and on a real
S3 server on loopback, where its package is installed, beside requests of obstore that verify nothing.
"""

import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import obstore

from velodrome.core.digest import digest_bytes
from velodrome.store.blobs import Blobs, FolderBlobs
from velodrome.store.encryption import EncryptedBlobs
from velodrome.store.files import flush_folder
from velodrome.store.keys import WrappingKey
from velodrome.store.objects import Bucket, ObjectBlobs

GOAL = 0.7
SIZES = {"64MB": (64_000_000, 15), "4kB": (4096, 301)}  # bytes, turns
LARGE = 1_000_000
GETS = 20  # of a small blob, in each turn

Put = Callable[[bytes], object]
Get = Callable[[], object]


def seconds(call: Callable[[], object], times: int = 1) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begun) / times


# --------------------------------------------------------------------------------------------------------------- by hand


def write_by_hand(folder: Path, data: bytes) -> None:
    """Write and fsync; small ones under a temporary name, renamed, and the name flushed."""
    path = folder / "by-hand"
    temporary = path if len(data) >= LARGE else folder / ".by-hand"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        written = 0
        while written < len(data):
            written += os.write(handle, memoryview(data)[written:])
        os.fsync(handle)
    finally:
        os.close(handle)
    if temporary != path:
        temporary.rename(path)
        flush_folder(folder)


def read_by_hand(path: str) -> str:
    with open(path, "rb", buffering=0) as stream:
        return digest_bytes(stream.read())


# ------------------------------------------------------------------------------------------------------------------ turns


def compare(blobs: Blobs, write: Put, read: Get, size: int, turns: int) -> dict[str, list[float]]:
    """Seconds of each turn, the first left out. Bytes are new in each, and are removed at its end."""
    taken: dict[str, list[float]] = {name: [] for name in ("put", "put-limit", "get", "get-limit")}
    for turn in range(turns + 1):
        ours, theirs = os.urandom(size), os.urandom(size)
        digest = digest_bytes(ours)
        puts = [("put", lambda: blobs.put(ours)), ("put-limit", lambda: write(theirs))]  # noqa: B023 - called in this turn
        gets = [("get", lambda: blobs.read(digest)), ("get-limit", read)]  # noqa: B023
        order = 1 if turn % 2 else -1
        steps = [(*step, 1) for step in puts[::order]] + [
            (*step, GETS if size < LARGE else 1) for step in gets[::order]
        ]
        for name, call, times in steps:
            elapsed = seconds(call, times)
            if turn:
                taken[name].append(elapsed)
        blobs.delete(digest)
    return taken


@contextmanager
def s3_server(folder: Path) -> Iterator[str | None]:
    """The address of a server over `folder`, or None where none is installed."""
    found = find_spec("rclone_api")
    if found is None or not found.submodule_search_locations:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (folder / "bucket").mkdir(parents=True)
    program = Path(found.submodule_search_locations[0]) / "bin" / "rclone"
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", os.devnull, folder]
    access, secret = secrets.token_hex(10), secrets.token_hex(20)
    environment = os.environ | {"RCLONE_AUTH_KEY": f'"{access},{secret}"'}
    os.environ.update(AWS_ACCESS_KEY_ID=access, AWS_SECRET_ACCESS_KEY=secret)
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while not _answers(port):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        process.kill()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# ----------------------------------------------------------------------------------------------------------------- results


def line(name: str, ours: list[float], limit: list[float], goal: float | None) -> tuple[float, str]:
    ratio = statistics.median(theirs / mine for mine, theirs in zip(ours, limit, strict=True))
    verdict = "" if goal is None else f" goal {goal:.2f} {'met' if ratio >= goal else 'missed'}"
    here, there = statistics.median(ours) * 1000, statistics.median(limit) * 1000
    return ratio, f"blobs-{name} {here:.3g}ms {there:.3g}ms ratio {ratio:.2f}{verdict}"


def measure(folder: Path) -> Iterator[tuple[str, dict[str, list[float]], float | None]]:
    by_hand = folder / "by-hand"
    by_hand.mkdir()
    plain = FolderBlobs(folder / "plain")
    encrypted = EncryptedBlobs(FolderBlobs(folder / "encrypted"), WrappingKey(os.urandom(32)))
    for name, (size, turns) in SIZES.items():
        path = str(by_hand / "by-hand")
        hands: tuple[Put, Get] = (lambda data: write_by_hand(by_hand, data)), (lambda: read_by_hand(path))  # noqa: B023
        yield name, compare(plain, *hands, size, turns), GOAL
        yield f"encrypted-{name}", compare(encrypted, *hands, size, turns), None
    with s3_server(folder / "s3") as endpoint:
        if endpoint is not None:
            options = {"endpoint": endpoint, "region": "us-east-1"}
            blobs, store = ObjectBlobs("s3://bucket/ours", options), Bucket("s3://bucket/raw", options)._store
            for name, (size, turns) in SIZES.items():
                requests: tuple[Put, Get] = (
                    (lambda data: obstore.put(store, "by-hand", data)),
                    (lambda: bytes(obstore.get(store, "by-hand").bytes())),
                )
                yield f"s3-{name}", compare(blobs, *requests, size, min(turns, 101)), None


def main() -> None:
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=results))  # on the disk of the checkout: the system's folder may be in memory
    told, judged, medians = [], [], {}
    try:
        for name, taken, goal in measure(folder):
            medians[name] = {step: statistics.median(values) for step, values in taken.items()}
            for verb in ("put", "get"):
                row = line(f"{verb}-{name}", taken[verb], taken[f"{verb}-limit"], goal)
                (told if goal is None else judged).append(row)
    finally:
        shutil.rmtree(folder)
    summary = [text for _, text in [*told, *sorted(judged, reverse=True)]]
    (results / "blobs.json").write_text(json.dumps({"lines": summary, "medians_seconds": medians}, indent=1))
    print("\n".join(summary))


if __name__ == "__main__":
    main()
