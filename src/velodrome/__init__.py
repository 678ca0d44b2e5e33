"""velodrome: the whole life of a trained model. A trained model is a pure function of named, immutable inputs.

`import velodrome as vd` loads nothing heavy; each name below is imported from its module when it is first used.
"""

import importlib
from typing import Any

_HOME = {
    "velodrome.data.augmentation": [
        "Brightness",
        "Contrast",
        "Erase",
        "GaussianNoise",
        "HorizontalFlip",
        "MaskFields",
        "RandomCrop",
    ],
    "velodrome.data.contracts": ["Between", "Contract", "NotNull", "OneOf", "Types", "Unique"],
    "velodrome.data.curriculum": ["Curriculum"],
    "velodrome.data.dataset": ["Dataset"],
    "velodrome.data.own": ["OwnData"],
    "velodrome.data.sources": ["Files", "Own"],
    "velodrome.data.splits": ["RandomSplit", "TimeSplit"],
    "velodrome.data.steps": ["Calendar", "Encode", "Impute", "Scale"],
    "velodrome.evaluation.drift": ["Drift"],
    "velodrome.evaluation.gates": ["AtLeast", "AtMost", "NotWorse"],
    "velodrome.evaluation.report": ["Evaluation"],
    "velodrome.monitoring.decide": ["Retrain"],
    "velodrome.recipe": ["Operate", "Recipe"],
    "velodrome.registry.approvals": ["PersonApproval", "PolicyApproval"],
    "velodrome.store.workspace": ["Workspace"],
    "velodrome.training.learners": [
        "EMA",
        "SGD",
        "AdamW",
        "Checkpoints",
        "Constant",
        "Cosine",
        "EarlyStopping",
        "Freeze",
        "Linear",
        "OneCycle",
        "Plateau",
        "Rate",
        "Sklearn",
        "StepDecay",
        "Torch",
    ],
    "velodrome.workspace": [
        "find_batch",
        "find_lr",
        "load",
        "open",
        "predict",
        "retrain",
        "run",
        "runs",
        "snapshot",
        "track",
    ],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the table above is the list


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"velodrome has no {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
