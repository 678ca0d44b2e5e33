"""What becomes of a training that is killed in the middle of an epoch: ours, Lightning, Accelerate, HF Trainer, Keras.

Each trains a small network on scikit-learn's digits, with dropout and random augmentation, is killed by SIGKILL between two
checkpoints in the middle of an epoch, goes on by its own documented way, and is compared with a training that nothing
disturbed. Then the newest checkpoint is damaged: 20 times one random bit flips, its file with the weights is cut in half, or
is that of the checkpoint before; then a piece of the state is taken out. Said is whether that was refused, warned of, or
trained on as if nothing were wrong.
Ours goes through the program, a process each time: `velodrome run recipe.py`. A checkpoint that lacks a piece would be noticed
by its digest, so it is recorded here as if it had been saved so, under a digest of its own: the inventory has to notice.
The others run in `resume_peers.py`, with the interpreter that TRAINERS_PYTHON names; without it only ours is measured. Takes
some minutes for each tool; named tools are measured anew, the others are left as they were. Writes results/resume.json and
prints the tables of docs/resume.md.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import safetensors.torch
from sklearn.datasets import load_digits

import velodrome as vd
from velodrome.registry.runs import show_run
from velodrome.registry.search import search_runs
from velodrome.store.ledger import Append, Link, Put, digest_record
from velodrome.store.workspace import Workspace
from velodrome.training.checkpoints import checkpoints_of
from velodrome.training.torch_state import decode_state

PROGRAM = str(Path(sys.executable).parent / "velodrome")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
FLIPS, STEPS_PER_EPOCH, EVERY, KILL_AFTER = 20, 46, 20, 100
TOOLS = {
    "lightning": "Lightning, `DataLoader`",
    "lightning-stateful": "Lightning, `StatefulDataLoader`",
    "accelerate": "Accelerate, `skip_first_batches`",
    "accelerate-seedable": "Accelerate, the same with its seedable sampler",
    "accelerate-stateful": "Accelerate, its stateful loader",
    "trainer": "HF Trainer",
    "keras": "Keras on torch",
}
WORKERS = 2  # runs at once
PIECES = ("optimizer", "rng", "position")

RECIPE = """
import time

import torch

import velodrome as vd


class Network(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(len(inputs), 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 10)
        )

    def forward(self, **pixels):
        if self.training:
            time.sleep(0.02)  # so that there is time to kill it
        return self.layers(torch.stack(list(pixels.values()), 1))


recipe = vd.Recipe(
    "digits",
    data=vd.Dataset("digits", source=vd.Files("digits.csv"), key="row"),
    label="digit",
    features=[f"p{number}" for number in range(64)],
    split=vd.RandomSplit(validation=0.1, test=0.1),
    learner=vd.Torch(
        network=Network,
        optimizer=vd.AdamW(lr=0.003),
        epochs=8,
        batch=32,
        augment=AUGMENT,
        checkpoints=vd.Checkpoints(every=20),
    ),
    evaluation=vd.Evaluation("accuracy", resamples=100),
    gates=[],
    operate=vd.Operate(approval=vd.PolicyApproval("passed-gates")),
)
"""
AUGMENT = {"dropout": "()", "augmentation": "(vd.GaussianNoise(0.1), vd.MaskFields(0.05))"}


# ----------------------------------------------------------------------------------------------------------------- ours


def project(folder: Path, augment: str) -> Path:
    folder.mkdir()
    digits = load_digits()
    frame = pl.DataFrame(digits.data / 16, schema=[f"p{number}" for number in range(64)])
    frame.with_columns(row=pl.int_range(pl.len()), digit=pl.Series(digits.target)).write_csv(folder / "digits.csv")
    (folder / "recipe.py").write_text(RECIPE.replace("AUGMENT", augment))
    (folder / "velodrome.toml").write_text("threads = 1\n")
    return folder


def run(folder: Path) -> dict[str, Any]:
    """What a run came to, or the error that it ended with."""
    done = subprocess.run(
        [PROGRAM, "run", "recipe.py", "--json"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        return {"error": json.loads(done.stderr.splitlines()[-1])["problem"]}
    with vd.open(folder) as ws:
        found = show_run(ws, json.loads(done.stdout)["run"])
        events = ws.ledger.events(f"checkpoints:{found.run.id}")
        noticed = any(event.type == "checkpoint.damaged" for event in events)
    attempt = found.attempts[-1]
    return {name: getattr(found.outcome, name) for name in ("weights", "samples", "history")} | {
        "restored_step": attempt.restored_step,
        "redone": attempt.redone,
        "noticed": noticed,
    }


def run_and_kill(folder: Path) -> dict[str, Any]:
    """Kill a run some steps after a checkpoint in the middle of an epoch was recorded; the step of the newest one then."""
    with (
        subprocess.Popen(
            [PROGRAM, "run", "recipe.py"],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
        vd.open(folder) as ws,
    ):
        while _newest_step(ws) < KILL_AFTER:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        time.sleep(0.25)  # so that some steps are lost, and some of their records are not
        process.send_signal(signal.SIGKILL)
        process.wait()
        step = _newest_step(ws)
    assert process.returncode == -signal.SIGKILL
    assert step % STEPS_PER_EPOCH != 0, "it was killed too late: its newest checkpoint is that of the end of an epoch"
    return {"newest": step}


def _newest_step(ws: Workspace) -> int:
    runs = search_runs(ws, "").runs
    found = checkpoints_of(ws, runs[0].id) if runs else []
    return found[-1].step if found else 0


def killed_and_resumed(folder: Path, augment: str) -> dict[str, Any]:
    undisturbed, again = (run(project(folder / name, augment)) for name in ("undisturbed", "again"))
    killed = run_and_kill(project(folder / "kept", augment))
    shutil.copytree(folder / "kept", folder / "killed")
    resumed = run(folder / "killed")
    assert resumed["restored_step"] == killed["newest"], "it began anew, or elsewhere"
    return {
        "undisturbed": undisturbed,
        "repeatable": _same(undisturbed, again),
        "from": killed["newest"],
        "resumed": resumed,
        "identical": _same(undisturbed, resumed),
    }


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("weights", "samples", "history"))


def harmed(folder: Path, harm: Callable[[Workspace], None]) -> dict[str, Any]:
    """What the program makes of the killed run after `harm` was done to its newest checkpoint."""
    copy = Path(tempfile.mkdtemp(dir=folder)) / "harmed"
    shutil.copytree(folder / "kept", copy)
    with vd.open(copy) as ws:
        harm(ws)
    return run(copy)


def judged(found: dict[str, Any], undisturbed: dict[str, Any]) -> str:
    """As in `resume_peers.py`; "recovered": it was noticed, another one used, and the end is that of the undisturbed run."""
    if "error" in found:
        return "refused"
    if found["noticed"]:
        return "recovered" if _same(found, undisturbed) else "warned"
    return "harmless" if _same(found, undisturbed) else "used"


def _blob(ws: Workspace, place: int = -1) -> Path:
    blob = checkpoints_of(ws, search_runs(ws, "").runs[0].id)[place].blob
    return Path(ws.store) / "blobs" / blob[:2] / blob


def flip(ws: Workspace, rng: np.random.Generator) -> None:
    data = bytearray(_blob(ws).read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    _write(_blob(ws), bytes(data))


def cut(ws: Workspace) -> None:
    data = _blob(ws).read_bytes()
    _write(_blob(ws), data[: len(data) // 2])


def swapped(ws: Workspace) -> None:
    _write(_blob(ws), _blob(ws, -2).read_bytes())


def _write(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def without(ws: Workspace, piece: str) -> None:
    """Record a checkpoint of the next step that lacks a piece, as if the run had saved it so."""
    newest = checkpoints_of(ws, search_runs(ws, "").runs[0].id)[-1]
    tensors, facts = decode_state(ws.blobs.read(newest.blob))
    left = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{piece}/")}
    if piece == "position":
        del facts["memory"]
    else:
        assert len(left) < len(tensors)
    data = safetensors.torch.save(left, {"facts": json.dumps(facts | {"aliases": {}})})
    blob = ws.blobs.put(data)
    record = msgspec.structs.replace(newest, step=newest.step + 1, blob=blob.digest, size=blob.size)
    digest = digest_record(record)
    ws.commit(
        Put(record, record.run),
        Link(f"run:{record.run}", digest, "checkpoint"),
        Link(digest, record.blob, "blob"),
        Append(f"checkpoints:{record.run}", "checkpoint.saved", {"step": record.step, "checkpoint": digest}),
    )


def ours(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {name: killed_and_resumed(_made(folder / name), AUGMENT[name]) for name in AUGMENT}
    undisturbed, here = found["augmentation"]["undisturbed"], folder / "augmentation"
    harms = [*(partial(flip, rng=np.random.default_rng(number)) for number in range(FLIPS)), cut, swapped]
    harms += [partial(without, piece=piece) for piece in PIECES]
    with ThreadPoolExecutor(WORKERS) as pool:
        done = list(pool.map(partial(harmed, here), harms))
    verdicts = [judged(each, undisturbed) for each in done[:FLIPS]]
    after_cut, after_swap, *pieces = (_told(each, undisturbed) for each in done[FLIPS:])
    found["harms"] = {
        "flips": {name: verdicts.count(name) for name in ("recovered", "refused", "warned", "used", "harmless")},
        "cut": after_cut,
        "swapped": after_swap,
        "without": dict(zip(PIECES, pieces, strict=True)),
    }
    return found


def _told(found: dict[str, Any], undisturbed: dict[str, Any]) -> dict[str, Any]:
    return {"verdict": judged(found, undisturbed), "said": found.get("error", "")}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# ---------------------------------------------------------------------------------------------------------------- peers


def peer(python: str, tool: str, folder: Path) -> dict[str, Any]:
    """What `resume_peers.py` found of a tool, or the end of what it said where it failed, as without its package."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    np.savez(_made(folder) / "digits.npz", x=x[:1440], y=y[:1440])
    program = str(Path(__file__).parent / "resume_peers.py")
    done = subprocess.run([python, program, tool, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr[-2000:]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


# --------------------------------------------------------------------------------------------------------------- report


def rows(found: dict[str, dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The two tables of docs/resume.md: what a kill leaves, and what damage does."""
    kills = ["| | killed, dropout | killed, dropout and augmentation |", "| --- | --- | --- |"]
    names = ["20 flips", "cut in half", "weights of the one before", *(f"without {piece}" for piece in PIECES)]
    harms = [f"| | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for name, each in found.items():
        if "failed" in each:
            continue
        tool = TOOLS.get(name, name)
        told = " | ".join(_kill(each[kind]) for kind in ("dropout", "augmentation"))
        kills.append(f"| {tool} | {told} |")
        harm = each["harms"]
        flips = ", ".join(f"{count} {verdict}" for verdict, count in harm["flips"].items() if count)
        cells = [harm.get("cut"), harm.get("swapped"), *(harm["without"].get(piece) for piece in PIECES)]
        harms.append(f"| {tool} | {flips} | {' | '.join(cell['verdict'] if cell else '–' for cell in cells)} |")
    return kills, harms


def _kill(found: dict[str, Any]) -> str:
    words = "the same weights" if found["identical"] else "other weights"
    return words if found["repeatable"] else f"{words} (undisturbed runs differ too)"


def main(chosen: list[str]) -> None:
    python = os.environ.get("TRAINERS_PYTHON")
    file = Path(__file__).parent / "results" / "resume.json"
    file.parent.mkdir(exist_ok=True)
    found = dict(json.loads(file.read_text())) if chosen and file.exists() else {}
    for tool in chosen or ("velodrome", *(TOOLS if python else ())):
        with tempfile.TemporaryDirectory() as folder:
            found[tool] = ours(Path(folder)) if tool == "velodrome" else peer(python or "", tool, Path(folder, tool))
        found = {name: found[name] for name in ("velodrome", *TOOLS) if name in found}
        file.write_text(json.dumps(found, indent=1) + "\n")
    kills, harms = rows(found)
    print("\n".join([*kills, "", *harms]))
    if not python:
        print("\nonly ours: TRAINERS_PYTHON names no interpreter that has the others")


if __name__ == "__main__":
    main(sys.argv[1:])
