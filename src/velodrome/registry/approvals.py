"""Who may approve a version: values that a recipe declares."""

from velodrome.core.errors import RecipeError
from velodrome.core.values import Value

__all__ = ["PersonApproval", "PolicyApproval"]


class PolicyApproval(Value, frozen=True, tag="policy"):
    """A version that passed its gates is approved without anyone being asked, by the policy of that name.

    >>> PolicyApproval("passed-gates").actor
    'policy:passed-gates'
    """

    name: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name.strip():
            raise RecipeError(
                "a policy has a name", received=repr(self.name), remedy="write for example 'passed-gates'"
            )

    @property
    def actor(self) -> str:
        """What the approval is recorded under: never a person's name."""
        return f"policy:{self.name}"


class PersonApproval(Value, frozen=True, tag="person"):
    """A version that passed its gates waits until a person approves it."""
