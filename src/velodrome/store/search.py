"""A query on facts as one SQL statement, of which every value is a bound parameter.

A condition is a set of subjects, found by an index on (key, value) and taken once; conditions compose as sets do. An order
looks one fact up for each subject that is left. So a search costs the facts that its conditions name, and a sort.
Two kinds of search end with the page instead. Without an order an index has the newest first. And where a condition says
that the first order is by numbers, or by texts, an index has those in their order: there each subject is asked by itself
whether it fulfils the other conditions.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from velodrome.core.errors import StorageError
from velodrome.store import schema
from velodrome.store.ledger import Fact
from velodrome.store.query import And, Compare, Condition, Found, In, Known, Not, Or, Order, Query

__all__ = [
    "clip",
    "fact_row",
    "facts_statement",
    "found_of",
    "keys_statement",
    "search_statement",
    "starts",
]

_KEY_BYTES, _TEXT_BYTES = 512, 1024  # a key, a text and a subject fit into an entry of an index of PostgreSQL: 2,700
_FINDERS = {"sqlite": sa.func.instr, "postgresql": sa.func.strpos}

_Truth = sa.ColumnElement[bool]
_Fact = sa.FromClause
_Orders = Sequence[tuple[Order, _Fact]]


def fact_row(fact: Fact) -> dict[str, Any]:
    """A fact by the columns of its table; neither a number nor a text where nothing is known.

    Raises:
        StorageError: a key, or a subject, that is too long.
    """
    if max(len(fact.key.encode()), len(fact.subject.encode())) > _KEY_BYTES:
        raise StorageError(
            f"a fact's key and its subject have at most {_KEY_BYTES} bytes",
            received=f"{fact.key!r} of {fact.subject!r}",
            remedy="name it shorter",
        )
    row: dict[str, Any] = {"subject": fact.subject, "key": fact.key, "number": None, "text": None}
    if isinstance(fact.value, str):
        return row | {"text": clip(fact.value)}
    return row if fact.value is None or math.isnan(fact.value) else row | {"number": float(fact.value)}


def clip(value: float | str) -> float | str:
    """The value as a fact keeps it: a text up to its first 1,024 bytes of UTF-8, cut between characters."""
    if isinstance(value, str) and len(value) > _TEXT_BYTES // 4:
        return value.encode()[:_TEXT_BYTES].decode(errors="ignore")
    return value


def search_statement(query: Query, dialect: str) -> sa.Select[Any]:
    """Gives (subject, number of the first order, text of the first order, number of the second, ...)."""
    conditions = list(_conjuncts(query.where))
    lead, base = _lead(conditions, query.order), schema.fact.alias("base")
    holds = [_meets(each, base, lead, dialect) for each in conditions]
    if lead is None:
        holds += [base.c.key == "id", base.c.number.is_(None)]  # in an index with the subjects in their order
    else:
        holds += [base.c.key == lead.key, _has(base, "id")]
    orders: _Orders = [
        (order, base if lead and order.key == lead.key else schema.fact.alias(f"order_{number}"))
        for number, order in enumerate(query.order)
    ]
    source: _Fact = base
    for order, fact in orders:
        if fact is not base:
            source = source.outerjoin(fact, sa.and_(fact.c.subject == base.c.subject, fact.c.key == order.key))
    if query.after:
        holds.append(_comes_after(query.after, orders, base))
    ranked = [column for order, fact in orders for column in _ranked(order, fact, lead)]
    columns = [column for _, fact in orders for column in (fact.c.number, fact.c.text)]
    found = sa.select(base.c.subject, *columns).select_from(source).where(*holds)
    return found.order_by(*ranked, base.c.subject.desc()).limit(query.limit)


def found_of(row: Sequence[Any]) -> Found:
    """What a row of `search_statement` says."""
    pairs = zip(row[1::2], row[2::2], strict=True)
    return Found(row[0], tuple(text if number is None else number for number, text in pairs))


@cache
def keys_statement() -> sa.Select[Any]:
    """Gives each key once, by one jump along an index for each: there are few keys and many facts."""
    fact = schema.fact.c
    keys = sa.select(sa.func.min(fact.key).label("key")).cte("keys", recursive=True)
    following = sa.select(sa.func.min(fact.key)).where(fact.key > keys.c.key).scalar_subquery()
    keys = keys.union_all(sa.select(following).where(keys.c.key.is_not(None)))
    return sa.select(keys.c.key).where(keys.c.key.is_not(None))


def facts_statement(subjects: list[str], keys: tuple[str, ...], dialect: str) -> tuple[sa.Select[Any], dict[str, Any]]:
    """Gives the facts of the subjects, as `Ledger.facts` promises them, when it is executed with what comes with it.

    The subjects are one bound parameter, so that there may be as many as there are.
    """
    listed = subjects if dialect == "postgresql" else msgspec.json.encode(subjects).decode()
    return _facts_statement(keys, dialect), {"subjects": listed}


@lru_cache(maxsize=64)
def _facts_statement(keys: tuple[str, ...], dialect: str) -> sa.Select[Any]:
    fact = schema.fact.c
    if dialect == "postgresql":
        asked: _Truth = fact.subject == sa.any_(sa.bindparam("subjects", type_=postgresql.ARRAY(sa.Text)))
    else:
        listed = sa.func.json_each(sa.bindparam("subjects", type_=sa.Text)).table_valued("value")
        asked = fact.subject.in_(sa.select(listed.c.value))
    groups = [starts(fact.key, key) for key in keys if key.endswith(".")]
    wanted = sa.or_(fact.key.in_([key for key in keys if not key.endswith(".")]), *groups) if keys else sa.true()
    return sa.select(schema.fact).where(asked, wanted).order_by(fact.subject, fact.key)


def starts(column: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    """Whether a text starts with `prefix`: a range, since LIKE ignores case in SQLite and would not use the index."""
    return sa.and_(column >= prefix, column <= prefix + chr(0x10FFFF))


# ------------------------------------------------------------------------------------------------------------- conditions


def _conjuncts(where: Condition) -> Iterator[Condition]:
    """What every answer fulfils."""
    if isinstance(where, And):
        for condition in where.conditions:
            yield from _conjuncts(condition)
    else:
        yield where


def _lead(conditions: Sequence[Condition], orders: Sequence[Order]) -> Compare | None:
    """The condition which says that the first order is by numbers alone, or by texts alone."""
    comparisons = [each for each in conditions if isinstance(each, Compare) and each.operator != "!="]
    return next((each for each in comparisons if orders and each.key == orders[0].key), None)


def _meets(condition: Condition, base: _Fact, lead: Compare | None, dialect: str) -> _Truth:
    """Whether a condition holds that every answer fulfils: asked of the fact that leads, of one subject, or of a set."""
    if lead and isinstance(condition, Compare | In):
        own = condition.key == lead.key
        return _tests(condition, base, dialect) if own else _has(base, condition.key, condition, dialect)
    return _holds(condition, base.c.subject, dialect)


def _holds(condition: Condition, subject: sa.ColumnElement[str], dialect: str) -> _Truth:
    """Whether a condition holds for a subject, which is never NULL."""
    match condition:
        case And(conditions):
            return sa.and_(sa.true(), *(_holds(each, subject, dialect) for each in conditions))
        case Or(conditions):
            return sa.or_(sa.false(), *(_holds(each, subject, dialect) for each in conditions))
        case Not(negated):
            return sa.not_(_holds(negated, subject, dialect))
        case Known(key, absent):
            known = _among(subject, key)
            return sa.not_(known) if absent else known
        case Compare(key) | In(key):
            return _among(subject, key, _tests(condition, schema.fact, dialect))


def _among(subject: sa.ColumnElement[str], key: str, *tests: _Truth) -> _Truth:
    """Whether a subject is one of all those whose fact passes."""
    return subject.in_(sa.select(schema.fact.c.subject).where(schema.fact.c.key == key, *tests))


def _has(base: _Fact, key: str, condition: Compare | In | None = None, dialect: str = "") -> _Truth:
    """The same, asked of one subject."""
    fact = schema.fact.alias()
    tests = [_tests(condition, fact, dialect)] if condition else []
    return sa.exists().where(fact.c.subject == base.c.subject, fact.c.key == key, *tests)


def _tests(condition: Compare | In, fact: _Fact, dialect: str) -> _Truth:
    """Whether a fact is as the condition says."""
    return _is_one_of(condition, fact) if isinstance(condition, In) else _compares(condition, fact, dialect)


def _compares(condition: Compare, fact: _Fact, dialect: str) -> _Truth:
    number, text, value = fact.c.number, fact.c.text, clip(condition.value)
    column, other = (text, number) if isinstance(value, str) else (number, text)
    match condition.operator:
        case "=":
            return column == value
        case "!=":
            return sa.or_(column != value, other.is_not(None))
        case "contains":
            return _FINDERS[dialect](text, value) > 0 if isinstance(value, str) else sa.false()
        case "<":
            return column < value
        case "<=":
            return column <= value
        case ">":
            return column > value
        case ">=":
            return column >= value


def _is_one_of(condition: In, fact: _Fact) -> _Truth:
    values = [clip(value) for value in condition.values]
    texts = fact.c.text.in_([value for value in values if isinstance(value, str)])
    numbers = fact.c.number.in_([value for value in values if not isinstance(value, str)])
    found = sa.or_(sa.func.coalesce(texts, sa.false()), sa.func.coalesce(numbers, sa.false()))
    return sa.not_(found) if condition.negated else found


# ----------------------------------------------------------------------------------------------------------------- orders


def _ranked(order: Order, fact: _Fact, lead: Compare | None) -> list[sa.ColumnElement[Any]]:
    """Numbers and then texts, or the other way round; a subject without the fact has neither, and comes last."""
    if lead and order.key == lead.key:
        column = fact.c.text if isinstance(lead.value, str) else fact.c.number
        return [column.desc() if order.descending else column]
    if order.descending:
        return [column.desc().nulls_last() for column in (fact.c.text, fact.c.number)]
    return [column.nulls_last() for column in (fact.c.number, fact.c.text)]


def _comes_after(last: Found, orders: _Orders, base: _Fact) -> _Truth:
    """Later in the first order; or equal in it, and later in the second; ...; or equal in all, and older."""
    later = base.c.subject < last.subject
    for (order, fact), value in reversed(list(zip(orders, last.values, strict=True))):
        later = sa.or_(_is_later(order, fact, value), sa.and_(_is_equal(fact, value), later))
    return later


def _is_later(order: Order, fact: _Fact, value: float | str | None) -> _Truth:
    """Whether the fact comes after the value: what is greater, or less; all of the kind that comes second; what is missing."""
    if value is None:
        return sa.false()
    column = fact.c.text if isinstance(value, str) else fact.c.number
    first = isinstance(value, str) == order.descending
    rest = column.is_(None) if first else fact.c.subject.is_(None)
    return sa.or_(column < value if order.descending else column > value, rest)


def _is_equal(fact: _Fact, value: float | str | None) -> _Truth:
    if value is None:
        return fact.c.subject.is_(None)
    return fact.c.text == value if isinstance(value, str) else fact.c.number == value
