"""What an import costs and reaches: a light root, no torch unasked, declared dependencies, and contracts that bite."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import velodrome

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "velodrome"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = ("numpy", "polars", "scipy", "sklearn", "sqlalchemy", "torch")
IMPORT_NAMES = {"scikit-learn": "sklearn"}
"""What a distribution is imported as, where that is not its name."""


def loaded_by(statement: str) -> set[str]:
    """The modules in memory after a fresh interpreter has run `statement`."""
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def names(requirements: list[str]) -> set[str]:
    """What the requirements are imported as."""
    distributions = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}
    return {IMPORT_NAMES.get(name, name) for name in distributions}


def imported_by(path: Path) -> Iterator[str]:
    """The first name of each module that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_the_root_is_light() -> None:
    heavy = loaded_by("import velodrome") & set(HEAVY)
    assert not heavy, f"`import velodrome` loads {sorted(heavy)}: the root names a module, it does not import it"


def test_no_package_brings_torch() -> None:
    packages = [path.parent.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("__init__.py")]
    statement = "\n".join(f"import {package.replace('/', '.')}" for package in packages)
    assert "torch" not in loaded_by(statement), "an __init__ is a docstring and imports nothing"


def test_the_root_has_what_its_stub_says() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    typed = {
        alias.asname or alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(velodrome.__all__) == typed


@pytest.mark.parametrize("name", velodrome.__all__)
def test_each_name_of_the_root_is_there(name: str) -> None:
    assert getattr(velodrome, name) is not None


def test_each_core_dependency_earns_its_place() -> None:
    used = {name for path in PACKAGE.rglob("*.py") for name in imported_by(path)}
    unused = names(PROJECT["project"]["dependencies"]) - used
    assert not unused, f"declared in pyproject.toml and imported nowhere: {sorted(unused)}"


def test_what_is_imported_is_declared() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    declared = names(PROJECT["project"]["dependencies"]) | names(extras["torch"]) | names(extras["postgres"])
    known = declared | set(sys.stdlib_module_names) | {"velodrome"}
    for path in PACKAGE.rglob("*.py"):
        runner = {"pytest", "hypothesis"} if path.is_relative_to(PACKAGE / "testing") else set()
        undeclared = set(imported_by(path)) - known - runner
        assert not undeclared, (
            f"{path.relative_to(ROOT)} imports {sorted(undeclared)}, which pyproject.toml does not declare"
        )


FORBIDDEN = [
    ("core.a", "velodrome.store.a"),
    ("store.a", "velodrome.evaluation.a"),
    ("data.a", "velodrome.models.a"),
    ("serving.a", "velodrome.training.a"),
    ("control.a", "velodrome.workspace.a"),
    ("evaluation.a", "torch"),
    ("registry.a", "sqlalchemy"),
    ("control.a", "typer"),
]


def test_the_contracts_bite(tmp_path: Path) -> None:
    """A house with forbidden imports for each contract, and a package that nobody placed."""
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    placed = {name.strip(" ()") for layer in layers for name in layer.split("|")} - {"__main__"}
    sources = {"__init__": "", "attic.a": "", **{f"{name}.a": "" for name in placed}}
    for importer, target in FORBIDDEN:
        sources[importer] += f"import {target}\n"
    _write_package(tmp_path / "velodrome", sources)
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache", "--config", ROOT / "pyproject.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    missed = [pair for pair in FORBIDDEN if f"velodrome.{pair[0]} -> {pair[1]}" not in done.stdout]
    assert done.returncode == 1
    assert not missed, done.stdout
    assert "velodrome.attic" in done.stdout


def _write_package(folder: Path, sources: dict[str, str]) -> None:
    for module, source in sources.items():
        path = folder / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        (path.parent / "__init__.py").touch()
