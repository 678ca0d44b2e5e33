"""What a recipe says about learning: a network or an estimator, its loss, optimiser, schedule and when to stop.

Values only; `core.extras` knows which module carries each one out.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import sklearn.base

from velodrome.core.errors import RecipeError
from velodrome.core.units import parse_duration
from velodrome.core.values import Value
from velodrome.data.augmentation import Augmentation
from velodrome.data.curriculum import Curriculum

__all__ = [
    "EMA",
    "SGD",
    "AdamW",
    "Checkpoints",
    "Constant",
    "Cosine",
    "EarlyStopping",
    "Freeze",
    "Learner",
    "Linear",
    "OneCycle",
    "Optimizer",
    "Plateau",
    "Rate",
    "Schedule",
    "Sklearn",
    "StepDecay",
    "Torch",
    "learner_kind",
]


def _require(value: Value, name: str, holds: bool, what: str) -> None:
    """Raises RecipeError, with the field's name and what it is, unless that holds."""
    if not holds:
        raise RecipeError(
            f"{type(value).__name__}.{name} is {what}",
            received=getattr(value, name),
            remedy="what can be asked for: docs/training.md",
        )


def _require_warmup(value: Value, warmup: float) -> None:
    _require(value, "warmup", 0.0 <= warmup <= 1.0, "a share of all steps, from 0 to 1")


def _require_patience(value: Value, patience: int, minimum_change: float) -> None:
    _require(value, "patience", patience >= 1, "at least 1")
    _require(value, "minimum_change", 0.0 <= minimum_change < math.inf, "0 or more")


class AdamW(Value, frozen=True, kw_only=True, tag="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "lr", 0.0 <= self.lr < math.inf, "0 or more")
        _require(self, "weight_decay", 0.0 <= self.weight_decay < math.inf, "0 or more")
        _require(
            self, "betas", all(0.0 <= beta < 1.0 for beta in self.betas), "two numbers from 0 up to, not including, 1"
        )
        _require(self, "eps", 0.0 <= self.eps < math.inf, "0 or more")


class SGD(Value, frozen=True, kw_only=True, tag="sgd"):
    """Stochastic gradient descent, with momentum when it is not 0."""

    lr: float = 1e-2
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lr", "momentum", "weight_decay"):
            _require(self, name, 0.0 <= getattr(self, name) < math.inf, "0 or more")
        _require(self, "nesterov", not self.nesterov or self.momentum > 0.0, "for a momentum above 0")


class Constant(Value, frozen=True, kw_only=True, tag="constant"):
    """The optimiser's learning rate throughout, after a linear warm-up over the first `warmup` of all steps."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_warmup(self, self.warmup)


class Linear(Value, frozen=True, kw_only=True, tag="linear"):
    """From the optimiser's learning rate down to `final` of it, in a straight line, after a linear warm-up."""

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_warmup(self, self.warmup)
        _require(self, "final", 0.0 <= self.final < math.inf, "0 or more")


class Cosine(Value, frozen=True, kw_only=True, tag="cosine"):
    """From the optimiser's learning rate down to `final` of it, along half a cosine (Loshchilov and Hutter, 2017)."""

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_warmup(self, self.warmup)
        _require(self, "final", 0.0 <= self.final < math.inf, "0 or more")


class OneCycle(Value, frozen=True, kw_only=True, tag="one-cycle"):
    """Up to the optimiser's learning rate from a `start`-th of it over the first `warmup` of all steps, then down to a
    `final`-th, along half cosines (Smith and Topin, "Super-Convergence", 2019; the defaults are PyTorch's)."""

    warmup: float = 0.3
    start: float = 25.0
    final: float = 250_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_warmup(self, self.warmup)
        for name in ("start", "final"):
            _require(self, name, 0.0 < getattr(self, name) < math.inf, "above 0")


class StepDecay(Value, frozen=True, kw_only=True, tag="step-decay"):
    """Multiplied with `gamma` after every `epochs` epochs, after a linear warm-up over the first `warmup` of all steps."""

    epochs: int
    gamma: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_warmup(self, self.warmup)
        _require(self, "epochs", self.epochs >= 1, "at least 1")
        _require(self, "gamma", 0.0 < self.gamma < math.inf, "above 0")


class Plateau(Value, frozen=True, kw_only=True, tag="plateau"):
    """Multiplied with `gamma` whenever the validation loss has not fallen by more than `minimum_change` for `patience`
    evaluations, after a linear warm-up over the first `warmup` of all steps."""

    gamma: float = 0.1
    patience: int = 2
    minimum_change: float = 0.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_warmup(self, self.warmup)
        _require(self, "gamma", 0.0 < self.gamma < math.inf, "above 0")
        _require_patience(self, self.patience, self.minimum_change)


class EarlyStopping(Value, frozen=True, kw_only=True, tag="early-stopping"):
    """Stop when the validation loss has not fallen by more than `minimum_change` for `patience` evaluations.

    Attributes:
        smoothing: of the losses that are compared: each is `smoothing` of the smoothed one before and the rest of itself;
            0 compares them as they are. The best weights are chosen by the same losses.
    """

    patience: int = 3
    minimum_change: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_patience(self, self.patience, self.minimum_change)
        _require(self, "smoothing", 0.0 <= self.smoothing < 1.0, "from 0 up to, not including, 1")


class EMA(Value, frozen=True, kw_only=True, tag="ema"):
    """Evaluate and keep an exponential moving average of the weights (Polyak and Juditsky, 1992).

    Attributes:
        decay: of the average for each step; over the first steps it is (1 + step) / (10 + step) where that is less.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "decay", 0.0 <= self.decay < 1.0, "from 0 up to, not including, 1")


class Freeze(Value, frozen=True, tag="freeze"):
    """Parameters whose dotted name matches `pattern` (`*` for anything) are not trained before `until` steps are done;
    None: never."""

    pattern: str
    until: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "until", self.until is None or self.until >= 0, "0 or more, or None")


class Rate(Value, frozen=True, tag="rate"):
    """Parameters whose dotted name matches `pattern` (`*` for anything) learn at `scale` times the learning rate. The first
    rate that matches counts."""

    pattern: str
    scale: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "scale", 0.0 <= self.scale < math.inf, "0 or more")


class Checkpoints(Value, frozen=True, kw_only=True, tag="checkpoints"):
    """When the state is saved, beside the end of each epoch and of the training. When never changes what is trained.

    Attributes:
        every: steps between two; 0: not by steps.
        lose_at_most: such as "60s": how long ago the last save may be; None: not by time.
        failures_every: such as "12h": the mean time between failures, from which and the measured cost of a save the best
            interval follows (Young, 1974; Daly, 2006); "auto": as measured from the attempts of this workspace that died, and
            none before one has; None: not so.
    """

    every: int = 0
    lose_at_most: str | None = None
    failures_every: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "every", self.every >= 0, "0 or more")
        if self.lose_at_most is not None:
            parse_duration(self.lose_at_most)
        if self.failures_every not in (None, "auto"):
            _require(
                self,
                "failures_every",
                parse_duration(self.failures_every).total_seconds() > 0,
                "above 0s, auto or None",
            )


Optimizer = AdamW | SGD
Schedule = Constant | Linear | Cosine | OneCycle | StepDecay | Plateau


class Torch(Value, frozen=True, kw_only=True, tag="torch"):
    """A PyTorch network.

    Attributes:
        network: function from the prepared inputs (a list of {name, dtype, shape, cardinality}) to a module whose `forward`
            takes tensors by those names and returns logits (n,), (n, 1) or (n, classes), or values (n,).
        loss: "auto" is bce for two classes, cross_entropy for more, mse for a number.
        step: a function of one's own from (module, inputs by name, target) to the mean loss of these rows, a scalar tensor,
            or to (sum of losses, their number), which makes the mean right over batches whose rows count differently.
        label_smoothing: how much of a target's weight goes to all classes evenly (Szegedy et al., 2016); for classes only.
        batch: rows of one step of the optimiser. micro_batch: rows of one forward; the gradients of as many as it takes are
            added up; None: the whole batch.
        clip: the gradient's norm is scaled down to it; clip_value: then each of its elements is cut to it; None: neither.
        precision: "bf16" and "fp16" compute the forward so under autocast; the weights stay float32.
        freeze, rates: for parameters by the pattern of their names.
        on_divergence: what happens to a loss or gradient that is not finite, which never reaches the weights: the run stops,
            the batch is skipped, or the run rolls back to its newest checkpoint and goes on without that batch.
        augment: changes of the training rows, drawn anew in each epoch; never of the rows that are evaluated.
        curriculum: the easiest rows first.
        workers: threads that prepare batches ahead; 0: the training thread does. Neither changes what is trained.
        stall: a step that takes longer is reported with where it hangs.
        compile: compile the network with torch.compile. channels_last: keep images so in memory.
        deterministic: let torch refuse what it cannot compute the same way twice.
    """

    network: Callable[..., Any]
    loss: Literal["auto", "bce", "cross_entropy", "mse", "mae"] = "auto"
    step: Callable[..., Any] | None = None
    label_smoothing: float = 0.0
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Constant()
    epochs: int = 10
    batch: int = 256
    micro_batch: int | None = None
    clip: float | None = None
    clip_value: float | None = None
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    ema: EMA | None = None
    freeze: tuple[Freeze, ...] = ()
    rates: tuple[Rate, ...] = ()
    stop: EarlyStopping | None = None
    checkpoints: Checkpoints = Checkpoints()
    on_divergence: Literal["stop", "skip", "roll back"] = "stop"
    augment: tuple[Augmentation, ...] = ()
    curriculum: Curriculum | None = None
    workers: int = 0
    stall: str = "10m"
    compile: bool = False
    channels_last: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch", "micro_batch"):
            value = getattr(self, name)
            _require(self, name, value is None or value >= 1, "at least 1")
        _require(self, "label_smoothing", 0.0 <= self.label_smoothing < 1.0, "from 0 up to, not including, 1")
        _require(self, "workers", self.workers >= 0, "0 or more")
        for name in ("clip", "clip_value"):
            value = getattr(self, name)
            _require(self, name, value is None or value > 0, "above 0, or None")
        _require(self, "stall", parse_duration(self.stall).total_seconds() > 0, "above 0s")
        smoothed = self.step is None or self.label_smoothing == 0.0
        _require(self, "label_smoothing", smoothed, "for a loss by name; a step of one's own smooths its labels itself")

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
