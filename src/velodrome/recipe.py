"""The user's declaration of a model: one frozen value made of values from the packages below.

`operate` and `gates` say what happens around training; they are recorded but are not part of what a run is named by, so
changing them does not train again.
"""

import re
from typing import Any, Literal

import msgspec

from velodrome.core.errors import RecipeError
from velodrome.core.values import Value
from velodrome.data.dataset import Dataset
from velodrome.data.sources import Own
from velodrome.data.splits import RandomSplit, TimeSplit
from velodrome.data.steps import Calendar, Encode, Impute, Scale
from velodrome.evaluation.gates import AtLeast, AtMost, NotWorse
from velodrome.evaluation.report import Evaluation
from velodrome.monitoring.decide import Retrain
from velodrome.registry.approvals import PersonApproval, PolicyApproval
from velodrome.training.learners import Sklearn, Torch

__all__ = ["Operate", "Recipe"]


class Operate(Value, frozen=True, kw_only=True, tag="operate"):
    """What happens around training.

    Attributes:
        approval: a version that passed its gates is made champion by a policy, or left for a person.
        retrain: when new data leads to another training; see `velodrome retrain`.
    """

    approval: PolicyApproval | PersonApproval = PersonApproval()
    retrain: Retrain = Retrain()


class Recipe(Value, frozen=True, tag="recipe"):
    """How one model is made.

    Attributes:
        name: name of the model; lower-case letters, digits and hyphens.
        label: column to predict.
        features: columns to predict it from; nothing else reaches the learner. May be left out where the data is one's own:
            then all its arrays but the label and the times.
        prepare: steps fitted on the training rows, in order; they travel with the model. Data of one's own comes prepared.
        refit: train again on all rows once the gates are passed; figures reported stay those of the run that was judged.
        task: "auto" reads it off the label.
    """

    name: str
    data: Dataset
    label: str
    learner: Torch | Sklearn
    features: tuple[str, ...] = ()
    prepare: tuple[Impute | Scale | Encode | Calendar, ...] = ()
    split: RandomSplit | TimeSplit = RandomSplit()
    evaluation: Evaluation | None = None
    gates: tuple[AtLeast | AtMost | NotWorse, ...] = ()
    refit: bool = False
    task: Literal["auto", "binary", "multiclass", "regression"] = "auto"
    operate: Operate = Operate()
    owner: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise RecipeError(
                "a recipe's name is lower-case letters, digits and hyphens",
                received=self.name,
                remedy="write for example 'late-arrivals'",
            )
        if isinstance(self.data.source, Own):
            self._require_own()
        elif not self.features:
            raise RecipeError("a recipe needs at least one feature", remedy="name columns in features=[...]")
        if len(set(self.features)) < len(self.features):
            raise RecipeError("a feature is named twice", received=", ".join(self.features))
        if self.label in self.features:
            raise RecipeError(
                "the label is among the features, which would leak it",
                received=self.label,
                remedy="take it out of features",
            )

    def _require_own(self) -> None:
        """Refuse what only rows of files can be asked for."""
        if self.prepare:
            raise RecipeError(
                "data of one's own comes prepared", received="prepare=[...]", remedy="prepare rows in its __getitem__"
            )
        if self.evaluation and self.evaluation.cohorts:
            raise RecipeError(
                "cohorts are taken from columns, which data of one's own has none of",
                received=", ".join(self.evaluation.cohorts),
                remedy="leave Evaluation(cohorts=...) out, or give the data in files",
            )

    def training_part(self) -> dict[str, Any]:
        """What the trained weights depend on, as plain values; `operate`, `gates`, `owner` and `evaluation` are not in it."""
        kept = {"name", "data", "label", "features", "learner", "prepare", "split", "refit", "task"}
        part = {field: getattr(self, field) for field in self.__struct_fields__ if field in kept}
        source = self.data.source
        if isinstance(source, Own):  # how long one waits for rows does not change them
            part["data"] = msgspec.structs.replace(self.data, source=Own(source.load))
        return part
