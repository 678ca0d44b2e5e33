"""A page's facts as one HTML file that needs nothing else: no script, no font, no request.

Every value is escaped where it is put (Jinja's autoescaping, with no exception anywhere), and the page's own security policy
allows neither scripts nor requests, so a name in the data stays a name. Cost: a tenth of a second, most of it Jinja's.
"""

from functools import cache
from itertools import count as counter
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from velodrome.web import words
from velodrome.web.comparison import ComparisonPage, comparison_figure
from velodrome.web.figures import curve_figures, report_figures
from velodrome.web.finders import FinderPage
from velodrome.web.report import Page
from velodrome.web.time_spent import time_bar
from velodrome.web.windows import year_figures

__all__ = ["render"]


def render(page: Page | ComparisonPage | FinderPage) -> str:
    """The page as HTML."""
    template = _environment().get_template(f"{page.__struct_config__.tag}.html")
    return template.render(
        page=page,
        new_id=counter(1).__next__,
        comparison_figure=comparison_figure,
        curve_figures=curve_figures,
        report_figures=report_figures,
        time_bar=time_bar,
        year_figures=year_figures,
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("velodrome.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {name: getattr(words, name) for name in words.__all__ if callable(getattr(words, name))}
    environment.filters.update(filters)
    return environment
