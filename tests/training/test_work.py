import pytest

from velodrome.core.errors import NotFound
from velodrome.training.work import ITEMS, require_items


def test_an_item_that_no_checkpoint_has_is_named() -> None:
    require_items(ITEMS)
    with pytest.raises(NotFound) as caught:
        require_items(["ema", "optimiser"])
    assert caught.value.received == "optimiser"
    assert caught.value.remedy == "did you mean 'optimizer'?"
