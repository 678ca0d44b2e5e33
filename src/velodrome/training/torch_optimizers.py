"""Optimisers, and the average of the weights: what moves parameters, with its state in plain sight.

AdamW and SGD call PyTorch's fused kernels themselves: the bits are those of `torch.optim.AdamW(..., fused=True)` and `SGD`, which
a test compares, without the 30 µs that the classes spend on hooks and on looking at their groups at each step. An optimiser of
one's own is used through its class.
"""

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn.parameter import UninitializedParameter

from velodrome.core.errors import TrainingError
from velodrome.training.learners import EMA, SGD, AdamW, Freeze, Rate
from velodrome.training.torch_module import repeats_memory

__all__ = ["Average", "Freezer", "Stepper", "TorchStepper", "make_stepper"]

_SCHEDULED = ("lr", "momentum", "betas", "weight_decay")
"""The settings of an optimiser of one's own that schedulers change."""


@dataclass(eq=False)
class _Group:
    """Parameters that learn at `scale` times the learning rate, and the state of each by its index among all."""

    scale: float
    parameters: list[torch.nn.Parameter] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)


class Stepper(ABC):
    """Moves parameters along their gradients. A parameter without a gradient stays where it is, and so does its state.

    Attributes:
        parameters: all that it may move.
    """

    parameters: list[torch.nn.Parameter]

    @abstractmethod
    def step(self, lr: float) -> None:
        """One step, with that learning rate."""

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """The state's tensors by name, not copied."""

    @abstractmethod
    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put a state back: it has the names and shapes of this one's where this one's were there from the start."""


class _Fused(Stepper):
    """What AdamW and SGD share. State is made at the start, for all parameters."""

    _moments: tuple[str, ...]

    def __init__(self, groups: Sequence[_Group]) -> None:
        self._groups = [group for group in groups if group.parameters]
        self.parameters = [parameter for group in self._groups for parameter in group.parameters]
        self._state: dict[torch.Tensor, dict[str, torch.Tensor]] = {
            parameter: {
                name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in self._moments
            }
            for parameter in self.parameters
        }
        self._indices: dict[torch.Tensor, int] = {
            parameter: index
            for group in self._groups
            for parameter, index in zip(group.parameters, group.indices, strict=True)
        }

    def step(self, lr: float) -> None:
        with torch.no_grad():
            for group in self._groups:
                moved: list[torch.Tensor] = [parameter for parameter in group.parameters if parameter.grad is not None]
                if moved:
                    gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
                    self._move(moved, gradients, lr * group.scale)

    def state(self) -> dict[str, torch.Tensor]:
        return {
            f"{self._indices[parameter]}/{name}": tensor
            for parameter, held in self._state.items()
            for name, tensor in held.items()
        }

    def load(self, state: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def _held(self, moved: list[torch.Tensor], name: str) -> list[torch.Tensor]:
        return [self._state[parameter][name] for parameter in moved]

    @abstractmethod
    def _move(self, moved: list[torch.Tensor], gradients: list[torch.Tensor], lr: float) -> None: ...


class _FusedSGD(_Fused):
    def __init__(self, settings: SGD, groups: Sequence[_Group]) -> None:
        self._settings = settings
        self._moments = ("momentum_buffer",) if settings.momentum else ()
        super().__init__(groups)

    def _move(self, moved: list[torch.Tensor], gradients: list[torch.Tensor], lr: float) -> None:
        torch._fused_sgd_(
            moved,
            gradients,
            self._held(moved, "momentum_buffer") if self._moments else [],
            weight_decay=self._settings.weight_decay,
            momentum=self._settings.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=self._settings.nesterov,
            maximize=False,
            is_first_step=False,
        )


class _FusedAdamW(_Fused):
    _moments = ("exp_avg", "exp_avg_sq")

    def __init__(self, settings: AdamW, groups: Sequence[_Group]) -> None:
        self._settings = settings
        super().__init__(groups)
        for parameter, held in self._state.items():
            held["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)

    def _move(self, moved: list[torch.Tensor], gradients: list[torch.Tensor], lr: float) -> None:
        steps = self._held(moved, "step")
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            moved,
            gradients,
            self._held(moved, "exp_avg"),
            self._held(moved, "exp_avg_sq"),
            [],
            steps,
            lr=lr,
            beta1=self._settings.betas[0],
            beta2=self._settings.betas[1],
            weight_decay=self._settings.weight_decay,
            eps=self._settings.eps,
            amsgrad=False,
            maximize=False,
        )


class TorchStepper(Stepper):
    """An optimiser of one's own. Its groups keep the ratio of their learning rates."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._first = optimizer.param_groups[0]["lr"]
        self._scales = [group["lr"] / self._first if self._first else 1.0 for group in optimizer.param_groups]

    @property
    def lr(self) -> float:
        """The learning rate that the optimiser was made with."""
        return float(self._first)

    def step(self, lr: float) -> None:
        for group, scale in zip(self.optimizer.param_groups, self._scales, strict=True):
            group["lr"] = lr * scale
        self.optimizer.step()

    def state(self) -> dict[str, torch.Tensor]:
        """What it keeps for each parameter, and the settings of its groups, which a scheduler may have changed."""
        held = self.optimizer.state_dict()["state"].items()
        kept = {f"{index}/{name}": value for index, each in held for name, value in each.items() if value is not None}
        return {name: _as_tensor(name, value) for name, value in kept.items()} | {
            f"group{number}/{name}": torch.as_tensor(group[name], dtype=torch.float64)
            for number, group in enumerate(self.optimizer.param_groups)
            for name in _SCHEDULED
            if name in group
        }

    def load(self, state: dict[str, torch.Tensor]) -> None:
        held: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in state.items():
            index, key = name.split("/", 1)
            if not index.startswith("group"):
                held.setdefault(int(index), {})[key] = tensor.clone()
        self.optimizer.load_state_dict({"state": held, "param_groups": self.optimizer.state_dict()["param_groups"]})
        for number, group in enumerate(self.optimizer.param_groups):
            for name in _SCHEDULED:
                if f"group{number}/{name}" in state:
                    group[name] = _as_setting(group[name], state[f"group{number}/{name}"])


def _as_tensor(name: str, value: object) -> torch.Tensor:
    if isinstance(value, torch.Tensor | int | float):
        return torch.as_tensor(value)
    raise TrainingError(
        "the optimiser keeps state that a checkpoint cannot hold",
        received=f"{name}: {type(value).__name__}",
        remedy="take one that keeps tensors and numbers for each parameter, as most do; LBFGS keeps lists",
    )


def _as_setting(present: object, saved: torch.Tensor) -> object:
    """A number of a group, or some, as the group has it."""
    if isinstance(present, torch.Tensor):
        return saved.to(present.device, present.dtype)
    return tuple(saved.tolist()) if saved.ndim else saved.item()


def make_stepper(settings: AdamW | SGD, module: torch.nn.Module, rates: Sequence[Rate] = ()) -> Stepper:
    """The optimiser over all parameters that are to be trained.

    Raises:
        TrainingError: there is none, one has no shape yet, is complex or repeats its memory, or a pattern of `rates` matches none.
    """
    lazy = [name for name, each in module.named_parameters() if isinstance(each, UninitializedParameter)]
    if lazy:
        raise TrainingError(
            f"the parameter {lazy[0]!r} has no shape before the network is called (a lazy layer)",
            received=", ".join(lazy[:8]),
            remedy="give its layer the size of its input, or call the network once where it is built",
        )
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        raise TrainingError("the network has no parameter to train", remedy="give it layers, or leave requires_grad on")
    _require_movable(named)
    _require_matches([rate.pattern for rate in rates], [name for name, _ in named])
    groups: dict[float, _Group] = {}
    for index, (name, parameter) in enumerate(named):
        scale = next((rate.scale for rate in rates if fnmatch.fnmatchcase(name, rate.pattern)), 1.0)
        group = groups.setdefault(scale, _Group(scale))
        group.parameters.append(parameter)
        group.indices.append(index)
    made = [*groups.values()]
    return _FusedSGD(settings, made) if isinstance(settings, SGD) else _FusedAdamW(settings, made)


def _require_movable(named: Sequence[tuple[str, torch.nn.Parameter]]) -> None:
    """Refuse what the fused kernels do not take, or would write beyond."""
    for name, parameter in named:
        if parameter.is_complex():
            raise TrainingError(
                f"the parameter {name!r} is complex; only real ones are trained",
                received=parameter.dtype,
                remedy="keep it as pairs of real numbers, (..., 2), and take torch.view_as_complex of it in forward",
            )
        if repeats_memory(parameter):
            raise TrainingError(
                f"the parameter {name!r} is expanded: several of its elements are one number in memory",
                received=f"shape {tuple(parameter.shape)}, strides {parameter.stride()}",
                remedy="make it of a tensor's clone(), or keep the one number as the parameter and expand it in forward",
            )


class Freezer:
    """Parameters that wait: `apply(step)` lets those learn whose time has come. A function of the step, so it has no state.

    Raises:
        TrainingError: a pattern matches no parameter.
    """

    def __init__(self, freezes: Sequence[Freeze], module: torch.nn.Module) -> None:
        named = dict(module.named_parameters())
        _require_matches([freeze.pattern for freeze in freezes], list(named))
        self._frozen = [
            (freeze.until, [named[name] for name in named if fnmatch.fnmatchcase(name, freeze.pattern)])
            for freeze in freezes
        ]
        self._next = 0.0

    def apply(self, step: int) -> None:
        """Freeze and unfreeze as it is before the step (from 0)."""
        if step < self._next:
            return
        for until, parameters in self._frozen:
            for parameter in parameters:
                parameter.requires_grad_(until is not None and step >= until)
        self._next = min(
            (until for until, _ in self._frozen if until is not None and until > step), default=float("inf")
        )


class Average:
    """An exponential moving average of parameters, which takes their place for an evaluation and in the model."""

    def __init__(self, settings: EMA, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._decay = settings.decay
        self._parameters = list(parameters)
        self.tensors = [parameter.detach().clone() for parameter in parameters]

    def update(self, step: int) -> None:
        """Take in the parameters after so many steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.tensors, [parameter.detach() for parameter in self._parameters], 1 - decay)

    def state(self) -> dict[str, torch.Tensor]:
        return {str(index): tensor for index, tensor in enumerate(self.tensors)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put a state back; without one the average begins anew with the parameters as they are."""
        with torch.no_grad():
            for name, parameter, tensor in zip(
                map(str, range(len(self.tensors))), self._parameters, self.tensors, strict=True
            ):
                tensor.copy_(state.get(name, parameter))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold the average during the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def settle(self) -> None:
        """The parameters hold the average from now on."""
        self._swap()

    def _swap(self) -> None:
        for index, parameter in enumerate(self._parameters):
            parameter.data, self.tensors[index] = self.tensors[index], parameter.data


def _require_matches(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise TrainingError(
                f"no parameter's name matches {pattern!r}",
                received=", ".join(names[:8]),
                remedy="* stands for anything",
            )
