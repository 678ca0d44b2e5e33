"""`Dataset`: what the user declares about data: where it is, what identifies a row, when it happened, what must hold."""

import re

from velodrome.core.errors import RecipeError
from velodrome.core.values import Value
from velodrome.data.contracts import Contract
from velodrome.data.sources import Files

__all__ = ["Dataset"]


class Dataset(Value, frozen=True, tag="dataset"):
    """Data under a name.

    Attributes:
        name: lower-case letters, digits and hyphens.
        key: column that identifies a row; splits and row-level diffs go by it. Without one a row is known by its file's
            bytes and its place in them.
        time: column that says when a row happened, a date or datetime.
        owner: who answers for the data.

    Raises:
        RecipeError: the name is no slug.
    """

    name: str
    source: Files
    key: str | None = None
    time: str | None = None
    contract: Contract = Contract()
    owner: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise RecipeError(
                "a dataset's name is lower-case letters, digits and hyphens",
                received=self.name,
                remedy="for example 'flights-2013'",
            )
