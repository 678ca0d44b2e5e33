"""What `velodrome --help` and `import velodrome` cost beyond starting Python: each at most 150 ms.

Processes are started in turn, so that a noisy machine hits all of them; medians are compared.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPETITIONS = 21
BUDGET = 0.150
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import velodrome"],
    "help": [str(Path(sys.executable).parent / "velodrome"), "--help"],
}


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    for command in COMMANDS.values():
        seconds(command)
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPETITIONS):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    limit = medians["python"] + BUDGET
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "cli.json").write_text(
        json.dumps({"medians_seconds": medians, "limit_seconds": limit, "all_seconds": taken}, indent=1)
    )
    for name in sorted(("import", "help"), key=medians.__getitem__):
        ratio = medians[name] / limit
        verdict = "met" if ratio <= 1 else "missed"
        print(f"cli-{name} {medians[name] * 1000:.0f}ms {limit * 1000:.0f}ms ratio {ratio:.2f} goal 1.00 {verdict}")


if __name__ == "__main__":
    main()
