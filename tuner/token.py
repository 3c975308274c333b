"""The server's token, from where only its owner can read it: the environment, or a file.

It is never an option of a command: every user of a machine can read the options of every process.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tuner.errors import Fault, InvalidInput

MOST_BYTES = 1000


def token_of(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return TUNER_TOKEN, or the content of the file that TUNER_TOKEN_FILE names, or None.

    Raises:
        InvalidInput: both are set, or the file cannot be read as a token.
    """
    token, file = environment.get("TUNER_TOKEN") or None, environment.get("TUNER_TOKEN_FILE") or None
    if file is None:
        return token
    if token is not None:
        raise InvalidInput([Fault("TUNER_TOKEN_FILE", "is set, and so is TUNER_TOKEN; set one of them")])
    return token_in(file)


def token_in(file: str | Path) -> str:
    """Read a token from a file; a line break at its end is left out. Raises `InvalidInput` without showing it."""
    try:
        with open(file, "rb") as source:
            token = source.read(MOST_BYTES + 1).decode("ascii").strip()
    except OSError as error:
        raise InvalidInput([Fault(str(file), f"the token cannot be read: {(error.strerror or '').lower()}")]) from error
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or len(token) > MOST_BYTES:
        raise InvalidInput([Fault(str(file), f"is not a token: one line of printable ASCII, at most {MOST_BYTES}")])
    return token


@contextmanager
def new_token_file(file: str | Path) -> Iterator[Callable[[str], None]]:
    """Make a new file that only its owner can read, and give what writes a token into it.

    It is made first: a token that was created for it would otherwise be lost. Raises `InvalidInput` if it exists.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InvalidInput([Fault(str(file), "exists already; a token replaces no file")]) from error
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        try:
            yield lambda token: print(token, file=out)
        except BaseException:
            os.unlink(file)
            raise
