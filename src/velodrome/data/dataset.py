"""`Dataset`: what the user declares about data: where it is, what identifies a row, when it happened, what must hold."""

import re

from velodrome.core.errors import RecipeError
from velodrome.core.values import Value
from velodrome.data.contracts import Contract
from velodrome.data.sources import Files, Own

__all__ = ["Dataset"]


class Dataset(Value, frozen=True, tag="dataset"):
    """Data under a name.

    Attributes:
        name: lower-case letters, digits and hyphens.
        key: column that identifies a row; splits and row-level diffs go by it. Without one a row is known by its file's
            bytes and its place in them; a row of one's own always by its number.
        time: column that says when a row happened, a date or datetime; of data of one's own, the array of datetime64.
        contract: of files.
        owner: who answers for the data.

    Raises:
        RecipeError: the name is no slug; a key or a contract for data of one's own.
    """

    name: str
    source: Files | Own
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
        if isinstance(self.source, Own) and (self.key is not None or self.contract != Contract()):
            raise RecipeError(
                "data of one's own has neither key nor contract: rows are known by their number, and come as they are",
                received=self.name,
                remedy="leave them out; what a row must be is for its __getitem__ to hold",
            )
