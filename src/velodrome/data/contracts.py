"""Contracts: what must hold for data, declared as rules that are values. `velodrome.data.judging` applies them.

Each rule has an action. "quarantine": a row that breaks it is kept aside with its reason. "warn": the row is kept and
counted. "stop": nothing is taken, and the error names the rule and the first rows that break it.
A missing value (null, or NaN among real numbers) breaks NotNull and no other rule.
"""

from typing import Literal, TypeAlias

from velodrome.core.errors import RecipeError
from velodrome.core.values import Value
from velodrome.data.schema import DtypeName

__all__ = ["Action", "Between", "Contract", "NotNull", "OneOf", "RowRule", "Rule", "Types", "Unique", "names_of"]

Action: TypeAlias = Literal["quarantine", "warn", "stop"]


class Types(Value, frozen=True, tag="types"):
    """The type of each named column; what does not convert without loss breaks the rule (under "warn" it becomes null).

    Columns that are not named keep the type that the file gives them.
    """

    columns: dict[str, DtypeName]
    action: Action = "quarantine"


class NotNull(Value, frozen=True, tag="not_null"):
    """No missing value in the column, or in any of several."""

    columns: str | tuple[str, ...]
    action: Action = "quarantine"


class Between(Value, frozen=True, tag="between"):
    """Values from `minimum` to `maximum`, both included; None leaves a side open. For dates and datetimes ISO 8601 text."""

    column: str
    minimum: float | int | str | None = None
    maximum: float | int | str | None = None
    action: Action = "quarantine"

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.minimum, self.maximum
        if low is None and high is None:
            raise RecipeError(f"Between({self.column!r}) has no bound", remedy="give a minimum, a maximum or both")
        if low is not None and high is not None and (isinstance(low, str) != isinstance(high, str) or low > high):  # type: ignore[operator]
            raise RecipeError(f"no value lies between the bounds of {self.column!r}", received=f"{low!r}, {high!r}")


class OneOf(Value, frozen=True, tag="one_of"):
    """Values of a fixed set."""

    column: str
    allowed: tuple[str | int | float | bool, ...]
    action: Action = "quarantine"


class Unique(Value, frozen=True, tag="unique"):
    """No value (of several columns: no combination) twice in the whole dataset.

    The first row stays, in the order of the files' names and of their rows; later ones break the rule. Rows that broke
    another rule do not count, and neither do rows where one of the columns is missing.
    """

    columns: str | tuple[str, ...]
    action: Action = "quarantine"


RowRule: TypeAlias = Types | NotNull | Between | OneOf
Rule: TypeAlias = RowRule | Unique


class Contract(Value, frozen=True, tag="contract"):
    """The rules of a dataset, in the order in which reasons are told.

    Raises:
        RecipeError: two Types rules name the same column.
    """

    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [name for rule in self.rules if isinstance(rule, Types) for name in rule.columns]
        for name in named:
            if named.count(name) > 1:
                raise RecipeError("two rules give a type to the same column", received=name, remedy="keep one of them")

    @property
    def row_rules(self) -> tuple[RowRule, ...]:
        """The rules that look at one row at a time."""
        return tuple(rule for rule in self.rules if not isinstance(rule, Unique))

    @property
    def unique_rules(self) -> tuple[Unique, ...]:
        """The rules that look at all rows together."""
        return tuple(rule for rule in self.rules if isinstance(rule, Unique))

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that are text whatever they look like."""
        rules = (rule for rule in self.rules if isinstance(rule, Types))
        return tuple(name for rule in rules for name, dtype in rule.columns.items() if dtype == "string")


def names_of(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    """One column or several, as several."""
    return (columns,) if isinstance(columns, str) else columns
