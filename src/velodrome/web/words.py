"""Numbers, times and names as a reader takes them in: pure functions of one value each, also the filters of the templates."""

from collections.abc import Sequence
from datetime import datetime

from velodrome.core.units import show_duration
from velodrome.evaluation.bootstrap import Estimate

__all__ = [
    "NAMES",
    "closed",
    "count",
    "day",
    "difference",
    "duration",
    "figure",
    "interval",
    "listed",
    "of_series",
    "percent",
    "plural",
    "range_of",
    "sentence",
    "short",
    "value_of",
    "when",
]

NAMES = {
    "loss": "training loss",
    "validation_loss": "validation loss",
    "gradient_norm": "gradient norm",
    "lr": "learning rate",
    "step_time": "time of a step",
    "data_wait": "wait for data",
    "data_wait_share": "share of a step that waits for data",
    "host.cpu_percent": "processors of the machine",
    "host.memory_bytes": "memory of the process",
}
"""What the series of a training are called on a page; others keep their names."""

_NONE = "–"
_SPACE = "\N{NO-BREAK SPACE}"


def of_series(name: str) -> str:
    return NAMES.get(name, name)


def count(number: float | None) -> str:
    """A whole number with its thousands apart.

    >>> count(77806), count(None)
    ('77,806', '–')
    """
    return _NONE if number is None else f"{number:,.0f}"


def plural(number: int, thing: str) -> str:
    """
    >>> plural(1, "file"), plural(1200, "row")
    ('1 file', '1,200 rows')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def figure(value: float | None) -> str:
    """A measured number: three decimals, or four significant digits where that says too much or too little.

    >>> figure(0.70956), figure(23.4567), figure(0.000123), figure(None)
    ('0.710', '23.46', '0.000123', '–')
    """
    if value is None:
        return _NONE
    size = abs(value)
    text = f"{value:.3f}" if 0.01 <= size < 10 or not value else f"{value:,.4g}" if size >= 10 else f"{value:.3g}"
    return text.replace("-", "−")


def difference(estimate: Estimate | None) -> str:
    """A difference with its sign and its interval.

    >>> difference(Estimate(value=0.0123, low=-0.004, high=0.0278, level=0.95, resamples=9, rows=9))
    '+0.012 (−0.004 to 0.028)'
    """
    sign = "+" if estimate and estimate.value > 0 else ""
    return sign + interval(estimate)


def range_of(estimate: Estimate | None) -> str:
    """The interval of an estimate alone.

    >>> range_of(Estimate(value=0.7, low=0.65, high=0.75, level=0.95, resamples=9, rows=9))
    '0.650 to 0.750'
    """
    if estimate is None or estimate.low is None or estimate.high is None:
        return _NONE
    low, high = _alike(estimate.low, estimate.high)
    return f"{low} to {high}"


def value_of(estimate: Estimate | None) -> str:
    """An estimate alone, to be read beside its interval.

    >>> value_of(Estimate(value=0.0000169, low=0.0, high=0.0001, level=0.95, resamples=9, rows=9)), value_of(None)
    ('0.0000', '–')
    """
    return interval(estimate).partition(" ")[0]


def interval(estimate: Estimate | None) -> str:
    """An estimate with its interval.

    >>> interval(Estimate(value=0.7, low=0.65, high=0.75, level=0.95, resamples=9, rows=9))
    '0.700 (0.650 to 0.750)'
    """
    if estimate is None or estimate.low is None or estimate.high is None:
        return figure(estimate.value if estimate else None)
    value, low, high = _alike(estimate.value, estimate.low, estimate.high)
    return f"{value} ({low} to {high})"


def _alike(*values: float) -> list[str]:
    """Numbers with as many decimals as the greatest of them has.

    >>> _alike(-0.015, 0.00969)
    ['−0.015', '0.010']
    """
    shown = figure(max(values, key=abs))
    if "e" in shown:
        return [figure(value) for value in values]
    decimals = len(shown.partition(".")[2])
    return [f"{value:,.{decimals}f}".replace("-", "−") for value in values]


def percent(share: float | None) -> str:
    """A share in percent.

    >>> percent(0.0369), percent(0.5), percent(0.00004), percent(0.0)
    ('3.7\xa0%', '50\xa0%', '0.004\xa0%', '0\xa0%')
    """
    if share is None:
        return _NONE
    value = 100 * share
    decimals = 0 if value == 0 or abs(value) >= 9.95 else 1
    text = f"{value:.{decimals}f}" if value == 0 or abs(value) >= 0.05 else f"{value:.1g}"
    return f"{text}{_SPACE}%"


def duration(seconds: float | None) -> str:
    """A duration that no line breaks."""
    return _NONE if seconds is None else show_duration(seconds).replace(" ", _SPACE)


def when(time: datetime | None) -> str:
    """A moment to the minute; the page says that times are in UTC."""
    return _NONE if time is None else f"{time:%Y-%m-%d %H:%M}"


def day(time: datetime | None) -> str:
    return _NONE if time is None else f"{time:%Y-%m-%d}"


def short(digest: str | None) -> str:
    """The beginning of a digest, which is enough to find it by."""
    return _NONE if digest is None else digest[:12]


def closed(text: str) -> str:
    """With a full stop at its end."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def sentence(text: str) -> str:
    """With a full stop, and a capital where it begins with a plain word; names of columns and models stay as they are.

    >>> sentence("there is no champion yet"), sentence("roc_auc is 0.7."), sentence("late-arrivals/2 is old")
    ('There is no champion yet.', 'roc_auc is 0.7.', 'late-arrivals/2 is old.')
    """
    first = text.partition(" ")[0]
    return closed(text[:1].upper() + text[1:] if first.isalpha() else text)


def listed(names: Sequence[str], most: int = 5) -> str:
    """
    >>> listed(["a", "b", "c"]), listed(["a", "b", "c"], 2), listed([])
    ('a, b and c', 'a, b and 1 more', 'none')
    """
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    if len(shown) < 2:
        return shown[0] if shown else "none"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
