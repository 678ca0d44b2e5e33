from pathlib import Path

import pytest

from velodrome.core.config import Config, expand_variables, parse_config, read_config
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
        ("cache_bytes = 'much'", "a size is a number"),
        ("gc_grace = 'a day'", "a duration is a number"),
        ("gc_grace = '9999w'", "nobody waits for that long"),
        ("[retention.runs]\nage = 'old'", "a duration is a number"),
        ("[retention.snapshots]\ncount = -1", "counts from 0"),
        ("[retention.checkpoints]\nsize = 'large'", "a size is a number"),
        ("[retention.runs]\nages = '1d'", "unknown field `ages`"),
        ("[retention]\nrun = {}", "unknown field `run`"),
        ("blob_options = {region = 3}", "Expected `bool | str`"),
        ("ledger = 'postgresql://ann:pw@host/db'", "a password stands in ledger"),
        ("ledger = 'postgresql://host/db?password=pw'", "a password stands in ledger"),
        ("ledger = 'postgresql://host/db?sslpassword=pw'", "a password stands in ledger"),
        ("blobs = 's3://key:pw@bucket'", "a password stands in blobs"),
        ('store = "a\\u0000b"', "a NUL in store"),
        ('encryption_key = "file:a\\u0000b"', "a NUL in encryption_key"),
        ("store = '~/kept'", "`~` stands for no folder"),
    ],
)
def test_a_mistake_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_config(text)


@pytest.mark.parametrize(
    "text",
    [
        "ledgr = 'postgresql://ann:hunter2@host/db'",
        "ledgr = 'postgresql://ann@host/db?password=hunter2'",
        "blob_option = {secret_access_key = 'hunter2'}",
        "threads = 'x'\nledger = 'postgresql://ann:hunter2@host/db'",
        "ledger = 'postgresql://ann:hunter2@host/db'",
        "ledger = 'postgresql://ann:hunt/er2@host/db'",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_config(text)
    assert "er2" not in str(caught.value)


def test_variables_of_the_environment_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "db.example.com")
    monkeypatch.setenv("PASSWORD", "a$b")
    assert expand_variables("postgresql://ann:${PASSWORD}@$HOST/db") == "postgresql://ann:a$b@db.example.com/db"
    monkeypatch.delenv("PASSWORD")
    with pytest.raises(ConfigurationError, match="no variable PASSWORD"):
        expand_variables("$PASSWORD")
    monkeypatch.setenv("PASSWORD", "")
    with pytest.raises(ConfigurationError, match="variable PASSWORD is empty"):
        expand_variables("$PASSWORD")
    parse_config("ledger = 'postgresql://ann:$PASSWORD@host/db'")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "velodrome.toml"
    path.write_bytes(b"actor = 'caf\xe9'\n")
    with pytest.raises(ConfigurationError, match="no text in UTF-8"):
        read_config(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigurationError, match="Is a directory"):
        read_config(tmp_path)
