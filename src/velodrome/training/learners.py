"""What a recipe says about learning: a network or an estimator, its loss, optimiser, schedule and when to stop.

Values only; `core.extras` knows which module carries each one out.
"""

from collections.abc import Callable
from typing import Any, Literal

import sklearn.base

from velodrome.core.errors import RecipeError
from velodrome.core.values import Value

__all__ = [
    "SGD",
    "AdamW",
    "Constant",
    "Cosine",
    "EarlyStopping",
    "Learner",
    "Linear",
    "Optimizer",
    "Schedule",
    "Sklearn",
    "Torch",
    "learner_kind",
]


class AdamW(Value, frozen=True, kw_only=True, tag="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


class SGD(Value, frozen=True, kw_only=True, tag="sgd"):
    """Stochastic gradient descent, with momentum when it is not 0."""

    lr: float = 1e-2
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False


class Constant(Value, frozen=True, kw_only=True, tag="constant"):
    """The optimiser's learning rate throughout, after a linear warm-up over the first `warmup` of all steps."""

    warmup: float = 0.0


class Linear(Value, frozen=True, kw_only=True, tag="linear"):
    """From the optimiser's learning rate down to `final` of it, in a straight line, after a linear warm-up."""

    warmup: float = 0.0
    final: float = 0.0


class Cosine(Value, frozen=True, kw_only=True, tag="cosine"):
    """From the optimiser's learning rate down to `final` of it, along half a cosine (Loshchilov and Hutter, 2017)."""

    warmup: float = 0.0
    final: float = 0.0


class EarlyStopping(Value, frozen=True, kw_only=True, tag="early-stopping"):
    """Stop when the validation loss has not fallen by more than `minimum_change` for `patience` evaluations."""

    patience: int = 3
    minimum_change: float = 0.0


Optimizer = AdamW | SGD
Schedule = Constant | Linear | Cosine


class Torch(Value, frozen=True, kw_only=True, tag="torch"):
    """A PyTorch network.

    Attributes:
        network: function from the prepared inputs (a list of {name, dtype, shape, cardinality}) to a module whose `forward`
            takes tensors by those names and returns logits (n,), (n, 1) or (n, classes), or values (n,).
        loss: "auto" is bce for two classes, cross_entropy for more, mse for a number.
        clip: the gradient's norm is scaled down to it; None leaves gradients alone.
        checkpoint_every: steps between checkpoints, beside one at each epoch's end; 0 means only those.
    """

    network: Callable[..., Any]
    loss: Literal["auto", "bce", "cross_entropy", "mse", "mae"] = "auto"
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Constant()
    epochs: int = 10
    batch: int = 256
    clip: float | None = None
    stop: EarlyStopping | None = None
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise RecipeError(f"Torch.{name} is at least 1", received=getattr(self, name))

    @property
    def encoding(self) -> Literal["codes", "onehot"]:
        """How `vd.Encode()` gives categories to this learner."""
        return "codes"


class Sklearn(Value, frozen=True, tag="sklearn"):
    """An estimator with scikit-learn's API; it is cloned, never changed. Its `random_state` is the run's seed where it is None."""

    estimator: sklearn.base.BaseEstimator

    @property
    def encoding(self) -> Literal["codes", "onehot"]:
        """Codes for estimators that split on thresholds, one-hot for the others."""
        kind = type(self.estimator).__name__
        return "codes" if any(word in kind for word in ("Tree", "Forest", "Boosting")) else "onehot"


Learner = Torch | Sklearn


def learner_kind(learner: Learner) -> str:
    """The kind by which `core.extras` knows the module of a learner: "torch" or "sklearn"."""
    return str(type(learner).__struct_config__.tag)
