"""The program `velodrome`: all commands, and the one place where an error becomes words and an exit code."""

import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from velodrome.cli import audit, backup, collect, data, find, keys, lineage, loop, models, report, runs, work
from velodrome.cli.output import print_error
from velodrome.core.errors import ConfigurationError, ExitCode, Preempted, VelodromeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="velodrome",
    help="The whole life of a trained model: data, training, gates, approval, and what is in production and why.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
work.add_to(app)
loop.add_to(app)
report.add_to(app)
backup.add_to(app)
collect.add_to(app)
lineage.add_to(app)
app.add_typer(find.app, name="find")
app.add_typer(runs.app, name="runs")
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.add_typer(audit.app, name="audit")
app.add_typer(keys.app, name="keys")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    log_level: Annotated[
        str, typer.Option("--log-level", help="debug, info, warning or error: what is logged to standard error.")
    ] = "warning",
) -> None:
    from velodrome.core.logging import configure_logging

    if log_level not in ("debug", "info", "warning", "error"):
        raise ConfigurationError(
            "there is no such log level", received=log_level, remedy="debug, info, warning or error"
        )
    configure_logging(log_level)
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"velodrome {installed('velodrome')}")
        raise typer.Exit


_GOES_ON = "the same command goes on where this one stopped"
_ENDED: dict[object, VelodromeError] = {
    ExitCode.INTERRUPTED: VelodromeError("interrupted", remedy=_GOES_ON),
    ExitCode.PREEMPTED: Preempted("the process was asked to end", remedy=_GOES_ON),
}


def main() -> None:
    """Run the program and exit with its code: 0, a documented code, or 1 with a traceback for a bug of ours."""
    try:
        signal.signal(signal.SIGTERM, _leave)
        _require_text(sys.argv)
        sys.exit(_called(as_json="--json" in sys.argv))
    except VelodromeError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    except SystemExit as ended:  # what typer makes of Ctrl-C, too
        if ended.code in _ENDED:
            print_error(_ENDED[ended.code], as_json="--json" in sys.argv)
        raise


def _called(*, as_json: bool) -> int:
    """The exit code of the command. A program that asked for JSON is told of wrong words in JSON too, not of their usage."""
    try:
        return app(standalone_mode=not as_json) or 0
    except typer.TyperException as error:
        raise ConfigurationError(
            error.format_message().rstrip("."),
            received=shlex.join(sys.argv[1:]),
            remedy="the same words with --help instead of --json tell what is taken",
        ) from error


def _require_text(words: Sequence[str]) -> None:
    """Names are recorded and shown as texts, which half a character cannot be."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError(
                "an argument is no text in UTF-8", received=ascii(word), remedy="rename the file, or set a UTF-8 locale"
            ) from error


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """At SIGTERM, where there is no state to be saved first: whatever is done by then is found by the same command."""
    sys.exit(ExitCode.PREEMPTED)
