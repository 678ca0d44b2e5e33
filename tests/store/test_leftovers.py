import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from velodrome.store.leftovers import find_leftovers, remove_leftovers

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def put(path: Path, age: timedelta) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return aged(path, age)


def aged(path: Path, age: timedelta) -> Path:
    moment = (NOW - age).timestamp()
    os.utime(path, (moment, moment))
    return path


def test_what_nobody_touched_for_an_hour_is_left_over(tmp_path: Path) -> None:
    old = put(tmp_path / ".old", timedelta(hours=2))
    put(tmp_path / ".new", timedelta(minutes=30))
    put(tmp_path / "named", timedelta(days=9))
    put(tmp_path / ".lock", timedelta(days=9))
    put(tmp_path / ".run.lock", timedelta(days=9))
    found = find_leftovers([tmp_path, tmp_path / "nowhere"], NOW)
    assert found == [old]
    remove_leftovers(found)
    assert not old.exists()


def test_a_folder_is_as_young_as_the_youngest_in_it(tmp_path: Path) -> None:
    written = put(tmp_path / ".written" / "a" / "x", timedelta(minutes=1)).parents[1]
    dead = put(tmp_path / ".dead" / "a" / "x", timedelta(days=1)).parents[1]
    for folder in (written, written / "a", dead / "a", dead):
        aged(folder, timedelta(days=1))
    assert find_leftovers([tmp_path], NOW) == [dead]
    remove_leftovers([dead])
    assert [path.name for path in tmp_path.iterdir()] == [".written"]


def test_before_the_beginning_of_time_there_is_nothing(tmp_path: Path) -> None:
    put(tmp_path / ".old", timedelta(days=9))
    assert find_leftovers([tmp_path], datetime.min.replace(tzinfo=UTC)) == []
