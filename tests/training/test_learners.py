"""A number that a recipe cannot mean is refused where it stands, and not in the middle of a training."""

import math
from collections.abc import Callable
from typing import Any

import pytest

import velodrome as vd
from velodrome.core.errors import ConfigurationError, RecipeError


def network(inputs: Any) -> Any: ...


def step(module: Any, inputs: Any, target: Any) -> Any: ...


def torch(**settings: Any) -> vd.Torch:
    return vd.Torch(network=network, **settings)


REFUSED: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *((kind, {"lr": lr}) for kind in (vd.AdamW, vd.SGD) for lr in (-1.0, math.nan, math.inf)),
    *((kind, {"weight_decay": decay}) for kind in (vd.AdamW, vd.SGD) for decay in (-0.1, math.nan)),
    *((vd.AdamW, {"betas": betas}) for betas in ((1.0, 0.9), (0.9, -0.1), (0.9, math.nan))),
    (vd.AdamW, {"eps": -1.0}),
    (vd.SGD, {"momentum": -0.5}),
    (vd.SGD, {"nesterov": True}),
    *(
        (kind, {"warmup": warmup})
        for kind in (vd.Constant, vd.Linear, vd.Cosine, vd.OneCycle, vd.Plateau)
        for warmup in (-0.1, 1.1, math.nan)
    ),
    (vd.StepDecay, {"epochs": 1, "warmup": 2.0}),
    *((kind, {"final": final}) for kind in (vd.Linear, vd.Cosine, vd.OneCycle) for final in (-1.0, math.inf)),
    (vd.OneCycle, {"start": 0.0}),
    (vd.OneCycle, {"final": 0.0}),
    (vd.StepDecay, {"epochs": 0}),
    (vd.StepDecay, {"epochs": 1, "gamma": 0.0}),
    (vd.Plateau, {"gamma": -1.0}),
    *((kind, {"patience": 0}) for kind in (vd.Plateau, vd.EarlyStopping)),
    *((kind, {"minimum_change": change}) for kind in (vd.Plateau, vd.EarlyStopping) for change in (-1.0, math.nan)),
    *((vd.EarlyStopping, {"smoothing": smoothing}) for smoothing in (-0.1, 1.0, math.nan)),
    *((vd.EMA, {"decay": decay}) for decay in (-0.1, 1.0, math.nan)),
    *((vd.Rate, {"pattern": "*", "scale": scale}) for scale in (-1.0, math.nan, math.inf)),
    (vd.Freeze, {"pattern": "*", "until": -1}),
    (vd.Checkpoints, {"every": -1}),
    (vd.Checkpoints, {"failures_every": "0s"}),
    *((torch, {name: 0}) for name in ("epochs", "batch", "micro_batch", "clip", "clip_value")),
    (torch, {"workers": -1}),
    (torch, {"stall": "0s"}),
    *((torch, {"label_smoothing": smoothing}) for smoothing in (-0.1, 1.0, math.nan)),
    (torch, {"label_smoothing": 0.1, "step": step}),
]


@pytest.mark.parametrize(("kind", "settings"), REFUSED)
def test_it_is_refused_by_the_name_of_its_field(kind: Callable[..., Any], settings: dict[str, Any]) -> None:
    named = "|".join(settings)
    with pytest.raises(RecipeError, match=rf"^\w+\.({named}) is ") as caught:
        kind(**settings)
    assert caught.value.received in settings.values() or caught.value.received != caught.value.received


@pytest.mark.parametrize("settings", [{"lose_at_most": "soon"}, {"failures_every": "often"}])
def test_a_text_that_is_no_duration_is_refused_where_it_stands(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="a duration is a number and one of"):
        vd.Checkpoints(**settings)


def test_what_is_at_the_edge_is_meant() -> None:
    vd.AdamW(lr=0.0, weight_decay=0.0, betas=(0.0, 0.0), eps=0.0)
    vd.SGD(momentum=0.9, nesterov=True)
    vd.OneCycle(warmup=1.0)
    vd.Linear(warmup=0.0, final=2.0)
    vd.EarlyStopping(patience=1, smoothing=0.0)
    vd.EMA(decay=0.0)
    vd.Freeze("*", until=0)
    vd.Checkpoints(lose_at_most="0s", failures_every="auto")
    torch(step=step, loss="cross_entropy")
