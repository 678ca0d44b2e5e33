"""`velodrome keys`: rotate."""

from typing import TYPE_CHECKING, Annotated

import typer

from velodrome.cli.output import Json, print_json, say

if TYPE_CHECKING:
    from velodrome.control.rotation import Rotation

__all__ = ["app", "rotate"]

app = typer.Typer(help="The keys that blobs are encrypted under.", no_args_is_help=True, rich_markup_mode=None)

_REF = "file:PATH (from the folder of velodrome.toml), env:NAME or command:WORDS"


@app.command()
def rotate(
    to: Annotated[str, typer.Option("--to", metavar="REF", help=f"Where the new master key is: {_REF}.")],
    old: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="REF", help="Where the old one is, if velodrome.toml does not name it any more."
        ),
    ] = None,
    backups: Annotated[
        str | None, typer.Option("--backups", metavar="DEST", help="Rotate the key of these backups instead.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only see that both keys open, and what is to do.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let another master key take the place of the present one. No blob is touched; safe while others work.

    The old key is needed until this ends. Killed, the same command goes on.
    """
    from velodrome.control.rotation import rotate as rotate_keys
    from velodrome.core.errors import ConfigurationError
    from velodrome.store.backup import open_backups
    from velodrome.store.keys import read_key
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        reference = old or ws.config.encryption_key
        if not reference:
            raise ConfigurationError(
                "velodrome.toml names no `encryption_key`",
                remedy="docs/encryption.md says how to begin; or give --from",
            )
        before, new = read_key(reference, ws.root), read_key(to, ws.root)
        options = ws.config.blob_options
        place = open_backups(backups, options=options, key=before, scratch=ws.store / "scratch") if backups else None
        done = rotate_keys(ws, before, new, place=place, dry_run=dry_run)
    if as_json:
        print_json(done)
    else:
        _print(done, to)


def _print(done: "Rotation", to: str) -> None:
    from velodrome.web.words import plural

    verb = "would wrap" if done.dry_run else "wraps"
    say(f"{done.where}: key {done.new} {verb} {plural(done.keys, 'store key')} instead of {done.old}")
    if done.dry_run:
        return
    if done.of == "blobs":
        say(f'next: let `encryption_key` in velodrome.toml be "{to}", and start again whatever is running')
        say(
            "then, for each place of backups: velodrome keys rotate with the same --to, --from the old key, --backups DEST"
        )
    say(f"key {done.old} opens nothing in {done.where} any more")
