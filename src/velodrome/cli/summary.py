"""How a run is told to a person."""

from velodrome.cli.output import print_table, say
from velodrome.control.pipeline import Result
from velodrome.core.units import show_duration
from velodrome.evaluation.bootstrap import Estimate
from velodrome.evaluation.calibration import Calibration

__all__ = ["interval", "print_result"]


def interval(estimate: Estimate) -> str:
    """A figure with its interval: 0.705 [0.694, 0.716]."""
    bounds = (
        f" [{estimate.low:.4g}, {estimate.high:.4g}]" if estimate.low is not None and estimate.high is not None else ""
    )
    return f"{estimate.value:.4g}{bounds}"


def print_result(result: Result) -> None:
    """Snapshot, figures, verdicts, what became of the version, and what to type next."""
    if result.found:
        say(f"the same run is recorded: {result.run}; nothing to do")
    rows = [
        ("data", f"{result.rows} rows, {result.quarantined} in quarantine, snapshot {result.snapshot[:12]}"),
        ("run", f"{result.run}, {result.steps} steps, seed {result.report.seed}"),
        *(
            (name, f"{interval(estimate)} on {estimate.rows} test rows")
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
