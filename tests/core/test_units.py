from datetime import timedelta

import pytest

from velodrome.core.errors import ConfigurationError
from velodrome.core.units import parse_duration


@pytest.mark.parametrize(("text", "days"), [("7d", 7), ("2w", 14), ("12h", 0.5), ("1.5 d", 1.5)])
def test_durations_are_read(text: str, days: float) -> None:
    assert parse_duration(text) == timedelta(days=days)


@pytest.mark.parametrize("text", ["", "7", "d", "-7d", "7 months", "99999999999d"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="a duration is"):
        parse_duration(text)
