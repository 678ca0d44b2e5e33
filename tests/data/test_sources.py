import gzip
import io
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from velodrome.core.errors import ConfigurationError, RecipeError, SourceError
from velodrome.data.sources import NULL_WORDS, Files, Own, list_files, read_user_file, require_files, shown_name
from velodrome.store.workspace import Workspace, open_folder


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return open_folder(tmp_path / "project")


def csv(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_files_are_listed_once_in_the_order_of_their_names(ws: Workspace) -> None:
    (ws.root / "data" / "b").mkdir(parents=True)
    for name in ("data/z.csv", "data/a.csv", "data/b/m.parquet"):
        (ws.root / name).touch()
    found = list_files(ws, Files(["data/**/*.csv", "data/*.csv", "data/**/*.parquet"]))
    assert [shown_name(ws, path) for path in found] == ["data/a.csv", "data/b/m.parquet", "data/z.csv"]


def test_a_pattern_may_be_absolute_and_names_no_path_of_this_machine(ws: Workspace, tmp_path: Path) -> None:
    csv(tmp_path, "a\n1\n", "outside.csv")
    (found,) = list_files(ws, Files(str(tmp_path / "out*.csv")))
    assert shown_name(ws, found) == "outside.csv"


def test_a_file_with_the_letters_of_a_pattern_in_its_name_is_found(ws: Workspace) -> None:
    path = csv(ws.root, "a\n1\n", "jan[1].csv")
    assert list_files(ws, Files("jan[1].csv")) == (path,)
    assert read_user_file(path).height == 1


@pytest.mark.parametrize("pattern", ["mine.csv", "m*.csv", "../project/mine.csv"])
def test_a_link_is_called_what_the_user_calls_it(ws: Workspace, tmp_path: Path, pattern: str) -> None:
    target = csv(tmp_path, "a\n1\n", "elsewhere.csv")
    (ws.root / "mine.csv").symlink_to(target)
    (found,) = list_files(ws, Files(pattern))
    assert shown_name(ws, found) == "mine.csv"


def test_a_pattern_without_files_names_the_nearest(ws: Workspace) -> None:
    csv(ws.root, "a\n1\n", "flights.csv")
    with pytest.raises(SourceError, match=r"did you mean 'flights\.csv'"):
        list_files(ws, Files("flihgts.csv"))


def test_a_pattern_in_a_folder_that_is_not_there_says_so(ws: Workspace) -> None:
    with pytest.raises(SourceError, match="there is no folder"):
        list_files(ws, Files("nowhere/*.csv"))


def test_a_file_of_unknown_ending_is_refused(ws: Workspace) -> None:
    (ws.root / "a.xlsx").touch()
    with pytest.raises(SourceError, match=r"\.parquet, \.csv, \.csv\.gz"):
        list_files(ws, Files("*.xlsx"))


def test_a_pattern_is_text() -> None:
    with pytest.raises(RecipeError, match=r"Files.pattern"):
        Files(3)  # type: ignore[arg-type]


def test_types_and_missing_values_of_a_csv_file(tmp_path: Path) -> None:
    text = "n,x,word,flag,day,moment\n1,1.5,a,true,2013-01-01,2013-01-01 05:00:00\n,NA,null,,,\n"
    frame = read_user_file(csv(tmp_path, text))
    moment = datetime(2013, 1, 1, 5)  # noqa: DTZ001
    assert frame.rows() == [(1, 1.5, "a", True, date(2013, 1, 1), moment), (None,) * 6]


@pytest.mark.parametrize("word", NULL_WORDS)
def test_each_null_word_is_missing(tmp_path: Path, word: str) -> None:
    frame = read_user_file(csv(tmp_path, f"a,b\n1,x\n{word},y\n"))
    assert frame["a"].to_list() == [1, None]


@pytest.mark.parametrize("late", ["x", "1.5", ""])
def test_a_late_value_of_another_type_is_never_lost(tmp_path: Path, late: str) -> None:
    rows = "\n".join(str(number) for number in range(20_000))
    frame = read_user_file(csv(tmp_path, f"a,b\n{rows.replace(chr(10), ',' + chr(10))},\n{late},1\n"))
    expected: dict[str, object] = {"x": "x", "1.5": 1.5, "": None}
    assert frame.height == 20_001
    assert frame["a"][-1] == expected[late]
    assert frame["a"].null_count() == (late == "")


def test_a_late_text_among_dates_leaves_text(tmp_path: Path) -> None:
    rows = "\n".join(["2013-01-01"] * 12_000)
    frame = read_user_file(csv(tmp_path, f"day\n{rows}\nsoon\n"))
    assert frame["day"].dtype == pl.String
    assert frame["day"][-1] == "soon"


def test_times_of_day_in_two_spellings_are_read_as_text(tmp_path: Path) -> None:
    assert read_user_file(csv(tmp_path, "t,n\n05:00:00,1\n05:30,2\n"))["t"].to_list() == ["05:00:00", "05:30"]


def test_named_columns_stay_text(tmp_path: Path) -> None:
    frame = read_user_file(csv(tmp_path, "zip,n\n00501,1\n90210,2\n"), text=["zip", "not-there"])
    assert frame["zip"].to_list() == ["00501", "90210"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_seen(tmp_path: Path, separator: str) -> None:
    text = f"a{separator}b{separator}c\n1{separator}2{separator}3\n"
    assert read_user_file(csv(tmp_path, text)).rows() == [(1, 2, 3)]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfa;b\n1;2\n")
    assert read_user_file(path).columns == ["a", "b"]


def test_a_packed_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a;b\n1;2\n"))
    assert read_user_file(path).rows() == [(1, 2)]


def test_a_parquet_file_brings_its_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, None], "b": ["007", "8"]}, schema_overrides={"a": pl.Int16})
    frame.write_parquet(tmp_path / "a.parquet")
    assert read_user_file(tmp_path / "a.parquet").equals(frame)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    csv(tmp_path, "a\n1\n", "planes.csv")
    with pytest.raises(SourceError, match=r"did you mean 'planes\.csv'"):
        read_user_file(tmp_path / "plane.csv")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.csv is empty"):
        read_user_file(csv(tmp_path, ""))


def test_a_header_without_rows_is_a_file_without_rows(tmp_path: Path) -> None:
    frame = read_user_file(csv(tmp_path, "a,b\n"))
    assert (frame.columns, frame.height) == (["a", "b"], 0)


def _parquet_bytes() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"a": range(1000)}).write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short.parquet", _parquet_bytes()[:-20]),
        ("none.parquet", b""),
        ("other.parquet", b"PAR1" + b"x" * 100 + b"PAR1"),
        ("latin.csv", "a,b\n1,é\n".encode("latin-1")),
        ("ragged.csv", b"a,b\n1,2,3\n"),
        ("short.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 1000, mtime=0)[:-15]),
        ("plain.csv.gz", b"a,b\n1,2\n"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        read_user_file(tmp_path / name)


def test_a_source_of_one_s_own_has_no_files(ws: Workspace) -> None:
    with pytest.raises(RecipeError, match=r"has none\n.*builtins:dict\n.*vd\.Files"):
        list_files(ws, Own(dict))
    assert require_files(Files("*.csv")) == Files("*.csv")


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (lambda: [{}], "lambda"),
        (partial(dict, a=1), "no canonical form"),
        ({"x": 1}, r"Own\.load takes"),
    ],
    ids=["lambda", "partial", "data"],
)
def test_what_loads_data_of_one_s_own_has_a_name_to_record(load: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Own(load)


def test_a_patience_is_a_duration() -> None:
    assert Own(dict, patience=None).patience is None
    with pytest.raises(ConfigurationError, match="a duration is"):
        Own(dict, patience="soon")
