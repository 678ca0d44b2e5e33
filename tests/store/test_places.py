from pathlib import Path

import pytest

from velodrome.core.config import Config
from velodrome.core.errors import ConfigurationError
from velodrome.store.backup import open_backups
from velodrome.store.places import local_path
from velodrome.store.workspace import open_folder


@pytest.mark.parametrize("where", ["s3:/bucket/prefix", "postgresql:ann:hunter2@host", "file:blobs", "~/blobs"])
def test_a_slip_of_the_pen_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    for act in (
        lambda: open_folder(tmp_path, Config(blobs=where)),
        lambda: open_folder(tmp_path, Config(ledger=where)),
        lambda: open_backups(where, new=True),
    ):
        with pytest.raises(ConfigurationError) as caught:
            act()
        assert "hunter2" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.name != ".velodrome"]


def test_an_empty_variable_is_no_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER", "")
    with pytest.raises(ConfigurationError, match="LEDGER is empty"):
        open_folder(tmp_path, Config(ledger="$LEDGER"))
    assert not (tmp_path / ".velodrome" / "ledger.db").exists()


@pytest.mark.parametrize("where", ["blobs", "./s3:/bucket", "/mnt/a:b", "a b/%20?x#y", "..", "a/~"])
def test_folders_have_any_other_name(where: str) -> None:
    assert local_path(Path("/project"), where) == Path("/project") / where
