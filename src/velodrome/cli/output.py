"""What the commands share: how a moment is said, and how results reach a person or a program.

Tables and lines go to standard output, or JSON with `--json`; errors to standard error.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from velodrome.core.errors import ConfigurationError, VelodromeError, name_of

__all__ = ["Json", "moment", "print_error", "print_json", "print_table", "say"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def moment(option: str, text: str | None) -> datetime | None:
    """What an option says: an ISO date or time, in UTC where it names no zone."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{option} is no ISO date or time", received=text, remedy="2013-05-01T06:00"
        ) from error
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def say(text: str) -> None:
    typer.echo(text)


def print_json(value: Any) -> None:
    """Any struct or plain value as indented JSON."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "nothing yet") -> None:
    """A table a person can read; as wide as its content when the output is no terminal."""
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    if not rows:
        say(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) or row[index] is None for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)


def print_error(error: VelodromeError, *, as_json: bool) -> None:
    """The error on standard error, as words or as one JSON object."""
    notes = getattr(error, "__notes__", [])
    if as_json:
        import msgspec

        facts = {
            "error": name_of(error),
            "problem": "; ".join([error.problem, *notes]),
            "received": error.received,
            "remedy": error.remedy,
            "exit_code": int(error.exit_code),
        }
        typer.echo(msgspec.json.encode(facts, enc_hook=repr).decode(), err=True)
    else:
        typer.echo("\n  ".join([f"{name_of(error)}: {error}", *notes]), err=True)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if value == 0.0 or 1e-3 <= abs(value) < 1e9 else f"{value:.4g}"
