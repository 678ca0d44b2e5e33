"""The training loop of another package, as its users write it, in a process of its own that does a turn when it is asked to.

Run by `bench_training_loop` with the interpreter that has these packages; speaks with it over a pipe: for each line that comes
in, some steps are done and their seconds told. The loop belongs to the package and cannot be left, so it is held up inside:
`forward` counts the steps and, between two turns, waits. A turn goes from one forward to another, so everything that the
package does between them is in it: data, hooks, logging, checkpoints.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

INPUTS, HIDDEN, CLASSES, BATCH, ROWS, TURN = (int(word) for word in sys.argv[2:8])
EPOCHS = 100_000  # that is, until it is no longer asked


class Turns:
    """Where a step begins: between two turns it tells how long the last one took and waits to be asked for the next."""

    def __init__(self) -> None:
        self._told = os.fdopen(os.dup(1), "w")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the progress bars
        self._steps, self._begun = 0, 0.0

    def begin_step(self) -> None:
        if self._steps % TURN == 0:
            if self._steps:
                print(time.perf_counter() - self._begun, file=self._told, flush=True)
            if not sys.stdin.readline():
                os._exit(0)
            self._begun = time.perf_counter()
        self._steps += 1


TURNS = Turns()


class Network(torch.nn.Module):
    """The small network; its forward is where a step begins."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(INPUTS, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        TURNS.begin_step()
        return self.layers(x)


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, INPUTS), dtype=np.float32), rng.integers(0, CLASSES, ROWS)
    return torch.from_numpy(x), torch.from_numpy(y)


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*rows()), batch_size=BATCH, shuffle=True)


def sgd(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.01)


def lightning(*, bare: bool) -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
            x, y = batch
            loss = functional.cross_entropy(self.network(x), y)
            if not bare:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self)

    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False} if bare else {}
    pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", **off).fit(Module(), loader())


def accelerate() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    network = Network()
    network, optimizer, batches = accelerator.prepare(network, sgd(network), loader())
    for _ in range(EPOCHS):
        for x, y in batches:
            optimizer.zero_grad()
            accelerator.backward(functional.cross_entropy(network(x), y))
            optimizer.step()


class Named(Dataset[dict[str, torch.Tensor]]):
    """Rows as HF Trainer takes them."""

    def __init__(self) -> None:
        self.x, self.y = rows()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class WithLoss(torch.nn.Module):
    """A network as HF Trainer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def trainer(*, bare: bool) -> None:
    import transformers

    module = WithLoss()
    optimizer = sgd(module)
    settings: dict[str, Any] = {"save_total_limit": 2}  # logs and saves every 500 steps, as it does by default
    if bare:
        settings = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "max_grad_norm": 0.0}
    transformers.Trainer(
        model=module,
        args=transformers.TrainingArguments(
            output_dir="trainer",
            per_device_train_batch_size=BATCH,
            num_train_epochs=EPOCHS,
            use_cpu=True,
            report_to="none",
            **settings,
        ),
        train_dataset=Named(),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    ).train()


LOOPS: dict[str, Callable[[], None]] = {
    "Lightning": lambda: lightning(bare=False),
    "Lightning, bare": lambda: lightning(bare=True),
    "Accelerate": accelerate,
    "HF Trainer": lambda: trainer(bare=False),
    "HF Trainer, bare": lambda: trainer(bare=True),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    LOOPS[sys.argv[1]]()
