"""`velodrome keys rotate`: another master key takes the place of the one that blobs, or backups, are encrypted under.

The store keys, which lie beside the blobs, are wrapped with the new master key, and what is stored from now on gets a store
key of its own (`store.encryption`); no blob is read or written. May be killed at any point: until the new master key opens
everything, the old one does, and the same command goes on. Whoever writes meanwhile does so under store keys that both know.
Cost: four small writes for each rotation that there ever was.
"""

from typing import Literal

import msgspec

from velodrome.core.errors import ConfigurationError
from velodrome.store.backup import BackupPlace
from velodrome.store.health import keyring
from velodrome.store.keys import WrappingKey
from velodrome.store.ledger import Append
from velodrome.store.workspace import Workspace

__all__ = ["Rotation", "rotate"]

_SUBJECT = "keys"


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """A rotation that was made, or would be.

    Attributes:
        of: what is encrypted under the key. where: the place.
        old, new: ids of the master keys, which tell nothing about them.
        keys: how many store keys are wrapped anew; none, if an earlier rotation had done so.
    """

    of: Literal["blobs", "backups"]
    where: str
    old: str
    new: str
    keys: int
    dry_run: bool


def rotate(
    ws: Workspace, old: WrappingKey, new: WrappingKey, *, place: BackupPlace | None = None, dry_run: bool = False
) -> Rotation:
    """Let `new` take the place of `old` for the blobs of the workspace, or for the backups in a place.

    Raises:
        ConfigurationError: they are not encrypted, or both keys are the same. WrongKey: neither key opens them.
        StorageError: the place refused; call it again. Conflict: somebody on this machine collects or backs up.
    """
    objects = keyring(place.blobs if place else ws.blobs)
    if objects is None:
        raise ConfigurationError(
            f"nothing is encrypted in {place.where if place else 'the blobs of this workspace'}",
            remedy="encryption begins with an empty place: docs/encryption.md",
        )
    with ws.collecting():
        keys = objects.under(old).rotate(new, dry_run=dry_run)
        done = Rotation(
            of="backups" if place else "blobs",
            where=objects.where,
            old=old.id,
            new=new.id,
            keys=keys,
            dry_run=dry_run,
        )
        if not dry_run:
            _record(ws, done)
    return done


def _record(ws: Workspace, done: Rotation) -> None:
    """What a killed one had done, and did not come to say, is said by the next."""
    said = {"of": done.of, "old": done.old, "new": done.new}
    before = [event.body for event in ws.ledger.events(_SUBJECT) if event.body["of"] == done.of]
    if done.keys or said not in before[-1:]:
        ws.commit(Append(_SUBJECT, "keys.rotated", said))
