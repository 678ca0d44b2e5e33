"""What of a recipe's source text its weights depend on, as one text: pure functions of syntax trees.

Comments, formatting and docstrings do not count. Neither do the arguments of a Recipe that say what happens around training,
nor the top-level definitions, assignments and imports that only they use. When in doubt a statement is kept: a needless
training costs minutes, a wrong answer from the cache costs trust. So a definition that nothing uses still counts, and a module
that looks names up by text (`globals()`, `eval`) is kept whole.
Cost: linear in the length of the source, about 10 ms for a thousand lines.
"""

import ast
import re
import warnings
from collections.abc import Iterable

__all__ = ["AROUND_TRAINING", "essence", "parse", "parse_cell", "without_surroundings"]

AROUND_TRAINING = frozenset({"evaluation", "gates", "operate", "owner"})
"""Arguments of a Recipe that trained weights do not depend on: those that `Recipe.training_part` leaves out."""

_BY_TEXT = frozenset({"eval", "exec", "globals", "locals", "vars"})
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_MAGIC = re.compile(r"^(\s*)[%!?].*$", re.MULTILINE)


def essence(tree: ast.Module) -> str:
    """The tree as text, without docstrings and positions: equal for sources that mean the same.

    >>> essence(ast.parse("x = 1  # one")) == essence(ast.parse("x   =   1"))
    True
    """
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def parse(source: str | bytes) -> ast.Module:
    """The tree of a source. What Python warns of (an invalid escape) is for the import to say, not for us to repeat.

    Raises:
        SyntaxError, ValueError: it is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def parse_cell(text: str) -> ast.Module | None:
    """The tree of a notebook's cell, its magic lines read as `pass`; None for a cell that is not Python."""
    for source in (text, _MAGIC.sub(r"\1pass", text)):
        try:
            return parse(source)
        except (SyntaxError, ValueError):
            continue
    return None


def without_surroundings(tree: ast.Module) -> ast.Module:
    """The tree without what only happens around training. The tree that is given is used up.

    >>> source = "import velodrome as vd; level = 0.6; r = vd.Recipe('a', seed=1, gates=[vd.AtLeast('f1', level)])"
    >>> ast.unparse(without_surroundings(ast.parse(source)))
    "import velodrome as vd\\nr = vd.Recipe('a', seed=1)"
    """
    body = [single for statement in tree.body for single in _one_name_each(statement)]
    stripper = _Stripper(_names_of_recipe(tree))
    body = [stripper.strip(statement) for statement in body]
    if _names_of_all(body) & _BY_TEXT:
        return ast.Module(body, [])
    suspects = _reachable(_names_of_all(stripper.removed), body)
    certain = [statement for statement in body if statement in stripper.recipes or not _binds(statement) & suspects]
    needed = _reachable(_names_of_all(certain), body)
    return ast.Module([statement for statement in body if statement in certain or _binds(statement) & needed], [])


class _Stripper(ast.NodeTransformer):
    """Takes the arguments around training out of every call of a Recipe.

    Attributes:
        removed: what was taken out.
        recipes: the statements that make a recipe, or bind the name under which it is looked up: these always count.
    """

    def __init__(self, recipe_names: set[str]) -> None:
        self._recipe_names = recipe_names
        self._made = 0
        self.removed: list[ast.expr] = []
        self.recipes: list[ast.stmt] = []

    def strip(self, statement: ast.stmt) -> ast.stmt:
        made = self._made
        self.visit(statement)
        if self._made > made or "recipe" in _binds(statement):
            self.recipes.append(statement)
        return statement

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if self._makes_recipe(node.func):
            self._made += 1
            self.removed += [keyword.value for keyword in node.keywords if keyword.arg in AROUND_TRAINING]
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in AROUND_TRAINING]
        return node

    def _makes_recipe(self, function: ast.expr) -> bool:
        if isinstance(function, ast.Attribute):
            return function.attr == "Recipe"
        return isinstance(function, ast.Name) and function.id in self._recipe_names


def _names_of_recipe(tree: ast.Module) -> set[str]:
    """What the module calls velodrome's Recipe, when it imports it by name."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    from_here = [node for node in imports if (node.module or "").partition(".")[0] == "velodrome"]
    return {alias.asname or alias.name for node in from_here for alias in node.names if alias.name == "Recipe"}


def _one_name_each(statement: ast.stmt) -> list[ast.stmt]:
    """An import of several names as several imports, so that one of them can go."""
    if isinstance(statement, ast.Import):
        return [ast.Import([alias]) for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return [ast.ImportFrom(statement.module, [alias], statement.level) for alias in statement.names]
    return [statement]


def _reachable(names: set[str], body: Iterable[ast.stmt]) -> set[str]:
    """`names` and every name that the statements binding them use, and so on."""
    uses = [(bound, _names(statement)) for statement in body if (bound := _binds(statement))]
    reached: set[str] = set()
    while names - reached:
        reached |= names
        names = {name for bound, used in uses if bound & reached for name in used}
    return reached


def _binds(statement: ast.stmt) -> set[str]:
    """The names that a plain definition, assignment or import binds; nothing for any other statement."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
        return set()
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names} - {"*"}
    if isinstance(statement, ast.Assign):
        return _targets(statement.targets)
    if isinstance(statement, ast.AnnAssign):
        return _targets([statement.target])
    return set()


def _targets(targets: list[ast.expr]) -> set[str]:
    """Names assigned to; nothing when a target is more than a name, for then something else changes too."""
    leaves = [leaf for target in targets for leaf in _leaves(target)]
    names = {leaf.id for leaf in leaves if isinstance(leaf, ast.Name)}
    return names if all(isinstance(leaf, ast.Name) for leaf in leaves) else set()


def _leaves(target: ast.expr) -> list[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        return [leaf for element in target.elts for leaf in _leaves(element)]
    return [target]


def _names_of_all(nodes: Iterable[ast.AST]) -> set[str]:
    return {name for node in nodes for name in _names(node)}


def _names(node: ast.AST) -> set[str]:
    """Every name that is read, written or declared in a node."""
    names = {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}
    return names | {name for leaf in ast.walk(node) if isinstance(leaf, ast.Global) for name in leaf.names}
