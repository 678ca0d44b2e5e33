"""What finding runs costs: 10,000 runs of some twenty facts, filtered and sorted, the first 100 and the first 1,000 of them.

The goal is a 95th percentile, given as a multiple of what the module sqlite3 takes, in the same turn, to sort 1,000 runs by a
metric and to gather what a list shows of each, with statements written by hand: 150 ms over 13 ms.
Ours is `search_runs`: it reads the words, finds the page, and makes what `velodrome runs list` prints. Told beside it, without a
goal: the same question on the same file asked by hand, whose answers are compared once; the same on PostgreSQL on loopback,
its tables analysed, where its package is installed; other questions; and the list and the frame of all runs. All take turns in
one process, so that a noisy machine hits all.
"""

import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from bench_read import postgres

from velodrome.core.ids import IdFactory
from velodrome.registry.facts import facts_of
from velodrome.registry.search import list_runs, runs_frame, search_runs
from velodrome.store.postgres import PostgresLedger
from velodrome.store.workspace import Workspace, open_folder

RUNS, YARDSTICK, TURNS = 10_000, 1_000, 41
GOAL = 150 / 13
SHOWN = ("id", "name", "type", "state", "attempts", "started", "primary")

NEWEST = "SELECT subject FROM fact WHERE key = 'id' AND number IS NULL ORDER BY subject DESC LIMIT ?"
SORTED = """
SELECT named.subject FROM fact AS named LEFT JOIN fact AS auc ON auc.subject = named.subject AND auc.key = 'metrics.roc_auc'
WHERE named.key = 'id' ORDER BY auc.number IS NULL, auc.number DESC, named.subject DESC LIMIT ?
"""
FILTERED = """
SELECT auc.subject FROM fact AS auc
JOIN fact AS lr ON lr.subject = auc.subject AND lr.key = 'params.learner.optimizer.lr'
JOIN fact AS team ON team.subject = auc.subject AND team.key = 'tags.team'
WHERE auc.key = 'metrics.roc_auc' AND auc.number > 0.7 AND lr.number <= 0.01 AND team.text = 'x'
ORDER BY auc.number DESC, auc.subject DESC LIMIT ?
"""
WORDS = (
    "metrics.roc_auc > 0.7 and params.learner.optimizer.lr <= 0.01 and tags.team = 'x' order by metrics.roc_auc desc"
)
QUESTIONS = {
    "newest": ("", NEWEST),
    "sorted": ("order by metrics.roc_auc desc", SORTED),
    "filtered": (WORDS, FILTERED),
}
OTHERS = {
    "or-not": "not (tags.team = 'x' or state = 'failed') and name contains '-1' order by owner, metrics.roc_auc desc",
    "rare": "id in ('nobody') or seed = 77",
    "everything-false": "metrics.roc_auc > 2 order by metrics.roc_auc",
}


def on_postgres(ws: Workspace, stack: ExitStack) -> Workspace | None:
    """The same runs on a server of its own, if there is one; without statistics it would plan as if there were none."""
    url = stack.enter_context(postgres())
    if url is None:
        return None
    ledger = stack.enter_context(closing(PostgresLedger(url)))
    ledger.fill(ws.ledger.dump())
    with ledger._connection() as connection:
        connection.exec_driver_sql("ANALYZE")
    return replace(ws, ledger=ledger)


def fill(ws: Workspace, count: int) -> None:
    rng, ids = random.Random(0), IdFactory()  # noqa: S311 - figures, not secrets
    for first in range(0, count, 500):
        runs = [described(ids, number, rng.random()) for number in range(first, first + 500)]
        ws.commit(*(fact for run in runs for fact in facts_of(run["id"], run)))


def described(ids: IdFactory, number: int, auc: float) -> dict[str, Any]:
    started = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    return {
        "id": ids.new(started),
        "name": f"recipe-{number % 5}",
        "type": "train",
        "state": "finished" if number % 10 else "failed",
        "attempts": 1,
        "started": started.isoformat(timespec="microseconds"),
        "owner": f"team-{number % 7}",
        "seed": number,
        "seconds": 100 * auc,
        "steps": 1000,
        "rows": 100_000,
        "snapshot": f"{number % 50:064d}",
        "primary": "roc_auc",
        "metrics": {"roc_auc": auc, "log_loss": 1 - auc, "accuracy": (1 + auc) / 2} if number % 10 else {},
        "params": {"learner": {"optimizer": {"lr": 10.0 ** -(1 + number % 5), "type": "adamw"}, "epochs": number % 20}},
        "tags": {"team": "xyz"[number % 3]},
    }


# --------------------------------------------------------------------------------------------------------------- by hand


def by_hand(connection: sqlite3.Connection, statement: str, limit: int) -> dict[str, dict[str, float | str]]:
    found: dict[str, dict[str, float | str]] = {subject: {} for (subject,) in connection.execute(statement, (limit,))}
    subjects, names = (f"({', '.join('?' * len(some))})" for some in (found, SHOWN))
    wanted = f"key IN {names} OR (key >= 'metrics.' AND key < 'metrics/') OR (key >= 'tags.' AND key < 'tags/')"
    query = f"SELECT subject, key, number, text FROM fact WHERE subject IN {subjects} AND ({wanted})"  # noqa: S608
    for subject, key, number, text in connection.execute(query, [*found, *SHOWN]):
        found[subject][key] = text if number is None else number
    return found


def require_same(ours: list[Any], theirs: dict[str, dict[str, float | str]]) -> None:
    assert [f"run:{run.id}" for run in ours] == list(theirs)
    for run, facts in zip(ours, theirs.values(), strict=True):
        assert run.metrics == {key[8:]: value for key, value in facts.items() if key.startswith("metrics.")}
        assert (run.name, run.tags) == (facts["name"], {"team": facts["tags.team"]})


# ------------------------------------------------------------------------------------------------------------------ turns


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def compare(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each turn; who comes first changes."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(TURNS):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            taken[name].append(seconds(calls[name]))
    return taken


def measure(ws: Workspace, small: Workspace, other: Workspace | None) -> Iterator[tuple[str, dict[str, list[float]]]]:
    few, many = (sqlite3.connect(each.store / "ledger.db") for each in (small, ws))
    with closing(few), closing(many):
        for name, (words, statement) in QUESTIONS.items():
            for limit in (100, 1000):
                ours = partial(search_runs, ws, words, limit=limit)
                theirs = partial(by_hand, many, statement, limit)
                require_same(list(ours().runs), theirs())
                yardstick = partial(by_hand, few, SORTED, YARDSTICK)
                acts = {"ours": ours, "by hand": theirs, "yardstick": yardstick}
                if other:
                    acts["postgresql"] = partial(search_runs, other, words, limit=limit)
                    require_same(list(acts["postgresql"]().runs), theirs())
                yield f"{name}-{limit}", compare(acts)


# ----------------------------------------------------------------------------------------------------------------- results


def percentile(values: list[float]) -> float:
    """The 95th of a hundred."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def line(name: str, taken: dict[str, list[float]]) -> tuple[float, str]:
    """What is to be said of a question, after the share of its goal that was needed."""
    late, yardstick = percentile(taken["ours"]), statistics.median(taken["yardstick"])
    share = late / yardstick / GOAL
    beside = statistics.median(mine / bare for mine, bare in zip(taken["ours"], taken["by hand"], strict=True))
    print(f"{name:15s} median {statistics.median(taken['ours']) * 1000:6.1f}ms, {beside:.2f} of the same by hand")
    words = f"{late * 1000:.1f}ms {yardstick * 1000:.1f}ms ratio {late / yardstick:.2f} goal {GOAL:.2f}"
    return share, f"search-{name}-p95 {words} {'met' if share <= 1 else 'missed'}"


def elsewhere(measured: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """What PostgreSQL took, beside what SQLite did."""
    for name, taken in measured.items():
        if there := taken.get("postgresql"):
            ratio = statistics.median(one / other for one, other in zip(there, taken["ours"], strict=True))
            median = statistics.median(there) * 1000
            yield f"search-{name}-postgresql {median:.1f}ms p95 {percentile(there) * 1000:.1f}ms, {ratio:.2f} of SQLite"


def told(ws: Workspace) -> Iterator[str]:
    reads: dict[str, Callable[[], object]] = {
        f"search-{name}": (lambda words=words: search_runs(ws, words, limit=100)) for name, words in OTHERS.items()
    }
    reads |= {"list-of-all": lambda: list_runs(ws), "frame-of-all": lambda: runs_frame(ws)}
    for name, read in reads.items():
        yield f"{name} {statistics.median(seconds(read) for _ in range(5)) * 1000:.3g}ms"


def main() -> None:
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ws, small = (stack.enter_context(open_folder(folder / str(count))) for count in (RUNS, YARDSTICK))
        fill(ws, RUNS)
        fill(small, YARDSTICK)
        size = (ws.store / "ledger.db").stat().st_size
        measured = dict(measure(ws, small, on_postgres(ws, stack)))
        others = [f"{RUNS} runs in {size / 1e6:.0f} MB", *told(ws), *elsewhere(measured)]
    summary = [text for _, text in sorted(line(name, taken) for name, taken in measured.items())]
    kept = {"goal": GOAL, "sqlite": sqlite3.sqlite_version, "told": others, "lines": summary, "all_seconds": measured}
    (results / "search.json").write_text(json.dumps(kept, indent=1))
    print("\n".join([*others, *summary]))


if __name__ == "__main__":
    main()
