"""One of the other trainers, killed and resumed as its documentation says, and what it makes of damaged checkpoints.

Run by `resume.py` as `resume_peers.py TOOL FOLDER`, with the interpreter that has these packages; FOLDER holds `digits.npz`.
Prints one JSON object. Each training is a forked process, so that the packages are imported once, a kill is a kill, and a
crash ends nothing else. Augmentation and dropout draw from torch's own generator, as those of torchvision do.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "KERAS_BACKEND": "torch",
    "HF_HUB_OFFLINE": "1",
}  # before any of them is imported

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

TOOL, FOLDER = sys.argv[1], Path(sys.argv[2]).resolve()
EPOCHS, BATCH, EVERY, KILL_AFTER, FLIPS, SEED = 8, 32, 20, 150, 20, 1
NEWEST, AFTER = 140, 5  # the step of the newest checkpoint then, and the steps after it that show what was made of it
DIGITS = np.load(FOLDER / "digits.npz")
STEPS_PER_EPOCH = -(-len(DIGITS["y"]) // BATCH)
STEPS = EPOCHS * STEPS_PER_EPOCH
PACKAGES = {"lightning": "lightning", "accelerate": "accelerate", "trainer": "transformers", "keras": "keras"}
MODULES = {
    "lightning": ("lightning.pytorch", "torchdata.stateful_dataloader"),
    "accelerate": ("accelerate",),
    "trainer": ("transformers.trainer", "transformers.training_args"),
    "keras": ("keras",),
}
PATIENCE = 120  # seconds that a process may take

Fit = Callable[..., Any]
"""fit(folder, steps, augment=..., resume=None): trains to `steps`, from a checkpoint where one is given; gives the module."""


# ------------------------------------------------------------------------------------------------------------- the task


class Steps:
    """How many steps this process did, and where it waits to be killed."""

    done = 0
    wait_after = 0
    waiting: Callable[[], None] = staticmethod(lambda: None)

    @classmethod
    def begin(cls) -> None:
        if cls.wait_after and cls.done == cls.wait_after:
            cls.waiting()
            time.sleep(PATIENCE)
        cls.done += 1


class Digits(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The rows, with noise and masked pixels where they are augmented."""

    def __init__(self, augment: bool) -> None:
        self.x, self.y = torch.from_numpy(DIGITS["x"]), torch.from_numpy(DIGITS["y"])
        self.augment = augment

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.x[index]
        if self.augment:
            x = (x + 0.1 * torch.randn(x.shape)) * (torch.rand(x.shape) >= 0.05)
        return x, self.y[index]


class Network(torch.nn.Module):
    """64-64-10 with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            Steps.begin()
        return self.layers(x)


def adam(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=0.003)


# ------------------------------------------------------------------------------------------------------------ the tools


def lightning(folder: Path, steps: int, *, augment: bool, resume: Path | None = None, stateful: bool = False) -> Any:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torchdata.stateful_dataloader import StatefulDataLoader

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
            x, y = batch
            return functional.cross_entropy(self.network(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adam(self)

    pl.seed_everything(SEED, workers=True)
    loader = StatefulDataLoader if stateful else DataLoader
    module = Module()
    pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder / "checkpoints", every_n_train_steps=EVERY, save_top_k=-1)],
    ).fit(module, loader(Digits(augment), batch_size=BATCH, shuffle=True), ckpt_path=resume)
    return module.network


def accelerate(
    folder: Path,
    steps: int,
    *,
    augment: bool,
    resume: Path | None = None,
    seedable: bool = False,
    stateful: bool = False,
) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, set_seed

    set_seed(SEED)
    config = DataLoaderConfiguration(use_seedable_sampler=seedable, use_stateful_dataloader=stateful)
    accelerator = Accelerator(cpu=True, dataloader_config=config)
    network, loader = Network(), DataLoader(Digits(augment), batch_size=BATCH, shuffle=True)
    network, optimizer, batches = accelerator.prepare(network, adam(network), loader)
    done = 0
    if resume:
        accelerator.load_state(str(resume))
        done = int(resume.name.partition("_")[2])
    first, skipped = divmod(done, STEPS_PER_EPOCH)
    for epoch in range(first, EPOCHS):
        if seedable:
            batches.set_epoch(epoch)
        resumed = resume is not None and epoch == first and not stateful
        for x, y in accelerator.skip_first_batches(batches, skipped) if resumed else batches:
            optimizer.zero_grad()
            accelerator.backward(functional.cross_entropy(network(x), y))
            optimizer.step()
            done += 1
            if done % EVERY == 0:
                accelerator.save_state(str(folder / "checkpoints" / f"step_{done}"))
            if done == steps:
                return network
    return network


class Named(Digits):
    """Rows as HF Trainer takes them."""

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return {"x": x, "labels": y}


class WithLoss(torch.nn.Module):
    """A network as HF Trainer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def trainer(folder: Path, steps: int, *, augment: bool, resume: Path | None = None) -> Any:
    import transformers

    transformers.set_seed(SEED)
    module = WithLoss()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=BATCH,
        max_steps=steps,
        learning_rate=0.003,
        lr_scheduler_type="constant",
        save_steps=EVERY,
        seed=SEED,
        data_seed=SEED,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    transformers.Trainer(model=module, args=arguments, train_dataset=Named(augment)).train(
        resume_from_checkpoint=str(resume) if resume else None
    )
    return module.network


class Enough(Exception):
    """So many steps were asked for."""


def keras(folder: Path, steps: int, *, augment: bool, resume: Path | None = None) -> Any:
    import keras

    class Count(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            Steps.begin()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if steps < STEPS and Steps.done == AFTER:
                raise Enough

    keras.utils.set_random_seed(SEED)
    changes = [keras.layers.GaussianNoise(0.1), keras.layers.Dropout(0.05)] if augment else []
    model = keras.Sequential(
        [
            keras.Input((64,)),
            *changes,
            *(keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(10, "softmax")),
        ]
    )
    model.compile(keras.optimizers.AdamW(0.003), "sparse_categorical_crossentropy")
    backup = keras.callbacks.BackupAndRestore(str(folder / "checkpoints"), save_freq=EVERY, delete_checkpoint=False)
    if resume and resume != folder / "checkpoints":
        shutil.copytree(resume, folder / "checkpoints")
    with contextlib.suppress(Enough):
        model.fit(DIGITS["x"], DIGITS["y"], batch_size=BATCH, epochs=EPOCHS, callbacks=[backup, Count()], verbose=0)
    return model


FITS: dict[str, Fit] = {
    "lightning": lightning,
    "lightning-stateful": partial(lightning, stateful=True),
    "accelerate": accelerate,
    "accelerate-seedable": partial(accelerate, seedable=True),
    "accelerate-stateful": partial(accelerate, stateful=True),
    "trainer": trainer,
    "keras": keras,
}
FIT, KIND = FITS[TOOL], TOOL.partition("-")[0]


def newest(folder: Path) -> Path:
    """The newest checkpoint, a file or a folder; Keras keeps one."""
    if KIND == "keras":
        return folder / "checkpoints"
    return max((folder / "checkpoints").iterdir(), key=_step)


def before(path: Path) -> Path:
    """The checkpoint before that."""
    return max((each for each in path.parent.iterdir() if _step(each) < _step(path)), key=_step)


def _step(path: Path) -> int:
    return int(
        "".join(letter for letter in path.stem.rpartition("step")[2] if letter.isdigit())
        or path.name.rpartition("-")[2]
    )


def digest(module: Any) -> str:
    hasher = hashlib.sha256()
    if isinstance(module, torch.nn.Module) and KIND != "keras":
        weights = [tensor.detach().numpy() for tensor in module.state_dict().values()]
    else:
        weights = module.get_weights()
    for array in weights:
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ processes


def apart(act: Callable[[], dict[str, Any]], kill_after: int = 0) -> dict[str, Any]:
    """What `act` gives in a process of its own, or how that ended; with `kill_after` it is killed after so many steps."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(PATIENCE)
        Steps.wait_after, Steps.waiting = kill_after, lambda: os.write(write, b'{"killed": true}\n') and None
        os.write(write, json.dumps(_attempted(act)).encode() + b"\n")
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.readline()
        if kill_after:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    return json.loads(told) if told else {"error": f"the process ended with {os.waitstatus_to_exitcode(status)}"}


class Said(logging.Handler):
    """What is logged at the level of a warning or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.add(_line(record.getMessage()))


def _attempted(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    logged = Said()
    for name in ("", "accelerate", "transformers", "lightning.pytorch", "absl"):
        logging.getLogger(name).addHandler(logged)
    try:
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            done = act()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the tool did not go on
        return {"error": f"{type(error).__name__}: {_line(error)}"}
    return done | {"steps": Steps.done, "warnings": sorted({_line(each.message) for each in shown} | logged.texts)}


def _line(text: object) -> str:
    """The beginning of the first line, without this run's folder."""
    return (str(text).strip() or "-").splitlines()[0].replace(str(FOLDER), "FOLDER")[:200]


def fitted(folder: Path, steps: int, augment: bool, resume: Path | None = None) -> dict[str, Any]:
    torch.set_num_threads(1)
    return {"weights": digest(FIT(folder, steps, augment=augment, resume=resume))}


# ------------------------------------------------------------------------------------------------------------- measured


def killed_and_resumed(folder: Path, augment: bool) -> dict[str, Any]:
    """Two undisturbed trainings, and one that was killed in the middle of an epoch and resumed."""
    undisturbed, again, broken = (folder / name for name in ("undisturbed", "again", "killed"))
    first = apart(lambda: fitted(undisturbed, STEPS, augment))
    second = apart(lambda: fitted(again, STEPS, augment))
    killed = apart(lambda: fitted(broken, STEPS, augment), kill_after=KILL_AFTER)
    shutil.copytree(broken, folder / "kept")
    resumed = apart(lambda: fitted(broken, STEPS, augment, newest(broken)))
    return {
        "undisturbed": first,
        "repeatable": first.get("weights") == second.get("weights"),
        "killed": killed,
        "from": newest(folder / "kept").name,
        "resumed": resumed,
        "identical": first.get("weights") == resumed.get("weights") is not None,
    }


def harmed(folder: Path, harm: Callable[[Path], None], steps: int = NEWEST + AFTER) -> dict[str, Any]:
    """What is made of a checkpoint after `harm` was done to a copy of it, when training goes on to that step."""
    shutil.rmtree(folder / "harmed", ignore_errors=True)
    shutil.copytree(folder / "kept", folder / "harmed")
    path = newest(folder / "harmed")
    harm(path)
    return apart(lambda: fitted(folder / "harmed", steps, True, path))


def judged(found: dict[str, Any], intact: dict[str, Any]) -> str:
    """ "refused": an error; "warned": it went on with a warning that an intact checkpoint does not give; "used": it was trained
    on with what was wrong; "harmless": trained on, with what is right."""
    if "error" in found:
        return "refused"
    if set(found["warnings"]) - set(intact["warnings"]):
        return "warned"
    same = (found["weights"], found["steps"]) == (intact["weights"], intact["steps"])
    return "harmless" if same else "used"


def said(found: dict[str, Any], intact: dict[str, Any]) -> list[str]:
    return [found["error"]] if "error" in found else sorted(set(found["warnings"]) - set(intact["warnings"]))


def flip(path: Path, rng: np.random.Generator) -> None:
    files = sorted(each for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())
    place = int(rng.integers(sum(each.stat().st_size for each in files)))
    for file in files:
        size = file.stat().st_size
        if place < size:
            data = bytearray(file.read_bytes())
            data[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(data)
            return
        place -= size


def weights_of(path: Path) -> Path:
    """The file with the weights."""
    names = {"accelerate": "model.safetensors", "trainer": "model.safetensors", "keras": "latest.weights.h5"}
    return path / names[KIND] if KIND in names else path


def cut(path: Path) -> None:
    file = weights_of(path)
    os.truncate(file, file.stat().st_size // 2)


def swapped(path: Path) -> None:
    """The file with the weights is that of the checkpoint before."""
    shutil.copy(weights_of(before(path)), weights_of(path))


def pieces() -> dict[str, Callable[[Path], None]]:
    """How a piece of the state is taken away; what is no part of the tool's checkpoint is not here."""
    if KIND == "lightning":
        return {"optimizer": partial(_without, "optimizer_states"), "position": partial(_without, "loops")}
    if KIND == "keras":
        return {"optimizer": _without_optimizer, "position": lambda path: (path / "training_metadata.json").unlink()}
    names = {
        "accelerate": {"optimizer": "optimizer.bin", "rng": "random_states_0.pkl"},
        "accelerate-stateful": {"position": "dl_state_dict.bin"},
        "trainer": {"optimizer": "optimizer.pt", "rng": "rng_state.pth", "position": "trainer_state.json"},
    }
    return {
        piece: lambda path, name=name: (path / name).unlink()
        for piece, name in (names[KIND] | names.get(TOOL, {})).items()
    }


def _without(key: str, path: Path) -> None:
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint[key]
    torch.save(checkpoint, path)


def _without_optimizer(path: Path) -> None:
    import h5py

    with h5py.File(path / "latest.weights.h5", "a") as file:
        del file["optimizer"]


def harms(folder: Path) -> dict[str, Any]:
    """What is made of a damaged newest checkpoint, in some steps; and of one that lacks a piece, up to the end."""
    intact, whole = harmed(folder, lambda path: None), harmed(folder, lambda path: None, STEPS)
    flips = [harmed(folder, partial(flip, rng=np.random.default_rng(number))) for number in range(FLIPS)]
    verdicts = [judged(each, intact) for each in flips]
    others = {"cut": cut, **({} if KIND == "keras" else {"swapped": swapped})}
    return {
        "flips": {verdict: verdicts.count(verdict) for verdict in ("refused", "warned", "used", "harmless")},
        "said": sorted({text for each in flips for text in said(each, intact)}),
        **{name: _told(harmed(folder, harm), intact) for name, harm in others.items()},
        "without": {name: _told(harmed(folder, harm, STEPS), whole) for name, harm in pieces().items()},
    }


def _told(found: dict[str, Any], intact: dict[str, Any]) -> dict[str, Any]:
    return {"verdict": judged(found, intact), "said": said(found, intact), "steps": found.get("steps")}


def contents(path: Path) -> list[str]:
    """What the checkpoint is made of: its files, or the keys of the one file."""
    if path.is_dir():
        return sorted(each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file())
    return sorted(torch.load(path, weights_only=False))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the packages print goes nowhere."""
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    yield
    sys.stdout.flush()
    os.dup2(kept, 1)


def main() -> None:
    with quiet():
        for module in MODULES[KIND]:  # before any process forks
            importlib.import_module(module)
        found = {
            "versions": {name: importlib.metadata.version(name) for name in ("torch", PACKAGES[KIND])},
            "dropout": killed_and_resumed(FOLDER / f"{TOOL}-dropout", augment=False),
            "augmentation": killed_and_resumed(FOLDER / TOOL, augment=True),
        }
        kept = newest(FOLDER / TOOL / "kept")
        found |= {"checkpoint": contents(kept), "harms": harms(FOLDER / TOOL)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
