from pathlib import Path

import msgspec
import polars as pl
import pytest

from velodrome.core.digest import canonical
from velodrome.core.errors import ContractError, SchemaError, SourceError
from velodrome.data import fragments
from velodrome.data.contracts import Between, Contract, NotNull, Types, Unique
from velodrome.data.deliveries import Delivery, look
from velodrome.data.fragments import (
    Fragment,
    accepted_places,
    derive_fragment,
    find_fragment,
    fragment_name,
    judge_again,
    quarantined_rows,
    read_judged,
    recall_fragment,
    scan_fragment,
)
from velodrome.data.judging import REASON, ROW
from velodrome.store.ledger import digest_record
from velodrome.store.workspace import Workspace, open_folder

CONTRACT = Contract([Types({"code": "string", "n": "int64"}), Between("n", 0)])


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_folder(tmp_path)


def deliver(ws: Workspace, text: str = "code,n\n007,1\n008,-1\n009,x\n", name: str = "a.csv") -> Delivery:
    (ws.root / name).write_text(text, encoding="utf-8")
    return look(ws, [ws.root / name])[0]


def test_a_fragment_has_the_rows_that_hold_and_the_others(ws: Workspace) -> None:
    fragment = derive_fragment(ws, deliver(ws), CONTRACT)
    assert scan_fragment(ws, fragment).collect().rows() == [("007", 1)]
    aside = quarantined_rows(ws, fragment)
    assert aside is not None
    assert aside.drop(REASON).rows() == [("008", "-1", 2), ("009", "x", 3)]
    assert aside[ROW].dtype == pl.UInt32
    assert (fragment.file, fragment.rows, fragment.quarantined) == ("a.csv", 1, 2)


def test_nothing_in_quarantine_is_no_blob(ws: Workspace) -> None:
    fragment = derive_fragment(ws, deliver(ws, "code,n\n1,1\n"), CONTRACT)
    assert fragment.quarantine is None
    assert quarantined_rows(ws, fragment) is None


def test_a_fragment_is_found_by_its_name_and_points_at_its_file_and_its_blobs(ws: Workspace) -> None:
    delivery = deliver(ws)
    assert find_fragment(ws, fragment_name(delivery.digest, CONTRACT)) is None
    fragment = derive_fragment(ws, delivery, CONTRACT)
    assert fragment.name == fragment_name(delivery.digest, CONTRACT)
    assert find_fragment(ws, fragment.name) == fragment
    edges = {edge.role: edge.dst for edge in ws.ledger.edges(digest_record(fragment))}
    assert edges == {
        "source": delivery.digest,
        "rows": fragment.content,
        "converted": fragment.converted,
        "quarantine": fragment.quarantine,
        "sketches": fragment.sketches,
    }


def test_the_name_depends_on_bytes_and_on_rules_for_single_rows(ws: Workspace) -> None:
    source = deliver(ws).digest
    name = fragment_name(source, CONTRACT)
    assert fragment_name(source, Contract([*CONTRACT.rules, Unique("n")])) == name
    assert fragment_name(source, Contract([*CONTRACT.rules, NotNull("n")])) != name
    assert fragment_name(deliver(ws, "code,n\n1,1\n", "b.csv").digest, CONTRACT) != name


def test_whoever_derives_first_is_shared_by_all(ws: Workspace) -> None:
    first = derive_fragment(ws, deliver(ws), CONTRACT)
    assert derive_fragment(ws, deliver(ws, name="copy.csv"), CONTRACT) == first


def test_a_rule_that_stops_leaves_nothing(ws: Workspace) -> None:
    contract = Contract([Types({"n": "int64"}), Between("n", 0, action="stop")])
    with pytest.raises(ContractError, match=r"a\.csv"):
        derive_fragment(ws, deliver(ws), contract)
    assert ws.ledger.records(Fragment.kind()) == []
    assert list(ws.blobs.list()) == []


def test_reading_stores_nothing(ws: Workspace) -> None:
    assert read_judged(deliver(ws), CONTRACT).accepted.height == 1
    assert list(ws.blobs.list()) == []


def test_a_file_that_changed_since_it_was_named_is_refused(ws: Workspace) -> None:
    delivery = deliver(ws)
    deliver(ws, "code,n\n1,1\n")
    with pytest.raises(SourceError, match="changed while it was read"):
        derive_fragment(ws, delivery, CONTRACT)


def test_accepted_rows_know_their_places_in_the_file(ws: Workspace) -> None:
    assert accepted_places(ws, derive_fragment(ws, deliver(ws), CONTRACT)).tolist() == [1]
    text = "code,n\n1,-1\n2,2\n3,-3\n4,4\n"
    assert accepted_places(ws, derive_fragment(ws, deliver(ws, text), CONTRACT)).tolist() == [2, 4]
    assert accepted_places(ws, derive_fragment(ws, deliver(ws, "code,n\n1,1\n2,2\n"), CONTRACT)).tolist() == [1, 2]


def test_stored_rows_judged_again_are_the_fragment_that_the_file_would_be(ws: Workspace, tmp_path: Path) -> None:
    """To the byte: also what was text in the file and comes as a number, and goes into quarantine now."""
    strict = Contract([Types({"code": "string", "n": "int64"}), Between("n", 5)])
    text = "code,n\n007,01\n008,-1\n009,x\n010, 7\n"
    again = judge_again(ws, derive_fragment(ws, deliver(ws, text), CONTRACT), strict)
    with open_folder(tmp_path / "other") as other:
        fresh = derive_fragment(other, deliver(other, text), strict)
        assert again == fresh
        aside = quarantined_rows(ws, again)
        assert aside is not None
        assert aside["n"].to_list() == ["01", "-1", "x"]


def test_rules_that_do_not_fit_name_the_file(ws: Workspace) -> None:
    with pytest.raises(SchemaError, match=r"a\.csv: vd\.Between names a column") as caught:
        derive_fragment(ws, deliver(ws), Contract([Between("m", 0)]))
    assert "received: m" in str(caught.value)


def test_what_was_written_before_there_were_sketches_keeps_its_digest(ws: Workspace) -> None:
    fragment = derive_fragment(ws, deliver(ws, "code\n1\n"), Contract())
    older = msgspec.structs.replace(fragment, sketches=None)
    assert not {"sketches", "converted"} & set(msgspec.json.decode(canonical(older)))


def test_a_quarantined_number_of_128_bits_is_kept(ws: Workspace) -> None:
    fragment = derive_fragment(ws, deliver(ws, f"id\n1\n{2**100}\n"), Contract())
    aside = quarantined_rows(ws, fragment)
    assert aside is not None
    assert int(aside["id"][0]) == 2**100


# ------------------------------------------------------------------------------------------------------------ collection


def collect(ws: Workspace, fragment: Fragment) -> None:
    for blob in fragment.blobs.values():
        ws.blobs.delete(blob)


def test_a_fragment_is_recalled_only_whole(ws: Workspace) -> None:
    fragment = derive_fragment(ws, deliver(ws), CONTRACT)
    assert recall_fragment(ws, fragment.name, ()) == fragment
    ws.blobs.delete(fragment.sketches or "")
    assert recall_fragment(ws, fragment.name, ()) is None
    assert recall_fragment(ws, fragment.name, {fragment.name}) == fragment


def test_what_was_collected_is_derived_anew_and_is_the_same(ws: Workspace) -> None:
    fragment = derive_fragment(ws, deliver(ws), CONTRACT)
    collect(ws, fragment)
    assert derive_fragment(ws, deliver(ws), CONTRACT) == fragment
    assert recall_fragment(ws, fragment.name, ()) == fragment
    assert len(ws.ledger.records("fragment")) == 1


def test_other_bytes_for_the_same_rows_take_the_place_of_what_was_collected(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another version of Polars writes them; and back again."""
    text = "code,n\n" + "".join(f"{number},1\n" for number in range(5))
    first = derive_fragment(ws, deliver(ws, text), CONTRACT)
    collect(ws, first)
    with monkeypatch.context() as other_polars:
        other_polars.setattr(fragments, "_ROW_GROUP", 2)
        second = derive_fragment(ws, deliver(ws, text), CONTRACT)
    assert second != first
    assert scan_fragment(ws, find_fragment(ws, first.name) or first).collect().height == 5
    assert recall_fragment(ws, first.name, ()) == second
    assert derive_fragment(ws, deliver(ws, text), CONTRACT) == first
    assert recall_fragment(ws, first.name, ()) == first
