"""What several commands take: one name, one meaning and one word of help for each."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Device", "Html", "RecipeFile", "RunId", "Seed", "Settings"]

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe's Python file.")]

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its unique beginning.")]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a value of the recipe, such as learner.optimizer.lr=1e-3; may be repeated.",
    ),
]

Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]

Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:1; else as configured.")]

Html = Annotated[
    Path | None, typer.Option("--html", help="Write the page to this file; it needs nothing else to be read.")
]
