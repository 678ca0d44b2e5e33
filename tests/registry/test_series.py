"""Reading histories: which points count after several attempts, what is in a digest, and blocks of every format."""

import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from velodrome.core.digest import Digest, digest_bytes
from velodrome.core.errors import IntegrityError, NotFound
from velodrome.registry.series import (
    RESTORED,
    SeriesKind,
    attempt_mark,
    block_problems,
    decode_block,
    encode_block,
    history_digest,
    read_histories,
    read_series,
    series_names,
)
from velodrome.registry.series_writer import SeriesWriter
from velodrome.store.ledger import Append, Block
from velodrome.store.sqlite import SqliteLedger
from velodrome.store.workspace import Workspace

Logged = list[tuple[int, float]]


def attempt(ws: Workspace, run: str, number: int, points: Logged, *, restored: int | None = None) -> None:
    if restored is not None:
        ws.commit(Append(f"run:{run}", RESTORED, {"attempt": number, "step": restored, "redone": 0}))
    with SeriesWriter(ws, run, number) as writer:
        for step, value in points:
            writer.log(step, loss=value)


def curve(ws: Workspace, run: str, name: str = "loss") -> Logged:
    steps, values = read_series(ws, run, name)
    assert (steps.dtype, values.dtype) == (np.int64, np.float64)
    whole = read_histories(ws, run)[name]
    assert (whole.steps.tobytes(), whole.values.tobytes()) == (steps.tobytes(), values.tobytes())
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def test_what_was_logged_is_read_bit_by_bit(ws: Workspace) -> None:
    values = [0.1, -0.0, 1e-310, float("inf"), float("nan"), 5]
    with SeriesWriter(ws, "r", 1) as writer:
        for step, value in enumerate(values, start=1):
            writer.log(step, loss=value, step=step)
            if step % 2:
                writer.log(step, validation_loss=value)
    assert series_names(ws, "r") == ("loss", "step", "validation_loss")
    assert np.array([value for _, value in curve(ws, "r")]).tobytes() == np.array(values, dtype=float).tobytes()
    assert [step for step, _ in curve(ws, "r", "validation_loss")] == [1, 3, 5]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_a_resumed_history_is_the_uninterrupted_one(ws: Workspace, data: st.DataObject) -> None:
    """Against a model: the training always logs f(step), is killed anywhere, and goes on from an earlier checkpoint."""
    length = data.draw(st.integers(1, 30))
    whole, killed = ws.new_id(), ws.new_id()
    attempt(ws, whole, 1, [(step, step**0.5) for step in range(1, length + 1)])
    checkpoint = 0
    for number in range(1, data.draw(st.integers(2, 5))):
        reached = data.draw(st.integers(checkpoint, length))
        points = [(step, step**0.5) for step in range(checkpoint + 1, reached + 1)]
        attempt(ws, killed, number, points, restored=checkpoint or None)
        checkpoint = data.draw(st.integers(checkpoint, reached))
    rest = [(step, step**0.5) for step in range(checkpoint + 1, length + 1)]
    attempt(ws, killed, 9, rest, restored=checkpoint or None)
    assert curve(ws, killed) == curve(ws, whole)
    assert history_digest(ws, killed) == history_digest(ws, whole)


def test_what_came_after_a_restored_step_is_not_part_of_the_history(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)])
    attempt(ws, "r", 2, [(3, 33.0)], restored=2)
    assert curve(ws, "r") == [(1, 1.0), (2, 2.0), (3, 33.0)]
    attempt(ws, "r", 3, [], restored=1)
    assert curve(ws, "r") == [(1, 1.0)]


def test_an_attempt_that_did_nothing_takes_nothing_back(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(1, 1.0), (2, 2.0), (3, 3.0)])
    attempt(ws, "r", 2, [])
    assert curve(ws, "r") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    attempt(ws, "r", 3, [(1, 11.0)])
    assert curve(ws, "r") == [(1, 11.0)]


def test_an_attempt_takes_back_what_it_does_not_log_itself(ws: Workspace) -> None:
    """Seen in the marks, since the series that is read has no block of that attempt."""
    with SeriesWriter(ws, "r", 1) as writer:
        for step in (1, 2, 3):
            writer.log(step, loss=0.1, accuracy=0.9)
    attempt(ws, "r", 2, [(3, 0.2)], restored=2)
    assert curve(ws, "r", "accuracy") == [(1, 0.9), (2, 0.9)]
    attempt(ws, "r", 3, [(1, 0.3)])
    assert curve(ws, "r", "accuracy") == []


class CountingLedger(SqliteLedger):
    """The real ledger, which remembers what of series it was asked for."""

    asked: list[tuple[str, str | None]]

    def blocks(self, run: str, series: str | None = None) -> list[Block]:
        self.asked.append((run, series))
        return super().blocks(run, series)


def test_one_series_is_read_without_the_others(ws: Workspace) -> None:
    with SeriesWriter(ws, "r", 1) as writer:
        writer.log(1, loss=0.1, accuracy=0.9)
    with closing(CountingLedger(ws.store / "ledger.db")) as ledger:
        ledger.asked = []
        read_series(replace(ws, ledger=ledger), "r", "loss")
        assert ledger.asked == [("r", "loss"), ("r", "")]


def test_a_run_from_before_there_were_marks_is_read_as_it_was(ws: Workspace) -> None:
    def old(name: str, number: int, steps: list[int], values: list[float]) -> Block:
        data = struct.pack("<4sBB2x", b"vdms", 1, 0) + np.array(steps, "<i8").tobytes() + np.array(values).tobytes()
        return Block("r", name, number, steps[0], steps[-1], len(steps), data)

    ws.commit(old("loss", 1, [1, 2, 4], [1.0, 2.0, 4.0]), old("accuracy", 1, [1, 2], [0.1, 0.2]))
    assert curve(ws, "r") == [(1, 1.0), (2, 2.0), (4, 4.0)]
    ws.commit(old("loss", 2, [1, 3], [11.0, 13.0]))
    assert (curve(ws, "r"), curve(ws, "r", "accuracy")) == ([(1, 11.0), (3, 13.0)], [])
    ws.commit(Append("run:r", RESTORED, {"attempt": 3, "step": 1, "redone": 2}))
    with SeriesWriter(ws, "r", 3) as writer:
        writer.log(2, accuracy=0.5)
    assert (curve(ws, "r"), curve(ws, "r", "accuracy")) == ([(1, 11.0)], [(2, 0.5)])


def test_the_digest_covers_values_and_not_timings_or_blocks(ws: Workspace) -> None:
    def record(run: str, values: list[float], times: float, block: int) -> Digest:
        with SeriesWriter(ws, run, 1, seconds=3600) as writer:
            for step, value in enumerate(values, start=1):
                writer.log(step, loss=value, step_time=times, data_wait=times, fit_seconds=times)
                if step % block == 0:
                    writer.flush()
        return history_digest(ws, run)

    base = record("a", [1.0, 2.0, 3.0], 0.1, 1)
    assert base == digest_bytes(b"loss\0" + b"3\0" + struct.pack("<3q3d", 1, 2, 3, 1.0, 2.0, 3.0))
    assert record("b", [1.0, 2.0, 3.0], 0.2, 2) == base
    assert record("c", [1.0, 2.0, np.nextafter(3.0, 4.0)], 0.1, 1) != base
    assert record("d", [1.0, 2.0], 0.1, 1) != base
    kinds = {name: series.kind for name, series in read_histories(ws, "a").items()}
    assert kinds.pop("loss") is SeriesKind.VALUE
    assert set(kinds.values()) == {SeriesKind.TIMING}


def test_a_series_that_is_not_there_is_named_with_the_nearest(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(1, 0.5)])
    with pytest.raises(NotFound, match="did you mean 'loss'"):
        read_series(ws, "r", "los")
    with pytest.raises(NotFound):
        read_series(ws, "r", "")


def test_a_block_that_is_damaged_is_refused(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(1, 0.5), (2, 0.4)])
    (block,) = ws.ledger.blocks("r", "loss")
    for data in (block.data[:-1], b"xxxx" + block.data[4:], b"", block.data[:4] + b"\x04" + block.data[5:]):
        ws.commit(msgspec.structs.replace(block, data=data))
        with pytest.raises(IntegrityError, match=r"the series 'loss' of the run r (does not read|was changed)"):
            read_series(ws, "r", "loss")


def others(block: Block) -> Iterator[Block]:
    """The block with each of its bits flipped in turn: of its data, its numbers and the names of its place."""
    for at, byte in enumerate(block.data):
        for bit in range(8):
            data = block.data[:at] + bytes([byte ^ 1 << bit]) + block.data[at + 1 :]
            yield msgspec.structs.replace(block, data=data)
    for name in ("attempt", "first_step", "last_step", "count"):
        yield from (msgspec.structs.replace(block, **{name: getattr(block, name) ^ 1 << bit}) for bit in range(40))
    for name in ("run", "series"):
        text = getattr(block, name)
        yield from (
            msgspec.structs.replace(block, **{name: text[:at] + chr(ord(text[at]) ^ 1 << bit) + text[at + 1 :]})
            for at in range(len(text))
            for bit in range(7)
        )


@pytest.mark.parametrize("steps", [[3, 6, 9], [1, 2, 5]])
def test_each_bit_that_flips_in_a_block_is_seen(steps: list[int]) -> None:
    block = encode_block("run", "loss", 1, np.array(steps), np.array([0.5, 0.25, float("nan")]))
    count = 0
    for other in others(block):
        with pytest.raises(IntegrityError, match=r"does not read|was changed"):
            decode_block(other)
        assert block_problems([block, other]) != []
        count += 1
    assert count > 500
    assert block_problems([block]) == []


def test_each_bit_that_flips_in_a_mark_is_seen(ws: Workspace) -> None:
    """Which attempts count hangs on them."""
    mark = attempt_mark("r", 1)
    assert block_problems([mark, Block("r", "", 1, 0, 0, 0, b"")]) == []  # as format 2 had them
    for other in others(mark):
        assert len(block_problems([other])) == 1
    attempt(ws, "r", 1, [(1, 0.5)])
    ws.commit(msgspec.structs.replace(mark, attempt=3))
    for read in (read_histories, lambda ws, run: read_series(ws, run, "loss")):
        with pytest.raises(IntegrityError, match="of the run r was changed"):
            read(ws, "r")


@pytest.mark.parametrize("steps", [[3, 6, 9], [1, 2, 5]])
def test_a_block_of_format_2_reads(steps: list[int]) -> None:
    regular = steps[0] == 3
    data = struct.pack("<4sBB?x", b"vdms", 2, 1, regular) + (b"" if regular else np.array(steps, "<i8").tobytes())
    block = Block("r", "loss", 1, steps[0], steps[-1], 3, data + np.array([1.0, 2.0, 3.0]).tobytes())
    kind, found, values = decode_block(block)
    assert (kind, found.tolist(), values.tolist()) == (SeriesKind.TIMING, steps, [1.0, 2.0, 3.0])


def test_a_curve_always_rises_in_steps(ws: Workspace) -> None:
    attempt(ws, "r", 1, [(0, 9.0), (1, 1.0)])
    attempt(ws, "r", 2, [(0, 8.0), (2, 2.0)])
    steps, values = read_series(ws, "r", "loss")
    assert all(earlier < later for earlier, later in pairwise(steps.tolist()))
    assert values.tolist() == [8.0, 2.0]


@example(first=-(2**63), gaps=[2**63 + 5])
@example(first=-(2**63), gaps=[2**62, 2**62, 2**62])
@given(
    first=st.integers(-(2**63), 2**63 - 1),
    gaps=st.one_of(
        st.lists(st.integers(1, 3), max_size=20),
        st.builds(lambda gap, count: [gap] * count, st.integers(1, 2**62), st.integers(0, 5)),
        st.lists(st.integers(1, 2**64), max_size=3),
    ),
)
def test_a_block_comes_back_whatever_its_steps(first: int, gaps: list[int]) -> None:
    steps = [first]
    for gap in gaps:
        if steps[-1] + gap < 2**63:
            steps.append(steps[-1] + gap)
    values = np.arange(len(steps)) / 7
    block = encode_block("r", "step_time", 1, np.array(steps), values)
    kind, found_steps, found_values = decode_block(block)
    assert (kind, found_steps.tolist()) == (SeriesKind.TIMING, steps)
    assert found_values.tobytes() == values.tobytes()
    assert (block.first_step, block.last_step, block.count) == (steps[0], steps[-1], len(steps))


def test_regular_steps_cost_nothing() -> None:
    values = np.zeros(1000)
    assert len(encode_block("r", "loss", 1, np.arange(5, 5005, 5), values).data) == 16 + 8 * 1000
    assert len(encode_block("r", "loss", 1, np.arange(1000) ** 2, values).data) == 16 + 16 * 1000
