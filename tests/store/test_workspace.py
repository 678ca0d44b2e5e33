from pathlib import Path

from velodrome.core.config import Config
from velodrome.store.ledger import Append
from velodrome.store.workspace import open_folder


def test_a_workspace_is_made_where_it_is_missing_and_found_again(tmp_path: Path) -> None:
    with open_folder(tmp_path, Config(store="kept", actor="ann")) as ws:
        ws.commit(Append("s", "one"))
        ws.acting_as("bob").commit(Append("s", "two"))
        ws.commit(Append("s", "three"), actor="policy:x")
    with open_folder(tmp_path, Config(store="kept")) as again:
        assert [event.actor for event in again.ledger.events("s")] == ["ann", "bob", "policy:x"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir() if path.suffix in (".db", "")) == [
        "blobs",
        "ledger.db",
    ]
