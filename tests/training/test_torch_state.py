"""The inventory of a training's state: all of it, or a refusal by name."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import IntegrityError, TrainingError
from velodrome.training import torch_state
from velodrome.training.learners import EMA, SGD, AdamW
from velodrome.training.torch_optimizers import Average, TorchStepper, make_stepper
from velodrome.training.torch_state import State, StateCopy, decode_state, digest_weights
from velodrome.training.work import ITEMS

FACTS: dict[str, Any] = {"memory": {"step": 3}, "order": "rows"}
Saved = tuple[dict[str, torch.Tensor], dict[str, Any]]


class Network(torch.nn.Module):
    """Tied and non-contiguous weights, a buffer, a scalar, a parameter without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(5, 5)
        self.second = torch.nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.turned = torch.nn.Parameter(torch.randn(3, 7).t())
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.empty = torch.nn.Parameter(torch.empty(0))
        self.norm = torch.nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.second(self.norm(self.first(x))) @ self.turned.t()[:, :5].t()


def training(seed: int = 0, settings: AdamW | SGD | None = None) -> State:
    torch.manual_seed(seed)
    module = Network()
    stepper = make_stepper(settings or AdamW(), module)
    return State(module, stepper, Average(EMA(), stepper.parameters))


def stepped(state: State) -> State:
    for parameter in state.stepper.parameters:
        parameter.grad = torch.ones_like(parameter)
    state.stepper.step(0.1)
    assert state.average is not None
    state.average.update(1)
    return state


def saved(state: State) -> Saved:
    return decode_state(bytes(StateCopy(state).taken(FACTS)()))


def test_everything_comes_back_bit_by_bit() -> None:
    state, other = stepped(training(1)), training(2)
    tensors, facts = saved(state)
    drawn = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    assert other.restore(tensors, facts, FACTS) == ()
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == (drawn[0].tolist(), *drawn[1:])  # noqa: NPY002
    for name, tensor in state.tensors().items():
        if not name.startswith("rng/"):
            assert torch.equal(tensor, other.tensors()[name]), name
    assert other.module.second.weight is other.module.first.weight
    assert not other.module.turned.is_contiguous()
    assert digest_weights(state.module) == digest_weights(other.module)


PLACES = [*sorted(saved(stepped(training()))[0]), "memory", "order"]


@pytest.mark.parametrize("name", PLACES)
def test_what_is_missing_is_refused_by_name(name: str) -> None:
    tensors, facts = saved(stepped(training(1)))
    (facts if name in facts else tensors).pop(name)
    state = training(2)
    before = digest_weights(state.module)
    with pytest.raises(TrainingError, match="not of this training") as caught:
        state.restore(tensors, facts, FACTS)
    assert f"{name} (missing)" in str(caught.value)
    assert digest_weights(state.module) == before
    item = name if name in ITEMS else name.partition("/")[0]
    assert state.restore(tensors, facts, FACTS, allow_missing=[item]) == (item,)


TENSORS = [name for name in PLACES if name not in FACTS]
GROUPS = sorted({name.partition("/")[0] for name in TENSORS})


@pytest.mark.parametrize("change", ["wider", "of another type"])
@pytest.mark.parametrize("name", TENSORS)
def test_what_has_another_shape_or_type_is_refused_by_name(name: str, change: str) -> None:
    tensors, facts = saved(stepped(training(1)))
    one = tensors[name]
    another = torch.float64 if one.dtype != torch.float64 else torch.float32
    tensors[name] = torch.zeros((*one.shape, 2), dtype=one.dtype) if change == "wider" else one.to(another)
    state = training(2)
    before = saved(state)[0]
    with pytest.raises(TrainingError) as caught:
        state.restore(tensors, facts, FACTS, allow_missing=ITEMS)
    words = f"{name} ({(*one.shape, 2)} for" if change == "wider" else f"{name} ({another} for {one.dtype})"
    assert words in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in saved(state)[0].items())


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_added_is_refused_by_name(group: str) -> None:
    tensors, facts = saved(stepped(training(1)))
    tensors[f"{group}/another"] = torch.zeros(3)
    with pytest.raises(TrainingError) as caught:
        training(2).restore(tensors, facts, FACTS, allow_missing=ITEMS)
    assert f"{group}/another (unknown here)" in str(caught.value)


def test_without_its_average_it_begins_anew_with_the_weights_that_were_restored() -> None:
    tensors, facts = saved(stepped(training(1)))
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("ema/")}
    state = training(2)
    assert state.restore(without, facts, FACTS, allow_missing=["ema"]) == ("ema",)
    assert state.average is not None
    for parameter, averaged in zip(state.stepper.parameters, state.average.tensors, strict=True):
        assert torch.equal(averaged, parameter)


def test_a_format_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_state, "_FORMAT", 3)
    data = bytes(StateCopy(training()).taken(FACTS)())
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="a format that this version does not read") as caught:
        decode_state(data)
    assert caught.value.received == "format 3, this version reads 1 and 2"


def wider(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> str:
    tensors["model/first.bias"] = torch.zeros(6)
    return "model/first.bias ((6,) for (5,))"


def another_type(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> str:
    tensors["model/first.bias"] = tensors["model/first.bias"].double()
    return "model/first.bias (torch.float64 for torch.float32)"


def more(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> str:
    tensors["model/third.bias"] = torch.zeros(6)
    return "model/third.bias (unknown here)"


def other_rows(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> str:
    facts["order"] = "others"
    return "order (of other rows, batches or seed)"


@pytest.mark.parametrize("change", [wider, another_type, more, other_rows])
def test_what_is_different_is_refused_by_name(change: Callable[[dict[str, torch.Tensor], dict[str, Any]], str]) -> None:
    tensors, facts = saved(stepped(training(1)))
    words = change(tensors, facts)
    with pytest.raises(TrainingError) as caught:
        training(2).restore(tensors, facts, FACTS, allow_missing=ITEMS)
    assert words in str(caught.value)


def test_weights_that_change_right_after_the_copy_are_not_in_it() -> None:
    state = stepped(training(1))
    wanted = digest_weights(state.module)
    encode = StateCopy(state).taken(FACTS)
    with torch.no_grad():
        for parameter in state.module.parameters():
            parameter.fill_(99.0)
    other = training(2)
    other.restore(*decode_state(bytes(encode())), FACTS)
    assert digest_weights(other.module) == wanted


def test_a_buffer_is_used_again_and_grows_when_it_must() -> None:
    state = training()
    copy = StateCopy(state)
    one = copy.taken(FACTS)()
    assert np.shares_memory(np.asarray(one), np.asarray(copy.taken(FACTS | {"long": "x" * 10})()))
    tensors, facts = decode_state(bytes(copy.taken(FACTS | {"long": "x" * 100_000})()))
    assert len(facts["long"]) == 100_000
    assert torch.equal(tensors["model/scale"], state.module.scale.detach())


@given(place=st.integers(0, 400), bit=st.integers(0, 7))
def test_a_head_with_a_flipped_bit_is_a_named_error_or_another_state(place: int, bit: int) -> None:
    """The digest of the blob finds every flip; here only that none of them leads to a library's error."""
    data = bytearray(StateCopy(training()).taken(FACTS)())
    data[place] ^= 1 << bit
    try:
        training().restore(*decode_state(data), FACTS)
    except (IntegrityError, TrainingError):
        return


@pytest.mark.parametrize(
    "settings", [AdamW(weight_decay=0.1), SGD(momentum=0.9, nesterov=True, weight_decay=0.1), SGD()]
)
def test_steps_are_those_of_torch_bit_by_bit(settings: AdamW | SGD) -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(9, 4) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    stepper = make_stepper(settings, ours)
    made = torch.optim.AdamW if isinstance(settings, AdamW) else torch.optim.SGD
    more = {name: getattr(settings, name) for name in type(settings).__struct_fields__}
    other = TorchStepper(made(theirs.parameters(), fused=True, **more))
    for step in range(6):
        lr = 0.1 / (1 + step)
        for module, each in ((ours, stepper), (theirs, other)):
            torch.manual_seed(step)
            module.zero_grad()
            module(torch.randn(3, 9)).square().mean().backward()
            each.step(lr)
    assert digest_weights(ours) == digest_weights(theirs)
