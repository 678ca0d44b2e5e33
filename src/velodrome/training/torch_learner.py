"""Trains a PyTorch network on the prepared rows: builds it, restores it if the run was killed, runs the loop, exports it.

The weights that come out are those of the evaluation with the lowest validation loss; a refit takes those after the number of
steps that its judge chose.
"""

from collections.abc import Callable

import torch

from velodrome.core.counter import derive_seed
from velodrome.core.errors import TrainingError
from velodrome.data.fields import as_json
from velodrome.data.order import EpochOrder
from velodrome.data.torch import TensorBatches
from velodrome.models.torch import export
from velodrome.registry.runs import resumed
from velodrome.training.checkpoints import Checkpointer, checkpoints_of, newest_verified
from velodrome.training.learners import SGD, AdamW, Torch
from velodrome.training.loop import Memory, Plan, train
from velodrome.training.schedules import factor
from velodrome.training.torch_losses import ACTIVATIONS, loss_function, loss_name
from velodrome.training.torch_state import StateCopy, decode_state, digest_weights, restore_state, restore_weights
from velodrome.training.work import Fitted, Work

__all__ = ["fit", "machine", "make_optimizer"]

_EVALUATION_ROWS = 8192


def machine(threads: int = 0) -> tuple[str, int]:
    """What the bits of a training depend on beside the versions: the CPU capability torch chose, and its threads.

    Args:
        threads: how many this process computes with from now on; 0: as many as torch chose.
    """
    if threads:
        torch.set_num_threads(threads)
    return f"aten:{torch.backends.cpu.get_cpu_capability()}", torch.get_num_threads()


def fit(work: Work) -> Fitted:
    """Train, or go on training, the recipe's network.

    Raises:
        TrainingError: the network cannot be built, or does not fit its inputs, the label or the loss.
        Diverged: a loss or gradient that is not finite.
    """
    learner = work.learner
    assert isinstance(learner, Torch)
    torch.manual_seed(derive_seed(work.seed, 1) >> 1)
    module = _built(learner, work)
    optimizer = make_optimizer(learner.optimizer, module)
    name = loss_name(learner.loss, work.task)
    loss = loss_function(name, work.classes)
    batches = TensorBatches(work.layout, EpochOrder(work.train, learner.batch, derive_seed(work.seed, 2)))
    plan = _plan(learner, work, batches.steps_per_epoch)
    memory = _train(work, plan, module, optimizer, loss, batches)
    chosen = memory.best_step if memory.best is not None else memory.step
    if chosen != memory.step:
        _restore_best(work, module, chosen)
    example = _example(work)
    exported = export(module, example, activation=ACTIVATIONS[name])
    planned = work.planned_steps or learner.epochs * batches.steps_per_epoch
    return Fitted(
        family="torch",
        files=exported.files,
        extra=exported.extra,
        steps=chosen,
        planned_steps=planned,
        weights=digest_weights(module),
    )


def make_optimizer(optimizer: AdamW | SGD, module: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all parameters that are to be trained.

    Raises:
        TrainingError: there is none.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise TrainingError("the network has no parameter to train", remedy="give it layers, or leave requires_grad on")
    if isinstance(optimizer, SGD):
        return torch.optim.SGD(
            parameters,
            lr=optimizer.lr,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            nesterov=optimizer.nesterov,
        )
    return torch.optim.AdamW(
        parameters,
        lr=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        betas=optimizer.betas,
        eps=optimizer.eps,
        fused=True,
    )


def _built(learner: Torch, work: Work) -> torch.nn.Module:
    inputs = as_json(work.layout.fields)
    try:
        module = learner.network(inputs)
    except Exception as error:
        names = ", ".join(str(field["name"]) for field in inputs)
        raise TrainingError(
            f"the network cannot be built: {type(error).__name__}: {error}",
            received=f"inputs {names}",
            remedy="mend the function that builds it",
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise TrainingError("the network's function returns a torch.nn.Module", received=f"{module!r}")
    return module


def _plan(learner: Torch, work: Work, steps_per_epoch: int) -> Plan:
    planned = work.planned_steps or learner.epochs * steps_per_epoch
    base = learner.optimizer.lr
    return Plan(
        stop_at=work.steps or planned,
        lr=lambda step: base * factor(learner.schedule, step, planned),
        clip=learner.clip,
        evaluate_every=steps_per_epoch if len(work.validation) else 0,
        checkpoint_every=learner.checkpoint_every or (0 if len(work.validation) else steps_per_epoch),
        patience=learner.stop.patience if learner.stop else None,
        minimum_change=learner.stop.minimum_change if learner.stop else 0.0,
    )


def _train(
    work: Work,
    plan: Plan,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[..., torch.Tensor],
    batches: TensorBatches,
) -> Memory:
    memory = _restored(work, module, optimizer)
    checkpointer, copy = (
        Checkpointer(work.ws, work.run, work.attempt, work.recorder.flush),
        StateCopy(module, optimizer),
    )

    def save(memory: Memory) -> None:
        checkpointer.wait()
        facts = {
            "run": work.run,
            "step": memory.step,
            "best": memory.best,
            "best_step": memory.best_step,
            "waited": memory.waited,
            "stopped": memory.stopped,
        }
        checkpointer.save(memory.step, copy.taken(facts), memory.best if memory.best_step == memory.step else None)

    try:
        with work.ws.progress.task("train", plan.stop_at) as task:
            task.advance(memory.step)
            return train(
                plan,
                memory,
                module=module,
                optimizer=optimizer,
                loss_of=lambda inputs, target: loss(_forward(module, inputs), target),
                batches=batches,
                evaluate=lambda: _validation_loss(work, module, loss),
                recorder=work.recorder,
                save=save,
                clock=work.ws.clock,
                task=task,
            )
    finally:
        checkpointer.close()


def _restored(work: Work, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Memory:
    found = newest_verified(work.ws, work.run)
    if found is None:
        return Memory()
    checkpoint, data = found
    tensors, facts = decode_state(data)
    restore_state(tensors, module, optimizer)
    resumed(work.ws, work.run, attempt=work.attempt, step=checkpoint.step)
    return Memory(
        step=facts["step"],
        best=facts["best"],
        best_step=facts["best_step"],
        waited=facts["waited"],
        stopped=facts["stopped"],
    )


def _restore_best(work: Work, module: torch.nn.Module, step: int) -> None:
    for checkpoint in checkpoints_of(work.ws, work.run):
        if checkpoint.step == step:
            restore_weights(decode_state(work.ws.blobs.read(checkpoint.blob))[0], module)
            return
    raise TrainingError(f"the checkpoint of the best step {step} is gone", remedy="run again with --fresh")


def _forward(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    output = module(**inputs)
    if not isinstance(output, torch.Tensor):
        raise TrainingError(
            "the network's forward returns one tensor",
            received=type(output).__name__,
            remedy="return the logits, or the values",
        )
    return output


@torch.no_grad()
def _validation_loss(work: Work, module: torch.nn.Module, loss: Callable[..., torch.Tensor]) -> float:
    """The mean loss over all validation rows, each row counting the same."""
    total = 0.0
    for start in range(0, len(work.validation), _EVALUATION_ROWS):
        ids = work.validation[start : start + _EVALUATION_ROWS]
        inputs = {name: torch.from_numpy(values) for name, values in work.layout.take(ids).items()}
        total += loss(_forward(module, inputs), torch.from_numpy(work.layout.target[ids])).item() * len(ids)
    return total / len(work.validation)


def _example(work: Work) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values).contiguous() for name, values in work.layout.take(work.train[:64]).items()}
