"""`velodrome audit`: anchor, verify."""

from typing import TYPE_CHECKING, Annotated

import typer

from velodrome.cli.output import Json, print_json, print_table, say

if TYPE_CHECKING:
    from velodrome.control.auditing import Audit

__all__ = ["anchor", "app", "verify"]

app = typer.Typer(help="Prove that what is recorded is what was recorded.", no_args_is_help=True, rich_markup_mode=None)

_SHOWN = 50


@app.command()
def anchor(as_json: Json = False) -> None:
    """Name all that stands in the ledger now by one digest. Keep it where nobody who can write to the ledger can."""
    from velodrome.control.auditing import anchor as make_anchor
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        made = make_anchor(ws)
    if as_json:
        print_json(made)
        return
    seen = made.anchor
    say(made.digest)
    said = [plural(seen.records, "record"), f"{plural(seen.events, 'event')} in {plural(seen.chains, 'chain')}"]
    say(f"anchor {seen.number}: {', '.join(said)}, {plural(seen.edges, 'edge')}")
    say(f"later: velodrome audit verify --anchor {made.digest}")


@app.command()
def verify(
    kept: Annotated[
        str | None, typer.Option("--anchor", help="The digest of an anchor that was kept elsewhere.")
    ] = None,
    histories: Annotated[
        bool, typer.Option("--histories/--no-histories", help="Read the series of finished runs too.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Find whatever was edited, taken out, put in or reordered; exit 4 when something was. docs/audit.md says what is proven."""
    from velodrome.cli.progress import reporter
    from velodrome.control.auditing import verify as verify_ledger
    from velodrome.core.errors import IntegrityError
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        audit = verify_ledger(ws.reporting_to(reporter(as_json)), anchor=kept, histories=histories)
    if as_json:
        print_json(audit)
    else:
        _print(audit, kept)
    if audit.damages:
        first = audit.damages[0]
        raise IntegrityError(
            f"not as it was written: {plural(len(audit.damages), 'thing')}",
            received=f"{first.what} of {first.subject}: {first.problem}",
            remedy="restore a backup from before, and find out who can write to the ledger",
        )


def _print(audit: "Audit", kept: str | None) -> None:
    from velodrome.web.words import plural

    damages = audit.damages[:_SHOWN]
    print_table(
        ["what", "of", "position", "problem"],
        [(one.what, one.subject, one.position, one.problem) for one in damages],
        empty=f"sound: {', '.join(f'{count} {what}' for what, count in audit.seen.items() if count)}",
    )
    if len(audit.damages) > _SHOWN:
        say(f"and {len(audit.damages) - _SHOWN} more: --json has all")
    if audit.newest is None:
        say("no anchor yet, so only the chains were looked at: velodrome audit anchor")
        return
    digest, time = audit.newest
    since = ", ".join(f"{count} {what}" for what, count in audit.later.items() if count) or "nothing"
    say(f"newest of {plural(audit.anchors, 'anchor')}: {digest}, {time:%Y-%m-%d %H:%M}; since then came {since}")
    if kept is None:
        say("whoever can write to the ledger could have cut newer anchors off: give one that you kept with --anchor")
    for edge in audit.late[:_SHOWN]:
        say(
            f"note: {edge.src[:12]} was there before its edge {edge.role!r} to {edge.dst[:12]}: did an upgrade write it?"
        )
