"""Trains a PyTorch network on the prepared rows: builds it, restores it if the run was killed, runs the loop, exports it.

The weights that come out are those of the evaluation with the lowest validation loss; a refit takes those after the number of
steps that its judge chose.
"""

import random
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from velodrome.core.counter import derive_seed
from velodrome.core.digest import digest_bytes, digest_json
from velodrome.core.errors import (
    IntegrityError,
    MissingBlob,
    OutOfMemory,
    TrainingError,
    VelodromeError,
)
from velodrome.core.logging import logger
from velodrome.core.progress import Silent, Task
from velodrome.core.units import parse_duration
from velodrome.data.curriculum import easiest_first
from velodrome.data.fields import as_json
from velodrome.data.layout import Layout, places
from velodrome.data.order import EpochOrder
from velodrome.data.own import OwnRows
from velodrome.data.torch import Batch, TensorBatches
from velodrome.models.torch import export
from velodrome.registry.failures import mean_time_between_failures
from velodrome.registry.runs import restored_in_part, resumed
from velodrome.registry.time_spent import Spent
from velodrome.training.checkpoints import (
    Checkpoint,
    Checkpointer,
    Interval,
    checkpoints_of,
    damaged_steps,
    newest_verified,
    pass_over,
    require_space,
)
from velodrome.training.guards import leaving_on_request, watched
from velodrome.training.learners import Plateau, Torch
from velodrome.training.loop import Memory, Plan, Saver, Trainer
from velodrome.training.own_code import is_out_of_memory, mistake
from velodrome.training.samples import SampleLedger
from velodrome.training.schedules import factor
from velodrome.training.telemetry import telemetry
from velodrome.training.torch_losses import ACTIVATIONS, loss_function, loss_name
from velodrome.training.torch_optimizers import Average, Freezer, make_stepper
from velodrome.training.torch_profile import profiled
from velodrome.training.torch_state import State, StateCopy, decode_state, digest_weights, restore_weights
from velodrome.training.torch_step import Objective, Scaler
from velodrome.training.torch_validation import Validation
from velodrome.training.work import Fitted, Work

__all__ = ["fit", "order_of", "repeat", "trial"]

_AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Training:
    """One attempt at a training: its parts, made once, and the state that is saved and restored."""

    def __init__(self, work: Work, learner: Torch, module: torch.nn.Module) -> None:
        self.work, self.learner, self.module = work, learner, module
        self.device = torch.device(work.device)
        self.name = loss_name(learner.loss, work.task)
        stepper = make_stepper(learner.optimizer, module, learner.rates)
        average = Average(learner.ema, stepper.parameters) if learner.ema else None
        self.state = State(module, stepper, average)
        order = order_of(work)
        self.order = digest_json(
            {"rows": digest_bytes(work.train.tobytes()), "batch": learner.batch, "seed": work.seed}
        )
        self.batches = _Moved(
            TensorBatches(
                work.layout, order, augment=learner.augment, seed=derive_seed(work.seed, 4), workers=learner.workers
            ),
            self.device,
        )
        self.plan = _plan(learner, work, self.batches.steps_per_epoch)
        self._computed = torch.compile(module) if learner.compile else module
        self._loss = loss_function(self.name, work.classes, learner.label_smoothing)
        self._copy = StateCopy(self.state)
        self._new_after = self._done = 0
        self._tick: Callable[[], None] = lambda: None
        every = 0 if len(work.validation) else self.batches.steps_per_epoch
        self.checkpointer = Checkpointer(
            work.ws,
            work.run,
            work.attempt,
            work.recorder.flush,
            interval=Interval.of(learner.checkpoints, every, partial(mean_time_between_failures, work.ws)),
            facts=lambda: {"attempt": work.attempt, "seconds": work.watch.spent()},
        )

    def run(self) -> Memory:
        """Train from where the newest checkpoint is to the end; what is remembered there."""
        work, memory = self.work, self._restored()
        stall = parse_duration(self.learner.stall).total_seconds()
        try:
            with (
                work.ws.progress.task("train", self.plan.stop_at) as task,
                watched(work.watch, work.ws.clock, stall, work.tell),
                telemetry(work.recorder, lambda: self._done),
                profiled(work.profile) as self._tick,
                leaving_on_request() as asked,
            ):
                task.advance(memory.step)
                self._done = memory.step
                work.watch.lap(Spent.RESTART if work.attempt > 1 else Spent.START)
                trainer = self._trainer(self.plan, memory, self, task, asked)
                try:
                    return trainer.train(memory)
                finally:
                    trainer.samples.seal()  # the steps since the last save, too, of one that fails
        finally:
            self.batches.close()
            self.checkpointer.close()

    def repeat(self, begin: int, steps: int) -> None:
        """Do steps again from the checkpoint after step `begin`, and save nothing."""
        self.checkpointer.close()
        memory = self._without_diverged(self._put_back(self._saved(begin)))
        until = min(begin + steps, self.plan.stop_at)
        with self.work.ws.progress.task("repeat", steps) as task:
            plan = msgspec.structs.replace(self.plan, stop_at=until)
            self._trainer(plan, memory, _Unsaved(), task, lambda: False).train(memory)

    def trial(self, lr: Callable[[int], float]) -> Generator[tuple[int, float], None, None]:
        """Rows and loss of one step after another, with learning rates of another choosing; nothing is saved."""
        self.checkpointer.close()
        plan = msgspec.structs.replace(self.plan, lr=lr, on_divergence="stop")
        self.module.train()
        with Silent().task("trial") as task, closing(self.batches):
            trainer = self._trainer(plan, Memory(), _Unsaved(), task, lambda: False)
            for step, (ids, inputs, target) in enumerate(self.batches.batches_from(0)):
                loss, _, _ = trainer.learn(Memory(step=step), ids, inputs, target)
                if self.state.average:
                    self.state.average.update(step + 1)
                yield len(ids), loss

    def _trainer(self, plan: Plan, memory: Memory, saver: Saver, task: Task, asked: Callable[[], bool]) -> Trainer:
        work, learner = self.work, self.learner
        objective = Objective(
            self.loss_of,
            self.state.stepper.parameters,
            seed=derive_seed(work.seed, 3),
            watch=work.watch,
            micro_batch=memory.micro_batch or learner.micro_batch,
            halved=lambda step, rows: work.tell("run.micro-batch-halved", {"step": step, "rows": rows}),
            autocast=_AUTOCAST[learner.precision],
            scaler=Scaler(learner.precision == "fp16", memory.scale, memory.good),
        )
        return Trainer(
            plan=plan,
            module=self.module,
            objective=objective,
            stepper=self.state.stepper,
            batches=self.batches,
            evaluate=Validation(work.layout, work.validation, self.loss_of, self.device, work.tell),
            recorder=work.recorder,
            samples=SampleLedger(work.recorder, memory.chain),
            saver=saver,
            watch=work.watch,
            task=task,
            average=self.state.average,
            freezer=Freezer(learner.freeze, self.module) if learner.freeze else None,
            asked_to_leave=asked,
            tell=work.tell,
        )

    def due(self, step: int, now: float) -> bool:
        self._done = step
        self._tick()
        if step == self._new_after:
            self.work.watch.redo(False)
        return self.checkpointer.due(step, now)

    def wait(self) -> None:
        self.checkpointer.wait()

    def save(self, memory: Memory) -> None:
        facts = {"run": self.work.run, "order": self.order, "memory": msgspec.to_builtins(memory)}
        score = memory.best if memory.best_step == memory.step else None
        self.checkpointer.save(memory.step, lambda: self._copy.taken(facts), score)

    def choose(self, step: int, memory: Memory) -> None:
        """Put the weights that were best into the module: those after `step`, averaged where an average is kept."""
        if step != memory.step:
            restore_weights(self._best(step), self.module, self.state.average)
        if self.state.average:
            self.state.average.settle()

    def loss_of(self, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> Any:
        if self.learner.step is not None:
            return self.learner.step(self._computed, inputs, target)
        return self._loss(_forward(self._computed, inputs), target)

    def _best(self, step: int) -> dict[str, torch.Tensor]:
        """The state after a step that is over; where it is damaged, the next attempt learns it again."""
        try:
            return self._saved(step)[0]
        except (IntegrityError, MissingBlob) as error:
            pass_over(self.work.ws, self._known(step), error.problem)
            raise IntegrityError(
                f"the checkpoint with the best weights, of step {step}, is damaged",
                received=error.problem,
                remedy="run the same command again: it learns them again from the checkpoint before",
            ) from error

    def _known(self, step: int) -> Checkpoint:
        for checkpoint in checkpoints_of(self.work.ws, self.work.run):
            if checkpoint.step == step:
                return checkpoint
        raise TrainingError(f"the checkpoint of step {step} is gone", remedy="run again with --fresh")

    def _saved(self, step: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return decode_state(self.work.ws.blobs.read(self._known(step).blob))

    def _restored(self) -> Memory:
        work, found = self.work, self._newest()
        if found is None:
            return self._without_diverged(Memory())
        step = found[0].step
        memory = self._put_back(found[1])
        redone = resumed(work.ws, work.run, attempt=work.attempt, step=step)
        work.watch.redo(redone > 0)
        self._new_after = step + redone
        return self._without_diverged(msgspec.structs.replace(memory, step=step))

    def _without_diverged(self, memory: Memory) -> Memory:
        passed_over = tuple(sorted({*memory.passed_over, *self.work.passed_over}))
        return msgspec.structs.replace(memory, passed_over=passed_over)

    def _newest(self) -> tuple[Checkpoint, tuple[dict[str, torch.Tensor], dict[str, Any]]] | None:
        """The newest checkpoint that verifies and does not rest on damaged best weights, decoded. Best weights that were
        dropped are no loss: better ones took their place, and come again."""
        work = self.work
        while (found := newest_verified(work.ws, work.run)) is not None:
            saved = decode_state(found[1])
            best = _memory(saved[1]).best_step if "memory" in saved[1] else 0
            if best not in damaged_steps(work.ws, work.run):
                return found[0], saved
            pass_over(work.ws, found[0], f"the best weights before it, of step {best}, are damaged")
        return None

    def _put_back(self, saved: tuple[dict[str, torch.Tensor], dict[str, Any]]) -> Memory:
        work, (tensors, facts) = self.work, saved
        lost = self.state.restore(tensors, facts, {"order": self.order}, work.allow_missing)
        if lost:
            restored_in_part(work.ws, work.run, attempt=work.attempt, missing=lost)
        return Memory() if "memory" in lost else _memory(facts)


class _Moved:
    """Batches on the device that they are learned from on."""

    def __init__(self, batches: TensorBatches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self.steps_per_epoch = batches.steps_per_epoch

    def close(self) -> None:
        self._batches.close()

    def batches_from(self, step: int) -> Iterator[Batch]:
        batches = self._batches.batches_from(step)
        if self._device.type == "cpu":
            return batches
        return (
            (ids, {name: each.to(self._device) for name, each in inputs.items()}, target.to(self._device))
            for ids, inputs, target in batches
        )


class _Unsaved:
    """For steps that are done again and forgotten."""

    def due(self, step: int, now: float) -> bool:
        return False

    def save(self, memory: Memory) -> None:
        return None

    def wait(self) -> None:
        return None


def fit(work: Work) -> Fitted:
    """Train, or go on training, the recipe's network.

    Raises:
        TrainingError: the network cannot be built, or does not fit its inputs, the label or the loss.
        Diverged: a loss or gradient that is not finite.
    """
    learner = work.learner
    assert isinstance(learner, Torch)
    with _settings(learner):
        training = _made(work, learner)
        module = training.module
        _require_sound(training, work)
        memory = training.run()
        chosen = memory.best_step if memory.best is not None else memory.step
        training.choose(chosen, memory)
        module.to("cpu")
        exported = export(module, _example(work), activation=ACTIVATIONS[training.name])
    return Fitted(
        family="torch",
        files=exported.files,
        extra=exported.extra,
        steps=chosen,
        planned_steps=work.planned_steps or learner.epochs * training.batches.steps_per_epoch,
        weights=digest_weights(module),
        samples=memory.chain,
    )


def order_of(work: Work) -> EpochOrder:
    """The order in which a training takes its rows: a function of the work alone."""
    learner = work.learner
    assert isinstance(learner, Torch)
    return EpochOrder(_rows(work, learner), learner.batch, derive_seed(work.seed, 2), curriculum=learner.curriculum)


def repeat(work: Work, begin: int, steps: int) -> None:
    """Do steps of a run again from its checkpoint after step `begin`; what comes of them goes to the recorder alone.

    Raises:
        TrainingError: the checkpoint is not of this training.
    """
    learner = work.learner
    assert isinstance(learner, Torch)
    with _settings(learner):
        _made(work, learner).repeat(begin, steps)


def trial(work: Work, lr: Callable[[int], float]) -> Generator[tuple[int, float], None, None]:
    """Steps of a new training with the learning rate `lr(step)`, without end: the rows and the loss of each. Close it.

    Nothing is recorded but what `work` records, and nothing is saved.

    Raises:
        TrainingError, OutOfMemory: as `fit`. Diverged: a loss or gradient that is not finite, whatever the recipe does about it.
    """
    learner = work.learner
    assert isinstance(learner, Torch)
    with _settings(learner):
        yield from _made(work, learner).trial(lr)


@contextmanager
def _settings(learner: Torch) -> Iterator[None]:
    """What the recipe asks of torch as a whole, during the block."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(learner.deterministic or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _require_sound(training: _Training, work: Work) -> None:
    """Before the first step: room for checkpoints, and a word about parameters that nobody moves."""
    tensors = training.state.tensors()
    require_space(work.ws, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
    idle = training.state.unmoved()
    if idle:
        logger().warning("run.parameters_not_trained", run=work.run, names=idle[:20])
        work.tell("run.parameters-not-trained", {"names": idle[:100], "count": len(idle)})


def _made(work: Work, learner: Torch) -> _Training:
    """Everything that a training has in memory before its first step, which an accelerator may have no room for."""
    try:
        return _Training(work, learner, _built(learner, work))
    except VelodromeError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "memory does not suffice for the network, its optimiser and its average",
            received=(str(error).splitlines() or [type(error).__name__])[0],
            remedy="make the network smaller, or leave out what is kept for each weight (AdamW: two numbers, SGD: none, EMA: one)",
        ) from error


def _built(learner: Torch, work: Work) -> torch.nn.Module:
    seed = derive_seed(work.seed, 1) >> 1
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 - what a user's own step may draw from
    inputs = as_json(work.layout.fields)
    try:
        module = learner.network(inputs)
    except VelodromeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory("memory does not suffice to build the network", remedy="make it smaller") from error
        raise mistake(error, "building the network") from error
    if not isinstance(module, torch.nn.Module):
        raise TrainingError(
            "the network's function returns a torch.nn.Module",
            received=f"{module!r}",
            remedy="return the module that it builds",
        )
    module = module.to(work.device)
    return module.to(memory_format=torch.channels_last) if learner.channels_last else module  # type: ignore[call-overload]


def _memory(facts: dict[str, Any]) -> Memory:
    """What the loop remembers, all of it and nothing else.

    Raises:
        TrainingError: names what is missing, unknown or of another type.
    """
    problem = ", ".join(sorted(set(Memory.__struct_fields__) ^ facts["memory"].keys()))
    try:
        memory = msgspec.convert(facts["memory"], Memory)
    except msgspec.ValidationError as error:
        problem = str(error)
    if problem:
        raise TrainingError(
            f"the checkpoint is not of this training: memory ({problem})",
            remedy="go on with the version of velodrome that wrote it, or start anew with --fresh",
        )
    return memory


def _rows(work: Work, learner: Torch) -> npt.NDArray[np.uint32]:
    """The rows to train on; with a curriculum the easiest first."""
    if learner.curriculum is None:
        return work.train
    return easiest_first(learner.curriculum, work.train, _columns(work.layout, learner.curriculum.by))


def _columns(rows: Layout | OwnRows, by: object) -> dict[str, npt.NDArray[Any]]:
    """What the rows may be ordered by; of one's own, whose arrays lie nowhere yet, the one that is asked for."""
    if isinstance(rows, OwnRows):
        return rows.data.columns([by]) if isinstance(by, str) and by in rows.data.kinds else {}
    return {place.field.name: place.of(rows.arrays[place.block]) for place in places(rows.fields)}


def _plan(learner: Torch, work: Work, steps_per_epoch: int) -> Plan:
    planned = work.planned_steps or learner.epochs * steps_per_epoch
    base, schedule, stop = learner.optimizer.lr, learner.schedule, learner.stop
    return Plan(
        stop_at=work.steps or planned,
        lr=lambda step: base * factor(schedule, step, planned, steps_per_epoch),
        clip=learner.clip,
        clip_value=learner.clip_value,
        evaluate_every=steps_per_epoch if len(work.validation) else 0,
        patience=stop.patience if stop else None,
        minimum_change=stop.minimum_change if stop else 0.0,
        smoothing=stop.smoothing if stop else 0.0,
        plateau=(schedule.gamma, schedule.patience, schedule.minimum_change) if isinstance(schedule, Plateau) else None,
        on_divergence=learner.on_divergence,
    )


def _forward(module: Callable[..., Any], inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    output = module(**inputs)
    if not isinstance(output, torch.Tensor):
        raise TrainingError(
            "the network's forward returns one tensor",
            received=type(output).__name__,
            remedy="return the logits, or the values",
        )
    return output


def _example(work: Work) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values).contiguous() for name, values in work.layout.take(work.train[:64]).items()}
