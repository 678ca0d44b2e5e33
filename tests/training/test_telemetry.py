from velodrome.registry.series import SeriesKind, kind_of
from velodrome.training.telemetry import telemetry


class Histories:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, /, **values: float) -> None:
        self.logged.append((step, values))

    def flush(self) -> bool:
        return True


def test_the_machine_is_looked_at_and_a_step_has_one_point() -> None:
    histories, step = Histories(), 0
    with telemetry(histories, lambda: step, seconds=0.01):
        while not histories.logged:
            step = 1
        step = 2
    of_host = [(at, values["host.memory_bytes"]) for at, values in histories.logged if "host.memory_bytes" in values]
    assert [at for at, _ in of_host] == [1, 2]
    assert all(size > 1 << 20 for _, size in of_host)
    assert all(kind_of(name) is SeriesKind.TIMING for _, values in histories.logged for name in values)


def test_without_a_step_nothing_is_logged() -> None:
    histories = Histories()
    with telemetry(histories, lambda: 0, seconds=0.01):
        pass
    assert histories.logged == []


def test_the_processors_are_seen_to_work() -> None:
    histories = Histories()
    with telemetry(histories, lambda: 1 + len(histories.logged), seconds=0.3):
        while not histories.logged:
            sum(range(10_000))
    assert histories.logged[0][1]["host.cpu_percent"] > 0
