"""`velodrome trace`: what anything was made from, and what was made from it."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from velodrome.cli.output import Json, print_json, say

if TYPE_CHECKING:
    from velodrome.registry.graph import Lineage, Node

__all__ = ["add_to", "trace"]

_MOST = 8
"""Nodes of one kind that are shown below another."""

_LINES = 300
"""Lines of a tree."""

_MORE = ""
"""Stands in the place of a node, for those that are not shown."""

_WIDTH = 100
_BARE = ("artifact", "code", "file", "run", "version")
_HIDDEN = ("profile",)
_ORDER = ("run", "version", "snapshot", "fragment", "file", "code", "environment", "provenance", "artifact")


def add_to(app: typer.Typer) -> None:
    """Give the program this command."""
    app.command()(trace)


def trace(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="A version, a run, a dataset, the name of a file, or any digest; its beginning is enough.",
        ),
    ],
    down: Annotated[bool, typer.Option("--down", help="What was made from it, not what it was made from.")] = False,
    depth: Annotated[int | None, typer.Option("--depth", min=1, help="How many steps at most.")] = None,
    as_json: Json = False,
) -> None:
    """What anything was made from: data files, code, environment, decisions; with --down, what was made from it."""
    from velodrome.registry.graph import walk
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        lineage = walk(ws, reference, down=down, depth=depth)
    if as_json:
        print_json(lineage)
        return
    lines = list(islice(_tree(lineage), _LINES + 1))
    for line in lines[:_LINES]:
        say(line)
    if len(lines) > _LINES:
        say("... and so on")
    hidden = sum(not _is_shown(node) for node in lineage.nodes.values())
    left = f", of which {hidden} blobs and profiles are not shown" if hidden else ""
    say(f"{plural(len(lineage.nodes), 'thing')}{left}: see --json")
    if down:
        say(_standing(lineage))


def _tree(lineage: "Lineage") -> Iterator[str]:
    """The lines of a tree; what lies below a node is told once."""
    steps, told = lineage.steps(), set[str]()
    waiting: list[tuple[str, str, str]] = [("", "", lineage.start)]
    while waiting:
        indent, role, id_ = waiting.pop()
        if id_ == _MORE:
            yield f"{indent}{role}"
            continue
        below = list(_below(lineage, id_, steps.get(id_, [])))
        note = " (above)" if below and id_ in told else " ..." if id_ in lineage.ends else ""
        yield f"{indent}{f'{role}: ' if role else ''}{_line(lineage.nodes[id_])}{note}"
        waiting += [] if id_ in told else [(f"{indent}  ", *one) for one in reversed(below)]
        told.add(id_)


def _below(lineage: "Lineage", above: str, steps: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(role, node) of what is shown below a node, where its role says more than the kinds do; (how many more, _MORE)."""
    kinds: dict[str, dict[str, str]] = {}
    for role, id_ in steps:
        kind = lineage.nodes[id_].kind
        plain = role in (kind, lineage.nodes[above].kind, "source") or kind == "decision"
        if _is_shown(lineage.nodes[id_]):
            kinds.setdefault(kind, {})[id_] = "" if plain else role
    for kind in sorted(kinds, key=lambda kind: _ORDER.index(kind) if kind in _ORDER else len(_ORDER)):
        found = sorted(kinds[kind], key=lambda id_: lineage.nodes[id_].name)
        if lineage.down or kind == "decision":
            found.sort(key=lambda id_: str(lineage.nodes[id_].created), reverse=lineage.down)
        yield from ((kinds[kind][id_], id_) for id_ in found[:_MOST])
        if len(found) > _MOST:
            yield f"... and {len(found) - _MOST} more of kind {kind}", _MORE


def _is_shown(node: "Node") -> bool:
    """Whether a person wants to see it: what has a record, or is a model, code or a file."""
    return (node.created is not None or node.kind in _BARE) and node.kind not in _HIDDEN


def _line(node: "Node") -> str:
    name = node.name if len(node.name) <= _WIDTH else f"{node.name[: _WIDTH - 3]}..."
    standing = ", ".join(filter(None, [node.state, *node.aliases]))
    digest = "" if ":" in node.id or name == node.id[:12] else f" [{node.id[:12]}]"
    return f"{node.kind} {name}{f' ({standing})' if standing else ''}{digest}"


def _standing(lineage: "Lineage") -> str:
    """Which versions came of it, and which of them stand behind an alias now."""
    versions = [node for node in lineage.nodes.values() if node.kind == "version" and node.id != lineage.start]
    standing = [f"{node.name} is {', '.join(node.aliases)}" for node in versions if node.aliases]
    return f"versions that came of it: {len(versions)}; {'; '.join(standing) or 'none stands behind an alias now'}"
