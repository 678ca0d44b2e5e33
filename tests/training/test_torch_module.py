"""A module's tensors by name, and back: whatever kind of state it has comes back, or is refused by name before it is trained."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from velodrome.core.errors import TrainingError
from velodrome.training.learners import AdamW
from velodrome.training.torch_module import fill, held
from velodrome.training.torch_optimizers import make_stepper
from velodrome.training.torch_state import State, StateCopy, decode_state

FACTS: dict[str, Any] = {"memory": {"step": 3}, "order": "rows"}


class Part(torch.nn.Module):
    """Has one parameter, and keeps state in one way or another: `keep` makes it, `turn` changes it as a forward would."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.keep()

    def keep(self) -> None: ...

    def turn(self) -> None: ...


class LeftOut(Part):
    """A buffer that `state_dict` does not name."""

    def keep(self) -> None:
        self.register_buffer("seen", torch.zeros(2), persistent=False)

    def turn(self) -> None:
        self.seen += 1


class Grown(LeftOut):
    def turn(self) -> None:
        self.seen = torch.cat([self.seen, torch.ones(1)])


class MadeLate(Part):
    """As caches are made, here in the place of an attribute."""

    def keep(self) -> None:
        self.seen: Any = None

    def turn(self) -> None:
        del self.seen
        self.register_buffer("seen", torch.ones(4), persistent=False)


class RegisteredAsNothing(Part):
    def keep(self) -> None:
        self.register_buffer("seen", None)

    def turn(self) -> None:
        self.seen = torch.ones(4)


class OnceTheSame(Part):
    """Two buffers that lie in one place at first, and in two later."""

    def keep(self) -> None:
        zeros = torch.zeros(2)
        self.register_buffer("seen", zeros)
        self.register_buffer("before", zeros)

    def turn(self) -> None:
        self.before = self.seen
        self.seen = self.seen + 1


class Expanded(Part):
    def keep(self) -> None:
        self.register_buffer("seen", torch.ones(1).expand(4))

    def turn(self) -> None:
        self.seen = self.seen * 2


class Complex(Part):
    def keep(self) -> None:
        self.register_buffer("seen", torch.zeros(3, dtype=torch.complex64))

    def turn(self) -> None:
        self.seen += 2 + 1j


class Extra(Part):
    """State that is no tensor, given as one."""

    def keep(self) -> None:
        self.count = 0

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.count)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.count = int(state)

    def turn(self) -> None:
        self.count += 1


class Hooked(Part):
    """Whose `state_dict` hands out copies."""

    def keep(self) -> None:
        self._register_state_dict_hook(
            lambda module, state, prefix, _: state.update({name: each.clone() for name, each in list(state.items())})
        )

    def turn(self) -> None:
        with torch.no_grad():
            self.weight += 1


KINDS = [LeftOut, Grown, MadeLate, RegisteredAsNothing, OnceTheSame, Expanded, Complex, Extra, Hooked]


def state_of(module: torch.nn.Module) -> State:
    return State(module, make_stepper(AdamW(), module))


def inside(kind: type[Part]) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 3), kind())


def saved(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return decode_state(bytes(StateCopy(state_of(module)).taken(FACTS)()))


@pytest.mark.parametrize("kind", KINDS)
def test_state_of_each_kind_comes_back(kind: type[Part]) -> None:
    module, other = inside(kind), inside(kind)
    before = {name: tensor.clone() for name, tensor in held(module).items()}
    for _ in range(2 if kind is not MadeLate else 1):
        module[1].turn()  # type: ignore[operator]
    wanted = held(module)
    assert not _equal(wanted, before)
    assert state_of(other).restore(*saved(module), FACTS) == ()
    assert _equal(held(other), wanted)
    if kind is not MadeLate:  # what was put back is state of the module, and no copy of it
        module[1].turn()  # type: ignore[operator]
        other[1].turn()  # type: ignore[operator]
        assert _equal(held(other), held(module))


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_what_is_put_back_is_no_part_of_the_checkpoint() -> None:
    module = inside(Grown)
    module[1].turn()  # type: ignore[operator]
    tensors, _ = saved(module)
    other = inside(Grown)
    fill(other, tensors)
    tensors["buffer/1.seen"].fill_(9.0)
    assert torch.equal(other.get_buffer("1.seen"), module.get_buffer("1.seen"))


def test_a_checkpoint_of_before_such_buffers_were_kept_is_restored() -> None:
    module = inside(LeftOut)
    tensors, facts = saved(module)
    tensors.pop("buffer/1.seen")
    with pytest.raises(TrainingError, match=r"buffer/1\.seen \(missing\)"):
        state_of(inside(LeftOut)).restore(tensors, facts, FACTS)
    assert state_of(inside(LeftOut)).restore(tensors, facts, FACTS, allow_missing=["buffer"]) == ("buffer",)
    assert state_of(inside(LeftOut)).restore(tensors, facts | {"format": 1}, FACTS) == ()


def test_a_buffer_of_a_part_that_is_not_there_is_refused_by_name() -> None:
    tensors, facts = saved(inside(LeftOut))
    with pytest.raises(TrainingError, match=r"buffer/9\.seen \(unknown here\)"):
        state_of(inside(LeftOut)).restore(tensors | {"buffer/9.seen": torch.ones(1)}, facts, FACTS)


class Tied(torch.nn.Module):
    """Parameters of one shape, some of which may be one."""

    def __init__(self, *tied: str) -> None:
        super().__init__()
        for name in "abc":
            setattr(self, name, torch.nn.Parameter(torch.ones(2)))
        for name in tied:
            setattr(self, name, self.a)


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ("", "b", r"model/a \(tied to nothing, and to b here\), model/b \(tied to nothing, and to a here\)"),
        ("b", "", r"model/a \(tied to b, and to nothing here\), model/b \(tied to a, and to nothing here\)"),
        ("b", "c", r"model/a \(tied to b, and to c here\)"),
        ("bc", "b", r"model/c \(tied to a and b, and to nothing here\)"),
    ],
)
def test_other_ties_are_refused_by_name(there: str, here: str, words: str) -> None:
    """Names and shapes alone would agree, also the optimiser's here: both are made so."""
    tensors, facts = saved(Tied(*there))
    other = Tied(*here)
    wanted = state_of(other).tensors()
    for name in [name for name in tensors if name.startswith("optimizer/")]:
        tensors.pop(name)
    tensors |= {name: each.clone() for name, each in wanted.items() if name.startswith("optimizer/")}
    with pytest.raises(TrainingError, match=words):
        state_of(other).restore(tensors, facts, FACTS)


@pytest.mark.parametrize("tied", ["", "b", "bc"])
def test_equal_ties_are_restored(tied: str) -> None:
    module, other = Tied(*tied), Tied(*tied)
    torch.nn.init.uniform_(module.get_parameter("a"))
    state_of(other).restore(*saved(module), FACTS)
    assert _equal(held(other), held(module))
    assert [other.get_parameter(name) is other.get_parameter("a") for name in tied] == [True] * len(tied)


def sparse(part: Part) -> None:
    part.register_buffer("graph", torch.eye(3).to_sparse())


def wide(part: Part) -> None:
    part.register_buffer("graph", torch.zeros(3, dtype=torch.complex128))


def lazy(part: Part) -> None:
    part.norm = torch.nn.LazyBatchNorm1d(affine=False)


def told_as_a_dict(part: Part) -> None:
    class Told(Part):
        def get_extra_state(self) -> dict[str, int]:
            return {"count": 3}

    part.told = Told()


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (sparse, r"the buffer '1\.graph'.*sparse_coo"),
        (wide, r"the buffer '1\.graph'.*complex128"),
        (lazy, r"the buffer '1\.norm\.running_mean'.*lazy layer"),
        (told_as_a_dict, r"the extra state of Told.*1\.told\._extra_state: dict"),
    ],
)
def test_what_no_checkpoint_holds_is_refused_before_it_is_trained(add: Callable[[Part], None], words: str) -> None:
    module = inside(Part)
    add(module[1])  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=f"(?s)a checkpoint cannot hold {words}"):
        state_of(module)


def test_a_constant_that_no_checkpoint_holds_may_be_left_out() -> None:
    module = inside(Part)
    module[1].register_buffer("graph", torch.eye(3).to_sparse(), persistent=False)
    assert state_of(inside(Part)).restore(*saved(module), FACTS) == ()
