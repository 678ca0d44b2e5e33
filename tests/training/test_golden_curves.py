"""The loss of a small training, bit by bit, as it was when its golden file was written.

A whole run of the program: digits, dropout, an average of the weights, cosine with warm-up, clipping, accumulation. What is
compared is each step's loss and gradient norm, each evaluation, and the digest of the weights, so that nobody changes by
accident what a seed trains.

What the bits depend on, and how each is held still. Threads: one. The instructions that torch's own kernels use: fixed in the
process's environment, one golden file for each (`default` is SSE2; `avx2` and `avx512` use fused multiply-add). Matrix
products are MKL's, which chooses by the maker and model of the CPU: in its COMPATIBLE mode it does the same on all of them.
oneDNN is held to SSE4.1; a network of linear layers does not use it. Python, numpy and Polars give nothing but the rows, which
are whole numbers. The release of torch is written into each file. Assumed: Linux on x86-64, a build of torch from the package index,
and glibc, whose `exp` and `log` do the same on every CPU with FMA. Tried: `default` and `avx2` are equal on an AMD EPYC of 2025
and on an emulated Intel Haswell; `avx512` was run on the former alone.

A capability that this CPU lacks is skipped by name, as is another release of torch than the file's; that the files are of the
release that constraints.txt pins is a test of its own, so a new pin is not forgotten.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from project import PROGRAM
from sklearn.datasets import load_digits

from velodrome.registry.runs import get_run, outcome_of
from velodrome.registry.search import list_runs
from velodrome.registry.series import read_histories
from velodrome.store.workspace import Workspace, open_folder

pytestmark = pytest.mark.slow

RECIPE = """
import torch

import velodrome as vd

PIXELS = [f"p{number}" for number in range(64)]


class Network(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 10)
        )

    def forward(self, **pixels):
        return self.layers(torch.stack([pixels[name] for name in PIXELS], 1) / 16)


recipe = vd.Recipe(
    "digits",
    data=vd.Dataset("digits", source=vd.Files("digits.csv"), key="id"),
    label="digit",
    features=PIXELS,
    prepare=[],
    split=vd.RandomSplit(validation=0.2, test=0.2),
    learner=vd.Torch(
        network=Network,
        optimizer=vd.AdamW(lr=0.01),
        schedule=vd.Cosine(warmup=0.1),
        epochs=2,
        batch=64,
        micro_batch=24,
        clip=1.0,
        ema=vd.EMA(decay=0.95),
        label_smoothing=0.05,
    ),
)
"""

CAPABILITIES = ("default", "avx2", "avx512")


def _environment(capability: str) -> dict[str, str]:
    return os.environ | {
        "ATEN_CPU_CAPABILITY": capability,
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONWARNINGS": "",
    }


def _require(capability: str) -> str:
    """The release of torch, on a machine that computes as asked; the test is skipped, by name, on any other."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip(f"golden curves are of Linux on x86-64; this is {sys.platform} on {platform.machine()}")
    ask = "import torch; print(torch.backends.cpu.get_cpu_capability(), torch.__version__, torch.backends.mkl.is_available())"
    asked = subprocess.run(
        [sys.executable, "-c", ask], env=_environment(capability), capture_output=True, text=True, check=True
    )
    found, release, has_mkl = asked.stdout.split()
    if found.lower() != capability:
        pytest.skip(f"this CPU has no {capability}: torch computes with {found}")
    if has_mkl != "True":
        pytest.skip(f"this build of torch ({release}) has no MKL")
    return release.partition("+")[0]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_seed_trains_the_same_bits(capability: str, golden: Any, tmp_path: Path) -> None:
    release, name = _require(capability), f"digits-{capability}.txt"
    if not golden.rewrite and (written := _release_of(golden.folder / name)) != release:
        pytest.skip(f"{name} is of torch {written}; this is torch {release}")
    digits = load_digits()
    columns = {"id": range(len(digits.target)), "digit": digits.target}
    columns |= {f"p{number}": digits.data[:, number] for number in range(64)}
    pl.DataFrame(columns).write_csv(tmp_path / "digits.csv")
    (tmp_path / "recipe.py").write_text(RECIPE)
    done = subprocess.run(
        [PROGRAM, "run", "recipe.py"],
        cwd=tmp_path,
        env=_environment(capability),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with open_folder(tmp_path) as ws:
        golden(name, f"# torch {release}, {capability}: step, loss, gradient norm; validation loss\n{_curve(ws)}")


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_curves_are_of_the_torch_that_is_pinned(capability: str) -> None:
    here = Path(__file__)
    pinned = (here.parents[2] / "constraints.txt").read_text().partition("\ntorch==")[2].split()[0]
    written = _release_of(here.parent / "golden" / f"digits-{capability}.txt")
    assert written == pinned, f"run `make golden` on a machine that has {capability}"


def _curve(ws: Workspace) -> str:
    """The run's steps and evaluations, each number with all its bits."""
    (run,) = list_runs(ws)
    series = {name: dict(zip(*each, strict=True)) for name, each in _numbers(ws, run.id).items()}
    lines = [f"{step} {value.hex()} {series['gradient_norm'][step].hex()}\n" for step, value in series["loss"].items()]
    lines += [f"validation {step} {value.hex()}\n" for step, value in series["validation_loss"].items()]
    outcome = outcome_of(ws, get_run(ws, run.id).id)
    assert outcome is not None
    return "".join([*lines, f"weights {outcome.weights}\n"])


def _numbers(ws: Workspace, run: str) -> dict[str, tuple[list[int], list[float]]]:
    return {name: (each.steps.tolist(), each.values.tolist()) for name, each in read_histories(ws, run).items()}


def _release_of(path: Path) -> str:
    return path.read_text().split()[2].rstrip(",") if path.exists() else "none"
