"""What can be asked of facts: conditions over keys, an order and a page, as frozen values that know no database and no text.

Searched are the subjects that have the fact `id`, a text. A fact is a number or a text:
- A comparison is true or false, never unknown. A subject without the key fulfils none, `!=` and `NOT_IN` included; `Not` of a
  comparison is therefore true of it. `Known` asks whether the key is there.
- A number and a text are different, so `!=` holds between them and `=` does not; and neither is less than the other.
- Texts are compared by their code points, upper and lower case being different. As facts are kept up to 1,024 bytes, only
  that much of a text counts, on either side.
- An order begins with the least: numbers before texts, from the greatest with `descending`. What lacks the key comes last
  either way. What is equal in all orders goes by the subject, greatest first, which for runs is newest first.
- A page begins after the subject `after`, wherever that stands now or would stand. So pages read one after the other neither
  repeat nor leave out a subject whose facts did not change meanwhile, whatever else came or went.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

__all__ = [
    "And",
    "Compare",
    "Comparison",
    "Condition",
    "Found",
    "In",
    "Known",
    "Not",
    "Or",
    "Order",
    "Query",
    "keys_of",
]

Comparison = Literal["=", "!=", "<", "<=", ">", ">=", "contains"]


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """The fact beside a value; "contains": the value is a text within the fact's, character by character."""

    key: str
    operator: Comparison
    value: float | str


class In(msgspec.Struct, frozen=True, tag="in"):
    """The fact is one of the values; with `negated` it is there, and none of them."""

    key: str
    values: tuple[float | str, ...]
    negated: bool = False


class Known(msgspec.Struct, frozen=True, tag="known"):
    """There is such a fact; with `negated` there is none."""

    key: str
    negated: bool = False


class Not(msgspec.Struct, frozen=True, tag="not"):
    """The condition does not hold."""

    condition: "Condition"


class And(msgspec.Struct, frozen=True, tag="and"):
    """All of the conditions hold; of none, that is so."""

    conditions: tuple["Condition", ...]


class Or(msgspec.Struct, frozen=True, tag="or"):
    """One of the conditions holds; of none, that is not so."""

    conditions: tuple["Condition", ...]


Condition = Compare | In | Known | Not | And | Or


class Order(msgspec.Struct, frozen=True):
    """Sort by a fact, the least first."""

    key: str
    descending: bool = False


class Found(msgspec.Struct, frozen=True):
    """A subject that was found, and what it has under each of the query's orders (None: nothing)."""

    subject: str
    values: tuple[float | str | None, ...] = ()


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which subjects, in which order, and how many of them at most.

    Attributes:
        after: the last one of the page before; its `values` belong to these orders.
    """

    where: Condition = And(())
    order: tuple[Order, ...] = ()
    limit: int | None = None
    after: Found | None = None


def keys_of(query: Query) -> set[str]:
    """Every key that a query asks about.

    >>> sorted(keys_of(Query(where=Not(Known("lr")), order=(Order("auc"),))))
    ['auc', 'lr']
    """
    return {*_keys_of(query.where), *(order.key for order in query.order)}


def _keys_of(condition: Condition) -> Iterator[str]:
    match condition:
        case And(conditions) | Or(conditions):
            for each in conditions:
                yield from _keys_of(each)
        case Not(negated):
            yield from _keys_of(negated)
        case Compare(key) | In(key) | Known(key):
            yield key
