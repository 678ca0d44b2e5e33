"""The code of a run: what its key depends on, and all of it, kept in full.

A recipe's own file counts as `syntax` reads it; every other module that it imports from the project's root, directly or not,
counts byte by byte. Imports are followed as text: nothing is run, and nothing outside the root, no installed package and
nothing of velodrome itself is followed. A module that is imported by a name put together while the program runs is not seen.
Cost: reads each module of the project once and parses it twice, some 10 ms for a few thousand lines.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path

import msgspec

from velodrome.core.digest import Digest, digest_bytes, digest_json
from velodrome.core.errors import RecipeError, SourceError
from velodrome.registry.syntax import essence, parse, parse_cell, without_surroundings
from velodrome.store.trees import put_tree
from velodrome.store.workspace import Workspace

__all__ = ["Captured", "capture", "capture_source"]

_SUFFIXES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
_FOREIGN = frozenset({"site-packages", "dist-packages"})


class Captured(msgspec.Struct, frozen=True):
    """Code by two digests: `code` is the tree of all of it, `key` covers what a training depends on."""

    code: Digest
    key: Digest


def capture(ws: Workspace, file: Path, root: Path) -> Captured:
    """The code of a recipe or script in `file`, of the project in `root` (the file's folder, if the file is not below it).

    Raises:
        SourceError: a file cannot be read.
        RecipeError: `file` is not Python; the line is named.
    """
    file, root = file.resolve(), root.resolve()
    project = _Project(root if file.is_relative_to(root) else file.parent, file)
    source = project.read(file)
    every = project.closure(_parsed(source, file))
    kept = without_surroundings(_parsed(source, file))
    code = put_tree(ws.blobs, project.named({file, *every}))
    return Captured(code, _key(project, kept, ()))


def capture_source(ws: Workspace, cells: Sequence[str]) -> Captured:
    """The code of a notebook: its cells in the order in which they ran, and what they import from the workspace's root.

    A cell that is not Python, such as a shell's, counts with its text.
    """
    project = _Project(ws.root, ws.root / "a notebook")
    every = project.closure(_joined(cells))
    texts = {f"cells/{number:04}.py": cell.encode() for number, cell in enumerate(cells)}
    code = put_tree(ws.blobs, project.named(every) | texts)
    other = [cell for cell in cells if parse_cell(cell) is None]
    return Captured(code, _key(project, without_surroundings(_joined(cells)), other))


class _Project:
    """The modules of a project. Each is read once, so that what is kept is what was counted, edited meanwhile or not."""

    def __init__(self, root: Path, file: Path) -> None:
        self._root, self._file = root, file
        on_path = [Path(entry).resolve() for entry in sys.path if entry]
        inside = [path for path in on_path if path.is_relative_to(root)]
        self._folders = list(dict.fromkeys([file.parent, root, root / "src", *inside]))
        self._sources: dict[Path, bytes] = {}

    def read(self, path: Path) -> bytes:
        if path not in self._sources:
            try:
                self._sources[path] = path.read_bytes()
            except OSError as error:
                why = f"cannot read {path}: {error.strerror}"
                raise SourceError(why, remedy="check the path and its permissions") from error
        return self._sources[path]

    def named(self, paths: Iterable[Path]) -> dict[str, bytes]:
        """The bytes of modules by their path below the root."""
        return {path.relative_to(self._root).as_posix(): self.read(path) for path in paths}

    def closure(self, tree: ast.Module) -> set[Path]:
        """Every module of the project that a file with this tree imports, directly or not; the file itself is not in it."""
        found: set[Path] = set()
        waiting = list(self._imported(tree, self._file))
        while waiting:
            path = waiting.pop()
            if path not in found and self._owns(path):
                found.add(path)
                waiting += self._imported(self._tree(path), path)
        return found

    def _owns(self, path: Path) -> bool:
        """Whether the project's author wrote `path`: it lies in no environment below the root."""
        if path == self._file or not path.is_relative_to(self._root):
            return False
        above = [folder for folder in path.parents if folder.is_relative_to(self._root)]
        return not any(folder.name in _FOREIGN or (folder / "pyvenv.cfg").exists() for folder in above)

    def _tree(self, path: Path) -> ast.Module:
        """The tree of a module; empty for a compiled one, and for one that does not parse: its import will say so."""
        try:
            return parse(self.read(path)) if path.suffix in SOURCE_SUFFIXES else ast.Module([], [])
        except (SyntaxError, ValueError):
            return ast.Module([], [])

    def _imported(self, tree: ast.Module, importer: Path) -> Iterator[Path]:
        """The files behind every import, wherever in the module the import stands."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from self._absolute(alias.name)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}" if node.module else alias.name
                    yield from self._relative(importer, node.level, name) if node.level else self._absolute(name)

    def _absolute(self, name: str) -> Iterator[Path]:
        parts = name.split(".")
        for folder in self._folders if parts[0] != "velodrome" else ():
            yield from _along(folder, parts)

    def _relative(self, importer: Path, level: int, name: str) -> Iterator[Path]:
        folder = importer.parents[min(level, len(importer.parents)) - 1]
        yield from _existing(folder, "__init__")
        yield from _along(folder, name.split("."))


def _along(folder: Path, parts: list[str]) -> Iterator[Path]:
    """The packages and the module of a dotted name below `folder`; a last part may also be no module but a name in one."""
    for part in parts:
        yield from _existing(folder, part)
        folder /= part
        yield from _existing(folder, "__init__")


def _existing(folder: Path, name: str) -> Iterator[Path]:
    return (path for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").is_file())


def _parsed(source: bytes, file: Path) -> ast.Module:
    try:
        return parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise RecipeError(f"{file.name}, line {line}, is not Python: {error}", remedy="mend that line") from error


def _joined(cells: Sequence[str]) -> ast.Module:
    """The cells as one module, those that are not Python left out."""
    trees = [tree for cell in cells if (tree := parse_cell(cell))]
    return ast.Module([statement for tree in trees for statement in tree.body], [])


def _key(project: _Project, kept: ast.Module, other: Sequence[str]) -> Digest:
    modules = {name: digest_bytes(data) for name, data in project.named(project.closure(kept)).items()}
    return digest_json({"own": essence(kept), "other": list(other), "modules": modules})
