"""The rules of the house that a linter does not know.

Each rule is a function of a folder, so that it is shown to fail below. It yields what breaks it: the place (`file` or
`file::Class.function`), the line and what was found. A place that must break a rule stands in the rule's `allowed` with
its reason, and only as long as it needs to.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREES = {"src": ROOT / "src" / "velodrome", "tests": ROOT / "tests"}

BODY_LINES, FILE_LINES, TEST_FILE_LINES, PUBLIC_METHODS = 40, 500, 800, 20
EMPTY_NAMES = {"base_utils", "common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
PACKAGE_WORDS = ("Owns", "Promises", "May import")

CLOCK = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.time_ns"}
WRITING = {
    *(
        f"os.{name}"
        for name in ("link", "makedirs", "mkdir", "open", "remove", "rename", "replace", "rmdir", "symlink")
    ),
    *(f"os.{name}" for name in ("truncate", "unlink", "write")),
    *(f"{module}.save" for module in ("np", "numpy", "onnx", "torch")),
    *(
        "np.savez",
        "np.savetxt",
        "save_file",
        "safetensors.numpy.save_file",
        "safetensors.torch.save_file",
        "skops.io.dump",
    ),
}
WRITING_METHODS = {
    "hardlink_to",
    "mkdir",
    "rmdir",
    "symlink_to",
    "tofile",
    "touch",
    "unlink",
    "write_bytes",
    "write_text",
}
FRAME_WRITERS = (
    "sink_",
    "write_avro",
    "write_csv",
    "write_delta",
    "write_excel",
    "write_ipc",
    "write_json",
    "write_parquet",
)
PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
EVALUATING = {"eval", "exec", "os.popen", "os.system", "pickle.load", "pickle.loads", "torch.load"}
UNSAFE_ARGUMENTS = {("allow_pickle", True), ("shell", True), ("weights_only", False)}


@dataclass(frozen=True)
class Breach:
    """One place that breaks a rule."""

    place: str
    line: int
    found: str


@dataclass(frozen=True)
class Rule:
    """A rule, why it holds and how to keep it, and the places that may break it, each with its reason."""

    check: Callable[[Path], Iterable[Breach]]
    why: str
    allowed: dict[str, str] = field(default_factory=dict)
    tree: str = "src"

    @property
    def name(self) -> str:
        return self.check.__name__


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
    """`a.b.c` of nested attributes, without a leading `datetime.` of the module (`datetime.datetime.now`)."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".replace("datetime.datetime.", "datetime.")
    return node.id if isinstance(node, ast.Name) else "?"


def calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def imported(node: ast.AST) -> list[str]:
    """The dotted names of the modules that a node imports, or nothing."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "."]
    return []


def definitions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Each function and class with its qualified name."""

    def below(
        node: ast.AST, prefix: str
    ) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
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
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
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


def files_are_short(folder: Path) -> Iterator[Breach]:
    return _too_long(folder, FILE_LINES)


def files_of_tests_are_short(folder: Path) -> Iterator[Breach]:
    return _too_long(folder, TEST_FILE_LINES)


def _too_long(folder: Path, most: int) -> Iterator[Breach]:
    for module in modules(folder):
        lines = module.text.count("\n")
        if lines > most:
            yield module.breach(module.tree, f"{lines} lines, at most {most}")


def functions_are_short(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        for name, node in functions(module):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > BODY_LINES:
                yield module.breach(node, f"a body of {lines} lines, at most {BODY_LINES}", name)


def classes_are_small(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        for name, node in definitions(module):
            if isinstance(node, ast.ClassDef):
                methods = [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
                public = sum(not method.name.startswith("_") for method in methods)
                if public > PUBLIC_METHODS:
                    yield module.breach(node, f"{public} public methods, at most {PUBLIC_METHODS}", name)


def names_say_something(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        for part in Path(module.file).with_suffix("").parts:
            if part.strip("_") in EMPTY_NAMES:
                yield module.breach(module.tree, f"a module or package called {part}")


def packages_say_what_they_own(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        if module.name == "__init__" and module.package:
            missing = [word for word in PACKAGE_WORDS if word not in (ast.get_docstring(module.tree) or "")]
            if missing:
                yield module.breach(module.tree, f"a docstring without {', '.join(map(repr, missing))}")
            if len(module.tree.body) > 1:
                yield module.breach(module.tree.body[1], "more than a docstring")


def all_is_the_public_surface(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        if any(part.startswith("_") for part in Path(module.file).parts):
            continue
        public = {name for name in bound(module.tree.body) if not name.startswith("_")}
        names = exported(module)
        if names is None:
            yield module.breach(module.tree, f"no __all__; it defines {', '.join(sorted(public)) or 'nothing'}")
        elif set(names) != public or len(names) != len(set(names)):
            extra, missing = sorted(set(names) - public), sorted(public - set(names))
            yield module.breach(module.tree, f"__all__ has {extra} too many, {missing} too few, or a name twice")


def imports_stand_at_the_top(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        for name, function in functions(module):
            for node in ast.walk(function):
                if imported(node) and module.package != "cli":
                    yield module.breach(node, f"an import of {', '.join(imported(node))} inside a function", name)
        for call, name in calls(module):
            if name.split(".")[-1] in {"import_module", "__import__"}:
                yield module.breach(call, f"{name}()")


def imports_name_the_defining_module(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        for node in ast.walk(module.tree):
            if "velodrome" in imported(node):
                yield module.breach(node, "an import of the root")


def time_and_ids_come_from_core(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        if module.package == "core":
            continue
        for node in ast.walk(module.tree):
            if set(imported(node)) & {"uuid", "ulid"}:
                yield module.breach(node, "an import of uuid or ulid")
            if (
                isinstance(node, ast.ImportFrom)
                and node.module == "time"
                and {a.name for a in node.names} & {"time", "time_ns"}
            ):
                yield module.breach(node, "from time import time")
        for call, name in calls(module):
            if name in CLOCK:
                yield module.breach(call, f"{name}()")


def only_store_writes(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        if module.package == "store":
            continue
        for node in ast.walk(module.tree):
            if set(imported(node)) & {"shutil", "tempfile"}:
                yield module.breach(node, f"an import of {', '.join(imported(node))}")
        for call, name in calls(module):
            last = name.split(".")[-1]
            if (
                name in WRITING
                or last in WRITING_METHODS
                or last.startswith(FRAME_WRITERS)
                or _opens_to_write(call, last)
            ):
                yield module.breach(call, f"{name}()")


def _opens_to_write(call: ast.Call, name: str) -> bool:
    """Whether a mode that writes is given to open(path, mode), path.open(mode) or memmap(path, mode=mode)."""
    if name not in {"open", "memmap", "open_memmap"}:
        return False
    places = call.args[1:] if isinstance(call.func, ast.Name) else call.args
    given = [*places, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return any(set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)


def only_sources_read_user_data(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        if module.file == "data/sources.py":
            continue
        for node in ast.walk(module.tree):
            if set(imported(node)) & {"csv", "pandas"}:
                yield module.breach(node, f"an import of {', '.join(imported(node))}")
        for call, name in calls(module):
            if name.startswith(("pl.read_", "pl.scan_", "polars.read_", "polars.scan_")):
                yield module.breach(call, f"{name}()")


def data_is_never_code(folder: Path) -> Iterator[Breach]:
    for module in modules(folder):
        for node in ast.walk(module.tree):
            if {name.split(".")[0] for name in imported(node)} & PICKLES:
                yield module.breach(node, f"an import of {', '.join(imported(node))}")
        for call, name in calls(module):
            if name in EVALUATING:
                yield module.breach(call, f"{name}()")
            for keyword in call.keywords:
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in UNSAFE_ARGUMENTS:
                    yield module.breach(call, f"{name}({keyword.arg}={keyword.value.value})")


def each_test_file_has_its_subject(folder: Path) -> Iterator[Breach]:
    """`tests/X/test_Y.py` tests `velodrome/X/Y.py` or the package `velodrome/X/Y/`."""
    for module in modules(folder):
        if module.name == "__init__":
            yield module.breach(module.tree, "a package; tests are found by their path")
        if not module.name.startswith("test_") or module.package in {"architecture", "docs", "scenarios"}:
            continue
        subject = folder.parent / "src" / "velodrome" / Path(module.file).with_name(module.name.removeprefix("test_"))
        if not subject.is_dir() and not subject.with_suffix(".py").exists():
            yield module.breach(
                module.tree, f"there is no velodrome/{subject.relative_to(folder.parent / 'src' / 'velodrome')}"
            )


SHORT = "what is long does several things: give each a name of its own"

RULES = [
    Rule(files_are_short, SHORT),
    Rule(files_of_tests_are_short, SHORT, tree="tests"),
    Rule(functions_are_short, SHORT),
    Rule(classes_are_small, "a class with many methods has no one idea: move them to functions that take it"),
    Rule(names_say_something, "name a module for what it owns, so that `ls` tells where a thing is"),
    Rule(
        packages_say_what_they_own,
        "an __init__ is a docstring: what the package Owns, what it Promises, what it May import; nothing else",
    ),
    Rule(
        all_is_the_public_surface,
        "__all__ lists what the module itself defines without an underscore: a name belongs to one module",
    ),
    Rule(
        imports_stand_at_the_top,
        "a late import hides a dependency or a cycle: move the shared thing down, or use core/extras.py",
        {
            "__init__.py": "the root imports a name's module when the name is first used",
            "core/extras.py": "the table of optional kinds imports the module that a kind names",
        },
    ),
    Rule(
        imports_name_the_defining_module,
        "the root re-exports for users; inside, import from the module that defines the name",
    ),
    Rule(
        time_and_ids_come_from_core,
        "take a Clock and ids from velodrome.core, so that a test and a replay can hand in theirs",
    ),
    Rule(
        only_store_writes, "a write elsewhere is not atomic, not fsynced and not found by a backup: use velodrome.store"
    ),
    Rule(only_sources_read_user_data, "one place knows the formats of user data: velodrome.data.sources"),
    Rule(data_is_never_code, "loading an artifact or a file never executes what is in it"),
    Rule(each_test_file_has_its_subject, "so that the tests of a module are found from its path", tree="tests"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_house_keeps_the_rule(rule: Rule) -> None:
    breaches = [breach for breach in rule.check(TREES[rule.tree]) if breach.place not in rule.allowed]
    rows = "\n  ".join(f"{rule.tree}: {breach.place} line {breach.line}: {breach.found}" for breach in breaches)
    if breaches:
        pytest.fail(
            f"{rule.why}\n  {rows}\nA place that must break it goes into `allowed`, with the reason.", pytrace=False
        )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_what_is_allowed_is_still_needed(rule: Rule) -> None:
    places = {breach.place for breach in rule.check(TREES[rule.tree])}
    assert rule.allowed.keys() <= places, (
        f"{rule.name}: nothing breaks it any more in {sorted(rule.allowed.keys() - places)}"
    )


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
    (time_and_ids_come_from_core, "data/a.py", "x = datetime.datetime.now(UTC)"),
    (time_and_ids_come_from_core, "data/a.py", "x = time.time()"),
    (time_and_ids_come_from_core, "data/a.py", "from time import time"),
    (time_and_ids_come_from_core, "data/a.py", "from uuid import uuid4"),
    (only_store_writes, "data/a.py", "open(path, 'wb')"),
    (only_store_writes, "data/a.py", "path.open(mode='a')"),
    (only_store_writes, "data/a.py", "path.write_text('')"),
    (only_store_writes, "data/a.py", "os.replace(a, b)"),
    (only_store_writes, "data/a.py", "import tempfile"),
    (only_store_writes, "data/a.py", "frame.write_parquet(path)"),
    (only_store_writes, "data/a.py", "np.lib.format.open_memmap(path, mode='w+')"),
    (only_sources_read_user_data, "data/a.py", "pl.scan_csv(path)"),
    (only_sources_read_user_data, "data/a.py", "import csv"),
    (data_is_never_code, "a.py", "import pickle"),
    (data_is_never_code, "a.py", "from joblib import dump"),
    (data_is_never_code, "a.py", "eval(text)"),
    (data_is_never_code, "a.py", "torch.load(path)"),
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
    (time_and_ids_come_from_core, "core/clock.py", "x = datetime.now(UTC)"),
    (time_and_ids_come_from_core, "data/a.py", "x = clock.now()\ny = time.perf_counter()"),
    (only_store_writes, "store/a.py", "import tempfile\nos.replace(a, b)"),
    (
        only_store_writes,
        "data/a.py",
        "open(path)\nopen('w', 'rb')\ntext.replace('a', 'b')\nframe.rename(names)\nnp.memmap(path, mode='r')",
    ),
    (only_sources_read_user_data, "data/sources.py", "pl.scan_csv(path)"),
    (data_is_never_code, "a.py", "np.load(path, allow_pickle=False)\nmodel.eval()\nspec.loader.exec_module(module)"),
    (each_test_file_has_its_subject, "scenarios/test_kill.py", ""),
]


def breaches_of(check: Callable[[Path], Iterable[Breach]], folder: Path, file: str, source: str) -> list[Breach]:
    path = folder / "tree" / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    return list(check(folder / "tree"))


def _named(cases: list[tuple[Callable[[Path], Iterable[Breach]], str, str]]) -> list[object]:
    return [pytest.param(*case, id=f"{case[0].__name__}-{number}") for number, case in enumerate(cases)]


@pytest.mark.parametrize(("check", "file", "source"), _named(BROKEN))
def test_a_rule_finds_what_breaks_it(
    check: Callable[[Path], Iterable[Breach]], file: str, source: str, tmp_path: Path
) -> None:
    assert breaches_of(check, tmp_path, file, source)


@pytest.mark.parametrize(("check", "file", "source"), _named(KEPT))
def test_a_rule_leaves_good_code_alone(
    check: Callable[[Path], Iterable[Breach]], file: str, source: str, tmp_path: Path
) -> None:
    assert not breaches_of(check, tmp_path, file, source)


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule.check for rule in RULES} == {check for check, _, _ in BROKEN}


def test_a_test_file_that_mirrors_a_module_or_a_package_is_kept(tmp_path: Path) -> None:
    for file in ("src/velodrome/data/sources.py", "src/velodrome/jobs/executors/local.py"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    for file in ("tests/data/test_sources.py", "tests/jobs/test_executors.py"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert not list(each_test_file_has_its_subject(tmp_path / "tests"))
