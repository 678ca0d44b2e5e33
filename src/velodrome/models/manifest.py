"""What a model artifact is: a tree of files with a `manifest.json` that says how to read and to feed them.

The manifest holds everything about the model but its weights: task and classes, the fitted preparation, names, types and
shapes of what the weights receive, the digest of each file, and what the model was made from. Cost: reading one is two small
blobs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from velodrome.core.digest import Digest, canonical, decode
from velodrome.core.errors import ArtifactError, IntegrityError
from velodrome.core.values import Record
from velodrome.data.fields import Field
from velodrome.data.labels import LabelTask
from velodrome.data.transforms import Preparation
from velodrome.store.blobs import Blob
from velodrome.store.trees import Leaf, put_tree, read_tree
from velodrome.store.workspace import Workspace

__all__ = ["FORMAT", "MANIFEST", "Manifest", "read_files", "read_manifest", "save"]

FORMAT = 1
"""Raised by one whenever an older velodrome could not read, or would misread, what this one writes."""

MANIFEST = "manifest.json"


class Manifest(Record, frozen=True, kw_only=True, tag="artifact"):
    """An artifact's description of itself.

    Attributes:
        family: which module of `models` reads the files.
        classes: in the order of their codes; empty for regression.
        preparation: from raw columns to the arrays that the weights receive. None for a model of the user's own training
            loop, whose `inputs` are read off the frame as they are.
        inputs: what the weights receive, where there is no preparation.
        files: digest and size of every file but the manifest; filled in by `save`.
        environment, run, snapshot: what the model was made in, by and from.
        extra: what the family's module needs to know beside.
    """

    family: Literal["torch", "sklearn"]
    task: LabelTask
    classes: tuple[bool | int | float | str, ...] = ()
    preparation: Preparation | None = None
    inputs: tuple[Field, ...] = ()
    files: dict[str, Blob] = msgspec.field(default_factory=dict)
    environment: Digest | None = None
    run: str | None = None
    snapshot: Digest | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    format: int = FORMAT

    @property
    def fields(self) -> tuple[Field, ...]:
        """What the weights receive, in order."""
        return self.inputs if self.preparation is None else self.preparation.outputs

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the columns that it predicts from."""
        return tuple(column.name for column in (self.preparation.columns if self.preparation else self.inputs))


class _Header(msgspec.Struct):
    """What manifests of every format have."""

    kind: str = ""
    format: int = 0


def save(ws: Workspace, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Digest:
    """Store the files with their manifest and return the artifact's digest.

    Raises:
        ArtifactError: a manifest without fields, with classes that do not fit its task, or without files.
    """
    few = {"regression": 0, "binary": 2, "multiclass": 2}[manifest.task]
    if len(manifest.classes) < few or not manifest.fields or not files:
        raise ArtifactError(
            f"a {manifest.task} artifact needs files, inputs or a preparation, and at least {few} classes",
            received=f"{len(files)} files, {len(manifest.fields)} inputs, {len(manifest.classes)} classes",
        )
    manifest = msgspec.structs.replace(manifest, files={path: ws.blobs.put(files[path]) for path in sorted(files)})
    return put_tree(ws.blobs, {**files, MANIFEST: canonical(manifest)})


def read_manifest(ws: Workspace, digest: str) -> Manifest:
    """The manifest of an artifact.

    Raises:
        ArtifactError: no artifact, one of a newer format, or one whose files are not those of its manifest.
        IntegrityError, MissingBlob: its bytes are damaged or gone.
        UnsafeArtifact: a path leaves the artifact.
    """
    leaves = read_tree(ws.blobs, digest)
    if MANIFEST not in leaves:
        raise ArtifactError(f"a tree without {MANIFEST} is no model artifact", received=digest)
    data = ws.blobs.read(leaves.pop(MANIFEST).digest)
    _check_format(data)
    manifest = decode(data, Manifest)
    if manifest.files != {path: _blob(leaf) for path, leaf in leaves.items()}:
        raise ArtifactError(
            "the files of an artifact are not those of its manifest",
            received=f"files {', '.join(sorted(leaves)) or 'none'}; manifest {', '.join(sorted(manifest.files)) or 'none'}",
            remedy="restore it from a backup, or train again",
        )
    return manifest


def read_files(ws: Workspace, manifest: Manifest) -> dict[str, bytes]:
    """The verified bytes of every file of an artifact.

    Raises:
        IntegrityError, MissingBlob: a file is damaged or gone.
    """
    return {path: ws.blobs.read(blob.digest) for path, blob in manifest.files.items()}


def _check_format(data: bytes) -> None:
    """Before anything else is read: a newer format may have fields of any kind."""
    try:
        header = msgspec.json.decode(data, type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"the manifest of an artifact does not read: {error}",
            received=repr(data[:80]),
            remedy="restore it from a backup, or train again",
        ) from error
    if header.kind != Manifest.kind():
        raise ArtifactError(f"{MANIFEST} describes no model artifact", received=header.kind)
    if header.format > FORMAT:
        raise ArtifactError(
            "an artifact was written by a newer velodrome",
            received=f"format {header.format}; this velodrome reads formats up to {FORMAT}",
            remedy="pip install --upgrade velodrome",
        )


def _blob(leaf: Leaf) -> Blob:
    return Blob(leaf.digest, leaf.size)
