import re
from pathlib import Path

from velodrome.core import errors
from velodrome.core.errors import ExitCode, NotFound, VelodromeError


def _subclasses(cls: type) -> set[type]:
    return {cls}.union(*(_subclasses(sub) for sub in cls.__subclasses__()))


def test_the_drawn_tree_names_every_error_in_its_place() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(
        cls.__name__ for cls in _subclasses(VelodromeError) - {VelodromeError} if cls.__module__ == errors.__name__
    )


def test_every_exit_code_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == {int(code) for code in ExitCode}
    assert [
        cls.__name__
        for cls in _subclasses(VelodromeError)
        if f"`{cls.__name__}`" not in text and cls.__module__ == errors.__name__
    ] == []


def test_an_error_says_what_was_wrong_what_was_received_and_what_to_do() -> None:
    text = str(NotFound("there is no such column", received="distanse", remedy="did you mean 'distance'?"))
    assert text.splitlines() == [
        "there is no such column",
        "  received: distanse",
        "  to mend: did you mean 'distance'?",
    ]


def test_what_was_received_is_cut() -> None:
    assert len(str(NotFound("x", received="y" * 10_000))) < 300
