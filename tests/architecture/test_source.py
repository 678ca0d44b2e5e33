"""The rules of the house that a linter does not know.

Each rule is a function of a folder, so that it is shown to fail below. It yields what breaks it: the place (`file` or
`file::Class.function`), the line and what was found. A place that must break a rule stands in the rule's `allowed` with
its reason, and only as long as it needs to.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREES = {"src": ROOT / "src" / "velodrome", "tests": ROOT / "tests"}

BODY_LINES, FILE_LINES, TEST_FILE_LINES, PUBLIC_METHODS = 40, 500, 800, 20
EMPTY_NAMES = {"base_utils", "common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
PACKAGE_WORDS = ("Owns", "Promises", "May import")

# Full names, whatever they are imported as.
CLOCK = set("datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today".split())
CLOCK |= {"time.time", "time.time_ns"}
WRITING = {
    f"os.{name}" for name in "link makedirs mkdir open remove rename replace rmdir symlink truncate unlink".split()
}
WRITING |= {f"numpy.{name}" for name in "save savetxt savez savez_compressed".split()}
WRITING |= {"onnx.save", "safetensors.numpy.save_file", "safetensors.torch.save_file", "skops.io.dump", "torch.save"}
EVALUATING = {"eval", "exec", "os.popen", "os.system", "torch.load"}

# Names of methods, whatever they are called on. Path.rename and Path.replace share theirs with frames and text.
WRITING_METHODS = set("hardlink_to mkdir rmdir symlink_to tofile touch unlink write_bytes write_text".split())
FRAME_WRITERS = ("sink_", *(f"write_{kind}" for kind in "avro csv delta excel ipc json ndjson parquet".split()))

PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_ARGUMENTS = {("allow_pickle", True), ("shell", True), ("weights_only", False)}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Breach:
    """One place that breaks a rule."""

    place: str
    line: int
    found: str


Check = Callable[[Path], Iterable[Breach]]


@dataclass(frozen=True)
class Rule:
    """What finds breaches, its docstring says why. `allowed`: the places that may break it, each with its reason."""

    check: Check
    tree: str
    allowed: dict[str, str]

    @property
    def name(self) -> str:
        return self.check.__name__


RULES: list[Rule] = []


def rule(tree: str = "src", allowed: dict[str, str] | None = None) -> Callable[[Check], Check]:
    def declare(check: Check) -> Check:
        RULES.append(Rule(check, tree, allowed or {}))
        return check

    return declare


@dataclass(frozen=True)
class Module:
    """A parsed file; `file` is its path below the folder that a rule looks at."""

    file: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The first folder, or the empty name for a module of the root."""
        return self.file.split("/")[0] if "/" in self.file else ""

    @property
    def name(self) -> str:
        return Path(self.file).stem

    def breach(self, node: ast.AST, found: str, inside: str = "") -> Breach:
        return Breach(f"{self.file}::{inside}" if inside else self.file, getattr(node, "lineno", 1), found)


@cache
def modules(folder: Path) -> tuple[Module, ...]:
    files = sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
    texts = [(path, path.read_text(encoding="utf-8")) for path in files]
    return tuple(Module(path.relative_to(folder).as_posix(), text, ast.parse(text)) for path, text in texts)


# ------------------------------------------------------------------------------------------------------- reading a tree


def dotted(node: ast.AST) -> str:
    """`a.b.c` of nested attributes; what is not a name becomes a question mark."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def imported(node: ast.AST) -> dict[str, str]:
    """Local name → full name of what a node imports, or nothing."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {}


def imports(module: Module) -> Iterator[tuple[ast.AST, str]]:
    return ((node, name) for node in ast.walk(module.tree) for name in imported(node).values())


def uses(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Each name that is read, called or not, as the full name of what was imported."""
    known = {local: full for node in ast.walk(module.tree) for local, full in imported(node).items()}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = dotted(node).partition(".")
            yield node, known.get(first, first) + dot + rest


def calls(module: Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))


def is_from(name: str, packages: set[str]) -> bool:
    """Whether a full name is, or lies in, one of the packages."""
    return name.partition(".")[0] in packages


def definitions(module: Module) -> Iterator[tuple[str, Definition]]:
    """Each function and class with its qualified name."""

    def below(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Definition):
                yield prefix + child.name, child
                yield from below(child, f"{prefix}{child.name}.")
            else:
                yield from below(child, prefix)

    return below(module.tree, "")


def functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return ((name, node) for name, node in definitions(module) if not isinstance(node, ast.ClassDef))


def bound(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """The names that top-level statements define; imports define nothing of the module's own."""
    for node in statements:
        if isinstance(node, Definition):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (leaf.id for target in node.targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.If | ast.Try):
            handlers = [handler.body for handler in getattr(node, "handlers", [])]
            yield from bound(chain(node.body, node.orelse, *handlers))


def exported(module: Module) -> list[str] | None:
    """The strings of `__all__`, or None where there is none."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and any(dotted(target) == "__all__" for target in node.targets):
            return [leaf.value for leaf in ast.walk(node.value) if isinstance(leaf, ast.Constant)]
    return None


# ---------------------------------------------------------------------------------------------------------------- rules


@rule()
def files_are_short(folder: Path) -> Iterator[Breach]:
    """A long file holds several ideas: give each a module of its own."""
    return _too_long(folder, FILE_LINES)


@rule(tree="tests")
def files_of_tests_are_short(folder: Path) -> Iterator[Breach]:
    """A long file holds several ideas: give each a file of its own."""
    return _too_long(folder, TEST_FILE_LINES)


def _too_long(folder: Path, most: int) -> Iterator[Breach]:
    for module in modules(folder):
        lines = module.text.count("\n")
        if lines > most:
            yield module.breach(module.tree, f"{lines} lines, at most {most}")


@rule()
def functions_are_short(folder: Path) -> Iterator[Breach]:
    """A long function does several things: give each a name of its own."""
    for module in modules(folder):
        for name, node in functions(module):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > BODY_LINES:
                yield module.breach(node, f"a body of {lines} lines, at most {BODY_LINES}", name)


@rule()
def classes_are_small(folder: Path) -> Iterator[Breach]:
    """A class of many methods has no one idea: move them to functions that take it."""
    for module in modules(folder):
        for name, node in definitions(module):
            if isinstance(node, ast.ClassDef):
                methods = [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
                public = sum(not method.name.startswith("_") for method in methods)
                if public > PUBLIC_METHODS:
                    yield module.breach(node, f"{public} public methods, at most {PUBLIC_METHODS}", name)


@rule()
def names_say_something(folder: Path) -> Iterator[Breach]:
    """Name a module for what it owns, so that `ls` tells where a thing is."""
    for module in modules(folder):
        for part in Path(module.file).with_suffix("").parts:
            if part.strip("_") in EMPTY_NAMES:
                yield module.breach(module.tree, f"a module or package called {part}")


@rule()
def packages_say_what_they_own(folder: Path) -> Iterator[Breach]:
    """An __init__ is a docstring: what the package Owns, what it Promises, what it May import; nothing else."""
    for module in modules(folder):
        if module.name == "__init__" and module.package:
            missing = [word for word in PACKAGE_WORDS if word not in (ast.get_docstring(module.tree) or "")]
            if missing:
                yield module.breach(module.tree, f"a docstring without {', '.join(map(repr, missing))}")
            if len(module.tree.body) > 1:
                yield module.breach(module.tree.body[1], "more than a docstring")


@rule()
def all_is_the_public_surface(folder: Path) -> Iterator[Breach]:
    """__all__ lists what the module itself defines without an underscore: a name belongs to one module."""
    for module in modules(folder):
        if any(part.startswith("_") for part in Path(module.file).parts):
            continue
        public = {name for name in bound(module.tree.body) if not name.startswith("_")}
        names = exported(module)
        if names is None:
            yield module.breach(module.tree, f"no __all__; it defines {', '.join(sorted(public)) or 'nothing'}")
        elif set(names) != public or len(names) != len(set(names)):
            extra, missing = sorted(set(names) - public), sorted(public - set(names))
            yield module.breach(module.tree, f"__all__ lacks {missing}, has {extra} too many, or has a name twice")


@rule(
    allowed={
        "__init__.py": "the root imports a name's module when the name is first used",
        "core/extras.py": "the table of optional kinds imports the module that a kind names",
    }
)
def imports_stand_at_the_top(folder: Path) -> Iterator[Breach]:
    """A late import hides a dependency or a cycle: move the shared thing down, or use core/extras.py."""
    for module in modules(folder):
        for name, function in functions(module):
            for node in ast.walk(function):
                if imported(node) and module.package != "cli":
                    yield module.breach(node, f"imports {', '.join(imported(node).values())}", name)
        for node, name in uses(module):
            if name in {"importlib.import_module", "__import__"}:
                yield module.breach(node, name)


@rule()
def imports_name_the_defining_module(folder: Path) -> Iterator[Breach]:
    """The root re-exports for users; inside, import from the module that defines the name."""
    for module in modules(folder):
        for node in ast.walk(module.tree):
            of_root = isinstance(node, ast.ImportFrom) and node.module == "velodrome"
            if of_root or "velodrome" in imported(node).values():
                yield module.breach(node, "an import of the root")


@rule()
def time_and_ids_come_from_core(folder: Path) -> Iterator[Breach]:
    """Take a Clock and ids from velodrome.core, so that a test and a replay can hand in theirs."""
    for module in modules(folder):
        if module.package != "core":
            yield from (module.breach(node, name) for node, name in imports(module) if is_from(name, {"ulid", "uuid"}))
            yield from (module.breach(node, name) for node, name in uses(module) if name in CLOCK)


@rule(
    allowed={
        "data/fragments.py": "writes Parquet into memory, which then becomes a blob",
        "serving/batch.py": "hands the frame's own writer to write_atomic_with of the store",
        "testing/blobs.py": "the suite makes the file whose bytes it puts",
    }
)
def only_store_writes(folder: Path) -> Iterator[Breach]:
    """A write elsewhere is not atomic, not fsynced and not found by a backup: use velodrome.store."""
    for module in modules(folder):
        if module.package == "store":
            continue
        files = {"shutil", "tempfile"}
        yield from (module.breach(node, name) for node, name in imports(module) if is_from(name, files))
        yield from (module.breach(call, "open for writing") for call in calls(module) if _opens_to_write(call))
        for node, name in uses(module):
            method = name.split(".")[-1] if isinstance(node, ast.Attribute) else ""
            if name in WRITING or method in WRITING_METHODS or method.startswith(FRAME_WRITERS):
                yield module.breach(node, name)


def _opens_to_write(call: ast.Call) -> bool:
    """Whether a mode that writes is given to open(path, mode), path.open(mode) or memmap(path, mode=mode)."""
    if dotted(call.func).split(".")[-1] not in {"open", "memmap", "open_memmap"}:
        return False
    places = call.args[1:] if isinstance(call.func, ast.Name) else call.args
    given = [*places, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return any(set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)


@rule()
def only_sources_read_user_data(folder: Path) -> Iterator[Breach]:
    """One place knows the formats of user data: velodrome.data.sources."""
    for module in modules(folder):
        if module.file != "data/sources.py":
            yield from (module.breach(node, name) for node, name in imports(module) if is_from(name, {"csv", "pandas"}))
            readers = ("polars.read_", "polars.scan_")
            yield from (module.breach(node, name) for node, name in uses(module) if name.startswith(readers))


@rule()
def data_is_never_code(folder: Path) -> Iterator[Breach]:
    """Loading an artifact or a file never executes what is in it."""
    for module in modules(folder):
        yield from (module.breach(node, name) for node, name in imports(module) if is_from(name, PICKLES))
        yield from (module.breach(node, name) for node, name in uses(module) if name in EVALUATING)
        for call in calls(module):
            for keyword in call.keywords:
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in UNSAFE_ARGUMENTS:
                    yield module.breach(call, f"{keyword.arg}={keyword.value.value}")


@rule(
    tree="tests",
    allowed={
        "control/test_faults.py": "every verb of the loop, under faults of the store",
        "control/test_retraining_machine.py": "retraining under kills; with test_retraining.py it would be too long",
        "training/test_golden_curves.py": "a whole run bit by bit; its header says what that rests on",
    },
)
def each_test_file_has_its_subject(folder: Path) -> Iterator[Breach]:
    """`tests/X/test_Y.py` tests `velodrome/X/Y.py` or the package `velodrome/X/Y/`, so that it is found."""
    for module in modules(folder):
        if module.name == "__init__":
            yield module.breach(module.tree, "a package; tests are found by their path")
        if not module.name.startswith("test_") or module.package in {
            "architecture",
            "chaos",
            "docs",
            "examples",
            "scenarios",
        }:
            continue
        subject = Path(module.file).with_name(module.name.removeprefix("test_"))
        package = folder.parent / "src" / "velodrome"
        if not (package / subject).is_dir() and not (package / subject).with_suffix(".py").exists():
            yield module.breach(module.tree, f"there is no velodrome/{subject}.py")


@pytest.mark.parametrize("kept", RULES, ids=lambda kept: kept.name)
def test_the_house_keeps_the_rule_and_needs_what_is_allowed(kept: Rule) -> None:
    breaches = list(kept.check(TREES[kept.tree]))
    wrong = [breach for breach in breaches if breach.place not in kept.allowed]
    rows = [f"  {kept.tree}: {breach.place} line {breach.line}: {breach.found}" for breach in wrong]
    if rows:
        last = f"A place that must break {kept.name} goes into its `allowed`, with the reason."
        pytest.fail("\n".join([str(kept.check.__doc__), *rows, last]), pytrace=False)
    unneeded = kept.allowed.keys() - {breach.place for breach in breaches}
    assert not unneeded, f"nothing breaks {kept.name} any more in {sorted(unneeded)}: strike it from `allowed`"


# --------------------------------------------------------------------------------- each rule, shown to fail and to pass

LONG_BODY = "def f():\n" + "    x = 1\n" * (BODY_LINES + 1)
MANY_METHODS = "class C:\n" + "".join(f"    def m{i}(self): ...\n" for i in range(PUBLIC_METHODS + 1))

BROKEN = [
    (files_are_short, "a.py", "x = 1\n" * (FILE_LINES + 1)),
    (files_of_tests_are_short, "test_a.py", "x = 1\n" * (TEST_FILE_LINES + 1)),
    (functions_are_short, "a.py", LONG_BODY),
    (functions_are_short, "a.py", LONG_BODY.replace("def f", "async def f")),
    (classes_are_small, "a.py", MANY_METHODS),
    (names_say_something, "data/utils.py", ""),
    (names_say_something, "_helpers/a.py", ""),
    (packages_say_what_they_own, "data/__init__.py", '"""Owns data. Promises speed."""'),
    (
        packages_say_what_they_own,
        "data/__init__.py",
        '"""Owns. Promises. May import."""\nfrom velodrome.data.a import b',
    ),
    (all_is_the_public_surface, "a.py", "def f(): ..."),
    (all_is_the_public_surface, "a.py", "__all__ = ['f', 'g']\ndef f(): ..."),
    (all_is_the_public_surface, "a.py", "from b import f\n__all__ = ['f']"),
    (all_is_the_public_surface, "a.py", "__all__ = []\nLIMIT: int = 3"),
    (all_is_the_public_surface, "a.py", "__all__ = []\nif X:\n    def f(): ..."),
    (imports_stand_at_the_top, "data/a.py", "def f():\n    import os"),
    (imports_stand_at_the_top, "data/a.py", "import importlib\nx = importlib.import_module('torch')"),
    (imports_name_the_defining_module, "data/a.py", "import velodrome as vd"),
    (imports_name_the_defining_module, "data/a.py", "from velodrome import Recipe"),
    (time_and_ids_come_from_core, "data/a.py", "import datetime as dt\nx = dt.datetime.now(UTC)"),
    (
        time_and_ids_come_from_core,
        "data/a.py",
        "from datetime import datetime\nx = field(default_factory=datetime.now)",
    ),
    (time_and_ids_come_from_core, "data/a.py", "import time\nx = time.time()"),
    (time_and_ids_come_from_core, "data/a.py", "from time import time as t\nx = t()"),
    (time_and_ids_come_from_core, "data/a.py", "from uuid import uuid4"),
    (only_store_writes, "data/a.py", "open(path, 'wb')"),
    (only_store_writes, "data/a.py", "path.open(mode='a')"),
    (only_store_writes, "data/a.py", "path.write_text('')"),
    (only_store_writes, "data/a.py", "import os\nos.replace(a, b)"),
    (only_store_writes, "data/a.py", "from os import replace\nreplace(a, b)"),
    (only_store_writes, "data/a.py", "import tempfile"),
    (only_store_writes, "data/a.py", "frame.write_parquet(path)"),
    (only_store_writes, "data/a.py", "np.lib.format.open_memmap(path, mode='w+')"),
    (only_sources_read_user_data, "data/a.py", "import polars as pl\npl.scan_csv(path)"),
    (only_sources_read_user_data, "data/a.py", "import csv"),
    (data_is_never_code, "a.py", "import pickle"),
    (data_is_never_code, "a.py", "from joblib import dump"),
    (data_is_never_code, "a.py", "eval(text)"),
    (data_is_never_code, "a.py", "import torch\ntorch.load(path)"),
    (data_is_never_code, "a.py", "subprocess.run(line, shell=True)"),
    (data_is_never_code, "a.py", "np.load(path, allow_pickle=True)"),
    (each_test_file_has_its_subject, "data/test_nothing.py", ""),
    (each_test_file_has_its_subject, "data/__init__.py", ""),
]

KEPT = [
    (
        functions_are_short,
        "a.py",
        LONG_BODY.replace("    x = 1\n", '    """\n    long\n    """\n', 1).replace("    x = 1\n", "", 1),
    ),
    (packages_say_what_they_own, "data/__init__.py", '"""Owns. Promises. May import."""'),
    (all_is_the_public_surface, "a.py", "from b import g\n__all__ = ['LIMIT', 'f']\nLIMIT = 3\n_x = 1\ndef f(): ..."),
    (all_is_the_public_surface, "_private.py", "def f(): ..."),
    (imports_stand_at_the_top, "cli/a.py", "def command():\n    from velodrome.control.pipeline import run"),
    (imports_name_the_defining_module, "data/a.py", "from velodrome.core.errors import DataError"),
    (time_and_ids_come_from_core, "core/clock.py", "from datetime import datetime\nx = datetime.now(UTC)"),
    (time_and_ids_come_from_core, "data/a.py", "import time\nx = clock.now()\ny = time.perf_counter()"),
    (only_store_writes, "store/a.py", "import tempfile\nos.replace(a, b)"),
    (
        only_store_writes,
        "data/a.py",
        "open(path)\nopen('w', 'rb')\ntext.replace('a', 'b')\nframe.rename(names)\nnp.memmap(path, mode='r')",
    ),
    (only_sources_read_user_data, "data/sources.py", "import polars as pl\npl.scan_csv(path)"),
    (data_is_never_code, "a.py", "np.load(path, allow_pickle=False)\nmodel.eval()\nspec.loader.exec_module(module)"),
    (each_test_file_has_its_subject, "scenarios/test_kill.py", ""),
]


def breaches_of(check: Check, folder: Path, file: str, source: str) -> list[Breach]:
    path = folder / "tree" / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    return list(check(folder / "tree"))


def _named(cases: list[tuple[Check, str, str]]) -> list[object]:
    return [pytest.param(*case, id=f"{case[0].__name__}-{number}") for number, case in enumerate(cases)]


@pytest.mark.parametrize(("check", "file", "source"), _named(BROKEN))
def test_a_rule_finds_what_breaks_it(check: Check, file: str, source: str, tmp_path: Path) -> None:
    assert breaches_of(check, tmp_path, file, source)


@pytest.mark.parametrize(("check", "file", "source"), _named(KEPT))
def test_a_rule_leaves_good_code_alone(check: Check, file: str, source: str, tmp_path: Path) -> None:
    assert not breaches_of(check, tmp_path, file, source)


def test_every_rule_is_shown_to_fail() -> None:
    assert {kept.check for kept in RULES} == {check for check, _, _ in BROKEN}


def test_a_test_file_that_mirrors_a_module_or_a_package_is_kept(tmp_path: Path) -> None:
    for file in ("src/velodrome/data/sources.py", "src/velodrome/jobs/executors/local.py"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    for file in ("tests/data/test_sources.py", "tests/jobs/test_executors.py"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert not list(each_test_file_has_its_subject(tmp_path / "tests"))
