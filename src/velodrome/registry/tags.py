"""Tags: what people say about a run after the fact, such as which team it belongs to. They change nothing that it is named by.

A tag is a fact, `tags.<name>`, and an event of the run's chain, so it is known who set it and when. Tags are kept with every
copy of the ledger, so they are no place for personal data.
Cost: one commit, or none where nothing changes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from velodrome.core.errors import ConfigurationError
from velodrome.registry.facts import facts_of, known_of, plain_fact
from velodrome.registry.runs import get_run
from velodrome.store.ledger import Append
from velodrome.store.workspace import Workspace

__all__ = ["TAGGED", "Tag", "Tags", "check_tags", "read_tags", "tag"]

Tag: TypeAlias = float | str
"""The value of a tag. A truth becomes a text, "true" or "false"."""

Tags: TypeAlias = Mapping[str, Tag | None]
"""Name → value; None takes the tag away."""

TAGGED = "run.tagged"
"""Type of the event on a run's chain that says which tags were set, and which (null) taken away."""

_LONGEST_NAME, _LONGEST_TEXT = 200, 1024  # characters; bytes
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def tag(ws: Workspace, reference: str, tags: Tags) -> dict[str, Tag]:
    """Set tags of the run of that id, or whose id begins so, beside those that it has; all that it then has.

    Raises:
        NotFound: no run, or several.
        ConfigurationError: a tag that could not be searched by as it is.
    """
    check_tags(tags)
    run = get_run(ws, reference).id
    present = known_of(ws, run, "tags")
    wanted = {name: plain_fact(value) for name, value in tags.items()}
    changed = {name: value for name, value in wanted.items() if value != present.get(name)}
    if changed:
        ws.commit(Append(f"run:{run}", TAGGED, {"tags": changed}), *facts_of(run, {"tags": changed}))
    return {name: value for name, value in (present | wanted).items() if value is not None}


def read_tags(words: Sequence[str]) -> dict[str, Tag | None]:
    """Tags as they are written on a command line, as texts whatever they look like.

    Raises:
        ConfigurationError: a word without an equals sign.

    >>> read_tags(["team=x", "release=1.10"])
    {'team': 'x', 'release': '1.10'}
    """
    for word in words:
        if "=" not in word:
            raise ConfigurationError("a tag is a name and a value", received=word, remedy=f"write {word}=VALUE")
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def check_tags(tags: Tags) -> None:
    """Refuse what could not be searched by as it is.

    Raises:
        ConfigurationError: names what is wrong.
    """
    for name, value in tags.items():
        if not 0 < len(name) <= _LONGEST_NAME or _NO_TEXT.search(name):
            problem = f"a tag's name has 1 to {_LONGEST_NAME} characters"
            raise ConfigurationError(problem, received=ascii(name), remedy="for example team=x")
        if wrong := _wrong(value):
            raise ConfigurationError(f"the tag {name!r} {wrong}", received=ascii(value), remedy="give a short text")


def _wrong(value: object) -> str | None:
    if isinstance(value, str):
        if _NO_TEXT.search(value):
            return "has a NUL or half a character"
        return f"has more than {_LONGEST_TEXT} bytes" if len(value.encode()) > _LONGEST_TEXT else None
    if isinstance(value, float) and not math.isfinite(value):
        return "is no finite number"
    return None if isinstance(value, int | float | None) else "is neither a text nor a number"
