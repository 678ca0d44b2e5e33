from collections.abc import Callable
from typing import Literal

import msgspec
import pytest

from velodrome.core.errors import RecipeError
from velodrome.core.values import Value, describe


def build() -> None:
    """A named function."""


class Inner(Value, frozen=True, kw_only=True, tag="inner"):
    lr: float = 0.1
    kind: Literal["a", "b"] = "a"


class Outer(Value, frozen=True, tag="outer"):
    name: str
    inner: Inner = Inner()
    columns: tuple[str, ...] = ()
    network: Callable[..., object] | None = None
    limits: dict[str, int] = msgspec.field(default_factory=dict)


def test_lists_become_tuples_and_integers_become_floats() -> None:
    assert Outer("x", columns=["a", "b"]) == Outer("x", columns=("a", "b"))
    assert isinstance(Inner(lr=1).lr, float)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Outer("x", colums=["a"]), "did you mean 'columns'"),
        (Outer, "Missing required argument 'name'"),
        (lambda: Outer(3), "Outer.name takes str"),
        (lambda: Inner(lr="fast"), "Inner.lr takes float"),
        (lambda: Inner(lr=True), r"received: True \(bool\)"),
        (lambda: Inner(kind="c"), "one of 'a', 'b'"),
        (lambda: Outer("x", columns=[1]), "Outer.columns"),
        (lambda: Outer("x", network=lambda: None), "Outer.network is a lambda"),
        (lambda: Outer("x", limits={"a": "b"}), "Outer.limits"),
        (lambda: Outer("x", inner=3), "Outer.inner takes Inner"),
    ],
)
def test_a_mistake_is_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make()


def test_a_value_is_described_as_plain_json() -> None:
    described = describe(Outer("x", network=build, limits={"a": 1}))
    assert described["type"] == "outer"
    assert described["inner"] == {"type": "inner", "lr": 0.1, "kind": "a"}
    assert described["network"].endswith(":build")
    assert msgspec.json.decode(msgspec.json.encode(described)) == described


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(RecipeError, match="no canonical form"):
        describe({"a": object()})
