import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from velodrome.core.errors import RecipeError, SourceError
from velodrome.registry.code import Captured, capture, capture_source
from velodrome.store.trees import read_tree
from velodrome.store.workspace import Workspace

RECIPE = '''
"""What this recipe is for."""
import os
from checks import level, strict
import velodrome as vd
from network import build  # ours


def margin(value):
    """Only the gates use it."""
    return strict(value)


def shared(value):
    return value * 2


UNUSED = 1
recipe = vd.Recipe(
    "late",
    learner=vd.Torch(network=build, epochs=shared(3)),
    gates=[vd.AtLeast("roc_auc", margin(level)), vd.AtMost("log_loss", shared(1))],
    operate=vd.Operate(approval=vd.PolicyApproval("gates")),
)
'''
FILES = {
    "recipe.py": RECIPE,
    "checks.py": "level = 0.6\ndef strict(value): return value\n",
    "network.py": "from layers.dense import width\nfrom layers import depth\nimport numpy\ndef build(inputs): ...\n",
    "layers/__init__.py": "depth = 3\n",
    "layers/dense.py": "from . import names\nfrom .deep.most import x\nwidth = 64\n",
    "layers/names.py": "import json\n",
    "layers/deep/__init__.py": "",
    "layers/deep/most.py": "from ..unit import u as x\n",
    "layers/unit.py": "u = 1\n",
    "layers/other.py": "nobody imports this\n",
    "README.md": "words",
}

Change = Callable[..., bool]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path / "project", FILES)


@pytest.fixture
def changes_key(ws: Workspace, project: Path) -> Change:
    """Whether replacing `old` by `new` in a file of the project changes the key of its recipe."""

    def changes(name: str, old: str, new: str) -> bool:
        path = project / name
        before = capture(ws, project / "recipe.py", project)
        text = path.read_text() if path.exists() else ""
        assert old in text
        path.write_text(text.replace(old, new))
        return capture(ws, project / "recipe.py", project).key != before.key

    return changes


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("README.md", "words", "other words"),
        ("recipe.py", "  # ours", "  # a comment"),
        ("recipe.py", "import os\n", "import os\n\n\n"),
        ("recipe.py", "What this recipe is for.", "Another docstring."),
        ("recipe.py", '"late",\n', '"late", '),
        ("recipe.py", 'PolicyApproval("gates")', 'PolicyApproval("committee")'),
        ("recipe.py", '    operate=vd.Operate(approval=vd.PolicyApproval("gates")),\n', ""),
        ("recipe.py", '"roc_auc"', '"f1"'),
        ("recipe.py", "    operate", '    evaluation=vd.Evaluation(cohorts=["carrier"]),\n    operate'),
        ("recipe.py", "return strict(value)", "return strict(value) + 1"),
        ("recipe.py", "import level, strict", "import strict, level"),
        ("checks.py", "0.6", "0.65"),
        ("layers/other.py", "nobody", "somebody"),
        ("unrelated.py", "", "x = 1"),
    ],
)
def test_what_weights_do_not_depend_on_leaves_the_key(changes_key: Change, name: str, old: str, new: str) -> None:
    assert not changes_key(name, old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("recipe.py", '"late"', '"later"'),
        ("recipe.py", "shared(3)", "shared(4)"),
        ("recipe.py", "value * 2", "value * 3"),
        ("recipe.py", "UNUSED = 1", "UNUSED = 2"),
        ("recipe.py", "import os\n", "import sys\n"),
        ("network.py", "def build", "# a comment counts here\ndef build"),
        ("layers/__init__.py", "3", "4"),
        ("layers/dense.py", "64", "65"),
        ("layers/names.py", "json", "csv"),
        ("layers/deep/__init__.py", "", "y = 1"),
        ("layers/deep/most.py", "u as x", "u as x  #"),
        ("layers/unit.py", "1", "2"),
    ],
)
def test_what_weights_depend_on_changes_the_key(changes_key: Change, name: str, old: str, new: str) -> None:
    assert changes_key(name, old, new)


def test_a_definition_that_gates_and_training_use_counts(ws: Workspace, tmp_path: Path) -> None:
    keys = set()
    for number in (1, 2):
        source = f"import velodrome as vd\nn = {number}\nr = vd.Recipe('a', seed=n, gates=[vd.AtLeast('f1', n)])\n"
        write(tmp_path, {"recipe.py": source})
        keys.add(capture(ws, tmp_path / "recipe.py", tmp_path).key)
    assert len(keys) == 2


@pytest.mark.parametrize(
    "source",
    [
        "def gate(x): return recipe.name\nrecipe = vd.Recipe('a', epochs={n}, gates=[gate])",
        "recipe = make(epochs={n})\ndef make(epochs): return vd.Recipe('a', epochs=epochs, gates=[recipe])",
        "level = 1\nlevel += {n}\nrecipe = vd.Recipe('a', gates=[level])",
        "level = {n}\nif level: prepare()\nrecipe = vd.Recipe('a', gates=[level])",
        "settings['x'] = {n}\nrecipe = vd.Recipe('a', gates=[settings])",
        "level = {n}\nprint(globals()['level'])\nrecipe = vd.Recipe('a', gates=[level])",
        "def train():\n    global level\n    level = 2\nlevel = {n}\nrecipe = vd.Recipe('a', gates=[level])",
        "recipe = other.Reception('a', gates=[{n}])",
        "from velodrome import Recipe as R\nrecipe = R('a', {n}, gates=[])",
    ],
)
def test_when_in_doubt_it_counts(ws: Workspace, tmp_path: Path, source: str) -> None:
    keys = set()
    for number in (1, 2):
        write(tmp_path, {"recipe.py": source.format(n=number)})
        keys.add(capture(ws, tmp_path / "recipe.py", tmp_path).key)
    assert len(keys) == 2


@pytest.mark.parametrize(
    "source",
    [
        "from velodrome import Recipe as R\nrecipe = R('a', gates=[{n}])",
        "from velodrome.recipe import Recipe\nlow = {n}\nlevel = low\nrecipe = Recipe('a', gates=[level])",
        "def make():\n    return vd.Recipe('a', operate={n})\nrecipe = make()",
        "one, two = {n}, 3\nrecipe = vd.Recipe('a', gates=[one, two])",
        "class Gate:\n    level: int = {n}\nrecipe = vd.Recipe('a', gates=[Gate()])",
        "level: int = {n}\nrecipe = vd.Recipe('a', gates=[level])",
    ],
)
def test_what_only_gates_use_does_not_count(ws: Workspace, tmp_path: Path, source: str) -> None:
    keys = set()
    for number in (1, 2):
        write(tmp_path, {"recipe.py": source.format(n=number)})
        keys.add(capture(ws, tmp_path / "recipe.py", tmp_path).key)
    assert len(keys) == 1


def test_all_of_the_code_is_kept_also_what_the_key_leaves_out(ws: Workspace, project: Path) -> None:
    captured = capture(ws, project / "recipe.py", project)
    kept = {path: ws.blobs.read(leaf.digest).decode() for path, leaf in read_tree(ws.blobs, captured.code).items()}
    assert kept == {name: text for name, text in FILES.items() if name not in ("README.md", "layers/other.py")}


def test_nothing_installed_and_nothing_outside_the_root_is_followed(ws: Workspace, tmp_path: Path) -> None:
    files = {
        "recipe.py": "import inner, outer, velodrome.core, numpy, packaged\n",
        "inner.py": "",
        ".venv/pyvenv.cfg": "",
        ".venv/packaged.py": "",
        "lib/site-packages/packaged.py": "",
        "velodrome/core.py": "",
    }
    root = write(tmp_path / "project", files)
    write(tmp_path, {"outer.py": ""})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(tmp_path), str(root / ".venv"), str(root / "lib/site-packages")])
        captured = capture(ws, root / "recipe.py", root)
    assert set(read_tree(ws.blobs, captured.code)) == {"recipe.py", "inner.py"}


def test_modules_are_found_in_the_root_beside_the_recipe_in_src_and_on_the_path(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "recipes/late.py": "import a, b, c, d\n",
        "a.py": "import late",
        "recipes/b.py": "",
        "src/c/__init__.py": "",
        "lib/d.py": "",
    }
    root = write(tmp_path, files)
    monkeypatch.syspath_prepend(root / "lib")
    captured = capture(ws, root / "recipes/late.py", root)
    assert set(read_tree(ws.blobs, captured.code)) == set(files)


def test_a_script_of_a_package_takes_its_package_with_it(ws: Workspace, tmp_path: Path) -> None:
    files = {"pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/sub/train.py": "from .. import a", "pkg/a.py": ""}
    root = write(tmp_path, files)
    captured = capture(ws, root / "pkg/sub/train.py", root)
    assert set(read_tree(ws.blobs, captured.code)) == set(files) - {"pkg/sub/__init__.py"}


def test_a_project_that_moved_has_the_same_key(ws: Workspace, tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", FILES), write(tmp_path / "two", FILES)
    assert capture(ws, one / "recipe.py", one) == capture(ws, two / "recipe.py", two)


def test_a_recipe_outside_the_root_has_its_own_folder_for_root(ws: Workspace, project: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert capture(ws, project / "recipe.py", tmp_path / "elsewhere") == capture(ws, project / "recipe.py", project)


def test_modules_that_import_each_other_end(ws: Workspace, tmp_path: Path) -> None:
    root = write(tmp_path, {"recipe.py": "import a", "a.py": "import b", "b.py": "import a, recipe"})
    assert len(read_tree(ws.blobs, capture(ws, root / "recipe.py", root).code)) == 3


def test_a_module_that_does_not_parse_counts_with_its_bytes(ws: Workspace, tmp_path: Path) -> None:
    keys = set()
    for text in ("print 'old'", "print 'older'"):
        write(tmp_path, {"recipe.py": "import old", "old.py": text})
        keys.add(capture(ws, tmp_path / "recipe.py", tmp_path).key)
    assert len(keys) == 2


def test_a_recipe_that_is_not_python_is_named_with_its_line(ws: Workspace, tmp_path: Path) -> None:
    write(tmp_path, {"recipe.py": "x = 1\ny = = 2\n"})
    with pytest.raises(RecipeError, match=r"recipe\.py, line 2, is not Python"):
        capture(ws, tmp_path / "recipe.py", tmp_path)
    with pytest.raises(SourceError, match="cannot read"):
        capture(ws, tmp_path / "missing.py", tmp_path)


def test_a_doubtful_escape_is_not_ours_to_warn_of(ws: Workspace, tmp_path: Path) -> None:
    write(tmp_path, {"recipe.py": 'pattern = "\\d"\n'})
    assert capture(ws, tmp_path / "recipe.py", tmp_path).code


def notebook(ws: Workspace, *cells: str) -> Captured:
    return capture_source(ws, list(cells))


def test_cells_count_as_one_module(ws: Workspace) -> None:
    write(ws.root, {"network.py": "def build(): ...\n"})
    cells = ("%matplotlib inline\nimport velodrome as vd\nfrom network import build", "level = 0.6")
    last = "recipe = vd.Recipe('a', learner=build, gates=[level])"
    base = notebook(ws, *cells, last)
    assert notebook(ws, cells[0], "level = 0.7  # other", last).key == base.key
    assert notebook(ws, cells[0].replace("inline", "notebook"), cells[1], last).key == base.key
    assert notebook(ws, *cells, last.replace("'a'", "'b'")).key != base.key
    kept = {path: ws.blobs.read(leaf.digest) for path, leaf in read_tree(ws.blobs, base.code).items()}
    assert kept == {
        "cells/0000.py": cells[0].encode(),
        "cells/0001.py": cells[1].encode(),
        "cells/0002.py": last.encode(),
        "network.py": b"def build(): ...\n",
    }
    write(ws.root, {"network.py": "def build(): return 1\n"})
    assert notebook(ws, *cells, last).key != base.key


def test_a_cell_that_is_no_python_counts_with_its_text(ws: Workspace) -> None:
    assert notebook(ws, "%%bash\nls | wc").key != notebook(ws, "%%bash\nls").key
    assert notebook(ws, "x = (7\n  % 2)").key != notebook(ws, "x = (7\n  % 3)").key
