"""What a person means by a few characters: a version, a run, a dataset, a file, or the digest of anything.

Names and ids are looked up. Where nothing has that name, the whole ledger is looked through once for a digest that begins so,
and for a file that was called so when it was read: a second for some 300,000 records and edges.
"""

import re
from contextlib import closing, suppress
from pathlib import PurePath
from typing import Any

from velodrome.core.digest import decode, is_digest
from velodrome.core.errors import NotFound, nearest
from velodrome.registry.versions import resolve
from velodrome.store.rows import read_verified
from velodrome.store.workspace import Workspace

__all__ = ["SOURCE", "find"]

SOURCE = "source"
"""The role that a file plays for a fragment."""

_SHORTEST, _SHOWN = 8, 5


def find(ws: Workspace, reference: str) -> tuple[str, str]:
    """The subject or digest that a reference means, and what that is: the kind of a record, or the role that it plays.

    Args:
        reference: name/7, name@alias or the name of a model; an id of a run; the name of a dataset, which means its newest
            snapshot; the name of a file that was read; or a digest. Of an id the beginning is enough, of a digest eight
            characters of it.

    Raises:
        NotFound: nothing is called so, or several things are; the nearest, or they, are named.
    """
    found = _called(ws, reference) or _like(ws, reference)
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        shown = [_shown(name, what) for name, what in list(found.items())[:_SHOWN]]
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise NotFound(f"{len(found)} things are called so", received=reference, remedy=f"{', '.join(shown)}{more}")
    if ws.ledger.pointer(f"model:{re.split('[@/]', reference)[0]}"):
        resolve(ws, reference)  # which says what of it is not there
    raise NotFound("nothing is called so", received=reference, remedy=nearest(reference, _known(ws)))


def _shown(name: str, what: str) -> str:
    return f"{name[:12] if is_digest(name) else name.partition(':')[2]} ({'file' if what == SOURCE else what})"


def _called(ws: Workspace, reference: str) -> dict[str, str]:
    """What has that name, or an id that begins so."""
    found = {}
    with suppress(NotFound):
        found[f"version:{resolve(ws, reference).reference}"] = "version"
    dataset = ws.ledger.pointer(f"dataset:{reference}")
    if dataset and dataset.value:
        found[dataset.value] = "snapshot"
    if reference:
        found |= dict.fromkeys((pointer.subject for pointer in ws.ledger.pointers(f"run:{reference}")), "run")
    return found


def _like(ws: Workspace, reference: str) -> dict[str, str]:
    """What has a digest that begins so; and the bytes of files of that name."""
    found: dict[str, str] = {}
    digest = len(reference) >= _SHORTEST and not set(reference) - set("0123456789abcdef")
    with closing(ws.ledger.dump("edge", "record")) as batches:
        for table, rows in batches:
            for row in rows:
                if table == "record":
                    found |= _of_record(row, reference, digest=digest)
                elif digest:
                    ends = (end for end in (row[0], row[2]) if end.startswith(reference) and is_digest(end))
                    found |= {end: found.get(end, row[1]) for end in ends}
    return found


def _of_record(row: tuple[Any, ...], reference: str, *, digest: bool) -> dict[str, str]:
    """The record of a row, or the file of which it is a fragment, if one of them is meant."""
    name, kind = row[1], row[2]
    if digest and name.startswith(reference):
        return {name: kind}
    if kind == "fragment":
        file, source = _source(read_verified(row).payload)
        if reference in (file, PurePath(file).name) or (digest and source.startswith(reference)):
            return {source: SOURCE}
    return {}


def _source(payload: bytes) -> tuple[str, str]:
    """What the file of a fragment was called, and its digest; raises as `decode`."""
    read = decode(payload, dict)
    return str(read.get("file")), str(read.get("source"))


def _known(ws: Workspace) -> list[str]:
    """What people call things by."""
    subjects = (pointer.subject for kind in ("model:", "dataset:") for pointer in ws.ledger.pointers(kind))
    files = (_source(stored.payload)[0] for stored in ws.ledger.records("fragment"))
    return [*(subject.partition(":")[2] for subject in subjects), *files]
