"""The words in which runs are searched, read into a `Query`: `metrics.auc > 0.7 and tags.team = 'x' order by metrics.auc desc`.

    query       = [condition] ["order" "by" order {"," order}]
    condition   = conjunction {"or" conjunction}
    conjunction = negation {"and" negation}
    negation    = "not" negation | "(" condition ")" | comparison
    comparison  = key ("=" | "!=" | "<" | "<=" | ">" | ">=" | "contains") value
                | key ["not"] "in" "(" value {"," value} ")"
                | key "is" ["not"] "null"
    order       = key ["asc" | "desc"]
    value       = number | text in quotes, '' or "" | "true" | "false"

A key is names with dots between them; a name with other characters stands in backticks. Words of the grammar may be written
in capitals. What the conditions mean is said in `velodrome.store.query`. Reading is one pass from left to right, whose depth
and length are bounded, so no text can be too much for it. Cost: microseconds for each word.
"""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Literal, get_args

import msgspec

from velodrome.core.errors import ConfigurationError, nearest
from velodrome.store.query import And, Compare, Comparison, Condition, In, Known, Not, Or, Order, Query

__all__ = ["ATTRIBUTES", "GROUPS", "parse"]

_Kind = Literal["number", "text", "time", "either"]

ATTRIBUTES: dict[str, _Kind] = {
    **dict.fromkeys(("id", "name", "type", "state", "owner", "snapshot", "judge", "primary"), "text"),
    **dict.fromkeys(("key", "code", "environment", "artifact", "weights", "history"), "text"),
    **dict.fromkeys(("attempts", "seconds", "steps", "rows"), "number"),
    "seed": "either",  # beyond 2^53 a text
    "started": "time",
}
"""The keys that a run has by itself → what is known under them."""

GROUPS: dict[str, _Kind] = {"metrics": "number", "series": "number", "params": "either", "tags": "either"}
"""What other keys begin with → what is known under them."""

_LONGEST, _DEEPEST, _MOST_COMPARISONS, _MOST_ORDERS = 10_000, 32, 100, 8
_WORDS = {"and", "or", "not", "in", "is", "null", "order", "by", "asc", "desc", "contains", "true", "false"}
_OPERATORS: tuple[Comparison, ...] = get_args(Comparison)

_NAME = r"(?:`(?:[^`]|``)+`|[\w@/:+-]+)"
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>[+-]?(?:inf|(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)(?![\w.`@/:]))"
    r"|(?P<text>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
    rf"|(?P<word>{_NAME}(?:\.{_NAME})*)"
    r"|(?P<operator>[=!<>~&|]+)"
    r"|(?P<mark>[(),])"
    r"|(?P<stranger>.)",
    re.IGNORECASE,
)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class _Token(msgspec.Struct, frozen=True):
    """One piece of a query. `kind` is a group of `_TOKEN`, or "end"."""

    kind: str
    text: str
    position: int

    @property
    def word(self) -> str:
        """What it is in the grammar; nothing for a key or a value."""
        if self.kind in ("operator", "mark"):
            return self.text
        return self.text.lower() if self.kind == "word" and self.text.lower() in _WORDS else ""


def parse(text: str, known: Collection[str] = ()) -> Query:
    """What a text asks for.

    Args:
        known: every key that there is a fact of. A comparison with another key, or an order by it, is refused, since it is a
            slip of the pen; where nothing is known at all nothing is refused.

    Raises:
        ConfigurationError: the text does not read; a caret is under the place, and the nearest key or word is named.
    """
    if len(text) > _LONGEST:
        problem = f"a query has at most {_LONGEST} characters"
        raise ConfigurationError(problem, received=f"{len(text)} characters", remedy="ask for less")
    return _Parser(text, known).query()


class _Parser:
    """Reads the tokens from left to right: each method what it is named for, leaving the next token as the present one."""

    def __init__(self, text: str, known: Collection[str]) -> None:
        self._text, self._known = text, known
        found = [_Token(str(each.lastgroup), each[0], each.start()) for each in _TOKEN.finditer(text)]
        self._tokens = [token for token in found if token.kind != "space"] + [_Token("end", "", len(text))]
        self._at = self._depth = self._comparisons = 0

    def query(self) -> Query:
        for token in self._tokens:
            if token.kind == "stranger" or _NO_TEXT.search(token.text):
                quote = ": a quote is missing" if token.text in "'\"`" else ""
                raise self._error(f"this is no word of a query{quote}", token)
        where = self._condition() if self._now.kind != "end" and self._now.word != "order" else And(())
        order = self._orders() if self._take("order") else ()
        if self._now.kind != "end":
            raise self._error("here the query should go on, or end", words=["and", "or", "order by"])
        return Query(where=where, order=order)

    # ------------------------------------------------------------------------------------------------------- conditions

    def _condition(self) -> Condition:
        parts = [self._conjunction()]
        while self._take("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self) -> Condition:
        parts = [self._negation()]
        while self._take("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Condition:
        if self._now.word not in ("not", "("):
            return self._comparison()
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error(f"a query is at most {_DEEPEST} conditions deep")
        if self._take("not"):
            condition: Condition = Not(self._negation())
        else:
            self._expect("(")
            condition = self._condition()
            self._expect(")")
        self._depth -= 1
        return condition

    def _comparison(self) -> Condition:
        self._comparisons += 1
        if self._comparisons > _MOST_COMPARISONS:
            raise self._error(f"a query makes at most {_MOST_COMPARISONS} comparisons")
        token, key = self._key()
        if self._take("is"):
            there = self._take("not")
            self._expect("null")
            return Known(key, negated=not there)
        self._require_known(token, key)
        negated = self._take("not")
        if negated or self._now.word == "in":
            self._expect("in")
            return In(key, self._values(key), negated)
        return Compare(key, self._operator(key), self._value(key))

    def _operator(self, key: str) -> Comparison:
        operator = next((each for each in _OPERATORS if each == self._now.word), None)
        if operator is None:
            raise self._error("here a comparison is expected", words=[*_OPERATORS, "in", "is"])
        if operator == "contains" and _kind(key) not in ("text", "either"):
            raise self._error(f"only a text contains something, and {key} is a {_kind(key)}")
        self._at += 1
        return operator

    def _orders(self) -> tuple[Order, ...]:
        self._expect("by")
        orders = [self._order()]
        while self._take(","):
            if len(orders) == _MOST_ORDERS:
                raise self._error(f"runs are ordered by at most {_MOST_ORDERS} keys")
            orders.append(self._order())
        return tuple(orders)

    def _order(self) -> Order:
        token, key = self._key()
        self._require_known(token, key)
        descending = self._take("desc")
        if not descending:
            self._take("asc")
        return Order(key, descending)

    # --------------------------------------------------------------------------------------------------- keys and values

    def _key(self) -> tuple[_Token, str]:
        token = self._now
        if token.kind != "word" or token.word:
            raise self._error("here a key is expected, such as metrics.roc_auc")
        names = [_unquoted(name) if name[0] == "`" else name for name in re.findall(_NAME, token.text)]
        key = ".".join(names)
        if key not in ATTRIBUTES and (len(names) < 2 or names[0] not in GROUPS):
            raise self._unknown(f"runs have no {key!r}", token, key)
        self._at += 1
        return token, key

    def _values(self, key: str) -> tuple[float | str, ...]:
        self._expect("(")
        values = [self._value(key)]
        while self._take(","):
            values.append(self._value(key))
        self._expect(")")
        return tuple(values)

    def _value(self, key: str) -> float | str:
        """A value of the kind that the key has."""
        value, kind = self._literal(), _kind(key)
        if kind == "time":
            value = self._moment(value)
        elif kind != "either" and (kind == "text") != isinstance(value, str):
            raise self._error(f"{key} is a {kind}, and this is none")
        self._at += 1
        return value

    def _literal(self) -> float | str:
        token = self._now
        if token.kind == "number":
            return float(token.text)
        if token.kind == "text":
            return _unquoted(token.text)
        if token.word in ("true", "false"):
            return token.word
        remedy = f"write it in quotes: '{token.text}'" if token.kind == "word" else None
        if token.word == "null":
            remedy = "write: is null, or: is not null"
        raise self._error("here a number is expected, or a text in quotes", remedy=remedy)

    def _moment(self, value: float | str) -> str:
        """A time as facts have it: in UTC, with microseconds."""
        try:
            moment = datetime.fromisoformat(str(value))
            utc = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            example = "'2026-01-31' or '2026-01-31T12:00:00+01:00'"
            raise self._error("here a date is expected", remedy=f"write for example {example}") from error
        return utc.isoformat(timespec="microseconds")

    def _require_known(self, token: _Token, key: str) -> None:
        if self._known and key not in ATTRIBUTES and key not in self._known:
            raise self._unknown(f"no run has {key!r}", token, key)

    # -------------------------------------------------------------------------------------------------- words and errors

    @property
    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, word: str) -> bool:
        """Go on, if the present token is that word of the grammar."""
        taken = self._now.word == word
        self._at += taken
        return taken

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._error(f"here {word!r} is expected")

    def _unknown(self, problem: str, token: _Token, key: str) -> ConfigurationError:
        """The remedy names the key that ends so, or the nearest of those that begin alike."""
        if len(self._tokens) == 2:
            return self._error(problem, token, remedy=f"runs of that name are found by: name = '{key}'")
        every = {*ATTRIBUTES, *self._known}
        ending = [each for each in every if each.endswith(f".{key}")]
        alike = {each for each in every if each.partition(".")[0] == key.partition(".")[0]}
        return self._error(problem, token, remedy=nearest(ending[0] if len(ending) == 1 else key, alike or every))

    def _error(
        self, problem: str, token: _Token | None = None, *, words: Collection[str] = (), remedy: str | None = None
    ) -> ConfigurationError:
        """What is wrong at a token (the present one), with what is written about it and a caret under it."""
        token = token or self._now
        first = max(0, token.position - 50)
        shown = re.sub(r"\s", " ", self._text[first : token.position + 40])
        caret = " " * (len("  received: ") + token.position - first) + "^"
        near = nearest(token.text, words) if words else None
        return ConfigurationError(problem, received=f"{shown}\n{caret}", remedy=remedy or near)


def _unquoted(text: str) -> str:
    quote = text[0]
    return text[1:-1].replace(quote * 2, quote)


def _kind(key: str) -> _Kind:
    return ATTRIBUTES.get(key) or GROUPS[key.partition(".")[0]]
