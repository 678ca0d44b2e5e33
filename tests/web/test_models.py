from typing import Any

import msgspec
import pytest

from velodrome.core.errors import NotFound
from velodrome.web.models import ModelPage, model_page


def test_a_version_shows_its_judge_its_refit_and_who_decided(year: Any) -> None:
    page = model_page(year.ws, "buyers@champion")
    assert (page.reference, page.state, page.aliases) == ("buyers/3", "approved", ("champion",))
    assert page.run.type == "train"
    assert page.refit is not None
    assert page.refit.judge == page.run.id
    assert page.run.report is not None
    assert [one.what for one in page.decisions] == ["registered", "candidate", "approved"]
    assert [(one.what, one.version) for one in page.moves] == [("champion promoted", "buyers/3")]
    assert [facts.cycle.number for facts in page.cycles] == [4]


def test_a_refused_version_has_no_refit_and_no_alias(year: Any) -> None:
    page = model_page(year.ws, "buyers/2")
    assert (page.state, page.aliases, page.refit, page.moves) == ("rejected", (), None, ())
    assert page.run.version == "buyers/2"


def test_a_page_is_json_that_leads_back_to_it(year: Any) -> None:
    page = model_page(year.ws, "buyers/1")
    assert msgspec.json.decode(msgspec.json.encode(page), type=ModelPage) == page


def test_an_unknown_version_is_named(year: Any) -> None:
    with pytest.raises(NotFound, match="no such version"):
        model_page(year.ws, "buyers/9")
