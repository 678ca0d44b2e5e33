import sys

import pytest

from velodrome.core.errors import ConfigurationError, MissingExtra
from velodrome.core.extras import KINDS, load


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_loads(kind: str) -> None:
    assert load(kind).__name__ == KINDS[kind][0]


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="learner:torch"):
        load("learner:tourch")


def test_a_missing_dependency_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "learner:absent", ("absent_library.module", "torch"))
    monkeypatch.setitem(sys.modules, "absent_library", None)
    with pytest.raises(MissingExtra, match=r"pip install 'velodrome\[torch\]'"):
        load("learner:absent")
