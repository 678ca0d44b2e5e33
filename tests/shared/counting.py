"""Counts, for the end of the output, how many tests of the conformance suites passed for which implementation."""

from collections import Counter

import pytest

from velodrome.testing.blobs import BlobsConformance
from velodrome.testing.ledger import LedgerConformance

_KEY = "conformance"


def pytest_itemcollected(item: pytest.Item) -> None:
    suite = getattr(item, "cls", None)
    if suite is not None and issubclass(suite, BlobsConformance | LedgerConformance):
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        item.user_properties.append((_KEY, parameters.get("combination", suite.__name__.removeprefix("Test"))))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            for key, label in getattr(report, "user_properties", ()):
                if key == _KEY and (report.when == "call" or outcome != "passed"):
                    counts.setdefault(label, Counter())[outcome] += 1
    if counts:
        terminalreporter.section("conformance")
        for label in sorted(counts):
            told = ", ".join(f"{count} {outcome}" for outcome, count in counts[label].items())
            terminalreporter.write_line(f"{label:35} {told}")
