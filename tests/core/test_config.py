from pathlib import Path

import pytest

from velodrome.core.config import Config, parse_config, read_config
from velodrome.core.errors import ConfigurationError


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_config(tmp_path) == Config()


def test_settings_are_read(tmp_path: Path) -> None:
    (tmp_path / "velodrome.toml").write_text('actor = "ann"\nkeep_checkpoints = 5\n')
    assert read_config(tmp_path) == Config(actor="ann", keep_checkpoints=5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keep_checkpoint = 2", "did you mean 'keep_checkpoints'"),
        ("keep_checkpoints = 'two'", "Expected `int`"),
        ("keep_checkpoints = 0", "at least 1"),
        ("threads = -1", "0 or more"),
        ("actor = ", "not TOML"),
        ("actor = 'policy:gates'", "does not begin with"),
    ],
)
def test_a_mistake_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_config(text)
