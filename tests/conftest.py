"""What every test may use: golden files, and hypothesis without a deadline (a slow machine is not a failing test)."""

import functools
import gc
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

settings.register_profile(
    "velodrome", parent=settings(), deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("velodrome")

pytest_plugins = ["counting", "servers"]  # of tests/shared


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write golden files anew, with the tests that use them")


def pytest_configure() -> None:
    """A shell's background jobs ignore interrupts, and so would what tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--golden"):
        items[:] = [item for item in items if "golden" in getattr(item, "fixturenames", ())]


def pytest_collection_finish() -> None:
    """What was imported stays: collecting garbage need not go through it again and again, a sixth of all the time.

    Nor do examples depend on what is imported from now on, which another order of tests changes: Hypothesis draws some from
    the constants in our modules.
    """
    providers._get_local_constants = functools.cache(providers._get_local_constants)
    providers._get_local_constants()
    gc.collect()
    gc.freeze()


class Golden:
    """Files beside a test that hold what must never change: `golden("digest.json", text)` compares, or rewrites."""

    def __init__(self, folder: Path, rewrite: bool) -> None:
        self.folder = folder
        self.rewrite = rewrite

    def __call__(self, name: str, actual: str) -> None:
        path = self.folder / name
        if self.rewrite:
            self.folder.mkdir(exist_ok=True)
            path.write_text(actual, encoding="utf-8")
        assert path.exists(), (
            f"there is no golden file {path}: write it with `make golden`, and read it before you commit it"
        )
        expected = path.read_text(encoding="utf-8")
        assert actual == expected, f"{path} has changed; if it had to, `make golden` and say why in the commit"


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """The golden files of the test's folder."""
    return Golden(request.path.parent / "golden", rewrite=request.config.getoption("--golden"))
