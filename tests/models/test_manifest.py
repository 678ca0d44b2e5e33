"""Artifacts as trees: saved, read, and refused when something is missing, newer or damaged."""

from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from velodrome.core.digest import canonical
from velodrome.core.errors import ArtifactError, IntegrityError, MissingBlob, UnsafeArtifact
from velodrome.data.fields import Field
from velodrome.data.steps import Encode, Impute, Scale
from velodrome.data.transforms import fit_preparation
from velodrome.models.manifest import FORMAT, MANIFEST, Manifest, read_files, read_manifest, save
from velodrome.store.trees import Leaf, put_tree, read_tree
from velodrome.store.workspace import Workspace

FILES = {"model.skops": b"weights", "more/notes.json": b"{}"}


def manifest(**fields: Any) -> Manifest:
    return Manifest(**{"family": "sklearn", "task": "regression", "inputs": (Field("x", "float32"),), **fields})


def test_what_was_saved_is_read(ws: Workspace, tmp_path: Path) -> None:
    on_disk = tmp_path / "weights"
    on_disk.write_bytes(b"weights")
    frame = pl.DataFrame({"carrier": ["AA", None, "UA"], "distance": [1.0, 2.5, None]})
    preparation = fit_preparation([Impute(), Scale(), Encode()], frame, ["carrier", "distance"], "codes")
    given = manifest(
        task="binary",
        classes=(False, True),
        inputs=(),
        preparation=preparation,
        run="r1",
        extra={"activation": "sigmoid"},
    )
    digest = save(ws, given, FILES | {"model.skops": on_disk})
    back = read_manifest(ws, digest)
    assert msgspec.structs.replace(back, files={}) == given
    assert back.fields == preparation.outputs
    assert read_files(ws, back) == FILES
    assert save(ws, given, FILES) == digest, "equal artifacts have equal digests"


@pytest.mark.parametrize("classes", [(0, 1), (0.5, 1.5), ("a", "b"), (False, True)])
def test_classes_keep_their_types(ws: Workspace, classes: tuple[Any, ...]) -> None:
    back = read_manifest(ws, save(ws, manifest(task="binary", classes=classes), FILES))
    assert list(map(repr, back.classes)) == list(map(repr, classes))


@pytest.mark.parametrize(
    ("fields", "files"),
    [({"task": "binary"}, FILES), ({"inputs": ()}, FILES), ({}, {})],
    ids=["no classes", "no inputs", "no files"],
)
def test_a_manifest_that_could_not_predict_is_refused(
    ws: Workspace, fields: dict[str, Any], files: dict[str, bytes]
) -> None:
    with pytest.raises(ArtifactError, match="artifact needs"):
        save(ws, manifest(**fields), files)


def crafted(ws: Workspace, change: dict[str, Any], files: dict[str, bytes] = FILES) -> str:
    """An artifact whose manifest was changed, with good digests all the way."""
    plain = msgspec.to_builtins(read_manifest(ws, save(ws, manifest(), FILES))) | change
    return put_tree(ws.blobs, files | {MANIFEST: canonical(plain)})


def test_a_newer_format_is_refused_whatever_else_it_holds(ws: Workspace) -> None:
    digest = crafted(ws, {"format": FORMAT + 1, "invented": 1, "task": "translation"})
    with pytest.raises(ArtifactError, match=rf"(?s)newer velodrome.*format {FORMAT + 1}.*pip install"):
        read_manifest(ws, digest)


def test_another_record_is_no_artifact(ws: Workspace) -> None:
    with pytest.raises(ArtifactError, match="no model artifact"):
        read_manifest(ws, crafted(ws, {"kind": "snapshot"}))


@pytest.mark.parametrize(
    "change",
    [
        {"task": "translation"},
        {"family": "pickle"},
        {"invented": 1},
        {"format": "1"},
        {"inputs": [{"name": "x", "dtype": "object"}]},
    ],
)
def test_a_field_that_is_not_known_is_refused(ws: Workspace, change: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="does not read"):
        read_manifest(ws, crafted(ws, change))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"\x80\x04N."])
def test_a_manifest_that_is_no_json_is_refused(ws: Workspace, data: bytes) -> None:
    with pytest.raises(IntegrityError, match="does not read"):
        read_manifest(ws, put_tree(ws.blobs, FILES | {MANIFEST: data}))


def test_a_tree_without_a_manifest_is_no_artifact(ws: Workspace) -> None:
    with pytest.raises(ArtifactError, match=MANIFEST):
        read_manifest(ws, put_tree(ws.blobs, FILES))


@pytest.mark.parametrize(
    "files", [{}, {**FILES, "model.skops": b"others"}, {**FILES, "payload": b"!"}], ids=["gone", "others", "more"]
)
def test_files_that_are_not_the_manifests_are_refused(ws: Workspace, files: dict[str, bytes]) -> None:
    with pytest.raises(ArtifactError, match="not those of its manifest"):
        read_manifest(ws, crafted(ws, {}, files))


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd"])
def test_a_path_that_leaves_the_artifact_is_refused(ws: Workspace, path: str) -> None:
    blob = ws.blobs.put(b"x")
    tree = ws.blobs.put(canonical([Leaf(path, blob.digest, blob.size)])).digest
    with pytest.raises(UnsafeArtifact):
        read_manifest(ws, tree)


@pytest.mark.parametrize("path", [MANIFEST, "model.skops"])
def test_a_blob_that_was_changed_or_is_gone_is_a_named_error(ws: Workspace, path: str) -> None:
    digest = save(ws, manifest(), FILES)
    leaf = read_tree(ws.blobs, digest)[path]
    file = ws.blobs.local(leaf.digest)
    good = file.read_bytes()
    file.chmod(0o644)
    for bad in (good[:-1], b" " + good[1:]):
        file.write_bytes(bad)
        with pytest.raises(IntegrityError, match="digest"):
            read_files(ws, read_manifest(ws, digest))
    ws.blobs.delete(leaf.digest)
    with pytest.raises(MissingBlob):
        read_files(ws, read_manifest(ws, digest))
