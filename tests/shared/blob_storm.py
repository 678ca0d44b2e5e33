"""Processes that put, keep, read and collect the same few blobs at once, and are killed now and then: run as a program.

A writer says when it begins, by a file in `holds`, as writers of a workspace do; a collector takes what was put and kept
before the oldest of these began. So whatever a writer has put or kept must be there until it has taken its file away. Ends
with the numbers of what was done, as JSON, or with the traceback of the process that missed a blob.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from velodrome.core.digest import digest_bytes
from velodrome.store.blobs import Blobs, FolderBlobs
from velodrome.store.cache import CachedBlobs
from velodrome.store.encryption import EncryptedBlobs
from velodrome.store.keys import KEY_BYTES, WrappingKey
from velodrome.store.named import AddressedBlobs, FolderObjects
from velodrome.store.objects import ObjectBlobs, Patience

CONTENTS = [f"content {number} ".encode() * (1 + number**3) for number in range(40)]
DIGESTS = [digest_bytes(content) for content in CONTENTS]
WRITERS, COLLECTORS = 4, 2
LEASE = timedelta(seconds=10)


def storm(place: str, address: str, folder: Path, endpoint: str = "", seconds: float = 2.0, seed: int = 1) -> None:
    """Run this program; none of its processes may miss a blob that it needs, and each kind of thing must have been done."""
    folder.mkdir()
    command = [sys.executable, __file__, place, address, endpoint, str(folder), str(seconds), str(seed)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert set(json.loads(ended.stdout)) == {"put", "kept", "collected", "killed"}, ended.stdout


def opened(place: str, address: str, endpoint: str, folder: Path) -> Blobs:
    """The blobs at an address: a folder or a bucket, plain or encrypted, with or without a cache."""
    key = WrappingKey(bytes(KEY_BYTES))
    if place == "folder":
        return FolderBlobs(Path(address))
    if place == "encrypted folder":
        return EncryptedBlobs(AddressedBlobs(FolderObjects(Path(address))), key, folder)
    options = {"endpoint": endpoint, "region": "us-east-1"}
    bucket = ObjectBlobs(address, options, patience=Patience(seconds=30, first=0.02), lease=LEASE, scratch=folder)
    if place == "S3":
        return CachedBlobs(bucket, folder / f"cache-{os.getpid()}", 1 << 20)
    return EncryptedBlobs(bucket, key, folder)


class Storm:
    """The processes, their holds and what they have done."""

    def __init__(self, open_blobs: Callable[[], Blobs], folder: Path, seconds: float) -> None:
        self.open_blobs = open_blobs
        self.holds = folder / "holds"
        self.holds.mkdir()
        self.done = os.open(folder / "done", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.end = time.monotonic() + seconds

    def over(self) -> bool:
        """After so many seconds, and when each kind of thing was done; a slow machine gets a minute."""
        late = time.monotonic() - self.end
        return late > 60 or (late > 0 and {"put", "kept", "collected"} <= set(self.deeds()))

    def deeds(self) -> list[str]:
        return os.pread(self.done, 1 << 24, 0).decode().split()

    def did(self, what: str) -> None:
        os.write(self.done, f"{what}\n".encode())

    def write(self, seed: int) -> None:
        blobs, rng = self.open_blobs(), random.Random(seed)
        while not self.over():
            number = rng.randrange(len(CONTENTS))
            with self.held():
                if rng.random() < 0.5:
                    assert blobs.put(CONTENTS[number]).digest == DIGESTS[number]
                    self.did("put")
                elif blobs.keep(DIGESTS[number]):
                    self.did("kept")
                else:
                    continue
                for _ in range(3):
                    assert blobs.has(DIGESTS[number])
                    assert blobs.read(DIGESTS[number]) == CONTENTS[number]
                    time.sleep(rng.random() * 0.01)
            time.sleep(rng.random() * 0.02)

    def collect(self, seed: int) -> None:
        blobs, rng = self.open_blobs(), random.Random(seed)
        while not self.over():
            for entry in list(blobs.entries()):
                if rng.random() < 0.3 and blobs.collect(entry.digest, self.horizon()):
                    self.did("collected")
            if rng.random() < 0.2:
                blobs.sweep(self.horizon())

    @contextmanager
    def held(self) -> Iterator[None]:
        path = self.holds / f"{time.time_ns()}-{os.getpid()}"
        path.touch()
        yield
        path.unlink()

    def horizon(self) -> datetime:
        now = time.time_ns()  # before the look, so that who comes after it came after this
        oldest = min((int(name.partition("-")[0]) for name in os.listdir(self.holds)), default=now)
        return datetime.fromtimestamp(min(now, oldest) // 1000 / 1e6, UTC) - timedelta(microseconds=1)

    def start(self, act: Callable[[int], None], seed: int) -> int:
        if child := os.fork():
            return child
        code = 1
        try:
            act(seed)
            code = 0
        except BaseException:  # noqa: BLE001 - a child ends here, whatever happens
            traceback.print_exc()
        finally:
            os._exit(code)

    def rage(self, seed: int) -> int:
        """Let processes do their work, and kill one of them now and then; how many were killed."""
        rng, killed = random.Random(seed), 0
        acts = {
            self.start(act, number): act
            for number, act in enumerate([self.write] * WRITERS + [self.collect] * COLLECTORS)
        }
        while not self.over():
            time.sleep(rng.random() * 0.3)
            victim = rng.choice(list(acts))
            act = acts.pop(victim)
            os.kill(victim, signal.SIGKILL)
            if (status := os.waitpid(victim, 0)[1]) not in {0, signal.SIGKILL}:
                raise SystemExit(f"a process ended with {status}")
            for path in self.holds.glob(f"*-{victim}"):
                path.unlink()
            killed += 1
            acts[self.start(act, 100 + killed)] = act
        codes = [os.waitpid(child, 0)[1] for child in acts]
        if any(codes):
            raise SystemExit("a process failed")
        return killed


def settle(blobs: Blobs) -> None:
    """When all is over, the first collection takes everything, and the second finds nothing."""
    future = datetime.now(UTC) + timedelta(hours=1)
    for entry in list(blobs.entries()):
        if not blobs.collect(entry.digest, future):
            raise SystemExit(f"{entry} stays")
    blobs.sweep(future)
    if [*blobs.entries(), *blobs.list()] or blobs.sweep(future):
        raise SystemExit("a second collection finds something")


def main() -> None:
    place, address, endpoint, folder, seconds, seed = sys.argv[1:]
    storm = Storm(lambda: opened(place, address, endpoint, Path(folder)), Path(folder), float(seconds))
    killed = storm.rage(int(seed))
    settle(storm.open_blobs())
    sys.stdout.write(json.dumps(Counter([*storm.deeds(), *["killed"] * killed])))


if __name__ == "__main__":
    main()
