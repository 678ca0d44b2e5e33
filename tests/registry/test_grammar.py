import math
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.errors import ConfigurationError
from velodrome.registry.grammar import ATTRIBUTES, GROUPS, parse
from velodrome.store.query import And, Compare, Condition, In, Known, Not, Or, Order, Query

AUC, LR, TEAM = Compare("metrics.auc", ">", 0.7), Compare("params.lr", "<=", 0.01), Compare("tags.team", "=", "x")
KNOWN = ["metrics.auc", "metrics.roc auc", "metrics.val/loss", "params.learner.lr", "params.lr", "tags.team"]

READS: list[tuple[str, Query]] = [
    ("", Query()),
    (" \n\t", Query()),
    ("metrics.auc > 0.7", Query(where=AUC)),
    ("metrics.auc>.7", Query(where=AUC)),
    (
        "metrics.auc > 0.7 and params.lr <= 0.01 and tags.team = 'x' order by metrics.auc desc",
        Query(where=And((AUC, LR, TEAM)), order=(Order("metrics.auc", descending=True),)),
    ),
    ("order by started", Query(order=(Order("started"),))),
    ("ORDER BY started DESC, metrics.auc Asc", Query(order=(Order("started", descending=True), Order("metrics.auc")))),
    ('metrics.auc > 7e-1 or params.lr <= 1e-2 and tags.team = "x"', Query(where=Or((AUC, And((LR, TEAM)))))),
    ("(metrics.auc > 0.7 or params.lr <= 0.01) and tags.team = 'x'", Query(where=And((Or((AUC, LR)), TEAM)))),
    ("not metrics.auc > 0.7 and params.lr <= 0.01", Query(where=And((Not(AUC), LR)))),
    ("not (metrics.auc > 0.7 and NOT not params.lr <= 0.01)", Query(where=Not(And((AUC, Not(Not(LR))))))),
    ("((metrics.auc > 0.7))", Query(where=AUC)),
    ("metrics.`roc auc` >= -inf", Query(where=Compare("metrics.roc auc", ">=", -math.inf))),
    ("metrics.val/loss != +3.", Query(where=Compare("metrics.val/loss", "!=", 3.0))),
    ("`metrics`.`auc`>0.7", Query(where=AUC)),
    ("tags.team in ('x',\"y\", 3, true)", Query(where=In("tags.team", ("x", "y", 3.0, "true")))),
    ("tags.team not in ('it''s')", Query(where=In("tags.team", ("it's",), negated=True))),
    ('tags.team contains "a ""b"" %"', Query(where=Compare("tags.team", "contains", 'a "b" %'))),
    ("tags.new is null", Query(where=Known("tags.new", negated=True))),
    ("tags.new is not null", Query(where=Known("tags.new"))),
    ("tags.team = 'and or ( not'", Query(where=Compare("tags.team", "=", "and or ( not"))),
    ("tags.team = ''", Query(where=Compare("tags.team", "=", ""))),
    ("params.lr = false", Query(where=Compare("params.lr", "=", "false"))),
    ("steps = 007", Query(where=Compare("steps", "=", 7.0))),
    ("seed = '9007199254740993'", Query(where=Compare("seed", "=", "9007199254740993"))),
]


@pytest.mark.parametrize(("text", "query"), READS, ids=[text for text, _ in READS])
def test_a_query_reads(text: str, query: Query) -> None:
    assert parse(text, KNOWN) == query


def test_a_name_in_backticks_may_have_any_character() -> None:
    assert parse("tags.`a ``b``.c = '` = 1") == Query(where=Compare("tags.a `b`.c = '", "=", 1.0))
    assert parse("tags.é.`ü x`.1 = 1") == Query(where=Compare("tags.é.ü x.1", "=", 1.0))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31 12:30:00.5+02:00", datetime(2026, 1, 31, 10, 30, 0, 500000, tzinfo=UTC)),
        ("2026-01-31T12:30:00Z", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
    ],
)
def test_a_date_is_compared_as_facts_have_it(text: str, moment: datetime) -> None:
    written = moment.isoformat(timespec="microseconds")
    assert parse(f"started > '{text}'") == Query(where=Compare("started", ">", written))


@given(st.lists(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))])), min_size=2, max_size=2))
def test_dates_are_ordered_as_their_texts_are(moments: list[datetime]) -> None:
    try:
        texts = [parse(f"started = '{moment.isoformat()}'").where.value for moment in moments]  # type: ignore[union-attr]
    except ConfigurationError:  # before the year 1 in UTC
        return
    assert (texts[0] < texts[1]) == (moments[0] < moments[1])


REFUSED: list[tuple[str, str, str]] = [  # the query, with ^ before the place; problem; remedy
    ("^auc > 1", "runs have no 'auc'", "did you mean 'metrics.auc'?"),
    ("^metrics.acu > 1", "no run has 'metrics.acu'", "did you mean 'metrics.auc'?"),
    ("^metric.auc > 1", "runs have no 'metric.auc'", "did you mean 'metrics.auc'?"),
    ("seed = 1 order by ^stated", "runs have no 'stated'", "did you mean 'started'?"),
    ("order by ^metrics.acu", "no run has 'metrics.acu'", "did you mean 'metrics.auc'?"),
    ("^metrics > 1", "runs have no 'metrics'", ""),
    ("^line", "runs have no 'line'", "name = 'line'"),
    ("metrics.auc ^>> 1", "here a comparison is expected", "did you mean '>'?"),
    ("metrics.auc ^== 1", "here a comparison is expected", "did you mean '='?"),
    ("metrics.auc ^0.7", "here a comparison is expected", "known: !=, <"),
    ("params.lr ^like 'x%'", "here a comparison is expected", "contains"),
    ("params.lr not ^like 'x%'", "here 'in' is expected", ""),
    ("metrics.auc > ^'x'", "metrics.auc is a number, and this is none", ""),
    ("name = ^5", "name is a text, and this is none", ""),
    ("steps in (1, ^'x')", "steps is a number, and this is none", ""),
    ("metrics.auc ^contains 'x'", "only a text contains something", ""),
    ("started ^contains '2026'", "only a text contains something", ""),
    ("tags.team = ^x", "here a number is expected, or a text in quotes", "write it in quotes: 'x'"),
    ("tags.team = ^null", "here a number is expected, or a text in quotes", "is null"),
    ("tags.team = ^", "here a number is expected, or a text in quotes", ""),
    ("tags.team in ^5", "here '(' is expected", ""),
    ("tags.team in (^)", "here a number is expected, or a text in quotes", ""),
    ("tags.team in ('x' ^'y')", "here ')' is expected", ""),
    ("tags.team is ^5", "here 'null' is expected", ""),
    ("started > ^5", "here a date is expected", "2026-01-31"),
    ("started > ^'yesterday'", "here a date is expected", "2026-01-31"),
    ("started > ^'0001-01-01T00:00+14:00'", "here a date is expected", ""),
    ("(metrics.auc > 1^", "here ')' is expected", ""),
    ("metrics.auc > 1^)", "here the query should go on, or end", ""),
    ("metrics.auc > 1 ^amd seed = 1", "here the query should go on, or end", "did you mean 'and'?"),
    ("seed = 1 order ^metrics.auc", "here 'by' is expected", ""),
    ("seed = 1 order by metrics.auc ^down", "here the query should go on, or end", ""),
    ("seed = 1 order by ^", "here a key is expected", ""),
    ("not^", "here a key is expected", ""),
    ("seed = 1 and ^or seed = 2", "here a key is expected", ""),
    ("^'x' = name", "here a key is expected", ""),
    ("tags.team = ^'x", "a quote is missing", ""),
    ("tags^.`x = 1", "this is no word of a query", ""),
    ("name = 'ü' and ^§ = 1", "this is no word of a query", ""),
    ("tags.team = ^'a\0b'", "this is no word of a query", ""),
    ("tags.team = ^'half \ud83d'", "this is no word of a query", ""),
    ("seed = 1^; DROP TABLE fact", "this is no word of a query", ""),
]


@pytest.mark.parametrize(("text", "problem", "remedy"), REFUSED, ids=[ascii(row[0]) for row in REFUSED])
def test_what_does_not_read_is_shown_with_a_caret_under_the_place(text: str, problem: str, remedy: str) -> None:
    place = text.index("^")
    with pytest.raises(ConfigurationError) as caught:
        parse(text.replace("^", ""), KNOWN)
    assert problem in caught.value.problem
    assert remedy in (caught.value.remedy or "")
    lines = str(caught.value).splitlines()
    [caret] = [line for line in lines if line.strip() == "^"]
    assert lines[lines.index(caret) - 1][len("  received: ") :] == text.replace("^", "")
    assert caret.index("^") == len("  received: ") + place


def test_of_a_long_query_what_is_about_the_place_is_shown() -> None:
    text = "seed = 1 and\n" * 40 + "sead = 1" + " and seed = 1" * 40
    with pytest.raises(ConfigurationError, match="no 'sead'") as caught:
        parse(text)
    shown, caret = str(caught.value).splitlines()[1:3]
    assert len(shown) < 110
    assert shown[caret.index("^") :].startswith("sead = 1")


def test_where_nothing_is_known_nothing_is_refused() -> None:
    assert parse("metrics.acu > 1").where == Compare("metrics.acu", ">", 1.0)


ENDLESS = {
    "parentheses": "(" * 9_999,
    "nots": "not " * 2_400 + "seed = 1",
    "more parentheses": "(" * 100_000,
    "comparisons": " and ".join(["seed = 1"] * 101),
    "orders": "order by " + ", ".join(["seed"] * 9),
    "digits": "seed = " + "9" * 9_900 + "x",
    "quotes": "name = '" + "''" * 4_900,
    "backticks": "tags." + "`a" * 4_900,
    "operators": "seed " + "=" * 9_900,
    "spaces": "seed" + " " * 9_900 + "!",
}


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS.keys())
def test_no_text_is_too_much(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse(text)


def test_as_much_as_is_promised_reads() -> None:
    deep = "(" * 32 + "seed = 1" + ")" * 32
    assert parse(deep).where == Compare("seed", "=", 1.0)
    assert len(parse(" or ".join([deep] * 100)).where.conditions) == 100  # type: ignore[union-attr]
    assert len(parse("order by " + ", ".join(["seed"] * 8)).order) == 8


@given(st.text(max_size=60) | st.text("()'\"`<=>!., andortisbyul0157e-metrics", max_size=60))
def test_any_text_reads_or_is_refused_by_name(text: str) -> None:
    try:
        said = str(parse(text))
    except ConfigurationError as error:
        said = str(error)
    assert said.startswith("Query(") or "\n  received: " in said


# ------------------------------------------------------------------------------------- what is written reads as it was meant

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
keys = st.one_of(
    st.sampled_from([key for key, kind in ATTRIBUTES.items() if kind == "text"]),
    st.tuples(st.sampled_from(["params", "tags"]), names).map(".".join),
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
comparisons: st.SearchStrategy[Condition] = st.one_of(
    st.builds(Compare, keys, st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "contains"]), texts),
    st.builds(In, keys, st.lists(texts, min_size=1, max_size=3).map(tuple), st.booleans()),
    st.builds(Known, keys, st.booleans()),
    st.builds(
        Compare,
        st.sampled_from(["steps", "metrics.auc"]),
        st.sampled_from(["=", "<"]),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
)
parts = lambda inner: st.lists(inner, min_size=2, max_size=3).map(tuple)  # noqa: E731
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(st.builds(Not, inner), st.builds(And, parts(inner)), st.builds(Or, parts(inner))),
    max_leaves=8,
)


def written(condition: Condition) -> str:
    match condition:
        case And(some):
            return " and ".join(f"({written(each)})" for each in some)
        case Or(some):
            return " or ".join(f"({written(each)})" for each in some)
        case Not(other):
            return f"not ({written(other)})"
        case Known(key, negated):
            return f"{name(key)} is {'' if negated else 'not '}null"
        case In(key, values, negated):
            return f"{name(key)} {'not ' if negated else ''}in ({', '.join(map(quoted, values))})"
        case Compare(key, operator, value):
            return f"{name(key)} {operator} {quoted(value)}"


def name(key: str) -> str:
    first, dot, rest = key.partition(".")
    return first if not dot else f"{first}.`{rest.replace('`', '``')}`"


def quoted(value: Any) -> str:
    return repr(value) if isinstance(value, float) else "'" + value.replace("'", "''") + "'"


@given(conditions, st.lists(st.builds(Order, keys, st.booleans()), max_size=3).map(tuple))
def test_what_is_written_reads_as_it_was_meant(condition: Condition, order: tuple[Order, ...]) -> None:
    text = written(condition)
    if order:
        text += " order by " + ", ".join(f"{name(each.key)}{' desc' if each.descending else ''}" for each in order)
    assert parse(text) == Query(where=condition, order=order)


def test_every_key_is_documented() -> None:
    table = (Path(__file__).parents[2] / "docs" / "search.md").read_text().partition("## The words")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    documented = {key for row in rows for key in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
    groups = {key.partition(".")[0] for key in documented if "<" in key}
    assert {key for key in documented if "." not in key} == set(ATTRIBUTES)
    assert groups == set(GROUPS)
