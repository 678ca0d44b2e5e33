"""What an exception in the user's own network, loss, step or estimator is called: their mistake, by file and line.

It is no bug of ours, so it ends as a named error. What is theirs: a file that is neither velodrome's nor installed. Where the
whole traceback is wanted, it is logged at the level debug.
"""

import sysconfig
import traceback
from pathlib import Path

from velodrome.core.errors import TrainingError
from velodrome.core.logging import logger

__all__ = ["is_out_of_memory", "mistake"]

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc_cpu")
_ONE_ROW = "Expected more than 1 value per channel when training"
_ALONE = "batch normalisation needs two rows: choose batch and micro_batch so that none is left alone at the end of an epoch or batch"
_OURS = Path(__file__).parents[1]
_INSTALLED = {Path(path) for path in sysconfig.get_paths().values()}
_PACKAGES = {"site-packages", "dist-packages"}


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the machine or of its accelerator (torch says so in a RuntimeError)."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(each in words for each in _OUT_OF_MEMORY)
    )


def mistake(error: Exception, doing: str) -> TrainingError:
    """The error that says what failed and where in the user's code; to be raised from `error`.

    Args:
        doing: what the code was called for, such as "step 3".
    """
    logger().debug("run.own_code_failed", doing=doing, exc_info=error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_the_users(frame.filename)]
    where = f" at {_shown(frames[-1].filename)} line {frames[-1].lineno}, in {frames[-1].name}" if frames else ""
    return TrainingError(
        f"the code of the recipe fails in {doing}{where}: {_said(error)}",
        received=frames[-1].line if frames else None,
        remedy=_ALONE if _ONE_ROW in str(error) else "mend that; with --log-level debug the whole traceback is logged",
    )


def _is_the_users(file: str) -> bool:
    path = Path(file)
    theirs = path.is_absolute() or file.startswith("<ipython")
    return theirs and not (
        path.is_relative_to(_OURS) or _PACKAGES & {*path.parts} or any(path.is_relative_to(each) for each in _INSTALLED)
    )


def _shown(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"
