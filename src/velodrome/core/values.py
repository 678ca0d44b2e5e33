"""The two kinds of frozen value: what a user declares (`Value`) and what the ledger keeps (`Record`).

Both are msgspec structs, so that the Python value, the stored payload and the JSON that `--json` prints are one type.
`Value` checks its fields when it is made, so that a typo in a recipe is a named error at the line where it stands, not a
surprise during training. The check walks the type hints of the fields: microseconds per value, and recipes hold dozens.
"""

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import msgspec

from velodrome.core.errors import RecipeError, nearest

__all__ = ["Record", "Value", "describe"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What the ledger keeps: immutable, named by the digest of its canonical JSON. The tag is its kind.

    Subclasses give `tag="snapshot"` and so on; two kinds never share a tag.
    """

    @classmethod
    def kind(cls) -> str:
        return str(cls.__struct_config__.tag)


class _Meta(msgspec.StructMeta):
    """Turns Python's TypeError for an unknown or missing field into an error that names the nearest field."""

    if not TYPE_CHECKING:  # a type checker reads the fields' signature off the class, which this would hide

        def __call__(cls, *args, **kwargs):  # noqa: N805 - what calls a class is its metaclass
            unknown = sorted(kwargs.keys() - set(cls.__struct_fields__))
            if unknown:
                raise RecipeError(
                    f"{cls.__name__} has no field {unknown[0]!r}",
                    received=kwargs[unknown[0]],
                    remedy=nearest(unknown[0], cls.__struct_fields__),
                )
            try:
                return super().__call__(*args, **kwargs)
            except TypeError as error:
                raise RecipeError(f"{cls.__name__} cannot be made: {error}", remedy=_signature(cls)) from error


class Value(msgspec.Struct, frozen=True, tag_field="type", metaclass=_Meta):
    """What a user declares in a recipe. Unknown fields, wrong types and lambdas are refused by name.

    Lists are kept as tuples and dicts stay dicts; neither is changed after the value is made.

    Raises:
        RecipeError: a field that does not exist, is missing, or holds a value of another type.
    """

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                msgspec.structs.force_setattr(self, name, value)
            if (
                isinstance(value, int)
                and not isinstance(value, bool)
                and _accepts(hint, 1.5)
                and not _accepts(hint, value, exact=True)
            ):
                msgspec.structs.force_setattr(self, name, float(value))
            _check(self, name, value, hint)


def describe(value: object) -> Any:
    """`value` as plain JSON values: structs with their tag, functions as module:name, estimators by class and parameters.

    Raises:
        RecipeError: something that has no canonical form.

    >>> describe((1, describe))
    [1, 'velodrome.core.values:describe']
    """
    if isinstance(value, msgspec.Struct):
        tag = {value.__struct_config__.tag_field: value.__struct_config__.tag} if value.__struct_config__.tag else {}
        return tag | {name: describe(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, types.FunctionType | type | types.BuiltinFunctionType):
        return f"{value.__module__}:{value.__qualname__}"
    if hasattr(value, "get_params"):
        kind = type(value)
        return {
            "estimator": f"{kind.__module__}:{kind.__qualname__}",
            "parameters": describe(value.get_params(deep=False)),
        }
    if hasattr(value, "item"):
        return describe(value.item())
    raise RecipeError(
        "a value in the recipe has no canonical form",
        received=f"{value!r} ({type(value).__name__})",
        remedy="use numbers, texts, named functions or velodrome's values",
    )


def _signature(cls: type) -> str:
    return f"{cls.__name__} takes {', '.join(cls.__struct_fields__)}"  # type: ignore[attr-defined]


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: hints[name] for name in cls.__struct_fields__}  # type: ignore[attr-defined]


def _check(owner: Value, name: str, value: object, hint: Any) -> None:
    where = f"{type(owner).__name__}.{name}"
    for function in _functions(value):
        if function.__name__ == "<lambda>":
            raise RecipeError(
                f"{where} is a lambda, which has no name to record", remedy="define it with def and pass it by its name"
            )
    if not _accepts(hint, value):
        raise RecipeError(f"{where} takes {_describe(hint)}", received=f"{value!r} ({type(value).__name__})")


def _functions(value: object) -> list[types.FunctionType]:
    if isinstance(value, types.FunctionType):
        return [value]
    if isinstance(value, tuple):
        return [function for item in value for function in _functions(item)]
    if isinstance(value, dict):
        return [function for item in value.values() for function in _functions(item)]
    return []


def _accepts(hint: Any, value: object, exact: bool = False) -> bool:
    """Whether `value` fits the type `hint`; an int fits a float unless `exact`."""
    if hint is Any or hint is object:
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    origin, args = get_origin(hint), get_args(hint)
    if origin is None:
        return _accepts_plain(hint, value, exact)
    if origin in (Union, types.UnionType):
        return any(_accepts(option, value, exact) for option in args)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in args)
    return _accepts_container(origin, args, value)


def _accepts_plain(hint: Any, value: object, exact: bool) -> bool:
    if hint is float and not exact and isinstance(value, int):
        return not isinstance(value, bool)
    if hint is int and isinstance(value, bool):
        return False
    return not isinstance(hint, type) or isinstance(value, hint)


def _accepts_container(origin: Any, args: tuple[Any, ...], value: object) -> bool:
    if origin is Callable:
        return callable(value)
    if origin is type:
        return isinstance(value, type)
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _accepts(args[0], k) and _accepts(args[1], v) for k, v in value.items()
        )
    if origin is tuple and args[-1:] != (Ellipsis,):
        return isinstance(value, tuple) and len(value) == len(args) and all(map(_accepts, args, value))
    if issubclass(origin, Sequence):
        return isinstance(value, tuple | list) and all(_accepts(args[0], item) for item in value)
    return isinstance(value, origin)


def _describe(hint: Any) -> str:
    args = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in args)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, args))
    if hint is types.NoneType:
        return "None"
    return (
        hint.__name__
        if isinstance(hint, type) and not args
        else str(hint).replace("typing.", "").replace("collections.abc.", "")
    )
