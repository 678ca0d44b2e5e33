"""How a run is told to a person."""

from velodrome.cli.output import print_table, say
from velodrome.control.pipeline import Result
from velodrome.core.units import show_duration
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.calibration import Calibration
from velodrome.web.words import plural

__all__ = ["interval", "print_result"]


def interval(estimate: Estimate) -> str:
    """A figure with its interval.

    >>> interval(Estimate(value=0.70511, low=0.694, high=0.716, level=0.95, resamples=9, rows=9))
    '0.7051 [0.694, 0.716]'
    >>> interval(Estimate(value=41152.5, low=35240.9, high=47711.2, level=0.95, resamples=9, rows=9))
    '41,152 [35,241, 47,711]'
    """
    value = _digits(estimate.value)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{_digits(estimate.low)}, {_digits(estimate.high)}]"


def _digits(value: float) -> str:
    """Four significant digits, or a whole number where that needs no power of ten."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def print_result(result: Result) -> None:
    """Snapshot, figures, verdicts, what became of the version, and what to type next."""
    if result.found:
        say(f"the same run is recorded: {result.run}; nothing to do")
    rows = [
        (
            "data",
            f"{plural(result.rows, 'row')}, {result.quarantined:,} in quarantine, snapshot {result.snapshot[:12]}",
        ),
        ("run", f"{result.run}, {plural(result.steps, 'step')}, seed {result.report.seed}"),
        *(
            (name, f"{interval(estimate)} on {plural(estimate.rows, 'test row')}")
            for name, estimate in result.report.metrics.items()
        ),
        *([("calibration", _calibration(result.report.calibration))] if result.report.calibration else []),
        *(("gate passed" if verdict.passed else "gate FAILED", verdict.why) for verdict in result.verdicts),
        ("version", f"{result.version}, {result.state}{', champion' if result.champion else ''}"),
        ("took", show_duration(result.seconds)),
    ]
    print_table([result.model, ""], rows)
    hints = _next(result)
    if hints:
        say("")
    for hint in hints:
        say(f"next: {hint}")


def _calibration(found: Calibration) -> str:
    return f"error {found.error:.3g}; chance alone makes {found.chance:.2g}"


def _next(result: Result) -> list[str]:
    if result.champion:
        return [f"velodrome models trace {result.model}@champion", _predict(result)]
    promote = f"velodrome models promote {result.version} --reason WHY"
    if result.state == "candidate":
        return [f"velodrome models approve {result.version} --reason WHY", promote]
    return [promote] if result.state == "approved" else []


def _predict(result: Result) -> str:
    """On the command line; in Python, where a row holds an array."""
    if not result.arrays:
        return f"velodrome predict {result.model}@champion IN --out OUT"
    given = ", ".join(f'"{name}": array' for name in result.arrays)
    return f'in Python, vd.load("{result.model}@champion").predict({{{given}}})'
