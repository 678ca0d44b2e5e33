"""Where the projects of a storm over trainings are, what undisturbed ones came to, and what became of an experiment."""

import shutil
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lives import begin
from trial import Ending, ending, lay_out

__all__ = ["Ground", "Verdict", "finished"]


@dataclass
class Verdict:
    """What became of an experiment: what is counted, and what went wrong."""

    what: str
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([f"{self.what}:", *(f"    wrong: {text}" for text in self.wrong)])

    def require(self, holds: object, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)

    def compare(self, found: Ending, twin: Ending) -> None:
        """Whether it came to the same."""
        differ = [item for item in twin.items if found.items.get(item) != twin.items[item]]
        self.require(not differ, f"not as undisturbed: {', '.join(differ)}")
        self.counts["equal"] += not differ


class Ground:
    """Where the projects of all experiments are, and what undisturbed ones came to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._making = threading.Lock()
        self._number = 0
        self._twins: dict[str, Ending] = {}

    def project(self, **settings: int) -> Path:
        """A new one."""
        with self._making:
            self._number += 1
            return lay_out(self._folder / f"project{self._number}", **settings)

    def copy(self, project: Path) -> Path:
        with self._making:
            self._number += 1
            return Path(shutil.copytree(project, self._folder / f"project{self._number}"))

    def twin(self, **settings: int) -> Ending:
        """What nobody disturbs; workers change nothing."""
        settings.pop("workers", None)
        project = self.project(**settings)
        with self._making:
            if (name := str(settings)) not in self._twins:
                end = begin(project).end()
                if end.code != 0:
                    raise RuntimeError(f"an undisturbed training ended with {end}")
                self._twins[name] = ending(project)
            return self._twins[name]


def finished(verdict: Verdict, project: Path, twin: Ending) -> Ending | None:
    """The same command again, to its end."""
    end = begin(project).end()
    verdict.require(end.code == 0, f"run again it ended with {end.code}: {end.said}")
    if end.code != 0:
        return None
    found = ending(project)
    verdict.compare(found, twin)
    return found
