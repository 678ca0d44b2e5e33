"""The one tree of errors. Each says what was wrong, what was received and what to do, and knows the exit code it ends a process with.

    VelodromeError                      abstract
    ├── ConfigurationError   exit 2     the user's words: arguments, velodrome.toml, a recipe
    │   ├── RecipeError                 a recipe that cannot be read, or contradicts itself
    │   ├── NotFound                    a name, run, model, column or file that is not there; the nearest is named
    │   │   └── Gone                    a run or a snapshot that was collected; when and by which rule is named
    │   ├── StateError                  a transition that the present state does not allow
    │   └── MissingExtra                an optional dependency that is not installed
    ├── DataError            exit 3     the data cannot be used as it is
    │   ├── SourceError                 a file that is missing or cannot be read
    │   ├── SchemaError                 a column that is missing or of another type
    │   ├── ContractError               a rule of the contract whose action is to stop
    │   ├── SplitError                  a part of the split has no rows
    │   └── LabelError                  labels that cannot be learned from or judged
    ├── StorageError         exit 4     the ledger or the blobs could not do what was asked
    │   ├── IntegrityError              bytes that are not what their digest says
    │   ├── MissingBlob                 a digest whose bytes are not there
    │   ├── WrongKey                    bytes that are there and whole, but encrypted under another key
    │   └── LedgerVersionError          a ledger written by another version of the program
    ├── Conflict             exit 5     somebody else was first
    │   ├── RunHeld                     the same run is being executed by another process
    │   └── PointerMoved                compare-and-set found another value
    ├── TrainingError        exit 2     a learner, network or step that raises, or does not fit what it is given
    │   ├── Diverged         exit 6     a loss or gradient that is not finite
    │   ├── OutOfMemory      exit 9     not even one row fits
    │   └── Preempted        exit 10    the process was asked to end, and saved its state
    ├── ArtifactError        exit 7     a model artifact that cannot be written or read
    │   └── UnsafeArtifact              an artifact that asks for code or files it may not have
    └── Refused              exit 8     gates said no: nothing broke, nothing was promoted

Anything else that escapes is a bug and exits 1.
"""

import difflib
from collections.abc import Iterable
from enum import IntEnum

__all__ = [
    "ArtifactError",
    "ConfigurationError",
    "Conflict",
    "ContractError",
    "DataError",
    "Diverged",
    "ExitCode",
    "Gone",
    "IntegrityError",
    "LabelError",
    "LedgerVersionError",
    "MissingBlob",
    "MissingExtra",
    "NotFound",
    "OutOfMemory",
    "PointerMoved",
    "Preempted",
    "RecipeError",
    "Refused",
    "RunHeld",
    "SchemaError",
    "SourceError",
    "SplitError",
    "StateError",
    "StorageError",
    "TrainingError",
    "UnsafeArtifact",
    "VelodromeError",
    "WrongKey",
    "name_of",
    "nearest",
]


class ExitCode(IntEnum):
    """What a velodrome process ends with. Documented in docs/errors.md, which a test compares with this."""

    OK = 0
    BUG = 1
    CONFIGURATION = 2
    DATA = 3
    STORAGE = 4
    CONFLICT = 5
    DIVERGED = 6
    ARTIFACT = 7
    REFUSED = 8
    OUT_OF_MEMORY = 9
    PREEMPTED = 10
    INTERRUPTED = 130


class VelodromeError(Exception):
    """Base of every error that velodrome raises on purpose.

    Args:
        problem: the invariant that does not hold, as a sentence without its full stop.
        received: the value that broke it; shown with repr, cut at 200 characters.
        remedy: what the reader can do now.
    """

    exit_code = ExitCode.BUG

    def __init__(self, problem: str, *, received: object = None, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.received = received
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.problem]
        if self.received is not None:
            text = self.received if isinstance(self.received, str) else repr(self.received)
            lines.append(f"received: {text if len(text) <= 200 else text[:197] + '...'}")
        if self.remedy is not None:
            lines.append(f"to mend: {self.remedy}")
        return "\n  ".join(lines)


class ConfigurationError(VelodromeError):
    exit_code = ExitCode.CONFIGURATION


class RecipeError(ConfigurationError):
    pass


class NotFound(ConfigurationError):
    pass


class Gone(NotFound):
    pass


class StateError(ConfigurationError):
    pass


class MissingExtra(ConfigurationError):
    pass


class DataError(VelodromeError):
    exit_code = ExitCode.DATA


class SourceError(DataError):
    pass


class SchemaError(DataError):
    pass


class ContractError(DataError):
    pass


class SplitError(DataError):
    pass


class LabelError(DataError):
    pass


class StorageError(VelodromeError):
    exit_code = ExitCode.STORAGE


class IntegrityError(StorageError):
    pass


class MissingBlob(StorageError):
    pass


class WrongKey(StorageError):
    pass


class LedgerVersionError(StorageError):
    pass


class Conflict(VelodromeError):
    exit_code = ExitCode.CONFLICT


class RunHeld(Conflict):
    pass


class PointerMoved(Conflict):
    pass


class TrainingError(VelodromeError):
    exit_code = ExitCode.CONFIGURATION


class Diverged(TrainingError):
    exit_code = ExitCode.DIVERGED


class OutOfMemory(TrainingError):
    exit_code = ExitCode.OUT_OF_MEMORY


class Preempted(TrainingError):
    exit_code = ExitCode.PREEMPTED


class ArtifactError(VelodromeError):
    exit_code = ExitCode.ARTIFACT


class UnsafeArtifact(ArtifactError):
    pass


class Refused(VelodromeError):
    exit_code = ExitCode.REFUSED


def name_of(error: BaseException) -> str:
    """The name of an error's class, or of the nearest above it that is public.

    >>> class _Private(StorageError): ...
    >>> name_of(_Private("x"))
    'StorageError'
    """
    return next(each.__name__ for each in type(error).__mro__ if not each.__name__.startswith("_"))


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy that names the closest of `known`, or lists them when none is close.

    >>> nearest("distanse", ["carrier", "distance"])
    "did you mean 'distance'?"
    >>> nearest("zzz", ["b", "a"])
    'known: a, b'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return (
        f"known: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        if names
        else "nothing is known by any name"
    )
