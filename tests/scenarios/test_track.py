"""A training script of one's own, tracked, killed, registered, loaded back."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import velodrome as vd

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import time

import torch
import velodrome as vd

torch.manual_seed(0)
x = torch.randn(256, 4)
y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
module = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1))
optimizer = torch.optim.AdamW(module.parameters(), lr=0.02)

with vd.track("my-loop", params={"lr": 0.02, "steps": 300}) as run:
    for step in range(run.restore(module, optimizer) + 1, 301):
        module.train()
        loss = torch.nn.functional.mse_loss(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(step, loss=loss.item())
        if step % 20 == 0:
            run.checkpoint(module, optimizer)
            print(step, flush=True)
            time.sleep(float(sys.argv[1]))
    version = run.model(module, example=x[:8])
print("registered", version.reference, flush=True)
"""


def _start(folder: Path, pause: float) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "train.py", str(pause)], cwd=folder, stdout=subprocess.PIPE, text=True)


def test_a_loop_of_ones_own_is_killed_goes_on_and_predicts(tmp_path: Path) -> None:
    outcomes = []
    for name, kill in (("whole", False), ("killed", True)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.py").write_text(SCRIPT)
        if kill:
            process = _start(folder, 0.1)
            assert process.stdout is not None
            assert "100\n" in iter(process.stdout.readline, "")
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        said, _ = _start(folder, 0).communicate()
        assert "registered my-loop/1" in said
        with vd.open(folder) as ws:
            [run] = vd.runs(name="my-loop", ws=ws).to_dicts()
            assert (run["state"], run["attempts"]) == ("finished", 2 if kill else 1)
            x = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
            predicted = vd.load("my-loop/1", ws=ws).predict({"input": x})["prediction"].to_numpy()
            outcomes.append((run["history"], predicted.tobytes()))
            if kill:
                assert said.splitlines()[0] != "20"
    assert outcomes[0] == outcomes[1]
