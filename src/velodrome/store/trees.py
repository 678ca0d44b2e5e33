"""Trees: folders of files as one digest. A tree is a manifest blob of (path, digest, size), sorted by path."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from velodrome.core.digest import Digest, canonical, decode
from velodrome.core.errors import IntegrityError
from velodrome.store.blobs import Blobs
from velodrome.store.files import within

__all__ = ["Leaf", "put_folder", "put_tree", "read_tree"]


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a tree: its path with forward slashes, its blob and its size in bytes."""

    path: str
    digest: Digest
    size: int


def put_tree(blobs: Blobs, files: Mapping[str, bytes | Path]) -> Digest:
    """Store files under relative paths and return the digest of the tree: equal files give an equal digest."""
    leaves = []
    for path in sorted(files):
        blob = blobs.put(files[path])
        leaves.append(Leaf(path, blob.digest, blob.size))
    return blobs.put(canonical(leaves)).digest


def put_folder(blobs: Blobs, folder: Path) -> Digest:
    """Store every file below `folder` as a tree."""
    return put_tree(blobs, {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()})


def read_tree(blobs: Blobs, digest: str) -> dict[str, Leaf]:
    """The files of a tree by path.

    Raises:
        IntegrityError: the manifest is no tree.
        UnsafeArtifact: a path leaves the tree.
    """
    leaves = decode(blobs.read(digest), list[Leaf])
    for leaf in leaves:
        within(Path("tree"), leaf.path)
    files = {leaf.path: leaf for leaf in leaves}
    if len(files) != len(leaves):
        raise IntegrityError("a tree names a path twice", received=digest)
    return files
