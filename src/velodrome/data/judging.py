"""Applying a contract: which rows of a file hold, which go to quarantine and why.

One lazy Polars pass converts the columns and marks, for each rule, the rows that break it; the rest touches marked rows
only. Rules that look at all rows together are in `uniqueness`. Cost: one comparison per rule and row, and one copy of the
accepted rows when there are others. Everything here is a pure function.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import reduce
from operator import or_
from typing import Any

import msgspec
import polars as pl

from velodrome.core.errors import ContractError, SchemaError
from velodrome.data.contracts import Action, Between, Contract, NotNull, OneOf, RowRule, Types, names_of
from velodrome.data.conversion import convert, is_present
from velodrome.data.schema import DTYPES, require_column, stored_as

__all__ = ["EXAMPLES", "REASON", "ROW", "Judged", "Violation", "judge", "refuse", "total"]

ROW, REASON = "__row", "__reason"
"""Columns of quarantined rows beside those of the file: the row's number in it, from 1, and the reasons."""

EXAMPLES = 3
"""How many of the rows that break a rule are told in words."""

_MARK = "__broken_"


class Violation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many rows break a rule, with the first few of them in words."""

    rule: str
    action: Action
    rows: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows of one file.

    Attributes:
        accepted: rows in the file's order, columns of the eight types of `schema`.
        converted: the columns of these rows that the file has in another type, as it has them.
        quarantined: the other rows as the file has them, with ROW (uint32) and REASON.
        violations: the rules that are broken; rows under "stop" are among the accepted: see `refuse`.
    """

    accepted: pl.DataFrame
    converted: pl.DataFrame
    quarantined: pl.DataFrame
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the file: its type there, the type and the values that are kept, whether a rule says which type that is.

    One without a single value has any type: a reader of text, who saw none, calls it text.
    """

    name: str
    source: pl.DataType
    target: str
    kept: pl.Expr
    declared: bool
    empty: bool

    @property
    def dtype(self) -> pl.DataType:
        return DTYPES[self.target]

    @property
    def present(self) -> pl.Expr:
        """Whether the file has a value."""
        return is_present(pl.col(self.name), self.source)

    @property
    def shown(self) -> pl.Expr:
        """The value as the file has it, for a person."""
        text = pl.col(self.name).cast(pl.String)
        return pl.format("'{}'", text) if self.source == pl.String else text


@dataclass(frozen=True, slots=True)
class _Check:
    """One rule on one column, as expressions over the columns of the file; `broken` is never null."""

    rule: str
    action: Action
    broken: pl.Expr
    reason: pl.Expr


def judge(contract: Contract, raw: pl.DataFrame) -> Judged:
    """Apply the rules that look at one row at a time.

    Raises:
        SchemaError: a rule names a column that is not there or does not fit its type; a column has a type that is not kept.
    """
    columns = _columns(contract, raw)
    checks = [check for rule in contract.row_rules for check in _checks(rule, columns)] + _overflows(columns)
    marks = [f"{_MARK}{number}" for number in range(len(checks))]
    told = [check.broken.alias(mark) for mark, check in zip(marks, checks, strict=True)]
    marked = raw.lazy().select(*(column.kept.alias(column.name) for column in columns.values()), *told).collect()
    found = [(check, marked[mark]) for mark, check in zip(marks, checks, strict=True) if marked[mark].any()]
    bad = _any_of(mark for check, mark in found if check.action == "quarantine")
    accepted = marked.drop(marks)
    converted = [raw[name] for name, column in columns.items() if column.source != column.dtype]
    if bad is not None:
        accepted, converted = accepted.filter(~bad), [column.filter(~bad) for column in converted]
    return Judged(
        accepted=accepted,
        converted=pl.DataFrame(converted),
        quarantined=_quarantined(raw, found, bad),
        violations=tuple(_violation(raw, check, mark) for check, mark in found),
    )


def refuse(violations: Iterable[Violation], where: str) -> None:
    """Stop where a rule says so.

    Raises:
        ContractError: a rule whose action is "stop" is broken.
    """
    for found in violations:
        if found.action == "stop":
            raise ContractError(
                f"{where} breaks a rule that stops: {found.rule}",
                received=f"{found.rows} rows: {'; '.join(found.examples)}",
                remedy='mend the data, or give the rule action="quarantine"',
            )


def total(violations: Iterable[Violation]) -> tuple[Violation, ...]:
    """The violations of several files together, by rule, in the order in which rules come up."""
    merged: dict[tuple[str, Action], Violation] = {}
    for found in violations:
        known = merged.get((found.rule, found.action), Violation(found.rule, found.action, 0))
        examples = (known.examples + found.examples)[:EXAMPLES]
        merged[found.rule, found.action] = Violation(found.rule, found.action, known.rows + found.rows, examples)
    return tuple(merged.values())


# ------------------------------------------------------------------------------------------------------------- planning


def _columns(contract: Contract, raw: pl.DataFrame) -> dict[str, _Column]:
    declared = {
        name: dtype for rule in contract.rules if isinstance(rule, Types) for name, dtype in rule.columns.items()
    }
    for name in declared:
        require_column(name, raw.columns, "vd.Types")
    if ROW in raw.columns or REASON in raw.columns:
        raise SchemaError(f"no column may be called {ROW} or {REASON}", remedy="give it another name in the file")
    columns = {}
    for name, source in raw.schema.items():
        target = declared.get(name) or stored_as(source)
        if target is None:
            raise SchemaError(
                f"the column {name!r} has a type that is not kept",
                received=str(source),
                remedy="leave it out, or turn it into plain columns",
            )
        kept, empty = convert(name, source, target), raw[name].null_count() == raw.height
        columns[name] = _Column(name, source, target, kept, name in declared, empty)
    return columns


def _checks(rule: RowRule, columns: dict[str, _Column]) -> Iterator[_Check]:
    if isinstance(rule, Types):
        for name in rule.columns:
            if columns[name].source != columns[name].dtype:
                yield _converts(columns[name], rule.action)
    elif isinstance(rule, NotNull):
        for name in names_of(rule.columns):
            yield _not_null(rule, _column(columns, name, "vd.NotNull"))
    else:
        column = _column(columns, rule.column, f"vd.{type(rule).__name__}")
        if not column.empty:
            yield _between(rule, column) if isinstance(rule, Between) else _one_of(rule, column)


def _overflows(columns: dict[str, _Column]) -> list[_Check]:
    """Integers that no rule gives a type and that int64 cannot hold: a value is never lost in silence."""
    wide = (pl.UInt64, pl.Int128, pl.UInt128)
    return [
        _converts(column, "quarantine") for column in columns.values() if not column.declared and column.source in wide
    ]


def _converts(column: _Column, action: Action) -> _Check:
    broken = column.kept.is_null() & column.present
    reason = pl.format("{}: {} is not {}", pl.lit(column.name), column.shown, pl.lit(column.target))
    return _Check(f"types({column.name}: {column.target})", action, broken, reason)


def _not_null(rule: NotNull, column: _Column) -> _Check:
    missing = ~column.present
    if column.dtype.is_float() and not column.source.is_float():
        missing = missing | column.kept.is_nan().fill_null(False)
    return _Check(f"not_null({column.name})", rule.action, missing, pl.lit(f"{column.name} is missing"))


def _between(rule: Between, column: _Column) -> _Check:
    broken, said = [], []
    if rule.minimum is not None:
        broken.append(column.kept < _bound(rule.minimum, column))
        said.append(f"at least {rule.minimum}")
    if rule.maximum is not None:
        broken.append(column.kept > _bound(rule.maximum, column))
        said.append(f"at most {rule.maximum}")
    outside = (broken[0] if len(broken) == 1 else broken[0] | broken[1]).fill_null(False)
    if column.dtype.is_float():
        outside = outside & column.kept.is_not_nan().fill_null(False)
    reason = pl.format("{}: {} is not {}", pl.lit(column.name), column.shown, pl.lit(" and ".join(said)))
    return _Check(f"between({column.name}: {' and '.join(said)})", rule.action, outside, reason)


def _bound(bound: float | str, column: _Column) -> pl.Expr:
    if isinstance(bound, str) and column.target in ("date", "datetime"):
        return pl.lit(_moment(bound, column), dtype=column.dtype)
    if isinstance(bound, str) or not column.dtype.is_numeric():
        raise SchemaError(
            f"a bound of vd.Between({column.name!r}) does not fit its column",
            received=f"{bound!r} for {column.target}",
            remedy="numbers have numbers as bounds, dates and datetimes ISO 8601 text; vd.Types gives a column its type",
        )
    return pl.lit(bound)


def _moment(text: str, column: _Column) -> date:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SchemaError(
            f"a bound of vd.Between({column.name!r}) is no date or time",
            received=text,
            remedy="write for example '2013-03-31'",
        ) from error
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.date() if column.target == "date" else moment


def _one_of(rule: OneOf, column: _Column) -> _Check:
    kind = _kind(column.dtype)
    if not all(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) for value in rule.allowed):
        raise SchemaError(
            f"vd.OneOf({column.name!r}) allows values of another type than its column has",
            received=f"{rule.allowed!r} for {column.target}",
            remedy="write the values in the column's type, or give the column another with vd.Types",
        )
    allowed = pl.Series(rule.allowed, dtype=column.dtype, strict=False).drop_nulls()  # what does not fit is no value
    broken = ~column.kept.is_in(allowed.implode())
    if column.dtype.is_float():
        broken = broken & column.kept.is_not_nan()
    said = ", ".join(map(str, rule.allowed[:10])) + (", ..." if len(rule.allowed) > 10 else "")
    reason = pl.format("{}: {} is none of {}", pl.lit(column.name), column.shown, pl.lit(said))
    return _Check(f"one_of({column.name}: {said})", rule.action, broken.fill_null(False), reason)


def _kind(dtype: pl.DataType) -> Any:
    if dtype.is_numeric():
        return int | float if dtype.is_float() else int
    return bool if dtype == pl.Boolean else str if dtype == pl.String else ()


def _column(columns: dict[str, _Column], name: str, asked_by: str) -> _Column:
    require_column(name, columns, asked_by)
    return columns[name]


# -------------------------------------------------------------------------------------------------------------- telling


def _any_of(marks: Iterable[pl.Series]) -> pl.Series | None:
    marked = list(marks)
    return reduce(or_, marked) if marked else None


def _quarantined(raw: pl.DataFrame, found: Sequence[tuple[_Check, pl.Series]], bad: pl.Series | None) -> pl.DataFrame:
    """The marked rows as the file has them, with their numbers and all the reasons for which a row is here."""
    rows = (bad if bad is not None else pl.Series([], dtype=pl.Boolean)).arg_true()
    reasons = [
        pl.when(pl.lit(mark.gather(rows))).then(check.reason) for check, mark in found if check.action == "quarantine"
    ]
    reason = pl.concat_str(reasons, separator="; ", ignore_nulls=True) if reasons else pl.lit(None, pl.String)
    return raw[rows].with_columns((rows + 1).alias(ROW), reason.alias(REASON))


def _violation(raw: pl.DataFrame, check: _Check, mark: pl.Series) -> Violation:
    first = mark.arg_true().head(EXAMPLES)
    told = raw[first].select(pl.format("row {}: {}", first + 1, check.reason)).to_series()
    return Violation(check.rule, check.action, int(mark.sum()), tuple(told))
