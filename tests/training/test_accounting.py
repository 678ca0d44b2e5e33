from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from velodrome.core.clock import ManualClock
from velodrome.registry.time_spent import Spent, goodput
from velodrome.training.accounting import Stopwatch

LAPS = st.lists(st.tuples(st.sampled_from(Spent), st.integers(0, 10_000)))


def test_a_pulse_is_due_at_once_and_then_each_second() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    watch, pulses = Stopwatch(clock.monotonic), []
    for _ in range(30):
        clock.advance(timedelta(milliseconds=100))
        if watch.lap(Spent.FORWARD) >= watch.due:
            pulses.append(round(watch.pulse()["spent.forward"], 6))
    assert pulses == [0.1, 1.1, 2.1]


@given(LAPS, LAPS)
def test_the_classes_add_up_to_the_wall_clock_and_what_is_redone_is_no_progress(
    new: list[tuple[Spent, int]], again: list[tuple[Spent, int]]
) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    watch = Stopwatch(clock.monotonic)
    for redoing, laps in ((True, again), (False, new)):
        watch.redo(redoing)
        for spent, milliseconds in laps:
            clock.advance(timedelta(milliseconds=milliseconds))
            watch.lap(spent)
    spent = watch.spent()
    total = sum(milliseconds for _, milliseconds in (*new, *again))
    assert round(1000 * sum(spent.values())) == total
    progress = sum(each for kind, each in new if kind in (Spent.FORWARD, Spent.BACKWARD, Spent.OPTIMIZER))
    assert goodput(spent) == 0 if total == 0 else abs(goodput(spent) - progress / total) < 1e-9
