"""The loss over the validation rows, in pieces that fit into memory.

Where memory runs out, half as many rows are taken at once from then on, and that is an event: the last bits of the sum may be
others.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from velodrome.core.errors import OutOfMemory, TrainingError, VelodromeError
from velodrome.data.fields import rows_within
from velodrome.data.layout import Layout
from velodrome.data.own import OwnRows
from velodrome.training.own_code import is_out_of_memory, mistake
from velodrome.training.torch_step import LossOf

__all__ = ["Validation"]

_ROWS, _BYTES = 8192, 1 << 26
"""Most of what is evaluated at once."""


class Validation:
    """Calling it gives the mean loss over all validation rows, each row counting the same.

    Args:
        ids: of the validation rows.
        tell: records an event of the run.
    """

    def __init__(
        self,
        layout: Layout | OwnRows,
        ids: npt.NDArray[np.uint32],
        loss_of: LossOf,
        device: torch.device,
        tell: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._layout, self._ids, self._loss_of, self._device, self._tell = layout, ids, loss_of, device, tell
        self._rows = min(_ROWS, rows_within(layout.fields, _BYTES))

    @torch.no_grad()
    def __call__(self) -> float:
        """Raises:
        TrainingError: no row counts, or the network or the step raises: file and line are named.
        OutOfMemory: not even one row fits.
        """
        total, count, start = 0.0, 0.0, 0
        while start < len(self._ids):
            ids = self._ids[start : start + self._rows]
            try:
                value, weight = self._summed(ids)
            except VelodromeError:
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise mistake(error, "the evaluation") from error
                self._take_less(len(ids), error)
                continue
            total, count, start = total + value, count + weight, start + len(ids)
        if not count:
            raise TrainingError("no validation row counts", remedy="let (sum, how many) count at least one of them")
        return total / count

    def _summed(self, ids: npt.NDArray[np.uint32]) -> tuple[float, float]:
        """The sum of the losses of some rows, and how many count."""
        inputs = {name: torch.from_numpy(values).to(self._device) for name, values in self._layout.take(ids).items()}
        loss = self._loss_of(inputs, torch.from_numpy(self._layout.target[ids]).to(self._device))
        value, weight = loss if isinstance(loss, tuple) else (loss, None)
        if weight is None:
            value, weight = value * len(ids), len(ids)
        return float(value), float(weight)

    def _take_less(self, rows: int, error: Exception) -> None:
        if rows == 1:
            raise OutOfMemory(
                "memory does not suffice to evaluate one row",
                received=(str(error).splitlines() or [type(error).__name__])[0],
                remedy="make the network smaller",
            ) from error
        self._rows = (rows + 1) // 2
        self._tell("run.evaluation-halved", {"rows": self._rows})
