from collections.abc import Callable
from pathlib import Path

import pytest
from project import RECIPE, Project, customers


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Project]:
    def make(rows: int = 800, epochs: int = 3, recipe: str = RECIPE) -> Project:
        project = Project(tmp_path)
        customers(rows).write_csv(tmp_path / "customers.csv")
        project.write("recipe.py", recipe.replace("EPOCHS", str(epochs)))
        project.write("shapes.py", "HIDDEN = 8\n")
        project.write("README.md", "A project.\n")
        return project

    return make


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    return make_project()
