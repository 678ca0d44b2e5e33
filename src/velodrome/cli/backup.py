"""The commands that keep what nothing else knows: backup, restore."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velodrome.cli.output import Json, print_json, print_table, say

if TYPE_CHECKING:
    from velodrome.store.backup import BackupPlace
    from velodrome.store.workspace import Workspace

__all__ = ["add_to", "backup", "restore"]

_Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="REF",
        help="Key of the backups, where it is not the workspace's: file:PATH, env:NAME, command:WORDS.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Give the program these commands."""
    for command in (backup, restore):
        app.command()(command)


def backup(
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A folder, or s3://bucket/prefix, gs:// or az://.")
    ],
    listed: Annotated[bool, typer.Option("--list", help="Only list the backups that are there.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read again what is there since earlier backups.")] = False,
    key: _Key = None,
    as_json: Json = False,
) -> None:
    """Copy the ledger and all blobs, verified; only blobs that are new there are carried over.

    Killed, the same command goes on; until it is done, the backups before are what is there.
    """
    from velodrome.cli.progress import reporter
    from velodrome.control.backups import back_up
    from velodrome.core.units import show_bytes
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    with open_workspace() as ws:
        if listed:
            _list(_place(ws, destination, key, new=False), as_json)
            return
        done = back_up(ws.reporting_to(reporter(as_json)), _place(ws, destination, key, new=True), verify=verify)
    if as_json:
        print_json(done)
        return
    made = done.backup
    records, blobs = plural(made.tables["record"].rows, "record"), plural(made.blobs, "blob")
    say(f"backup {made.id}: {records}, {blobs}, {show_bytes(made.bytes)}")
    say(f"carried over to {done.where}: {plural(done.carried, 'blob')}")


def restore(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Where `velodrome backup` wrote to.")],
    id_: Annotated[str | None, typer.Option("--backup", help="Which backup; by default the newest.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only read all of the backup; write nothing.")] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="Only bring back blobs that are missing or damaged here, from any backup.")
    ] = False,
    key: _Key = None,
    as_json: Json = False,
) -> None:
    """Fill the empty ledger and blobs that velodrome.toml names from a backup, whatever database and place these are.

    Nothing is written before all of the backup was read and found whole. Killed, the same command goes on.
    """
    from velodrome.cli.progress import reporter
    from velodrome.control import backups
    from velodrome.core.errors import ConfigurationError
    from velodrome.web.words import plural
    from velodrome.workspace import open as open_workspace

    if mend and (check or id_):
        raise ConfigurationError("--mend takes neither --check nor --backup", remedy="it looks into all backups")
    with open_workspace() as opened:
        ws, place = opened.reporting_to(reporter(as_json)), _place(opened, source, key, new=False)
        if mend:
            _mend(ws, place, as_json)
            return
        done = (backups.check if check else backups.restore)(ws, place, id_)
    if as_json:
        print_json(done)
    elif check:
        say(f"backup {done.backup.id} is whole: {plural(done.backup.blobs, 'blob')}")
    else:
        say(
            f"restored backup {done.backup.id} of {done.backup.time:%Y-%m-%d %H:%M} UTC: {plural(done.carried, 'blob')} came over"
        )


def _place(ws: "Workspace", where: str, key: str | None, *, new: bool) -> "BackupPlace":
    from velodrome.core.errors import ConfigurationError
    from velodrome.store.backup import open_backups
    from velodrome.store.keys import read_key

    if "://" not in where and Path(where).resolve().is_relative_to(ws.store):
        raise ConfigurationError(
            "a backup inside of the workspace is lost with it", received=where, remedy="name another disk, or a bucket"
        )
    reference = key or ws.config.encryption_key
    return open_backups(
        where,
        options=ws.config.blob_options,
        key=read_key(reference, Path.cwd() if key else ws.root) if reference else None,
        scratch=ws.store / "scratch",
        new=new,
    )


def _list(place: "BackupPlace", as_json: bool) -> None:
    """What is whole; then, as an error, the first whose manifest is not."""
    from velodrome.core.errors import StorageError
    from velodrome.core.units import show_bytes

    backups, problems = [], []
    for id_ in place.ids():
        try:
            backups.append(place.read(id_))
        except StorageError as error:
            problems.append(error)
    if as_json:
        print_json(backups)
    else:
        rows = [
            (each.id, f"{each.time:%Y-%m-%d %H:%M}", each.tables["record"].rows, each.blobs, show_bytes(each.bytes))
            for each in backups
        ]
        print_table(["backup", "made (UTC)", "records", "blobs", "size"], rows, empty=f"no backup in {place.where} yet")
    if problems:
        raise problems[0]


def _mend(ws: "Workspace", place: "BackupPlace", as_json: bool) -> None:
    from velodrome.control import backups
    from velodrome.core.errors import IntegrityError
    from velodrome.web.words import plural

    done = backups.mend(ws, place)
    if as_json:
        print_json(done)
    else:
        say(f"whole again: {plural(done.mended, 'blob')}")
    if done.lost:
        raise IntegrityError(
            f"in no backup in {done.where}: {plural(len(done.lost), 'blob')}",
            received=", ".join(done.lost[:5]),
            remedy="try another place; what no record needs, `velodrome gc` removes",
        )
