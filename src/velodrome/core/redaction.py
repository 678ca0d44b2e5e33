"""What must not be shown: secrets in addresses and on command lines, taken out before anything is recorded, logged or raised."""

import re
from collections.abc import Sequence

__all__ = ["redact_arguments", "redact_urls"]

_SECRETS = re.compile(
    r"(?i)(?<![a-z])(?:password|passwd|pwd|passphrase|secrets?|token|credentials?|(?:api|access|private)[-_]?key)(?![a-z])"
)
_IN_URL = re.compile(r"(\w+://)[^\s'\"]+@")  # up to the last @: a password may have a / or an @ that nobody encoded
_HIDDEN = "[redacted]"


def redact_urls(text: str) -> str:
    """The text without users and passwords in addresses.

    >>> redact_urls("cannot reach postgresql://ann:secret@host/db")
    'cannot reach postgresql://[redacted]@host/db'
    """
    return _IN_URL.sub(rf"\1{_HIDDEN}@", text)


def redact_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """A command line without its secrets: values of options and variables that are called like one, users in URLs.

    >>> redact_arguments(["--token", "abc", "DB_PASSWORD=x", "s3://key:secret@host/data", "--tokenizer=bert"])
    ('--token', '[redacted]', 'DB_PASSWORD=[redacted]', 's3://[redacted]@host/data', '--tokenizer=bert')
    """
    shown = []
    hide = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = _SECRETS.search(name) is not None
        told = f"{name}={_HIDDEN}" if secret and equals else redact_urls(argument)
        shown.append(_HIDDEN if hide else told)
        hide = not hide and secret and not equals and name.startswith("-")
    return tuple(shown)
