import pytest

from velodrome.core.errors import RecipeError
from velodrome.registry.approvals import PersonApproval, PolicyApproval


def test_a_policy_is_never_recorded_as_a_person() -> None:
    assert PolicyApproval("ann").actor == "policy:ann"


@pytest.mark.parametrize("name", ["", "  "])
def test_a_policy_has_a_name(name: str) -> None:
    with pytest.raises(RecipeError, match="a policy has a name"):
        PolicyApproval(name)


def test_approvals_are_values() -> None:
    assert PersonApproval() == PersonApproval()
    assert PolicyApproval("a") != PolicyApproval("b")
    with pytest.raises(RecipeError, match="nam"):
        PolicyApproval(nam="a")  # type: ignore[call-arg]
