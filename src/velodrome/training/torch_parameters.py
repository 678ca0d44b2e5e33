"""A module's parameters as its optimiser was given them: who adds, replaces or reshapes one later is told its name.

The fused kernels of the optimiser trust that state and parameter are of one size: where they are not, they read memory that
is not theirs. So sizes in bytes are compared before every step (some 0.1 µs a parameter); names, identity and shapes in the first steps
and whenever the state is saved. In the first steps it is also seen which parameters no loss leads to.
"""

import torch

from velodrome.core.errors import TrainingError

__all__ = ["FIRST_STEPS", "Parameters"]

FIRST_STEPS = 3
"""Steps after which a parameter that had no gradient yet is told."""

_REMEDY = "make all parameters where the network is built, and change them in place alone (copy_, under torch.no_grad)"


class Parameters:
    """What `module` has at the moment; `moved` is what the optimiser moves of it."""

    def __init__(self, module: torch.nn.Module, moved: list[torch.nn.Parameter]) -> None:
        self._module, self._moved = module, moved
        self._sizes = [parameter.nbytes for parameter in moved]
        self._known = {name: (parameter, *_form(parameter)) for name, parameter in module.named_parameters()}
        self._reached: set[torch.nn.Parameter] = set()

    def require_sizes(self) -> None:
        """Raises:
        TrainingError: a parameter has another number of bytes than it had.
        """
        if [parameter.nbytes for parameter in self._moved] != self._sizes:
            self.require_same()
            raise TrainingError("a parameter that the optimiser moves has another shape", remedy=_REMEDY)

    def require_same(self) -> None:
        """Raises:
        TrainingError: a parameter was added, removed, replaced, reshaped or given another type; all are named.
        """
        now = dict(self._module.named_parameters())
        found = {
            name: _changed(self._known.get(name), now.get(name)) for name in sorted(now.keys() | self._known.keys())
        }
        changed = [f"{name} ({problem})" for name, problem in found.items() if problem]
        if changed:
            raise TrainingError(
                f"the network's parameters changed during training: {', '.join(changed[:8])}"
                f"{', ...' if len(changed) > 8 else ''}",
                received=f"{len(now)} parameters, {len(self._known)} at the start",
                remedy=_REMEDY,
            )

    def reached(self) -> None:
        """Note which parameters have a gradient now."""
        self._reached.update(parameter for parameter in self._moved if parameter.grad is not None)

    def unreached(self) -> list[str]:
        """The names of those that want a gradient and had none whenever `reached` looked."""
        waiting = {parameter for parameter in self._moved if parameter.requires_grad} - self._reached
        return [name for name, (parameter, *_) in self._known.items() if parameter in waiting]


def _form(parameter: torch.nn.Parameter) -> tuple[torch.Size, torch.dtype]:
    return parameter.shape, parameter.dtype


def _changed(
    known: tuple[torch.nn.Parameter, torch.Size, torch.dtype] | None, now: torch.nn.Parameter | None
) -> str | None:
    if known is None:
        return "added"
    if now is None:
        return "removed"
    parameter, shape, dtype = known
    if now is not parameter:
        return "replaced"
    if now.dtype != dtype:
        return f"{now.dtype} instead of {dtype}"
    return None if now.shape == shape else f"of shape {tuple(now.shape)} instead of {tuple(shape)}"
