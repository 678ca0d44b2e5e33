"""A mistake of the recipe says what to do about it. Where it is found: tests/scenarios/test_failures.py."""

import torch

from velodrome.training.own_code import mistake


def test_a_row_that_is_alone_in_batch_normalisation_is_told_how_not_to_be() -> None:
    try:
        torch.nn.BatchNorm1d(3)(torch.ones(1, 3))
    except ValueError as error:
        found = mistake(error, "step 5")
    assert "fails in step 5" in found.problem
    assert "micro_batch" in str(found.remedy)
    assert "--log-level debug" in str(mistake(ValueError("another"), "step 5").remedy)
